"""The closed-form references that stand in for the marginal at a noise level."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from gaga_adapter.errors import StatsMismatchError
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference.base import ReferenceGaussian
from gaga_adapter.reference.molecules import MoleculeReference
from gaga_adapter.reference.shape import ShapeReference

if TYPE_CHECKING:
    from gaga_adapter.moments import DenseMoments
    from gaga_adapter.reference.dense import DenseReference
    from gaga_adapter.reference.refined.refinement import Refinement

__all__ = [
    "DenseReference",
    "MoleculeReference",
    "ReferenceGaussian",
    "ShapeReference",
    "make_reference",
]


def make_reference(
    moments: DenseMoments | ExchangeableMoments,
    kind: str = "auto",
    refinement: Refinement | None = None,
) -> ReferenceGaussian:
    """The reference of some moments, at the level of the data (a = 1, b = 0).

    Args:
        moments: Moments of the data; copied, so that later updates do not reach the reference.
        kind: Kind of the reference: of molecules `unit`, `paper`, `channel`, `size` or `shape`,
            and where their types are one-hot `mixed`, `mixed_order` or `mixed_size`, with uniform
            types of noise (for masked ones build a `MixedReference`); of dense data
            `unit`, `paper`, or any kind that is not finer than the moments. `auto` is `shape` for
            molecules, `mixed` for moments with discrete types, `size` for tokens without positions
            (they have no `shape`), and the moments' own kind for dense data.
        refinement: Weights and tilt of the kind `shape` of these moments; the other kinds, and
            `shape` when `None`, are plain.

    Raises:
        StatsMismatchError: If the kind is unknown, or finer than the moments.
    """
    if isinstance(moments, ExchangeableMoments):
        has_shape = moments.n_positions > 0
        if kind == "auto" and moments.metadata()["moments"] == "mixed":
            kind = "mixed"
        if has_shape and kind.startswith("mixed"):
            from gaga_adapter.reference.mixed import MixedReference

            return MixedReference(kind, copy.deepcopy(moments))
        kind = ("shape" if has_shape else "size") if kind == "auto" else kind
        known = (*MoleculeReference.kinds, *(ShapeReference.kinds if has_shape else ()))
        if kind in known:
            moments = copy.deepcopy(moments)
            if kind not in ShapeReference.kinds:
                return MoleculeReference(kind, moments)
            if refinement is not None:
                return refinement.reference(moments)
            if moments.keeps_tensors:
                return ShapeReference(kind, moments)
            from gaga_adapter.reference.wishart import WishartShapeReference

            return WishartShapeReference(kind, moments)
    else:
        from gaga_adapter.reference.dense import DenseReference

        kind = moments.kind if kind == "auto" else kind
        known = DenseReference.kinds
        if kind in known:
            return DenseReference(kind, moments)
    raise StatsMismatchError(f"unknown reference {kind!r}. Known here: auto, {', '.join(known)}.")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """The reference of dense data loads when it is asked for; molecules need none."""
    if name != "DenseReference":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gaga_adapter.reference.dense import DenseReference

    return DenseReference
