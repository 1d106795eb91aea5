r"""Merging means and central sums of two parts without cancellation (Chan, Golub & LeVeque 1979).

With `d = mean_b - mean_a` and `n = n_a + n_b`, the sums `M_k = sum (x - mean)^k` of the union are

    mean = mean_a + d n_b / n
    M_2  = M_2a + M_2b + d² n_a n_b / n
    M_3  = M_3a + M_3b + d³ n_a n_b (n_a - n_b) / n² + 3 d (n_a M_2b - n_b M_2a) / n
    M_4  = M_4a + M_4b + d⁴ n_a n_b (n_a² - n_a n_b + n_b²) / n³
           + 6 d² (n_a² M_2b + n_b² M_2a) / n² + 4 d (n_a M_3b - n_b M_3a) / n

(third and fourth order: Pébay 2008, Eq. 2.1). A batch is a part like any other, so streaming and
merging shards are one formula, and nothing is ever a difference of two large sums.
"""

from __future__ import annotations

import torch
from torch import Tensor


def merge_central(n_a: Tensor, a: Tensor, n_b: Tensor, b: Tensor) -> Tensor:
    """Mean and central sums of a union.

    Args:
        n_a: counts of the first part, broadcastable to (...).
        a: its `[mean, M_2, ..., M_K]` (K, ...), with K from 1 to 4.
        n_b: counts of the second part.
        b: its `[mean, M_2, ..., M_K]` (K, ...).

    Returns:
        `[mean, M_2, ..., M_K]` of the union (K, ...); zeros where both parts are empty.
    """
    n = (n_a + n_b).clamp(min=1)
    d = b[0] - a[0]
    u, v = n_a / n, n_b / n
    merged = [a[0] + d * v]
    if len(a) >= 2:
        merged.append(a[1] + b[1] + d**2 * u * n_b)
    if len(a) >= 3:
        merged.append(a[2] + b[2] + d**3 * u * n_b * (u - v) + 3 * d * (u * b[1] - v * a[1]))
    if len(a) >= 4:
        quartic = d**4 * u * n_b * (u**2 - u * v + v**2)
        square = 6 * d**2 * (u**2 * b[1] + v**2 * a[1])
        merged.append(a[3] + b[3] + quartic + square + 4 * d * (u * b[2] - v * a[2]))
    return torch.stack(merged)


def merge_scatter(
    n_a: Tensor, mean_a: Tensor, scatter_a: Tensor, n_b: Tensor, mean_b: Tensor, scatter_b: Tensor
) -> Tensor:
    """Scatter `sum (x - mean)(x - mean)'` of a union.

    Args:
        n_a: counts of the first part (...).
        mean_a: its means (..., D).
        scatter_a: its scatter (..., D, D).
        n_b: counts of the second part (...).
        mean_b: its means (..., D).
        scatter_b: its scatter (..., D, D).

    Returns:
        Scatter of the union (..., D, D).
    """
    d = mean_b - mean_a
    weight = n_a * n_b / (n_a + n_b).clamp(min=1)
    return scatter_a + scatter_b + weight[..., None, None] * d[..., :, None] * d[..., None, :]


def central_sums(x: Tensor, dims: tuple[int, ...], order: int) -> Tensor:
    """`[mean, M_2, ..., M_order]` of a batch over `dims`, by two passes over it.

    Args:
        x: float64 values.
        dims: axes to reduce, at least one of them not empty.
        order: highest power, 1 to 4.

    Returns:
        (order, ...) with the axes `dims` removed.
    """
    mean = x.mean(dims, keepdim=True)
    deviation = x - mean
    sums = [mean.squeeze(dims)]
    power = deviation
    for _ in range(2, order + 1):
        power = power * deviation
        sums.append(power.sum(dims))
    return torch.stack(sums)
