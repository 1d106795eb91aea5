r"""Levels that make a variational bound of the few steps smallest (after Watson et al. 2021).

The ancestral step from a level s to the next, cleaner level t costs, in nats,

    E KL(q(x_t | x_s, x_0) || p(x_t | x_s)) = 1/2 (snr_t - snr_s) E |x_0 - xhat(x_s)|²,

and a re-noised step, whose noise forgets x_s, `1/2 snr_t E |x_0 - xhat(x_s)|²`. So all costs follow
from one curve, the model's error on held-out data against log-SNR, without a single sample. The
bound of a grid is the sum of its steps, and the best n levels between two ends are found by dynamic
programming over a fine grid of candidates. (For ancestral steps the sum is an upper Riemann sum of
`1/2 ∫ mse d snr`. It is always smaller than that for re-noised ones, for it asks for the likelihood
of data and not for good samples. So it says where the levels are, and not which steps re-noise.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gaga_adapter.criteria.certificate.denoisers import Denoiser
from gaga_adapter.errors import TruncationError
from gaga_adapter.level_fitting.distance import batches_of_like_size, denoising_errors

_Array = NDArray[np.float64]

_FINENESS = 0.05  # of the candidates, in log-SNR
_NODES = 16  # levels at which the error is measured


def step_costs(log_snrs: _Array, errors: _Array, renoise_from: float = math.inf) -> _Array:
    """Nats (K, K) of a step from one level to another; infinite where the SNR does not rise.

    Args:
        log_snrs: Candidates (K,), rising.
        errors: Squared error (K,) of the model at them, per item.
        renoise_from: Log-SNR from which on steps re-noise.
    """
    snr = np.exp(log_snrs)
    kept = np.where(log_snrs >= renoise_from, 0.0, snr)
    costs = 0.5 * (snr[None] - kept[:, None]) * errors[:, None]
    return np.where(snr[None] > snr[:, None], costs, np.inf)


def cheapest_path(costs: _Array, n: int) -> list[int]:
    """Places (n,) of the cheapest path of n levels from the first candidate to the last.

    Args:
        costs: Cost (K, K) of a step from one candidate to another.
        n: Number of levels, from 2 to K.

    Raises:
        TruncationError: If there are fewer candidates than levels.
    """
    k = len(costs)
    if not 2 <= n <= k:
        raise TruncationError(
            f"{n} levels cannot be chosen among {k} candidates. Ask for 2 to {k} calls."
        )
    total = np.full(k, np.inf)
    total[0] = 0.0
    came_from = []
    for _ in range(n - 1):
        through = total[:, None] + costs
        came_from.append(through.argmin(0))
        total = through.min(0)
    path = [k - 1]
    for before in reversed(came_from):
        path.append(int(before[path[-1]]))
    return path[::-1]


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """The squared error of a model on held-out items, against log-SNR.

    Attributes:
        log_snrs: Levels (K,), rising, at which it was measured.
        errors: Errors (K,) per item.
    """

    log_snrs: _Array
    errors: _Array

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        x: Tensor,
        mask: Tensor | None,
        first: float,
        last: float,
        seed: int,
    ) -> ErrorCurve:
        """Measure it between two log-SNRs.

        Args:
            denoiser: Model.
            x: Held-out items (M, ...).
            mask: Real atoms (M, N) of molecules.
            first: Log-SNR of the noisiest level.
            last: Log-SNR of the cleanest level.
            seed: Seed of the noise.
        """
        nodes = np.linspace(first, last, _NODES)
        batches = batches_of_like_size(mask, len(x))
        errors = [
            float(denoising_errors(denoiser, x, mask, batches, level, seed).sum(1).mean())
            for level in nodes.tolist()
        ]
        return cls(nodes, np.maximum(errors, 1e-300))

    def best_levels(self, last: float, n: int, renoise_from: float) -> tuple[float, ...]:
        """The n levels with the smallest bound, from the first of the curve to `last`.

        Args:
            last: Log-SNR of the last level, within the curve.
            n: Number of levels, at least 2.
            renoise_from: Log-SNR from which on steps re-noise.
        """
        from scipy.interpolate import CubicSpline

        first = float(self.log_snrs[0])
        candidates = np.linspace(first, last, max(n, 1 + math.ceil((last - first) / _FINENESS)))
        log_errors = CubicSpline(self.log_snrs, np.log(self.errors))(candidates)
        costs = step_costs(candidates, np.exp(log_errors), renoise_from)
        return tuple(candidates[cheapest_path(costs, n)].tolist())
