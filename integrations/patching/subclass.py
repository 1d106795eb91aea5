"""Class swap: a live module becomes an instance of a generated subclass of its own class.

The body of the subclass comes from a recipe, a function of the base that pickle can find by name.
So a swapped module can be copied, replicated and saved whole, and its own class is one attribute
away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Recipe = Callable[[type[Any]], Mapping[str, Any]]

_GENERATED: dict[tuple[type[Any], Recipe], type[Any]] = {}


def derived(base: Any, recipe: Recipe) -> type[Any]:  # noqa: ANN401 - a class
    """`class GAGA<Base>(Base)` with the body that the recipe gives, made once per pair.

    Args:
        base: an ordinary class.
        recipe: hashable and found by pickle: a function of a module, or a method of an object
            that pickles.
    """
    if (base, recipe) not in _GENERATED:

        def reduce(self: Any, protocol: int) -> tuple[Any, ...]:  # noqa: ANN401 - any module
            plan: Any = base.__reduce_ex__(self, max(int(protocol), 2))
            return (_empty, (base, recipe), *plan[2:])

        body = {
            **recipe(base),
            "__doc__": f"`{base.__name__}`, started at t* from the fitted Gaussian.",
            "__module__": __name__,
            "__reduce_ex__": reduce,
            "_gaga_base": base,
        }
        _GENERATED[base, recipe] = type(f"GAGA{base.__name__}", (base,), body)
    return _GENERATED[base, recipe]


def swap(module: Any, recipe: Recipe) -> None:  # noqa: ANN401 - any object with a class
    """Make the module an instance of the generated subclass."""
    module.__class__ = derived(plain(type(module)), recipe)


def swap_back(module: Any) -> None:  # noqa: ANN401 - any object with a class
    """Give the module its own class again; nothing happens if it has it."""
    module.__class__ = plain(type(module))


def plain(cls: type[Any]) -> type[Any]:
    """The class that a generated one was made from, or the class itself."""
    base: type[Any] = cls.__dict__.get("_gaga_base", cls)
    return base


def _empty(base: type[Any], recipe: Recipe) -> Any:  # noqa: ANN401 - an instance of `base`
    """An instance without attributes, for copies and pickles."""
    return object.__new__(derived(base, recipe))
