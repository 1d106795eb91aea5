r"""Moments of molecules of any size: what rare and unseen sizes borrow from their neighbours.

A size with fewer than `min_count` molecules is pooled, by counts, over the smallest window of sizes
`[N - r, N + r]` that holds `min_count` of them (over all sizes, if the data are fewer). Positions
grow with the size, so before pooling `v_x(k)` is carried from size `k` to `N`,

    v_x(k) (N / k)^slope,       slope of log v_x against log N over all sizes, weighted by counts,

and the sampled molecules' eigenvalues are scaled by `v_x(N) / v_x(k)`. A size with enough molecules
speaks for itself alone.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gaga_adapter.errors import DataError, GAGAWarning

if TYPE_CHECKING:
    from gaga_adapter.moments.molecules import ExchangeableMoments


@dataclass(frozen=True)
class SizeMoments:
    """What is known of molecules of one size, borrowed from its neighbours if it is rare.

    Attributes:
        n_atoms: the size N.
        count: molecules pooled.
        radius: sizes `n_atoms - radius` to `n_atoms + radius` were pooled; 0 for its own alone.
        v_x: position variance per degree of freedom.
        v_x_std: standard deviation over molecules of their own `|x|² / (3 (N - 1))`.
        feature_mean: (F,).
        within: W (F, F).
        between: B (F, F).
        gyration: eigenvalues of sampled molecules (K, 3), ascending.
        sample_mean: their feature means (K, F).
        sample_within: their W (K, F, F).
        sample_weight: their probabilities (K,), of sum one.
    """

    n_atoms: int
    count: int
    radius: int
    v_x: float
    v_x_std: float
    feature_mean: Tensor
    within: Tensor
    between: Tensor
    gyration: Tensor
    sample_mean: Tensor
    sample_within: Tensor
    sample_weight: Tensor


def log_slope(moments: ExchangeableMoments) -> float:
    """Slope of `log v_x` against `log N` over all sizes, weighted by counts; 0 for one size."""
    usable = (moments.sizes > 1) & (moments.v_x > 0)
    if int(usable.sum()) < 2:
        return 0.0
    weight = moments.counts[usable] / moments.counts[usable].sum()
    x, y = moments.sizes[usable].double().log(), moments.v_x[usable].log()
    x, y = x - (weight * x).sum(), y - (weight * y).sum()
    return float((weight * x * y).sum() / (weight * x**2).sum())


def moments_at_size(moments: ExchangeableMoments, n_atoms: int, min_count: int) -> SizeMoments:
    """`ExchangeableMoments.at_size`, which says what it takes, returns and raises."""
    if n_atoms < 1:
        raise DataError(f"n_atoms={n_atoms}: a molecule has at least 1 atom.")
    informative = moments.sizes >= min(n_atoms, 2)  # single atoms say nothing of positions
    sizes, counts = moments.sizes[informative], moments.counts[informative]
    if not len(sizes):
        raise DataError("found molecules of 1 atom only, need 2 atoms to know positions.")
    if not 0.75 * int(sizes[0]) <= n_atoms <= 1.25 * int(sizes[-1]):
        warnings.warn(
            f"{n_atoms} atoms is far outside of the sizes seen, {int(sizes[0])} to "
            f"{int(sizes[-1])}: its moments are extrapolated.",
            GAGAWarning,
            stacklevel=3,
        )
    distance, order = (sizes - n_atoms).abs().sort()
    reached = counts[order].cumsum(0) >= min_count
    radius = int(distance[reached][0] if bool(reached.any()) else distance[-1])

    window = (moments.sizes - n_atoms).abs().le(radius) & informative
    sizes, counts = moments.sizes[window], moments.counts[window]
    weight = counts / counts.sum()
    carry = (n_atoms / sizes.double()) ** log_slope(moments)
    carried = moments.v_x[window] * carry
    v_x = (weight * carried).sum()
    variance = (weight * ((moments.v_x_std[window] * carry) ** 2 + (carried - v_x) ** 2)).sum()

    def pooled(values: Tensor) -> Tensor:
        return torch.einsum("s,s...->...", weight, values[window])

    # Pooled spread is that inside of the sizes and that of their means, as for any mixture.
    mean = pooled(moments.feature_mean)
    apart = moments.feature_mean[window] - mean
    between = pooled(moments.between) + n_atoms * torch.einsum("s,sf,sg->fg", weight, apart, apart)

    samples = [moments.sampled(int(n)) for n in sizes]
    lengths = torch.tensor([len(gyration) for gyration, _, _ in samples])
    growth = torch.where(moments.v_x[window] > 0, v_x / moments.v_x[window], 1.0)
    return SizeMoments(
        n_atoms=n_atoms,
        count=int(counts.sum()),
        radius=radius,
        v_x=float(v_x),
        v_x_std=math.sqrt(float(variance)),
        feature_mean=mean,
        within=pooled(moments.within),
        between=between,
        gyration=torch.cat([g * s for (g, _, _), s in zip(samples, growth, strict=True)]),
        sample_mean=torch.cat([mean for _, mean, _ in samples]),
        sample_within=torch.cat([within for _, _, within in samples]),
        sample_weight=(weight / lengths.clamp(min=1)).repeat_interleave(lengths),
    )
