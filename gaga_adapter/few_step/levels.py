"""Few levels that are even in log-SNR, and the entries of a scheduler that lie nearest to them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError
from gaga_adapter.noise.conventions import Convention

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
            f"levels from log-SNR {first:g} to {last:g} do not rise. The last level must be closer "
            "to the data than the first: raise log_snr_max, or start at a noisier level."
        )
    return torch.linspace(first, last, n, dtype=torch.float64)


def nearest_timesteps(at: Convention, log_snrs: Tensor) -> list[float]:
    """Timesteps (n,) of a scheduler at given levels, from noise to data, all of them different.

    Where the levels are a table, each is taken at its nearest entry; entries that coincide move
    apart towards noise, and the first never lies closer to the data than asked.

    Args:
        at: Convention of the scheduler.
        log_snrs: Log-SNRs (n,), rising.

    Raises:
        TruncationError: If the table has fewer entries than levels are asked for.
    """
    ratios = torch.exp(-log_snrs / 2).tolist()
    timesteps = [at.timestep_at(ratio) for ratio in ratios]
    if at.table is None:
        return timesteps
    last = len(at.table) - 1
    if not math.isinf(ratios[0]) and float(at.table[timesteps[0]]) < ratios[0] * (1 - 1e-6):
        timesteps[0] = min(timesteps[0] + 1, last)
    for place in range(len(timesteps) - 2, -1, -1):
        timesteps[place] = max(timesteps[place], timesteps[place + 1] + 1)
    if timesteps[0] > last:
        raise TruncationError(
            f"{len(timesteps)} steps do not fit: the table has {last + 1} timesteps, and too few "
            f"of them between these levels. Ask for fewer steps."
        )
    return timesteps
