"""A patch that waits for the first use of a model, because its statistics cannot be fitted before.

A script makes its model, patches it, and loads the weights afterwards; the latent of GeoLDM is only
known then. So `apply_patch(model, stats=fit)` takes a function of the model, and calls it when the
model first samples or computes a loss. Copies made before share the statistics, unless their
adapter says that these are of another latent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import isfunction
from typing import Any

from gaga_adapter.errors import UnsupportedModelError
from gaga_adapter.stats import GAGAStats

from ..protocol import Adapter, Model
from .subclass import original_class, swap, swap_back
from .truncated import STATE, Method, Truncation, truncated_body, unwatch, watch

#: Fits the statistics of a model.
Fit = Callable[[Model], GAGAStats]


class LatePatch:
    """The state of a model that is to be patched, by `cut(model, stats)`, at its first use."""

    def __init__(self, adapter: Adapter, fit: Fit, cut: Callable[..., Truncation]) -> None:
        self.adapter, self.fit, self.cut = adapter, fit, cut
        self._stats: GAGAStats | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> LatePatch:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise UnsupportedModelError(
            "this model waits for its first use to be fitted, and cannot be pickled before. Save "
            "its state_dict, or call handle.settle() first."
        )

    def install(self, model: Model) -> None:
        """Let the model wait."""
        model.__dict__[STATE] = self
        swap(model, waiting_body, self.adapter)
        watch(self.adapter, model)

    def uninstall(self, model: Model) -> None:
        """Undo `install`."""
        swap_back(model)
        del model.__dict__[STATE]
        unwatch(self.adapter, model)

    def settle(self, model: Model) -> None:
        """Fit, and patch the model; a data-parallel replica is refused, as it is thrown away."""
        if getattr(model, "_is_replica", False):
            raise UnsupportedModelError(
                f"{original_class(type(model)).__name__} is a replica of a model that still waits "
                "to be fitted. Call handle.settle() before it is used in parallel."
            )
        self.uninstall(model)
        try:
            if self._stats is None or self.adapter.stale(model, self._stats.provenance):
                self._stats = self.fit(model)
            self.cut(model, self._stats, origin=self)
        except BaseException:
            self.install(model)
            raise


def waiting_body(base: type[Any], adapter: Adapter) -> dict[str, Any]:
    """Recipe of a model that waits: every method that samples or trains settles it first."""
    body = truncated_body(base, adapter)
    names = {name for name, method in body.items() if isfunction(method)} | {"forward"}
    names -= {adapter.network, adapter.noise, adapter.prior_term}
    return {name: _settle_before(base, name) for name in sorted(names) if hasattr(base, name)}


def _settle_before(base: type[Any], name: str) -> Method:
    @functools.wraps(getattr(base, name))
    def wrapper(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self._gaga.settle(self)
        return getattr(self, name)(*args, **kwargs)

    return wrapper
