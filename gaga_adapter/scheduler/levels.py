"""From the timesteps of a diffusers scheduler to the log-SNR and back, over its training path.

One fitted `log_snr_star` serves every scheduler: each maps it to its own first timestep at or
beyond it, in its own units (an index of a table, a share of noise times 1000, `log(sigma) / 4`,
an angle).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError, UnsupportedSchedulerError
from gaga_adapter.noise.conventions import Scheduler
from gaga_adapter.scheduler.families import supported_family


def t_star(scheduler: Scheduler, log_snr_star: float) -> float:
    """First training timestep whose SNR is at most `exp(log_snr_star)`, in the scheduler's units.

    Args:
        scheduler: any supported diffusers scheduler.
        log_snr_star: characteristic log-SNR.

    Raises:
        TruncationError: the scheduler's path never gets that noisy.
        UnsupportedSchedulerError: the scheduler has no place for a Gaussian start.
    """
    convention = supported_family(scheduler).convention(scheduler)
    clean, noisy = convention.ends(scheduler)
    most = timestep_log_snr(scheduler, noisy)
    if log_snr_star < most - 1e-9:
        raise TruncationError(
            f"log-SNR {log_snr_star:.6g} is never reached by {type(scheduler).__name__}: it ends "
            f"at {most:.6g}, timestep {noisy:g}. Sample from its end, or choose a higher log-SNR."
        )
    if log_snr_star >= timestep_log_snr(scheduler, clean):
        return clean
    return convention.timestep_at(scheduler, math.exp(-log_snr_star / 2))


def timestep_log_snr(scheduler: Scheduler, timestep: float) -> float:
    """Log-SNR of a training timestep, given in the scheduler's own units.

    Raises:
        TruncationError: the timestep is outside of the path.
        UnsupportedSchedulerError: the scheduler has no place for a Gaussian start.
    """
    convention = supported_family(scheduler).convention(scheduler)
    low, high = sorted(convention.ends(scheduler))
    try:
        inside = low <= timestep <= high
    except TypeError as error:
        raise TruncationError(f"t_star={timestep!r} is no number. Pass a timestep.") from error
    if not inside:
        count = scheduler.config.get("num_train_timesteps")
        told = f"(num_train_timesteps={count})" if count else ""
        raise TruncationError(
            f"t_star={timestep:g} is outside [{low:g}, {high:g}] for "
            f"{type(scheduler).__name__}{told}. Pass an entry of scheduler.timesteps."
        )
    ratio = convention.ratio_at(scheduler, timestep)
    if ratio == 0:
        return math.inf
    return -2 * math.log(ratio) if math.isfinite(ratio) else -math.inf


def training_timesteps(scheduler: Scheduler, log_snr_star: float) -> Tensor:
    """Training timesteps (K,) from data to t*: integers of a table, floats of a flow's own table.

    Args:
        scheduler: any supported diffusers scheduler that trains on a table of timesteps.
        log_snr_star: characteristic log-SNR.

    Raises:
        TruncationError: the scheduler's path never gets that noisy.
        UnsupportedSchedulerError: it trains on continuous noise levels.
    """
    last = t_star(scheduler, log_snr_star)
    name = type(scheduler).__name__
    if "FlowMatch" in name:
        plain = getattr(scheduler, "_gaga_base", type(scheduler))
        table: Tensor = plain.from_config(scheduler.config).timesteps.flip(0)
        count = int((table < last - 1e-3).sum()) + 1
        return table[: min(count, len(table))].clone()
    first, _ = supported_family(scheduler).convention(scheduler).ends(scheduler)
    if first != 0 or last != int(last) or not hasattr(scheduler, "alphas_cumprod"):
        raise UnsupportedSchedulerError(
            f"{name} trains on continuous noise levels, not on a table of timesteps. Draw them "
            "with TruncatedTimesteps.log_normal(stats.sigma_star, mean, std).sample(batch_size)."
        )
    return torch.arange(int(last) + 1)
