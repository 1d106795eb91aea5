"""Estimates with their standard errors, from one value per molecule.

Molecules are taken as independent draws. A mean has the error `s / sqrt(M)`; a ratio of sums and a
standard deviation have the error of their linearisation (the delta method); a median has that of
its interval between two order statistics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_Z = 1.959964  # between it and its negative lies 95 % of a standard normal law


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error, which is None for a single molecule."""

    value: float
    std_error: float | None

    def __str__(self) -> str:
        return f"{self.value:.4g}" + (f" ± {self.std_error:.2g}" if self.std_error else "")


def estimate_mean(values: ArrayLike) -> Estimate | None:
    """Mean of M values; None if M is 0."""
    x = np.asarray(values, np.float64)
    return estimate_ratio(x, np.ones_like(x)) if len(x) else None


def estimate_ratio(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """Ratio of sums over M molecules, such as stable atoms over atoms.

    The residuals `numerator - ratio * denominator` have mean 0; their standard deviation over
    `sqrt(M)` and the mean denominator is the error (Cochran 1977, section 2.11).
    """
    x, y = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    m, ratio = len(x), float(x.sum() / y.sum())
    if m < 2:
        return Estimate(ratio, None)
    residuals = x - ratio * y
    return Estimate(ratio, math.sqrt(float(residuals @ residuals) * m / (m - 1)) / float(y.sum()))


def estimate_spread(values: ArrayLike) -> Estimate | None:
    """Standard deviation over M values; None if there are fewer than two.

    The delta method on s²: `var(s) = (m4 - s^4) / (4 s² M)` with the fourth central moment m4.
    """
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return None
    std, m4 = float(x.std(ddof=1)), float(((x - x.mean()) ** 4).mean())
    if std == 0:
        return Estimate(0.0, 0.0)
    return Estimate(std, math.sqrt(max(m4 - std**4, 0.0) / (4 * len(x))) / std)


def estimate_median(values: ArrayLike) -> Estimate | None:
    """Median of M values; None if M is 0, and without an error if M is less than 6.

    Between the order statistics c and M + 1 - c, with `c = (M + 1) / 2 - z sqrt(M) / 2`, lies the
    median of the law in 95 % of all samples if z = 1.96; half of their distance over z is the
    error (McKean and Schrader 1984).
    """
    x = np.sort(np.asarray(values, np.float64))
    m = len(x)
    if m == 0:
        return None
    if m < 6:
        return Estimate(float(np.median(x)), None)
    c = math.floor((m + 1) / 2 - _Z * math.sqrt(m / 4))
    return Estimate(float(np.median(x)), float(x[m - c] - x[c - 1]) / (2 * _Z))


def estimate_distinct(counts: ArrayLike) -> Estimate | None:
    """Share of distinct species among V draws, from how often each species occurred.

    The jackknife has a closed form: leaving out one draw loses a species only if it occurred once,
    so with the share q of such singletons `var = q (1 - q) / (V - 1)`.
    """
    occurred = np.asarray(counts, np.int64)
    draws = int(occurred.sum())
    if draws == 0:
        return None
    q = float((occurred == 1).sum()) / draws
    error = math.sqrt(q * (1 - q) / (draws - 1)) if draws > 1 else None
    return Estimate(len(occurred) / draws, error)
