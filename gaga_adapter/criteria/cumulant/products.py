r"""Inner products of joint k-statistics, without the tensors.

A joint cumulant of order k of d numbers is a tensor of d^k, but the inner product of the estimates
from two batches y (n, d) and z (m, d) needs no more than the inner products of their items,
`K = y z'`. Each k-statistic is a sum over set partitions of products of power sums
(`kstatistics.py`), and partitions pi and rho of the k places contract to

    sum_{i_B, j_C} prod_{B in pi, C in rho} K[i_B, j_C]^{|B ∩ C|},

a function of the matrix of overlaps `|B ∩ C|`, up to the order of its rows and columns. At order
three there is one of them, `sum K³`; at order four there are five,

    sum K⁴,   sum_i (sum_j K²)²,   sum_j (sum_i K²)²,   (sum K²)²,   |K K'|²,

so the cost is n m d for K and n² m for the last, whatever the order.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from gaga_adapter.criteria.cumulant.kstatistics import (
    check_order,
    partition_coefficient,
    set_partitions,
)

Overlap = tuple[tuple[int, ...], ...]


def k_statistic_product(gram: Tensor, order: int) -> Tensor:
    """Inner product () of the joint k-statistics of two batches, of order 2 to 6.

    `gram` (n, m) has the inner products of their items, each batch centred on its own mean.
    """
    check_order(min(gram.shape), order, lowest=2)
    n, m = gram.shape
    known: dict[tuple[bool, int, int], Tensor] = {}

    def summed(one: int, two: int, *, flipped: bool) -> Tensor:
        """`K^one 1` (n,) if `two` is 0, else `K^one (K^two)'` (n, n); of K' if flipped."""
        key = flipped, one, two
        if key not in known:
            k = gram.T if flipped else gram
            known[key] = k.pow(one) @ k.pow(two).T if two else k.pow(one).sum(1)
        return known[key]

    total = gram.new_zeros(())
    for overlap, times in _overlaps(order).items():
        sizes = [tuple(sorted(map(sum, side))) for side in (overlap, zip(*overlap, strict=True))]
        weight = partition_coefficient(sizes[0], n) * partition_coefficient(sizes[1], m)
        # The side with fewer blocks stays; the blocks of the other are summed out one by one.
        flipped = len(overlap) > len(overlap[0])
        columns = overlap if flipped else tuple(zip(*overlap, strict=True))
        factors: dict[str, Tensor] = {}
        for column in columns:
            met = [row for row, exponent in enumerate(column) if exponent]
            first, second = column[met[0]], column[met[1]] if len(met) > 1 else 0
            letters = "".join("abc"[row] for row in met)
            factor = summed(first, second, flipped=flipped)
            factors[letters] = factors[letters] * factor if letters in factors else factor
        total = total + times * weight * torch.einsum(",".join(factors) + "->", *factors.values())
    return total


@cache
def _overlaps(order: int) -> Counter[Overlap]:
    """How many pairs of partitions have each matrix of overlaps.

    No column meets more than two rows, or no row more than two columns and there are more rows:
    three blocks of at least two have six places.
    """
    parts = set_partitions(order)
    return Counter(
        _canonical([[len({*block} & {*other}) for other in rho] for block in pi])
        for pi in parts
        for rho in parts
    )


def _canonical(overlap: list[list[int]]) -> Overlap:
    """One form for all orders of the rows and columns of a matrix of overlaps."""
    columns = range(len(overlap[0]))
    return min(
        tuple(sorted(tuple(row[c] for c in order) for row in overlap))
        for order in permutations(columns)
    )
