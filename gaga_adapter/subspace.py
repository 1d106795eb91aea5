r"""The zero-centre-of-mass subspace of padded molecules.

Molecules are tensors (B, N, 3 + F), `[positions, features]` per atom, with a boolean mask (B, N)
that is true on real atoms; padding rows are exactly zero. Noise lives where the data live:
positions have zero centre of mass over the real atoms, the range of the projector `P = I - 11'/n`,
of dimension `3 (n - 1)` (Köhler et al. 2020; Hoogeboom et al. 2022, section 3.1); features fill
their space.
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


def remove_mean(positions: Tensor, mask: Tensor) -> Tensor:
    """Positions (B, N, D) with zero centre of mass over the real atoms, padding exactly zero."""
    keep = mask[..., None]
    clean = torch.where(keep, positions, torch.zeros_like(positions))
    n_atoms = keep.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(keep, clean - clean.sum(dim=1, keepdim=True) / n_atoms, clean)


def project(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Molecules (B, N, 3 + F) with mean-free positions, features as they are, padding exactly zero.

    The mask (B, N) of real atoms is inferred from the padding when `None`.
    """
    if mask is None:
        mask = mask_from_padding(x)
    features = x[..., 3:]
    features = torch.where(mask[..., None], features, torch.zeros_like(features))
    return torch.cat([remove_mean(x[..., :3], mask), features], dim=-1)


@overload
def degrees_of_freedom(n_atoms: int) -> int: ...
@overload
def degrees_of_freedom(n_atoms: Tensor) -> Tensor: ...
def degrees_of_freedom(n_atoms: int | Tensor) -> int | Tensor:
    """Dimension of the position subspace of `n_atoms` atoms, `3 (n_atoms - 1)`."""
    return 3 * (n_atoms - 1)
