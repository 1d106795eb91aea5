r"""A table of noise levels for training from scratch, all of whose steps lie in [0, t*].

A model that starts at t* needs no step beyond it. Where it is trained anew, its whole table can lie
there: the log-SNR of step k of K is the base's own, as a function of time, at

    t_k = t* k / (K - 1),     k = 0 .. K - 1,

so the first step is the base's cleanest level, the last one is t* itself, and between two entries
of the base's table the log-SNR is linear in time, as everywhere in `noise/paths.py`. If t* is an
entry and K counts the entries up to it, the table is the beginning of the base's.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError, UnsupportedSchedulerError, whole_number
from gaga_adapter.noise.conventions import Scheduler, convention_of
from gaga_adapter.noise.levels import TOLERANCE
from gaga_adapter.noise.paths import VPPath

#: What of a configuration describes the base's own table, and does not go over into the new one.
_OF_THE_TABLE = {
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "steps_offset",
    "timestep_spacing",
}


def training_scheduler(scheduler: Scheduler, log_snr_star: float, steps: int) -> Any:  # noqa: ANN401
    """A plain `DDPMScheduler` of diffusers whose `steps` training steps all lie in [0, t*]."""
    base: Any = getattr(scheduler, "like", scheduler)  # whose levels a few-step scheduler has
    ratios, name = convention_of(base).table, type(base).__name__
    count = whole_number("steps", steps, 2, error=TruncationError)
    if ratios is None:
        raise UnsupportedSchedulerError(
            f"{name} has no table of training steps that could lie in [0, t*]: it trains on "
            "continuous noise levels. Draw these up to t* with TruncatedTimesteps.log_normal, "
            "logit_normal or uniform, or sample_timesteps of a GAGAScheduler, and sample with "
            'spacing="respace", which puts all steps into [0, t*].'
        )
    path = VPPath.from_alphas_cumprod(1 / (1 + ratios.square()))
    low, high = path.log_snr_range
    if not low - TOLERANCE <= log_snr_star < high:
        raise TruncationError(
            f"log-SNR {log_snr_star:.6g} is not between the ends {high:.6g} and {low:.6g} of "
            f"{name}. Pass a base whose table reaches beyond t*."
        )
    t_star = float(path.time_at_log_snr(log_snr_star))
    times = torch.linspace(0, t_star, count, dtype=torch.float64)
    log_snr = path.log_snr(times)
    log_snr[-1] = log_snr_star
    from diffusers import DDPMScheduler

    known = inspect.signature(DDPMScheduler.__init__).parameters.keys() - _OF_THE_TABLE
    own = {key: value for key, value in base.config.items() if key in known}
    return DDPMScheduler(
        num_train_timesteps=count,
        trained_betas=_betas(log_snr.sigmoid()),
        timestep_spacing="trailing",  # a grid of fewer steps begins at t*, too
        **{"clip_sample": False, **own},
    )


def _betas(abar: Tensor) -> list[float]:
    """Variances of the noising steps (K,), whose table in single precision has the levels `abar`.

    Schedulers keep `1 - beta` in single precision. Each beta is worked out from the product that
    they have so far, so that the rounding of a thousand factors does not add up, and the last one
    is rounded towards noise: the table then ends at t* or beyond it, never before.

    Raises:
        TruncationError: If neighbouring levels are one in single precision.
    """
    product, betas = torch.ones((), dtype=torch.float64), []
    for k, target in enumerate(abar):
        beta = (1 - target / product).float()
        while k == len(abar) - 1 and bool((product * (1 - beta)).float() > target):
            beta = beta + 2**-24
        product = product * (1 - beta)
        betas.append(float(beta))
    if min(betas) < 2**-24:
        raise TruncationError(
            f"{len(betas)} steps in [0, t*] lie too close to be told apart in single precision. "
            "Pass fewer."
        )
    return betas
