r"""The zero-centre-of-mass subspace of padded molecules.

Molecules are tensors (B, N, 3 + F), `[positions, features]` per atom, with a boolean mask (B, N)
that is true on real atoms; padding rows are exactly zero. Noise lives where the data live:
positions have zero centre of mass over the real atoms, the range of the projector `P = I - 11'/n`,
of dimension `3 (n - 1)` (Köhler et al. 2020; Hoogeboom et al. 2022, section 3.1); features fill
their space. Sets of tokens (B, N, F) have features alone: they are molecules of no position channel
(`n_positions=0`).
"""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor


def mask_from_padding(x: Tensor) -> Tensor:
    """Mask (B, N) of molecules (B, N, C): a row whose every channel is exactly 0 is padding."""
    return (x != 0).any(dim=-1)


def mask_from_sizes(n_atoms: Tensor, width: int | None = None) -> Tensor:
    """Mask (B, width), bool, whose row `i` has its first `n_atoms[i]` entries true.

    The padded number of atoms, `width`, is the largest size when `None`.
    """
    if width is None:
        width = int(n_atoms.max()) if n_atoms.numel() else 0
    return torch.arange(width, device=n_atoms.device) < n_atoms[:, None]


def atoms_first(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Molecules (B, N, C) and mask (B, N) with the real atoms first, in their order.

    Loaders may pad in front of the atoms or between them. What looks at the place of an atom, or
    cuts a batch to its largest molecule, needs them so.
    """
    if not bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        return x, mask
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return x.gather(1, order[..., None].expand_as(x)), mask.gather(1, order)


def as_mask(mask: Tensor, x: Tensor) -> Tensor | None:
    """The mask (B, N), bool, of molecules x (B, N, C), on their device; `None` if it is no mask.

    Loaders spell a mask in several ways, which mean the same: with an axis more (B, N, 1), as EDM's
    do, and as integers or floats that are 0 or 1.
    """
    if mask.ndim == 3 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.shape != x.shape[:2]:
        return None
    if mask.dtype != torch.bool:
        if mask.is_complex() or not bool(((mask == 0) | (mask == 1)).all()):
            return None
        mask = mask != 0
    return mask.to(x.device)


def remove_mean(positions: Tensor, mask: Tensor) -> Tensor:
    """Positions (B, N, D) with zero centre of mass over the real atoms, padding exactly zero."""
    keep = mask[..., None]
    clean = torch.where(keep, positions, torch.zeros_like(positions))
    n_atoms = keep.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(keep, clean - clean.sum(dim=1, keepdim=True) / n_atoms, clean)


def project(x: Tensor, mask: Tensor | None = None, n_positions: int = 3) -> Tensor:
    """Molecules (B, N, 3 + F) with mean-free positions, features as they are, padding exactly zero.

    The mask (B, N) of real atoms is inferred from the padding when `None`. Of `n_positions` the
    value is 3, or 0 for tokens, whose channels are all features.
    """
    if mask is None:
        mask = mask_from_padding(x)
    features = x[..., n_positions:]
    features = torch.where(mask[..., None], features, torch.zeros_like(features))
    if not n_positions:
        return features
    return torch.cat([remove_mean(x[..., :n_positions], mask), features], dim=-1)


@overload
def degrees_of_freedom(n_atoms: int, n_positions: int = 3) -> int: ...
@overload
def degrees_of_freedom(n_atoms: Tensor, n_positions: int = 3) -> Tensor: ...
def degrees_of_freedom(n_atoms: int | Tensor, n_positions: int = 3) -> int | Tensor:
    """Dimension of the position subspace of `n_atoms` atoms, `3 (n_atoms - 1)`; 0 for tokens."""
    return n_positions * (n_atoms - 1)
