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

_CHUNK = 2**18  # numbers in the largest temporary


def knn_mutual_information(
    columns: Tensor,
    pairs: Sequence[tuple[int, int]],
    n_neighbors: int = 3,
    generator: torch.Generator | None = None,
    clip: bool = True,
) -> Tensor:
    """Mutual information of pairs of columns, in each of B data items.

    Args:
        columns: n samples of C columns in each item (B, C, n).
        pairs: of columns, the same P in every item.
        n_neighbors: k.
        generator: of the noise that breaks ties.
        clip: negative estimates are 0, as scikit-learn gives them; else they stay, so that the
            average of independent columns is near 0.

    Returns:
        (B, P) in nats, float64; NaN where a column is constant or not finite.

    Raises:
        DataError: no more samples than neighbours, or a pair that is none.
    """
    if columns.dim() != 3 or not columns.is_floating_point():
        raise DataError(
            f"columns are floats (B, C, n), got {columns.dtype} {tuple(columns.shape)}."
        )
    _, width, n = columns.shape
    if not 1 <= n_neighbors < n:
        raise DataError(
            f"n_neighbors={n_neighbors} of {n} samples: it must be at least 1 and below {n}."
        )
    for i, j in pairs:
        if i == j or not (0 <= i < width and 0 <= j < width):
            raise DataError(f"({i}, {j}) is no pair of {width} columns.")
    if not len(columns):
        return columns.new_empty(0, len(pairs), dtype=torch.float64)
    scaled = _scaled(columns, generator)
    chunk = max(1, _CHUNK // n**2)
    found = [_estimates(part, pairs, n_neighbors) for part in torch.split(scaled, chunk, dim=-1)]
    information = torch.cat(found, dim=1).mT
    return information.clamp(min=0) if clip else information


def _scaled(columns: Tensor, generator: torch.Generator | None) -> Tensor:
    """Columns of unit variance without ties, items last: (C, n, B), float64."""
    home = workspace(columns.device)
    x = columns.to(home, torch.float64).permute(1, 2, 0).contiguous()
    constant = x.amax(1) == x.amin(1)
    x = x / x.std(1, correction=0).masked_fill(constant, math.nan)[:, None]
    noise = draw_noise(x.shape, generator, x.device, x.dtype)
    return x.addcmul_(noise, 1e-10 * x.abs().mean(1, keepdim=True).clamp(min=1))


def _estimates(columns: Tensor, pairs: Sequence[tuple[int, int]], k: int) -> Tensor:
    """Estimates (P, B) in nats, negative ones too, of columns (C, n, B) without ties."""
    n, items = columns.shape[1:]
    digamma = torch.special.digamma(torch.arange(n + 1, dtype=columns.dtype, device=columns.device))
    most = digamma[n] + digamma[k]
    digamma[0] = math.nan  # a point within a radius of 0 does not even count itself
    used = {c for pair in pairs for c in pair}
    distance = {c: (columns[c, :, None] - columns[c, None]).abs_() for c in used}
    work = columns.new_empty(n, n, items)
    found = []
    for i, j in pairs:
        torch.maximum(distance[i], distance[j], out=work)
        work.diagonal(dim1=0, dim2=1).fill_(math.inf)
        radius = _kth_smallest(work, k)
        counts = (work.copy_(distance[c]).lt_(radius).sum(0) for c in (i, j))  # with the point
        found.append(most - sum(digamma[count.long()] for count in counts).mean(0))
    return torch.stack(found) if found else columns.new_empty(0, items)


def _kth_smallest(rows: Tensor, k: int) -> Tensor:
    """k-th smallest along the first axis, by insertion: faster than sorting many short columns."""
    smallest = [torch.full_like(rows[0], math.inf) for _ in range(k)]
    for row in rows:
        for place in range(k - 1):
            held = smallest[place]
            smallest[place], row = torch.minimum(held, row), torch.maximum(held, row)
        torch.minimum(smallest[-1], row, out=smallest[-1])
    return smallest[-1]
