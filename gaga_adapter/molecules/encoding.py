"""Molecules to network channels and back: `[positions / scale, one-hot / scale, Z / scale]`.

The channel layout (`MoleculeLayout`) is the one the fitted statistics carry. Positions lose their
centre of mass (the unweighted mean of the atoms, as in EDM); padding is exactly 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gaga_adapter.elements import SYMBOLS, atomic_numbers
from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet


def encode(molecules: MoleculeSet, layout: MoleculeLayout) -> tuple[Tensor, Tensor]:
    """Tensors of a set of molecules under a channel layout.

    Returns:
        Channels x (M, N, 3+F) float32, positions with zero mean over the real atoms, padding 0; and
        mask (M, N) bool, True where there is an atom.

    Raises:
        DataError: If a molecule has an element that the layout has no channel for.
    """
    mask, numbers = molecules.mask, molecules.atomic_numbers
    known = np.array(atomic_numbers(layout.elements), np.uint8)
    one_hot = numbers[..., None] == known
    unknown = mask & ~one_hot.any(axis=-1)
    if unknown.any():
        row, atom = np.argwhere(unknown)[0]
        raise DataError(
            f"{molecules.name}: molecule {row} has the element {SYMBOLS[numbers[row, atom]]}. "
            f"Allowed: {', '.join(layout.elements)}."
        )
    positions = molecules.positions.astype(np.float64)
    centre = positions.sum(axis=1) / molecules.n_atoms[:, None]
    positions = (positions - centre[:, None]) * mask[..., None]
    parts = [positions / layout.position_scale, one_hot / layout.onehot_scale]
    if layout.charge_scale is not None:
        parts.append(numbers[..., None] / layout.charge_scale)
    x = np.concatenate(parts, axis=-1).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(mask)


def decode(x: Tensor, mask: Tensor, layout: MoleculeLayout) -> MoleculeSet:
    """Molecules of network channels: the largest one-hot channel is the element.

    As in EDM's sampling, the element comes from the one-hot channels alone; a charge channel is
    ignored.

    Args:
        x: Channels (B, N, 3+F), on any device and of any float dtype.
        mask: Real atoms (B, N), bool.
        layout: The order of the elements, and the scales.

    Raises:
        StatsMismatchError: If `x` has other channels than the layout.
        DataError: If a coordinate is not finite, or a molecule has no atoms.
    """
    if x.shape[-1] != layout.n_channels:
        raise StatsMismatchError(
            f"got {x.shape[-1]} channels, the layout has {layout.n_channels}: {layout.describe()}."
        )
    real = mask.detach().cpu().numpy()
    channels = x.detach().cpu().double().numpy()
    known = np.array(atomic_numbers(layout.elements), np.uint8)
    kind = channels[..., 3 : 3 + len(known)].argmax(axis=-1)
    pairs = [
        (xyz[row] * layout.position_scale, known[element[row]])
        for xyz, element, row in zip(channels[..., :3], kind, real, strict=True)
    ]
    return MoleculeSet.from_list(pairs, name="decoded molecules")
