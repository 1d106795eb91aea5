r"""k-statistics: unbiased estimates of cumulants, of one variable or of many, up to order 6.

Fisher (1928); in the form of McCullagh (1987, section 4.2), with `nu` distinct indices among
`i_1 .. i_k`,

    k_{1..k} = sum_{i_1..i_k} (-1)^{nu-1} / (n binom(n-1, nu-1)) y_{i_1,1} .. y_{i_k,k}.

Sums over distinct indices are sums over set partitions pi of products of the power sums
`S_B = sum_i prod_{j in B} y_ij` (Möbius inversion), and k-statistics of order two or more do not
see a shift, so with y centred on the sample mean every partition with a block of one vanishes. What
is left is a handful of terms: `{4}, {2,2}` at order four, `{6}, {4,2}, {3,3}, {2,2,2}` at six. The
coefficient of a term depends on its block sizes m alone. With Stirling numbers of the second kind,

    c(m_1 .. m_r) = sum_{j_1 <= m_1 .. j_r <= m_r} prod_B S(m_B, j_B) (-1)^{j_B - 1} (j_B - 1)!
                    (-1)^{nu-1} / (n binom(n-1, nu-1)),      nu = j_1 + .. + j_r.

**Norms.** `||C||²` of an estimate C is too large by its own variance. The products `<C_g, C_h>` of
estimates from different batches are not: their average over g != h is unbiased if each C_g is. The
jackknife of that average over batches has a closed form in the Gram matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from itertools import combinations, product

import torch
from torch import Tensor

from gaga_adapter.errors import DataError

MAX_ORDER = 6


def k_statistic(x: Tensor, order: int) -> Tensor:
    """Unbiased estimate of the joint cumulants of one order, 1 to 6, of samples (n, d), float64.

    It is a symmetric tensor (d, ..., d) with `order` axes.
    """
    check_order(len(x), order)
    if order == 1:
        return x.mean(0)
    y = x - x.mean(0)
    total = x.new_zeros([x.shape[1]] * order)
    sums = {m: _power_sum(y, m) for m in range(2, order + 1) if m != order - 1}
    for blocks in set_partitions(order):
        term = x.new_tensor(partition_coefficient(tuple(sorted(map(len, blocks))), len(x)))
        for block in blocks:
            term = torch.tensordot(term, sums[len(block)], dims=0)
        axes = [axis for block in blocks for axis in block]
        total += term.permute([axes.index(axis) for axis in range(order)])
    return total


def norm_pseudo_values(gram: Tensor) -> Tensor:
    """Jackknife pseudo-values (..., G) of the unbiased squared norm of a quantity.

    Their mean is the average of the inner products of different batches, of which `gram`
    (..., G, G) has those of the estimates from all G batches, G at least 3.
    """
    n = gram.shape[-1]
    if n < 3:
        raise DataError(f"a jackknife over {n} batches says nothing; it needs 3.")
    others = gram.sum(-1) - gram.diagonal(dim1=-2, dim2=-1)
    total = others.sum(-1, keepdim=True)
    without = (total - 2 * others) / ((n - 1) * (n - 2))
    return total / (n - 1) - (n - 1) * without


@cache
def set_partitions(order: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Partitions of `0 .. order-1` into blocks of at least two."""

    def split(items: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
        if not items:
            yield ()
            return
        first, rest = items[0], items[1:]
        for size in range(1, len(rest) + 1):
            for mates in combinations(rest, size):
                for others in split(tuple(i for i in rest if i not in mates)):
                    yield ((first, *mates), *others)

    return tuple(split(tuple(range(order))))


@cache
def partition_coefficient(sizes: tuple[int, ...], n: int) -> float:
    """c(m_1 .. m_r) of the module's formula, for the rising sizes of blocks and n samples."""
    total = []
    for parts in product(*(range(1, m + 1) for m in sizes)):
        nu = sum(parts)
        weight = math.prod(
            _stirling(m, j) * (-1) ** (j - 1) * math.factorial(j - 1)
            for m, j in zip(sizes, parts, strict=True)
        )
        total.append(weight * (-1) ** (nu - 1) / (n * math.comb(n - 1, nu - 1)))
    return math.fsum(total)


@cache
def _stirling(m: int, j: int) -> int:
    """Partitions of m things into j blocks."""
    if m == j:
        return 1
    if j < 1 or j > m:
        return 0
    return j * _stirling(m - 1, j) + _stirling(m - 1, j - 1)


def _power_sum(y: Tensor, order: int) -> Tensor:
    """`sum_i y_i ⊗ .. ⊗ y_i` (d, ..., d)."""
    d = y.shape[1]
    half = order // 2
    left, right = y, y
    for _ in range(half - 1):
        left = (left[:, :, None] * y[:, None]).flatten(1)
    for _ in range(order - half - 1):
        right = (right[:, :, None] * y[:, None]).flatten(1)
    return (left.T @ right).reshape([d] * order)


def check_order(n: int, order: int, lowest: int = 1) -> None:
    """Refuse an order that is not from `lowest` to 6, or fewer samples than the order."""
    if not lowest <= order <= MAX_ORDER:
        raise DataError(f"k-statistics of order {order}: known are {lowest} to {MAX_ORDER}.")
    if n < order:
        raise DataError(f"found {n} samples, a cumulant of order {order} needs at least {order}.")
