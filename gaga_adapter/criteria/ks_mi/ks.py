r"""One-sample Kolmogorov-Smirnov test against N(0, 1), for many samples at once.

The statistic of n values is `D = sup_z |F_n(z) - Phi(z)|`. If they are drawn
from N(0, 1), for `n d = k - h` with integer k and `0 < h <= 1`,

    P(D < d) = n! / nⁿ · (Hⁿ)[k, k],        H a (2k-1)×(2k-1) matrix of h alone

(Durbin 1973; Marsaglia, Tsang and Wang 2003). It is worked out row vector by matrix, one factor
`1/e` per step, so that nothing over- or underflows: `n! eⁿ / nⁿ` remains. Beyond `EXACT` values it
is the limit `1 - 2 sum_j (-1)^(j-1) exp(-2 j² x²)` at `x = s + 1/(6 sqrt n) + (s - 1)/(4n)`,
`s = d sqrt n` (Vrbik 2018), within 4e-5 of the exact p-value there.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from gaga_adapter.errors import DataError
from gaga_adapter.reference.base import workspace

#: Largest sample whose p-value is exact.
EXACT = 500
_NEVER = 18.0  # beyond n d² = 18 the p-value is below 2 exp(-36) = 5e-16 (Massart 1990)


def ks_statistic(values: Tensor) -> Tensor:
    """Largest distance between the empirical distribution and that of N(0, 1).

    Args:
        values: samples (..., n), standardised.

    Returns:
        (...,), float64; NaN where a value is NaN.

    Raises:
        DataError: empty samples.
    """
    n = values.shape[-1]
    if not n:
        raise DataError(f"samples are empty: {tuple(values.shape)}. KS needs at least 1 value.")
    ordered = values.to(workspace(values.device), torch.float64).sort(-1).values
    below = torch.special.ndtr(ordered)
    step = torch.arange(n + 1, dtype=torch.float64, device=ordered.device) / n
    return torch.maximum((step[1:] - below).amax(-1), (below - step[:-1]).amax(-1))


def ks_p_value(statistic: Tensor, n: int) -> Tensor:
    """Probability of at least this statistic in a sample of N(0, 1).

    Args:
        statistic: (B,).
        n: values in each sample.

    Returns:
        (B,), float64, exact to 1e-12 up to n = `EXACT`; NaN where the statistic is NaN.

    Raises:
        DataError: n below 1.
    """
    if n < 1:
        raise DataError(f"n={n}: a sample has at least 1 value.")
    d = statistic.to(torch.float64)
    p = torch.where(d.isnan(), d, (2 * d < 1 / n).to(torch.float64))
    inside = (2 * d >= 1 / n) & (d < 1) & (n * d.square() < _NEVER)
    if n > EXACT:
        p[inside] = _limit(d[inside], n)
        return p
    half = (n * d).floor().long() + 1
    for k in map(int, torch.unique(half[inside])):
        here = inside & (half == k)
        p[here] = 1 - _durbin(k - n * d[here], k, n)
    return p.clamp(0, 1)


@lru_cache(maxsize=1024)
def ks_critical(n: int, alpha: float) -> float:
    """The statistic whose p-value is alpha, by bisection: larger ones are rejected.

    Args:
        n: values in each sample.
        alpha: in (0, 1).

    Raises:
        DataError: alpha outside of (0, 1), or n below 1.
    """
    if not 0 < alpha < 1:
        raise DataError(f"alpha={alpha} must lie between 0 and 1, such as 0.05.")
    low, high = 0.0, 1.0
    while high - low > 1e-13:
        middle = (low + high) / 2
        p = float(ks_p_value(torch.tensor([middle], dtype=torch.float64), n))
        low, high = (middle, high) if p > alpha else (low, middle)
    return high


def _durbin(h: Tensor, k: int, n: int) -> Tensor:
    """`P(D < (k - h) / n)` (B,), from h (B,) in (0, 1]."""
    m = 2 * k - 1
    row = torch.arange(m, device=h.device)
    order = (row[:, None] - row + 1).to(torch.float64)
    power = h[:, None] ** (row + 1)  # h, h², ..., hᵐ
    numerator = (order >= 0).to(torch.float64).repeat(len(h), 1, 1)
    numerator[:, :, 0] -= power
    numerator[:, -1, :] -= power.flip(1)
    numerator[:, -1, 0] += (2 * h - 1).clamp(min=0) ** m
    matrix = numerator * torch.exp(-torch.lgamma(order.clamp(min=0) + 1) - 1)
    vector = torch.zeros(len(h), 1, m, dtype=torch.float64, device=h.device)
    vector[:, 0, k - 1] = 1
    for _ in range(n):
        vector = vector @ matrix
    return vector[:, 0, k - 1] * math.exp(math.lgamma(n + 1) + n - n * math.log(n))


def _limit(d: Tensor, n: int) -> Tensor:
    """p-value (B,) for large n, from statistics (B,)."""
    s = d * math.sqrt(n)
    x = s + 1 / (6 * math.sqrt(n)) + (s - 1) / (4 * n)
    j = torch.arange(1, 101, dtype=torch.float64, device=d.device)
    tail = 2 * ((-1) ** (j - 1) * torch.exp(-2 * (j * x[:, None]).square())).sum(1)
    # The alternating sum is 1 to 1e-16 below x = 0.2, where it converges slowly.
    return torch.where(x < 0.2, torch.ones_like(x), tail)
