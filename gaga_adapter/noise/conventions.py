r"""Where the noise level lives in a diffusers scheduler, and how its samples are scaled.

Everything about a level follows from the ratio `r = b / a` of noise to signal,
`log_snr = -2 log r`. A convention says two things:

- how samples are scaled, `r -> (a, b)`: variance preserving `a = 1 / sqrt(1 + r²)`, variance
  exploding `a = 1`, flow `a = 1 / (1 + r)`; always `b = r a`;
- where `r` is kept: in a table indexed by the timestep, in `scheduler.sigmas`, or as a formula of
  the timestep.

`grid` reads the ratios of the sampling grid that `set_timesteps` made; `ratio_at` and
`timestep_at` are the two directions between a timestep and its ratio, for any timestep of the
training path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError

Scheduler = Any  # a diffusers scheduler: their attributes differ from class to class


@dataclass(frozen=True)
class Level:
    """A noise level of the scheduler's own samples, `x = a x_0 + b eps`."""

    a: float
    b: float


@dataclass(frozen=True)
class Convention:
    """One way of keeping noise levels.

    Attributes:
        signal: `a` as a function of the ratio `r = b / a`.
        grid: ratios (n,), float64, of the entries of `scheduler.timesteps`.
        ratio_at: timestep, in the scheduler's own units, to ratio.
        timestep_at: ratio to the first training timestep at or beyond it, in the scheduler's own
            units.
        ends: timesteps of the cleanest and of the noisiest level of the training path.
        noise_is_bare: the pipelines of this kind take noise as it is, without `init_noise_sigma`.
    """

    signal: Callable[[float], float]
    grid: Callable[[Scheduler], Tensor]
    ratio_at: Callable[[Scheduler, float], float]
    timestep_at: Callable[[Scheduler, float], float]
    ends: Callable[[Scheduler], tuple[float, float]]
    noise_is_bare: bool = False

    def level(self, ratio: float) -> Level:
        """Coefficients of a sample with this ratio of noise to signal."""
        a = self.signal(ratio)
        return Level(a, ratio * a if a else 1.0)


def log_snr(ratio: Tensor) -> Tensor:
    """`-2 log r`, of any shape; minus infinity for pure noise."""
    return -2 * ratio.log()


def _preserving(ratio: float) -> float:
    return 1 / math.hypot(1, ratio)


def _exploding(ratio: float) -> float:
    return 1.0


def _straight(ratio: float) -> float:
    return 1 / (1 + ratio)


def _spherical(scheduler_scale: float) -> Callable[[float], float]:
    """`x = cos(t) x_0 + sin(t) s eps`, so that `r = s tan(t)`."""

    def signal(ratio: float) -> float:
        return 1 / math.hypot(1, ratio / scheduler_scale)

    return signal


# -- a table over the training timesteps ----------------------------------------------------------


def table_ratios(scheduler: Scheduler) -> Tensor:
    """`sqrt((1 - abar) / abar)` (T,), float64, of the scheduler's `alphas_cumprod`."""
    abar = torch.as_tensor(scheduler.alphas_cumprod).detach().to("cpu", torch.float64)
    return ((1 - abar) / abar).sqrt()


def _table_grid(scheduler: Scheduler) -> Tensor:
    return table_ratios(scheduler)[scheduler.timesteps.cpu().long()]


def _table_ratio_at(scheduler: Scheduler, timestep: float) -> float:
    """Linear in log r between two training timesteps, as diffusers' own conversion is."""
    log_ratio = table_ratios(scheduler).log()
    low = min(math.floor(timestep), len(log_ratio) - 1)
    weight = timestep - low
    if not weight:
        return float(log_ratio[low].exp())
    return float(torch.lerp(log_ratio[low], log_ratio[low + 1], weight).exp())


def _table_timestep_at(scheduler: Scheduler, ratio: float) -> float:
    beyond = (table_ratios(scheduler) >= ratio * (1 - 1e-9)).nonzero()
    if not len(beyond):
        raise TruncationError("beyond the table")  # `t_star` says which and what to do
    return int(beyond[0])


def _table_ends(scheduler: Scheduler) -> tuple[float, float]:
    return 0, len(scheduler.alphas_cumprod) - 1


