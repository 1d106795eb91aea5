"""From the timesteps of a diffusers scheduler to the log-SNR and back, over its training path.

One fitted `log_snr_star` serves every scheduler: each maps it to its own first timestep at or
beyond it, in its own units (an index of a table, a share of noise times 1000, `log(sigma) / 4`,
an angle).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError, UnsupportedSchedulerError, plain_number
from gaga_adapter.noise.conventions import Scheduler, convention_of, log_snr
from gaga_adapter.noise.levels import first_beyond, is_beyond


def t_star(scheduler: Scheduler, log_snr_star: float) -> float:
    """First training timestep at or beyond `log_snr_star`, in the scheduler's own units."""
    convention = convention_of(scheduler)
    clean, noisy = convention.ends
    most = convention.seen_level(noisy).log_snr
    if not is_beyond(torch.tensor(most, dtype=torch.float64), log_snr_star):
        raise TruncationError(
            f"log-SNR {log_snr_star:.6g} is never reached by {type(scheduler).__name__}: it ends "
            f"at {most:.6g}, timestep {noisy:g}. Sample from its end, or choose a higher log-SNR."
        )
    if convention.table is not None:
        return first_beyond(log_snr(convention.table), log_snr_star)
    if log_snr_star >= convention.seen_level(clean).log_snr:
        return clean
    return noisy if log_snr_star <= most else convention.timestep_at(math.exp(-log_snr_star / 2))


def timestep_range(scheduler: Scheduler) -> tuple[float, float]:
    """The cleanest and the noisiest training timestep, in the scheduler's own units."""
    clean, noisy = convention_of(scheduler).ends
    return float(clean), float(noisy)


def timestep_log_snr(scheduler: Scheduler, timestep: float) -> float:
    """Log-SNR of a training timestep, given in the scheduler's own units.

    Raises:
        TruncationError: If it is no finite number, or outside of the training timesteps.
    """
    convention = convention_of(scheduler)
    low, high = sorted(convention.ends)
    timestep = plain_number("t_star", timestep, "Pass an entry of scheduler.timesteps.")
    if not low <= timestep <= high:
        count = scheduler.config.get("num_train_timesteps")
        total = f"(num_train_timesteps={count})" if count else ""
        raise TruncationError(
            f"t_star={timestep:g} is outside [{low:g}, {high:g}] for "
            f"{type(scheduler).__name__}{total}. Pass an entry of scheduler.timesteps."
        )
    return convention.seen_level(timestep).log_snr


def training_timesteps(scheduler: Scheduler, log_snr_star: float) -> Tensor:
    """Training timesteps (K,) from data to t*: integers of a table, or floats of a flow's."""
    last = t_star(scheduler, log_snr_star)
    scheduler = getattr(scheduler, "like", scheduler)  # whose levels a few-step scheduler has
    name = type(scheduler).__name__
    convention = convention_of(scheduler)
    if "FlowMatch" in name:
        plain = getattr(scheduler, "_gaga_base", type(scheduler))
        table: Tensor = plain.from_config(scheduler.config).timesteps.flip(0)
        if scheduler.config.get("invert_sigmas"):  # its steps count from noise to data, not these
            table = convention.ends[0] - table
        levels = [convention.seen_level(t).log_snr for t in table.tolist()]
        place = first_beyond(torch.tensor(levels, dtype=torch.float64), log_snr_star)
        return table[: place + 1].clone()
    if convention.table is None:
        raise UnsupportedSchedulerError(
            f"{name} trains on continuous noise levels, not on a table of timesteps. Draw them "
            "with TruncatedTimesteps.log_normal(stats.sigma_star, mean, std).sample(batch_size)."
        )
    return torch.arange(int(last) + 1)
