"""Moments of the data: streaming, mergeable, float64."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gaga_adapter.errors import ArtefactError
from gaga_adapter.moments.dense import DenseKind, DenseMoments
from gaga_adapter.moments.molecules import ExchangeableMoments, SizeMoments

Moments = DenseMoments | ExchangeableMoments

_KINDS: dict[str, type[DenseMoments] | type[ExchangeableMoments]] = {
    "dense": DenseMoments,
    "exchangeable": ExchangeableMoments,
}

__all__ = [
    "DenseKind",
    "DenseMoments",
    "ExchangeableMoments",
    "Moments",
    "SizeMoments",
    "moments_from_state_dict",
]


def moments_from_state_dict(state: dict[str, Tensor], metadata: dict[str, Any]) -> Moments:
    """Moments of either kind from what their `state_dict` and `metadata` gave.

    Raises:
        ArtefactError: If the kind is unknown, or something is missing or of another shape.
    """
    kind = metadata.get("moments")
    if kind not in _KINDS:
        raise ArtefactError(f"unknown moments {kind!r}. Known: {', '.join(_KINDS)}.")
    return _KINDS[kind].from_state_dict(state, metadata)
