"""What every criterion needs: checked data, the levels of its curve, noised data and draws.

A reference that is not Gaussian has a Gaussian *anchor*: closed forms are those of the anchor, and
the step from it to the reference is estimated.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gaga_adapter.errors import DataError
from gaga_adapter.reference import MoleculeReference, ReferenceGaussian, ShapeReference


def falling_levels(log_snr: Tensor) -> list[float]:
    """Levels (L,) from data to noise; refuses no level, one that is not finite, or one twice."""
    if log_snr.dim() != 1 or not len(log_snr) or not bool(torch.isfinite(log_snr).all()):
        raise DataError(f"log_snr must be a list of finite levels, got {log_snr.tolist()}.")
    if len(torch.unique(log_snr)) < len(log_snr):
        raise DataError(f"log_snr holds a level twice: {log_snr.tolist()}.")
    return sorted(log_snr.tolist(), reverse=True)


def add_noise(
    x: Tensor, mask: Tensor | None, reference: ReferenceGaussian, generator: Generator | None
) -> Tensor:
    """The data (M, ...) at the level of the reference, by the noise of its own kind."""
    return reference.noised(x, mask, generator)


def draw_like(
    x: Tensor, mask: Tensor | None, reference: ReferenceGaussian, generator: Generator | None
) -> Tensor:
    """Draws of the reference, one per item of `x` and of its size; molecules have atoms first."""
    size = x.shape if mask is None else mask.sum(1)
    return reference.sample(size, generator=generator, device=x.device, dtype=x.dtype)


def channels_first(x: Tensor, reference: ReferenceGaussian) -> Tensor:
    """Dense events (M, ...) with their channels on the first axis of the event."""
    return x.movedim(1 + getattr(reference, "channels", 0), 1)


def n_positions(reference: ReferenceGaussian) -> int:
    """Number of position channels of what the reference describes: 0 for tokens, else 3."""
    return int(getattr(reference, "n_positions", 3))


def is_gaussian(reference: ReferenceGaussian) -> bool:
    """Whether the reference is one Gaussian per size or shape, with an exact prior term."""
    if isinstance(reference, MoleculeReference):
        return not isinstance(reference, ShapeReference)
    from gaga_adapter.reference import DenseReference

    return isinstance(reference, DenseReference)


def anchor_of(reference: ReferenceGaussian) -> ReferenceGaussian:
    """The Gaussian `size` of the same moments for molecules, closest to the data; else itself."""
    if isinstance(reference, MoleculeReference) and reference.kind != "size":
        return MoleculeReference("size", reference.moments)
    return reference


def check_data(x: Tensor, mask: Tensor | None) -> None:
    """Refuse all but molecules (M, N, 3 + F) with a mask, or dense data (M, C, ...), all finite.

    Raises:
        DataError: If shapes or types are others, a molecule is empty, or a number is not finite.
    """
    if mask is None:
        if x.dim() < 2 or not x.is_floating_point():
            raise DataError(f"dense data are floats (M, C, ...), got {x.dtype} {tuple(x.shape)}.")
        finite = torch.isfinite(x).flatten(1).all(1)
    else:
        if x.dim() != 3 or not x.shape[-1] or not x.is_floating_point():
            raise DataError(
                f"molecules are floats (M, N, 3+F) and tokens (M, N, F), got {x.dtype} "
                f"{tuple(x.shape)}."
            )
        if mask.shape != x.shape[:2] or mask.dtype != torch.bool or not bool(mask.any(1).all()):
            raise DataError(
                f"the mask must be bool {tuple(x.shape[:2])} with an atom in every row, "
                f"got {mask.dtype} {tuple(mask.shape)}."
            )
        finite = (torch.isfinite(x).all(-1) | ~mask).all(1)
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0])
        raise DataError(f"item {first} of the data has a number that is not finite.")
