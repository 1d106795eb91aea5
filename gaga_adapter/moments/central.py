r"""Merging means and central sums of two parts without cancellation (Chan, Golub & LeVeque 1979).

With `d = mean_b - mean_a` and `n = n_a + n_b`, mean and `M_2 = sum (x - mean)²` of the union are

    mean = mean_a + d n_b / n
    M_2  = M_2a + M_2b + d² n_a n_b / n

A batch is a part like any other, so streaming and merging shards are one formula, and nothing is
ever a difference of two large sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Largest magnitude of data: fourth powers of it, summed, are far from the end of float64, and
#: variances from that of float32, in which references work.
LARGEST = 1e15


def merge_central(n_a: Tensor, a: Tensor, n_b: Tensor, b: Tensor) -> Tensor:
    """`[mean]` (1, ...) or `[mean, M_2]` (2, ...) of the union; zeros where both parts are empty.

    Counts broadcast to (...).
    """
    n = (n_a + n_b).clamp(min=1)
    d = b[0] - a[0]
    merged = [a[0] + d * (n_b / n)]
    if len(a) > 1:
        merged.append(a[1] + b[1] + d**2 * (n_a / n) * n_b)
    return torch.stack(merged)


def merge_scatter(
    n_a: Tensor, mean_a: Tensor, scatter_a: Tensor, n_b: Tensor, mean_b: Tensor, scatter_b: Tensor
) -> Tensor:
    """Scatter `sum (x - mean)(x - mean)'` (..., D, D) of a union, from counts (...)."""
    d = mean_b - mean_a
    weight = n_a * n_b / (n_a + n_b).clamp(min=1)
    return scatter_a + scatter_b + weight[..., None, None] * d[..., :, None] * d[..., None, :]


def central_sums(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """`[mean, M_2]` (2, ...) of float64 values, by two passes over `dims`, which are removed."""
    mean = x.mean(dims, keepdim=True)
    return torch.stack([mean.squeeze(dims), (x - mean).square().sum(dims)])
