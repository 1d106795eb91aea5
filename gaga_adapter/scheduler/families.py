"""The table of schedulers: how each class keeps its grid, or why it has no Gaussian start.

A truncation cuts the entries beyond t* off the front of everything that is indexed by the step;
what remains is, to the scheduler, a shorter run. A row of this table says what has to be cut
together and what has to be brought in line afterwards. Whatever is particular to a class stands
here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaga_adapter.errors import UnsupportedSchedulerError
from gaga_adapter.noise import conventions as at
from gaga_adapter.noise.conventions import Convention, Scheduler


def _whole_steps(scheduler: Scheduler) -> Tensor:
    """Positions (m,) in `timesteps` at which a step begins: two-stage solvers list them twice."""
    return torch.arange(0, len(scheduler.timesteps), getattr(scheduler, "order", 1))


def _nothing(scheduler: Scheduler, n_steps: int) -> None:
    """Nothing else depends on the length of the grid."""


def _never(scheduler: Scheduler) -> str | None:
    return None


@dataclass(frozen=True)
class Family:
    """How one kind of scheduler is truncated.

    Attributes:
        convention: where its levels are kept; may depend on its configuration.
        arrays: attributes that are indexed by the position in `timesteps` and are cut together.
        steps: positions in `timesteps` at which a step begins.
        repair: brings in line what a cut to `n_steps` whole steps leaves behind.
        settle: makes a finer grid, about to be cut, one that the solver steps through exactly.
        tail: last entries of `timesteps` that get no network call.
        least_steps: shortest run that the solver supports.
        short_run: a run of fewer steps ends at lower orders. A long grid cut to that length is
            given back to the solver, with its place in it, when the loop begins.
        explicit: arguments of `set_timesteps` that name the grid; `True` if data are one entry
            further.
        noises_by_grid: `add_noise` looks a timestep up in the current grid, not in a table or
            formula.
        noise_scale: standard deviation that its pipelines give to the unit noise by themselves.
        refuse: why this instance cannot be truncated, by its configuration.
    """

    convention: Callable[[Scheduler], Convention]
    arrays: tuple[str, ...] = ("timesteps", "sigmas")
    steps: Callable[[Scheduler], Tensor] = _whole_steps
    repair: Callable[[Scheduler, int], None] = _nothing
    settle: Callable[[Scheduler], None] = lambda scheduler: None
    tail: int = 0
    least_steps: Callable[[Scheduler], int] = lambda scheduler: 1
    short_run: int = 0
    explicit: Mapping[str, bool] = field(default_factory=dict)
    noises_by_grid: bool = False
    noise_scale: Callable[[Scheduler], float] = lambda scheduler: 1.0
    refuse: Callable[[Scheduler], str | None] = _never


def _always(convention: Convention) -> Callable[[Scheduler], Convention]:
    return lambda scheduler: convention


# -- what a cut leaves behind ----------------------------------------------------------------------


def _count_steps(scheduler: Scheduler, n_steps: int) -> None:
    scheduler.num_inference_steps = n_steps


def _single_step_orders(scheduler: Scheduler, n_steps: int) -> None:
    """The orders of a singlestep solver are laid out from the first entry, for this length."""
    _count_steps(scheduler, n_steps)
    orders = scheduler.get_order_list(n_steps)
    if len(orders) < n_steps:  # as its own set_timesteps does for a length that does not fit
        scheduler.register_to_config(lower_order_final=True)
        orders = scheduler.get_order_list(n_steps)
    scheduler.order_list = orders


def _even_grid(scheduler: Scheduler) -> Tensor:
    """The grid, descending, of a solver that steps down by `T // num_inference_steps`.

    Its own `linspace` and `trailing` grids have that stride only if the division is exact; else
    every step lands beside the next entry, and the more so the finer the grid.
    """
    config = scheduler.config
    total, count = config.num_train_timesteps, scheduler.num_inference_steps
    stride: int = total // count
    ends = {"leading": config.get("steps_offset", 0), "trailing": stride - 1}
    last: int = ends.get(config.timestep_spacing, 0)
    return last + stride * torch.arange(count - 1, -1, -1)


def _even_timesteps(scheduler: Scheduler) -> None:
    scheduler.timesteps = _even_grid(scheduler).to(scheduler.timesteps.device)


def _pndm_even(scheduler: Scheduler) -> None:
    scheduler._timesteps = _even_grid(scheduler).flip(0).numpy()


def _pndm_steps(scheduler: Scheduler) -> Tensor:
    """PNDM keeps the plain grid, ascending, in `_timesteps`; the cut is made there."""
    return torch.arange(len(scheduler._timesteps))


def _pndm_lists(scheduler: Scheduler, n_steps: int) -> None:
    """Lay out Runge-Kutta and multistep timesteps again over the kept grid.

    Liu et al. 2022: three Runge-Kutta steps of four calls, then linear multistep; or, without
    Runge-Kutta, a multistep start that visits its second entry twice.
    """
    grid = np.asarray(scheduler._timesteps)[:n_steps]
    scheduler._timesteps = grid
    if scheduler.config.skip_prk_steps:
        runge_kutta = np.array([])
        multistep = np.concatenate([grid[:-1], grid[-2:-1], grid[-1:]])[::-1]
    else:
        stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
        first = grid[-scheduler.pndm_order :]
        pairs = first.repeat(2) + np.tile(np.array([0, stride // 2]), len(first))
        runge_kutta = pairs[:-1].repeat(2)[1:-1][::-1]
        multistep = grid[:-3][::-1]
    device = scheduler.timesteps.device
    scheduler.prk_timesteps, scheduler.plms_timesteps = runge_kutta.copy(), multistep.copy()
    timesteps = np.concatenate([runge_kutta, multistep]).astype(np.int64)
    scheduler.timesteps = torch.from_numpy(timesteps).to(device)


def _pndm_least(scheduler: Scheduler) -> int:
    return 1 if scheduler.config.skip_prk_steps else int(scheduler.pndm_order)


def _first_visits(scheduler: Scheduler) -> Tensor:
    """RePaint jumps back up: a step begins where the walk first gets down to a level."""
    timesteps = scheduler.timesteps.cpu()
    lowest = torch.cummin(timesteps, dim=0).values
    fresh = torch.ones(len(timesteps), dtype=torch.bool)
    fresh[1:] = lowest[1:] < lowest[:-1]
    return fresh.nonzero().flatten()


def _helios_stages(scheduler: Scheduler) -> str | None:
    stages = scheduler.config.stages
    if stages == 1:
        return None
    return f"with stages={stages} every stage starts from noise of its own; use stages=1"


# -- the table -----------------------------------------------------------------------------------

_TABLE = Family(_always(at.TABLE), ("timesteps",), repair=_count_steps)
_ANCESTRAL = replace(_TABLE, explicit={"timesteps": False})
_STRIDE = Family(_always(at.TABLE), ("timesteps",), settle=_even_timesteps)
_DPM = Family(at.preserving_or_flow, repair=_count_steps, noises_by_grid=True)
_SIGMA = Family(_always(at.EXPLODING_SIGMAS), repair=_count_steps, noises_by_grid=True)
_INTERPOLATED = replace(_SIGMA, arrays=(*_SIGMA.arrays, "sigmas_interpol"))
_KARRAS = replace(_SIGMA, convention=_always(at.KARRAS))
_FLOW = replace(_SIGMA, convention=_always(at.FLOW), explicit={"sigmas": True, "timesteps": True})

#: Supported classes by name.
FAMILIES: dict[str, Family] = {
    "DDPMScheduler": _ANCESTRAL,
    "DDPMParallelScheduler": _ANCESTRAL,
    "LCMScheduler": _ANCESTRAL,
    "TCDScheduler": _ANCESTRAL,
    "UnCLIPScheduler": _TABLE,
    "DDIMScheduler": _STRIDE,
    "DDIMParallelScheduler": _STRIDE,
    "CogVideoXDDIMScheduler": _STRIDE,
    "CogVideoXDPMScheduler": _STRIDE,
    "PNDMScheduler": Family(
        _always(at.ASCENDING_TABLE),
        arrays=(),
        steps=_pndm_steps,
        repair=_pndm_lists,
        settle=_pndm_even,
        least_steps=_pndm_least,
    ),
    "RePaintScheduler": Family(_always(at.TABLE), ("timesteps",), steps=_first_visits),
    "DDPMWuerstchenScheduler": Family(
        _always(at.WUERSTCHEN), ("timesteps",), tail=1, explicit={"timesteps": False}
    ),
    "IPNDMScheduler": replace(
        _TABLE, convention=_always(at.QUARTER_TURN), arrays=("timesteps", "betas", "alphas")
    ),
    "DPMSolverMultistepScheduler": replace(_DPM, short_run=15, explicit={"timesteps": False}),
    "DPMSolverSinglestepScheduler": replace(
        _DPM, repair=_single_step_orders, explicit={"timesteps": False}
    ),
    "DEISMultistepScheduler": replace(_DPM, short_run=15),
    "UniPCMultistepScheduler": replace(_DPM, explicit={"sigmas": True}),
    "SASolverScheduler": replace(_DPM, noises_by_grid=False),
    "EulerDiscreteScheduler": replace(
        _SIGMA, convention=at.euler, explicit={"timesteps": False, "sigmas": False}
    ),
    "EulerAncestralDiscreteScheduler": _SIGMA,
    "LMSDiscreteScheduler": _SIGMA,
    "HeunDiscreteScheduler": replace(_SIGMA, explicit={"timesteps": False}),
    "KDPM2DiscreteScheduler": _INTERPOLATED,
    "KDPM2AncestralDiscreteScheduler": replace(
        _INTERPOLATED, arrays=(*_INTERPOLATED.arrays, "sigmas_up", "sigmas_down")
    ),
    "DPMSolverSDEScheduler": _SIGMA,
    "EDMEulerScheduler": replace(_KARRAS, explicit={"sigmas": False}),
    "EDMDPMSolverMultistepScheduler": replace(_KARRAS, short_run=15),
    "CosineDPMSolverMultistepScheduler": replace(
        _SIGMA, convention=_always(at.ARCTANGENT), short_run=15
    ),
    "CMStochasticIterativeScheduler": replace(
        _SIGMA, convention=_always(at.THOUSAND_KARRAS), explicit={"timesteps": False}
    ),
    "SCMScheduler": replace(
        _TABLE,
        convention=at.trigflow,
        tail=1,
        noise_scale=lambda scheduler: float(scheduler.config.sigma_data),
    ),
    "FlowMatchEulerDiscreteScheduler": _FLOW,
    "FlowMatchHeunDiscreteScheduler": _FLOW,
    "FlowMatchLCMScheduler": _FLOW,
    "FlowMapEulerDiscreteScheduler": replace(_FLOW, noises_by_grid=False),
    "LTXEulerAncestralRFScheduler": replace(_FLOW, explicit={"sigmas": False, "timesteps": False}),
    "MiniMaxH3Scheduler": replace(
        _FLOW,
        convention=_always(at.FLOW_FROM_NOISE),
        explicit={"sigmas": False},
        noises_by_grid=False,
    ),
    "HeliosScheduler": replace(_FLOW, explicit={"sigmas": True}, refuse=_helios_stages),
    "RFD4ProteinaScheduler": Family(_always(at.DATA_TIME), ("timesteps", "_times", "_noise")),
}

_TOKENS = "it samples discrete tokens, which have no Gaussian start"
_INVERSE = "it runs from data to noise: there is no start to replace"

#: Classes that are refused by name, with the reason.
REFUSED: dict[str, str] = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "DDIMInverseScheduler": _INVERSE,
    "DPMSolverMultistepInverseScheduler": _INVERSE,
    "ConsistencyDecoderScheduler": "its two timesteps are fixed and conditioned on a latent",
    "HeliosDMDScheduler": "every stage of its pyramid starts from noise of its own",
    "PiflowScheduler": "its network is distilled for one fixed grid from pure noise",
    "KarrasVeScheduler": "its loop is over a schedule of its own, outside of step()",
    "ScoreSdeVeScheduler": "its loop draws the start before the grid and has no step()",
    "ScoreSdeVpScheduler": "its step size is one over the length of the list that would be cut",
}

#: Exported beside the schedulers, but no schedulers.
NOT_SCHEDULERS = frozenset({"AysSchedules", "KarrasDiffusionSchedulers", "SchedulerMixin"})


def family_of(scheduler_class: type[Any]) -> Family:
    """The row of a scheduler class, found through its bases.

    Raises:
        UnsupportedSchedulerError: refused by name, or unknown.
    """
    for base in scheduler_class.__mro__:
        if base.__name__ in REFUSED:
            raise UnsupportedSchedulerError(
                f"cannot truncate {scheduler_class.__name__}: {REFUSED[base.__name__]}. "
                f"Supported: {', '.join(FAMILIES)}."
            )
        if base.__name__ in FAMILIES:
            return FAMILIES[base.__name__]
    if issubclass(scheduler_class, type):
        raise UnsupportedSchedulerError(
            "got a class, and a scheduler is an object of one. Pass pipe.scheduler, or "
            "DDPMScheduler() instead of DDPMScheduler."
        )
    if hasattr(scheduler_class, "register_modules"):
        raise UnsupportedSchedulerError(
            f"got the pipeline {scheduler_class.__name__}, and its scheduler is needed. "
            "Pass pipe.scheduler."
        )
    raise UnsupportedSchedulerError(
        f"cannot truncate {scheduler_class.__name__}: it is none of the classes known, nor derived "
        f"from one. "
        f"Supported: {', '.join(FAMILIES)}."
    )


def supported_family(scheduler: Scheduler) -> Family:
    """The row of a scheduler, if its configuration can be truncated too.

    Raises:
        UnsupportedSchedulerError: its class or its configuration has no place for a Gaussian start.
    """
    family = family_of(type(scheduler))
    reason = family.refuse(scheduler)
    if reason:
        raise UnsupportedSchedulerError(
            f"cannot truncate this {type(scheduler).__name__}: {reason}."
        )
    return family
