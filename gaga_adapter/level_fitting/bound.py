r"""Levels that make the variational bound of few ancestral steps smallest (Watson et al. 2021).

The ancestral step from a level s to the next, cleaner level t costs, in nats,

    E KL(q(x_t | x_s, x_0) || p(x_t | x_s)) = 1/2 (snr_t - snr_s) E |x_0 - xhat(x_s)|²,

and a re-noised step, whose noise forgets x_s, costs `1/2 snr_t E |x_0 - xhat(x_s)|²`. So all costs
follow from one curve, the model's error on held-out data against log-SNR, without a single sample.
The bound of a grid is the sum of its steps. The sum for ancestral steps is an upper Riemann sum of
`1/2 ∫ mse d snr`, so for n levels between two ends the best ones are found by dynamic programming
over a fine grid of candidates.

The bound is smallest without any re-noised step, for it asks for the likelihood of data and not for
good samples. So it chooses levels, and nothing else.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gaga_adapter.criteria.certificate.denoisers import Denoiser
from gaga_adapter.errors import TruncationError
from gaga_adapter.level_fitting.distance import batches_of_like_size, denoising_errors

_Array = NDArray[np.float64]

#: Distance of neighbouring candidates in log-SNR.
FINENESS = 0.05
_NODES = 16  # levels at which the error is measured


def step_costs(log_snrs: _Array, errors: _Array) -> _Array:
    """Nats (K, K) of an ancestral step from one level to another; infinite where SNR does not rise.

    Args:
        log_snrs: Candidates (K,), rising.
        errors: Mean squared error (K,) of the model at them, per item.
    """
    snr = np.exp(log_snrs)
    costs = 0.5 * (snr[None] - snr[:, None]) * errors[:, None]
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


def bound_levels(
    denoiser: Denoiser,
    x: Tensor,
    mask: Tensor | None,
    first: float,
    last: float,
    n: int,
    seed: int,
) -> tuple[float, ...]:
    """Levels (n,) from `first` to `last` with the smallest bound on held-out items.

    Args:
        denoiser: Model.
        x: Held-out items (M, ...).
        mask: Real atoms (M, N) of molecules.
        first: Log-SNR of the first level.
        last: Log-SNR of the last level.
        n: Number of levels.
        seed: Seed of the noise.
    """
    from scipy.interpolate import CubicSpline

    if n == 1:
        return (first,)
    nodes = np.linspace(first, last, min(_NODES, max(4, math.ceil((last - first) / 0.2))))
    batches = batches_of_like_size(mask, len(x))
    errors = [
        float(denoising_errors(denoiser, x, mask, batches, level, seed).sum(1).mean())
        for level in nodes.tolist()
    ]
    candidates = np.linspace(first, last, max(n, 1 + math.ceil((last - first) / FINENESS)))
    smooth = np.exp(CubicSpline(nodes, np.log(np.maximum(errors, 1e-300)))(candidates))
    path = cheapest_path(step_costs(candidates, smooth), n)
    return tuple(candidates[path].tolist())
