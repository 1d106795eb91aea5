"""Noised data and draws of the reference, as features: two samples that are alike otherwise.

Row i of either sample has the same size, the same units and as many copies.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaga_adapter.criteria.levels import add_noise, channels_first, draw_like, n_positions
from gaga_adapter.criteria.protocol import Task
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.reference.base import without_autocast
from gaga_adapter.subspace import mask_from_sizes


@without_autocast
def paired_features(
    task: Task,
    reference: ReferenceGaussian,
    group: NDArray[np.int64],
    has_noise: bool = False,
) -> tuple[Tensor, Tensor]:
    """Features (M, D) of noised data, and of as many draws of the reference at its level.

    Args:
        task: Clean data, or states that have their noise.
        reference: Reference at the level of the noised data.
        group: Number (M,) of the distinct item behind each item of the data.
        has_noise: Whether the data have their noise already, so that none is added.
    """
    mask, none = task.mask, reference.at(1.0, 0.0)
    level, origin = (none, reference) if has_noise else (reference, none)
    one = add_noise(task.x, mask, level, task.generator)
    other = _draws(task, reference, origin, level, group)
    # Units come from both samples alike, so that they say nothing of which is which.
    if mask is None:
        from gaga_adapter.criteria.two_sample.features_dense import DenseUnits, dense_features

        one, other = (channels_first(y, reference) for y in (one, other))
        units = DenseUnits.of(torch.cat([one, other]))
        return dense_features(one, units), dense_features(other, units)
    both = (one, mask), (other, mask_from_sizes(mask.sum(1)))
    if not n_positions(reference):
        from gaga_adapter.criteria.two_sample.features_tokens import token_features, token_units

        mean, scale = token_units(torch.cat([y[real] for y, real in both]))
        one, other = (token_features(y, real, mean, scale) for y, real in both)
        return one, other
    from gaga_adapter.reference.invariants import molecule_features, unit_of

    numbers = torch.cat([y[real] for y, real in both])
    length, amplitude = unit_of(numbers[:, :3]), unit_of(numbers[:, 3:])
    one, other = (molecule_features(y, real, length, amplitude) for y, real in both)
    if reference.kind == "mixed_order":
        from gaga_adapter.criteria.two_sample.features_order import order_features

        rows = [order_features(y, real, length) for y, real in both]
        one, other = (torch.cat(pair, 1) for pair in zip((one, other), rows, strict=True))
    return one, other


def _draws(
    task: Task,
    reference: ReferenceGaussian,
    origin: ReferenceGaussian,
    level: ReferenceGaussian,
    group: NDArray[np.int64],
) -> Tensor:
    """Draws of the reference, one per item; copies, each with its own noise, meet such copies.

    These are draws at the origin of the data, with the noise of a level that is added to them.
    """
    first = torch.from_numpy(np.unique(group, return_index=True)[1])
    if len(first) == len(task):
        return draw_like(task.x, task.mask, reference, task.generator)
    some = task.take(first)
    clean = draw_like(some.x, some.mask, origin, task.generator)
    real = None if task.sizes is None else mask_from_sizes(task.sizes)
    return add_noise(clean[torch.from_numpy(group)], real, level, task.generator)
