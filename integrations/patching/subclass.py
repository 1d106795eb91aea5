"""Class swap: a live module becomes an instance of a generated subclass of its own class.

The body of the subclass comes from a recipe, a function of the base that pickle can find by name,
and from arguments such as an adapter: another adapter makes another subclass, even of the same
name. So a swapped module can be copied, replicated and saved whole, and its own class is one
attribute away.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from gaga_adapter.errors import UnsupportedModelError

Recipe = Callable[..., Mapping[str, Any]]

_GENERATED: dict[tuple[Any, ...], type[Any]] = {}


def subclass(base: Any, recipe: Recipe, *args: Hashable) -> type[Any]:  # noqa: ANN401 - a class
    """`class GAGA<Base>(Base)` with the body `recipe(base, *args)`, made once for each of them."""
    key = (base, recipe, *args)
    if key not in _GENERATED:

        def reduce(self: Any, protocol: int) -> tuple[Any, ...]:  # noqa: ANN401 - any module
            plan: Any = base.__reduce_ex__(self, max(int(protocol), 2))
            return (_empty, key, *plan[2:])

        body = {
            **recipe(base, *args),
            "__doc__": f"`{base.__name__}`, started at t* from the fitted Gaussian.",
            "__module__": __name__,
            "__reduce_ex__": reduce,
            "__copy__": _no_shallow_copy,
            "_gaga_base": base,
        }
        _GENERATED[key] = type(f"GAGA{base.__name__}", (base,), body)
    return _GENERATED[key]


def swap(module: Any, recipe: Recipe, *args: Hashable) -> None:  # noqa: ANN401 - any object with a class
    """Make the module an instance of the generated subclass."""
    module.__class__ = subclass(original_class(type(module)), recipe, *args)


def swap_back(module: Any) -> None:  # noqa: ANN401 - any object with a class
    """Give the module its own class again; nothing happens if it has it."""
    module.__class__ = original_class(type(module))


def original_class(cls: type[Any]) -> type[Any]:
    """The class that a generated one was made from, or the class itself."""
    base: type[Any] = cls.__dict__.get("_gaga_base", cls)
    return base


def _no_shallow_copy(self: Any) -> Any:  # noqa: ANN401 - any module
    """Refuse a copy that shares its submodules: a patch is in these, too.

    Raises:
        UnsupportedModelError: Always.
    """
    raise UnsupportedModelError(
        f"a shallow copy of a patched {original_class(type(self)).__name__} shares its submodules "
        "with the model, so neither could be unpatched alone. Use copy.deepcopy, or remove the "
        "patch first."
    )


def _empty(base: type[Any], recipe: Recipe, *args: Hashable) -> Any:  # noqa: ANN401 - of `base`
    """An instance without attributes, for copies and pickles."""
    return object.__new__(subclass(base, recipe, *args))
