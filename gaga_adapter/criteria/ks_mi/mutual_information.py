r"""Nearest-neighbour mutual information of pairs of columns, for many data items at once.

The first estimator of Kraskov, Stögbauer and Grassberger (2004), for n samples of (x, y):

    I = psi(n) + psi(k) - mean_i [psi(n_x(i) + 1) + psi(n_y(i) + 1)]        nats,

where r_i is the distance `max(|dx|, |dy|)` from sample i to its k-th neighbour, and n_x(i) counts
the others with `|dx| < r_i`. As in scikit-learn's `mutual_info_regression`, columns are divided by
their standard deviation, not centred, and ties are broken by noise of 1e-10 max(1, mean |x|).

The samples are few (a molecule's atoms), the items many: all distances of a column stand in one
tensor (n, n, items), shared by its pairs, in chunks that stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gaga_adapter.errors import DataError
from gaga_adapter.reference.base import draw_noise, workspace

_CHUNK = 2**17  # numbers in the largest temporary


def knn_mutual_information(
    columns: Tensor,
    pairs: Sequence[tuple[int, int]],
    n_neighbors: int = 3,
    generator: torch.Generator | None = None,
    clip: bool = True,
) -> Tensor:
    """Mutual information of pairs of columns, in each of B data items.

    Args:
        columns: Samples (B, C, n): n of C columns in each item.
        pairs: Pairs of columns, the same P in every item.
        n_neighbors: Number k of neighbours.
        generator: Source of the noise that breaks ties.
        clip: Whether negative estimates are 0, as scikit-learn gives them; else they stay, so that
            the average of independent columns is near 0.

    Returns:
        (B, P) in nats, float64; NaN where a column is constant or not finite.

    Raises:
        DataError: If there are no more samples than neighbours, or a pair is not of two columns.
    """
    if columns.dim() != 3 or not columns.is_floating_point():
        shape = tuple(columns.shape)
        raise DataError(f"columns are floats (B, C, n), got {columns.dtype} {shape}.")
    _, width, n = columns.shape
    if not 1 <= n_neighbors < n:
        raise DataError(
            f"n_neighbors={n_neighbors} of {n} samples: it must be at least 1 and below {n}."
        )
    for i, j in pairs:
        if i == j or not (0 <= i < width and 0 <= j < width):
            raise DataError(f"({i}, {j}) is no pair of {width} columns.")
    if not len(columns) or not pairs:
        return columns.new_empty(len(columns), len(pairs), dtype=torch.float64)
    used, places = torch.unique(torch.tensor(pairs, device=columns.device), return_inverse=True)
    unit = _unit_columns(columns[:, used], generator)
    parts = torch.split(unit, max(1, _CHUNK // n**2), dim=-1)
    estimates = [_estimates(part, places.to(unit.device), n_neighbors) for part in parts]
    information = torch.cat(estimates, dim=1).mT
    return information.clamp(min=0) if clip else information


def _unit_columns(columns: Tensor, generator: torch.Generator | None) -> Tensor:
    """Columns of unit variance without ties, items last: (C, n, B), float64."""
    home = workspace(columns.device)
    x = columns.to(home, torch.float64).permute(1, 2, 0).contiguous()
    constant = x.amax(1) == x.amin(1)
    x = x / x.std(1, correction=0).masked_fill(constant, math.nan)[:, None]
    noise = draw_noise(x.shape, generator, x.device, x.dtype)
    return x.addcmul_(noise, 1e-10 * x.abs().mean(1, keepdim=True).clamp(min=1))


def _estimates(columns: Tensor, pairs: Tensor, k: int) -> Tensor:
    """Estimates (P, B) in nats, negative ones too, of columns (C, n, B) without ties."""
    n, items = columns.shape[1:]
    digamma = torch.special.digamma(torch.arange(n + 1, dtype=columns.dtype, device=columns.device))
    most = digamma[n] + digamma[k]
    digamma[0] = math.nan  # a point within a radius of 0 does not even count itself
    distance = (columns[:, :, None] - columns[:, None]).abs_()
    estimates = []
    for block in torch.split(pairs, max(1, _CHUNK // (n**2 * items))):
        of_pair = [distance[column] for column in block.T]  # two of (p, n, n, B)
        joint = torch.maximum(*of_pair)
        joint.diagonal(dim1=1, dim2=2).fill_(math.inf)
        radius = _kth_smallest(joint, k)
        counts = [each.lt_(radius[:, None]).sum(1).long() for each in of_pair]  # with the point
        estimates.append(most - (digamma[counts[0]] + digamma[counts[1]]).mean(1))
    return torch.cat(estimates)


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    """k-th smallest along axis 1, by insertion: faster than sorting many short columns."""
    smallest = [torch.full_like(values[:, 0], math.inf) for _ in range(k)]
    for row in values.unbind(1):
        for place in range(k - 1):
            best = smallest[place]
            smallest[place], row = torch.minimum(best, row), torch.maximum(best, row)
        torch.minimum(smallest[-1], row, out=smallest[-1])
    return smallest[-1]
