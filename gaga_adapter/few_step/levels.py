"""Few levels that are even in log-SNR, and the entries of a scheduler that lie nearest to them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError
from gaga_adapter.noise.conventions import Convention, log_snr
from gaga_adapter.noise.levels import TOLERANCE, first_beyond

#: Log-SNR of the last network call: closer to the data, a network has nothing left to decide.
LOG_SNR_MAX = 6.0


def even_log_snrs(n: int, first: float, last: float) -> Tensor:
    """Log-SNRs (n,), float64, rising evenly from `first` to `last`.

    Args:
        n: Number of levels, at least 1; one level alone is `first`.
        first: Log-SNR of the noisiest level.
        last: Log-SNR of the cleanest level.

    Raises:
        TruncationError: If `last` is not above `first`.
    """
    if not last > first:
        raise TruncationError(
            f"levels from log-SNR {first:g} to {last:g} do not rise. The first level must be "
            "noisier than the last: start at a noisier one, or raise log_snr_max of a "
            "FewStepScheduler."
        )
    return torch.linspace(first, last, n, dtype=torch.float64)


def even_timesteps(
    at: Convention, n: int, first: float, last: float, noisiest: float = -math.inf
) -> list[float]:
    """Timesteps (n,) of a scheduler, from noise to data, at levels that are even in log-SNR.

    Neither end lies outside of the scheduler's own path. Where the levels are a table, the first
    is the entry at or beyond `first`, as t* is everywhere, and the others are the nearest entries;
    those that coincide move apart, towards noise as far as the table goes.

    Args:
        at: Convention of the scheduler.
        n: Number of timesteps, at least 1.
        first: Log-SNR of the noisiest level.
        last: Log-SNR of the cleanest level.
        noisiest: Log-SNR beyond which no timestep may lie.

    Raises:
        TruncationError: If `last` is not above `first`, or the table has too few entries.
    """
    clean, noisy = (at.seen_level(end).log_snr for end in at.ends)
    log_snrs = even_log_snrs(n, max(first, noisy), min(last, clean))
    return timesteps_at(at, log_snrs, noisiest)


def timesteps_at(at: Convention, log_snrs: Tensor, noisiest: float = -math.inf) -> list[float]:
    """Timesteps (n,) of a scheduler at levels of its path, see `even_timesteps`.

    Args:
        at: Convention of the scheduler.
        log_snrs: Log-SNRs (n,), rising.
        noisiest: Log-SNR beyond which no timestep may lie.

    Raises:
        TruncationError: If the table has too few entries.
    """
    n = len(log_snrs)
    timesteps = [at.timestep_at(ratio) for ratio in torch.exp(-log_snrs / 2).tolist()]
    if at.table is None:
        return timesteps
    known = log_snr(at.table)
    most = int((known >= noisiest - TOLERANCE).sum()) - 1
    timesteps[0] = min(first_beyond(known, float(log_snrs[0])), most)
    for place in range(n - 2, -1, -1):
        timesteps[place] = max(timesteps[place], timesteps[place + 1] + 1)
    if most - timesteps[-1] + 1 < n:
        raise TruncationError(
            f"{n} steps do not fit: of the {len(known)} timesteps of the table, {most + 1} may be "
            f"used, and too few of them lie below log-SNR {float(log_snrs[-1]):.3g}. Ask for fewer "
            "steps."
        )
    for place in range(n):  # where the table ends, those that coincide move towards data
        timesteps[place] = min(timesteps[place], most - place)
    return timesteps
