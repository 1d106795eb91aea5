"""A patch that waits for the first use of a model, because its statistics cannot be fitted before.

A script makes its model, patches it, and loads the weights afterwards; the latent of GeoLDM is only
known then. So `apply_patch(model, stats=fit)` takes a function of the model, and calls it when the
model first samples or computes a loss. Copies made before share the statistics, unless their
adapter says that these are of another latent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gaga_adapter.errors import UnsupportedModelError
from gaga_adapter.stats import GAGAStats

from ..protocol import Adapter, Model, adapter_named
from .subclass import plain, swap, swap_back
from .truncated import STATE, Method, Truncation

#: Fits the statistics of a model.
Fit = Callable[[Model], GAGAStats]


class Deferred:
    """The state of a model that is to be patched at its first use.

    Args:
        adapter: of the model.
        fit: gives the statistics.
        cut: patches an unpatched model with them: `cut(model, stats, origin=self)`.
    """

    def __init__(self, adapter: Adapter, fit: Fit, cut: Callable[..., Truncation]) -> None:
        self.adapter, self.fit, self.cut = adapter, fit, cut
        self._fitted: GAGAStats | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Deferred:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise UnsupportedModelError(
            "this model waits for its first use to be fitted, and cannot be pickled before. Save "
            "its state_dict, or call handle.settle() first."
        )

    def install(self, model: Model) -> None:
        """Let the model wait."""
        model.__dict__[STATE] = self
        swap(model, WaitingBody(self.adapter.name))

    def uninstall(self, model: Model) -> None:
        """Undo `install`."""
        swap_back(model)
        del model.__dict__[STATE]

    def settle(self, model: Model) -> None:
        """Fit, and patch the model.

        Raises:
            UnsupportedModelError: the model is a data-parallel replica, which is thrown away.
        """
        if getattr(model, "_is_replica", False):
            raise UnsupportedModelError(
                f"{plain(type(model)).__name__} is a replica of a model that still waits to be "
                "fitted. Call handle.settle() before it is used in parallel."
            )
        known = self._fitted
        self.uninstall(model)
        try:
            if known is None or self.adapter.stale(model, known.provenance):
                self._fitted = known = self.fit(model)
            self.cut(model, known, origin=self)
        except BaseException:
            self.install(model)
            raise


@dataclass(frozen=True)
class WaitingBody:
    """Recipe of the generated subclass of a model that waits.

    Attributes:
        adapter: by name.
    """

    adapter: str

    def __call__(self, base: type[Any]) -> dict[str, Any]:
        """Every method that uses the model settles it first."""
        names = (*adapter_named(self.adapter).starts, "forward")
        return {name: _settled(base, name) for name in names if hasattr(base, name)}


def _settled(base: type[Any], name: str) -> Method:
    @functools.wraps(getattr(base, name))
    def wrapped(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self._gaga.settle(self)
        return getattr(self, name)(*args, **kwargs)

    return wrapped