# -- sigmas ---------------------------------------------------------------------------------------


def _sigmas(scheduler: Scheduler) -> Tensor:
    sigmas: Tensor = scheduler.sigmas[: len(scheduler.timesteps)]
    return sigmas.detach().to("cpu", torch.float64)


def _flow_share(scheduler: Scheduler) -> Tensor:
    """Shares of noise s (n,) in `(1 - s) x_0 + s eps`; some configurations keep 1 - s."""
    share = _sigmas(scheduler)
    return 1 - share if scheduler.config.get("invert_sigmas") else share


def _flow_grid(scheduler: Scheduler) -> Tensor:
    share = _flow_share(scheduler)
    return share / (1 - share)


def _training_steps(scheduler: Scheduler) -> float:
    return float(scheduler.config.get("num_train_timesteps") or 1.0)


def _flow_ratio_at(scheduler: Scheduler, timestep: float) -> float:
    share = timestep / _training_steps(scheduler)
    if scheduler.config.get("invert_sigmas"):
        share = 1 - share
    return share / (1 - share) if share < 1 else math.inf


def _flow_timestep_at(scheduler: Scheduler, ratio: float) -> float:
    share = 1 / (1 + 1 / ratio) if math.isfinite(ratio) else 1.0
    if scheduler.config.get("invert_sigmas"):
        share = 1 - share
    return share * _training_steps(scheduler)


def _flow_ends(scheduler: Scheduler) -> tuple[float, float]:
    steps = _training_steps(scheduler)
    return (steps, 0.0) if scheduler.config.get("invert_sigmas") else (0.0, steps)


def _sigma_ends(
    to_timestep: Callable[[float], float],
) -> Callable[[Scheduler], tuple[float, float]]:
    def ends(scheduler: Scheduler) -> tuple[float, float]:
        config = scheduler.config
        return to_timestep(config.sigma_min), to_timestep(config.sigma_max)

    return ends


def _sigma_formula(
    to_timestep: Callable[[float], float], to_sigma: Callable[[float], float]
) -> Convention:
    """Variance exploding, with the timestep a formula of sigma."""
    return Convention(
        signal=_exploding,
        grid=_sigmas,
        ratio_at=lambda scheduler, timestep: to_sigma(timestep),
        timestep_at=lambda scheduler, ratio: to_timestep(ratio),
        ends=_sigma_ends(to_timestep),
    )


def _quarter_log_ends(scheduler: Scheduler) -> tuple[float, float]:
    ratios = table_ratios(scheduler)
    return 0.25 * math.log(ratios[0]), 0.25 * math.log(ratios[-1])


