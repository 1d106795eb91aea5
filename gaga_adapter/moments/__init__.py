"""Moments of the data: streaming, mergeable, float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from gaga_adapter.files.checked import Fields
from gaga_adapter.layout import DenseLayout, Layout
from gaga_adapter.moments.molecules import ExchangeableMoments, SizeMoments

if TYPE_CHECKING:
    from gaga_adapter.moments.dense import DenseKind, DenseMoments

    Moments = DenseMoments | ExchangeableMoments

_KINDS = ("dense", "exchangeable", "mixed")

__all__ = [
    "DenseKind",
    "DenseMoments",
    "ExchangeableMoments",
    "Moments",
    "SizeMoments",
    "has_layout",
    "moments_from_state_dict",
]


def moments_from_state_dict(state: dict[str, Tensor], metadata: dict[str, Any]) -> Moments:
    """Moments of any kind from what their `state_dict` and `metadata` gave.

    Raises:
        ArtefactError: If the kind is unknown, or something is missing or of another shape.
    """
    kind = Fields(metadata, "the description of the moments").text("moments", _KINDS)
    if kind == "exchangeable":
        return ExchangeableMoments.from_state_dict(state, metadata)
    if kind == "mixed":
        from gaga_adapter.moments.mixed import MixedMoments

        return MixedMoments.from_state_dict(state, metadata)
    from gaga_adapter.moments.dense import DenseMoments

    return DenseMoments.from_state_dict(state, metadata)


def has_layout(moments: Moments, layout: Layout) -> bool:
    """Whether these are moments of data in this layout."""
    if isinstance(moments, ExchangeableMoments):
        return not isinstance(layout, DenseLayout) and (
            (moments.n_features, moments.n_positions) == (layout.n_features, layout.n_positions)
        )
    return isinstance(layout, DenseLayout) and (
        (moments.shape, moments.channels) == (layout.shape, layout.channels)
    )


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """Moments of dense data load when they are asked for; a fit of molecules needs none."""
    if name not in ("DenseKind", "DenseMoments", "Moments"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gaga_adapter.moments import dense

    return dense.DenseMoments | ExchangeableMoments if name == "Moments" else getattr(dense, name)
