r"""One-sample Kolmogorov-Smirnov test against N(0, 1), for many samples at once.

The statistic of n values is `D = sup_z |F_n(z) - Phi(z)|`; its law is `scipy.stats.kstwo`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaga_adapter.errors import DataError
from gaga_adapter.reference.base import workspace


def ks_statistic(values: Tensor) -> Tensor:
    """Largest distance (...) of standardised samples (..., n) from N(0, 1), float64, or NaN."""
    n = values.shape[-1]
    if not n:
        raise DataError(f"samples are empty: {tuple(values.shape)}. KS needs at least 1 value.")
    ordered = values.to(workspace(values.device), torch.float64).sort(-1).values
    below = torch.special.ndtr(ordered)
    step = torch.arange(n + 1, dtype=torch.float64, device=ordered.device) / n
    return torch.maximum((step[1:] - below).amax(-1), (below - step[:-1]).amax(-1))


def ks_critical(n: int, alpha: float) -> float:
    """The statistic of n values whose p-value is alpha: larger ones are rejected."""
    from scipy.stats import kstwo

    if not 0 < alpha < 1:
        raise DataError(f"alpha={alpha} must lie between 0 and 1, such as 0.05.")
    return float(kstwo.isf(alpha, n))