#: Variance preserving, level in `alphas_cumprod[timestep]`.
TABLE = Convention(_preserving, _table_grid, _table_ratio_at, _table_timestep_at, _table_ends)
#: The same for PNDM, which keeps its plain grid, ascending, in `_timesteps`.
ASCENDING_TABLE = replace(
    TABLE,
    grid=lambda scheduler: table_ratios(scheduler)[
        torch.from_numpy(scheduler._timesteps[::-1].astype("int64"))
    ],
)
#: Variance preserving samples, solver in sigma.
PRESERVING_SIGMAS = Convention(
    _preserving, _sigmas, _table_ratio_at, _table_timestep_at, _table_ends
)
#: Variance exploding samples over a variance preserving training table.
EXPLODING_SIGMAS = Convention(_exploding, _sigmas, _table_ratio_at, _table_timestep_at, _table_ends)
#: The same where the network is told `log(sigma) / 4` instead of the table's index.
QUARTER_LOG_SIGMAS = Convention(
    _exploding,
    _sigmas,
    lambda scheduler, timestep: math.exp(4 * timestep),
    lambda scheduler, ratio: 0.25 * math.log(ratio),
    _quarter_log_ends,
)
#: `x = (1 - s) x_0 + s eps`, timestep = s times the number of training steps.
FLOW = Convention(
    _straight, _flow_grid, _flow_ratio_at, _flow_timestep_at, _flow_ends, noise_is_bare=True
)
#: The same with timestep = 1 - s.
FLOW_FROM_NOISE = Convention(
    _straight,
    _flow_grid,
    lambda scheduler, timestep: (1 - timestep) / timestep if timestep else math.inf,
    lambda scheduler, ratio: 1 / (1 + ratio),
    lambda scheduler: (1.0, 0.0),
    noise_is_bare=True,
)
#: Karras et al. 2022: timestep = ln(sigma) / 4.
KARRAS = _sigma_formula(lambda sigma: 0.25 * math.log(sigma), lambda t: math.exp(4 * t))
#: Stable Audio: timestep = atan(sigma) 2 / pi.
ARCTANGENT = _sigma_formula(
    lambda sigma: math.atan(sigma) / math.pi * 2, lambda t: math.tan(t * math.pi / 2)
)
#: Consistency models: timestep = 250 ln(sigma).
THOUSAND_KARRAS = _sigma_formula(lambda sigma: 250 * math.log(sigma), lambda t: math.exp(t / 250))
#: `a = cos(pi t / 2)`, `b = sin(pi t / 2)`.
QUARTER_TURN = Convention(
    _preserving,
    lambda scheduler: torch.tan(scheduler.timesteps.cpu().double() * math.pi / 2).abs(),
    lambda scheduler, timestep: abs(math.tan(timestep * math.pi / 2)),
    lambda scheduler, ratio: math.atan(ratio) * 2 / math.pi,
    lambda scheduler: (0.0, 1.0),
)
#: `x = t x_0 + (1 - t) eps` (RFD4-Proteina counts from noise to data).
DATA_TIME = Convention(
    _straight,
    lambda scheduler: 1 / scheduler.timesteps.cpu().double() - 1,
    lambda scheduler, timestep: 1 / timestep - 1 if timestep else math.inf,
    lambda scheduler, ratio: 1 / (1 + ratio),
    lambda scheduler: (1.0, 0.0),
    noise_is_bare=True,
)


def trigflow(scheduler: Scheduler) -> Convention:
    """`x = cos(t) x_0 + sin(t) sigma_data eps` (Lu & Song 2024): the timestep is an angle."""
    scale = float(scheduler.config.sigma_data)
    return Convention(
        _spherical(scale),
        lambda scheduler: scale * torch.tan(scheduler.timesteps.cpu().double()).abs(),
        lambda scheduler, timestep: scale * abs(math.tan(timestep)),
        lambda scheduler, ratio: math.atan(ratio / scale),
        lambda scheduler: (0.0, math.pi / 2),
        noise_is_bare=True,
    )


def _wuerstchen_abar(scheduler: Scheduler, timestep: Tensor) -> Tensor:
    abar: Tensor = scheduler._alpha_cumprod(timestep.double(), torch.device("cpu"))
    return abar


def _wuerstchen_ratio(scheduler: Scheduler, timestep: Tensor) -> Tensor:
    abar = _wuerstchen_abar(scheduler, timestep)
    return ((1 - abar) / abar).sqrt()


def _wuerstchen_timestep_at(scheduler: Scheduler, ratio: float) -> float:
    """Bisection: abar falls monotonically in the timestep."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(_wuerstchen_ratio(scheduler, torch.tensor([middle]))) < ratio:
            low = middle
        else:
            high = middle
    return high


#: Würstchen: a shifted squared cosine of a continuous timestep in [0, 1].
WUERSTCHEN = Convention(
    _preserving,
    lambda scheduler: _wuerstchen_ratio(scheduler, scheduler.timesteps.cpu()),
    lambda scheduler, timestep: float(_wuerstchen_ratio(scheduler, torch.tensor([timestep]))),
    _wuerstchen_timestep_at,
    lambda scheduler: (0.0, 1.0),
)


def preserving_or_flow(scheduler: Scheduler) -> Convention:
    """The DPM-Solver kin: variance preserving, or flow by their own switch."""
    return FLOW if scheduler.config.get("use_flow_sigmas") else PRESERVING_SIGMAS


def euler(scheduler: Scheduler) -> Convention:
    """Euler tells the network `log(sigma) / 4` for continuous v-prediction."""
    config = scheduler.config
    continuous = config.get("timestep_type") == "continuous"
    if continuous and config.get("prediction_type") == "v_prediction":
        return QUARTER_LOG_SIGMAS
    return EXPLODING_SIGMAS
