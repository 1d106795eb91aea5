"""One row per scheduler class: what a cut has to take along and to repair.

A truncation cuts the entries beyond t* off the front of everything that is indexed by the step;
what remains is, to the scheduler, a shorter run. A row of this table says what has to be cut
together and what has to be brought in line afterwards. The table of the same classes in
`noise/conventions.py` says where the levels are, and which classes are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from gaga_adapter.noise.conventions import Scheduler, known_name


def _whole_steps(scheduler: Scheduler) -> Tensor:
    """Positions (m,) in `timesteps` at which a step begins: two-stage solvers list them twice."""
    return torch.arange(0, len(scheduler.timesteps), getattr(scheduler, "order", 1))


@dataclass(frozen=True)
class Family:
    """How one kind of scheduler is truncated."""

    #: Attributes that are indexed by the position in `timesteps` and are cut together.
    arrays: tuple[str, ...] = ("timesteps", "sigmas")
    #: Positions in `timesteps` at which a step begins.
    steps: Callable[[Scheduler], Tensor] = _whole_steps
    #: Function that brings in line what a cut to a number of whole steps leaves behind.
    repair: Callable[[Scheduler, int], None] = lambda scheduler, n_steps: None
    #: Function that adjusts a finer grid before the cut, so that the solver's steps land on it.
    settle: Callable[[Scheduler], None] = lambda scheduler: None
    least_steps: Callable[[Scheduler], int] = lambda scheduler: 1  # shortest run of the solver
    #: Number of steps below which a run ends at lower orders. A long grid that is cut to such a
    #: length is given back to the solver, with its place in it, when the loop begins.
    short_run: int = 0
    #: Arguments of `set_timesteps` that list the grid; `True` if the data follow after the list.
    explicit: Mapping[str, bool] = field(default_factory=dict)
    #: Number of steps left of a cut grid below which a solver that remembers steps loses accuracy,
    #: since it begins at order 1.
    least_memory: int = 0
    noises_by_grid: bool = False  # whether `add_noise` looks a timestep up in the current grid
    #: Number of times that `arrays` list every entry but the first, where other levels than the
    #: scheduler's own can be written over them; 0 where they cannot.
    written: int = 0
    spacing: str = "suffix"  # layout of the grid where nobody asks for one, see `grid.py`


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
    """Lay out Runge-Kutta and multistep timesteps again over what is left of the grid.

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


# -- the table -----------------------------------------------------------------------------------

_TABLE = Family(("timesteps",), repair=_count_steps)
_ANCESTRAL = replace(_TABLE, explicit={"timesteps": False})
_STRIDE = Family(("timesteps",), settle=_even_timesteps)
_SOLVER = Family(repair=_count_steps, noises_by_grid=True, written=1)
_MEMORY = replace(_SOLVER, least_memory=5)
_LONG = replace(_MEMORY, short_run=15)
_INTERPOLATED = replace(_SOLVER, arrays=(*_SOLVER.arrays, "sigmas_interpol"), written=0)
_FLOW = replace(_SOLVER, explicit={"sigmas": True, "timesteps": True})

#: By the names of `noise.conventions.ROWS`.
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
        (),
        steps=_pndm_steps,
        repair=_pndm_lists,
        settle=_pndm_even,
        least_steps=_pndm_least,
        least_memory=5,
    ),
    "RePaintScheduler": Family(("timesteps",), steps=_first_visits),
    "DDPMWuerstchenScheduler": Family(("timesteps",), explicit={"timesteps": False}, written=1),
    "IPNDMScheduler": replace(_TABLE, arrays=("timesteps", "betas", "alphas"), least_memory=5),
    "DPMSolverMultistepScheduler": replace(_LONG, explicit={"timesteps": False}),
    "DPMSolverSinglestepScheduler": replace(
        _SOLVER, repair=_single_step_orders, explicit={"timesteps": False}
    ),
    "DEISMultistepScheduler": _LONG,
    "UniPCMultistepScheduler": replace(_MEMORY, explicit={"sigmas": True}),
    "SASolverScheduler": replace(_MEMORY, noises_by_grid=False),
    "EulerDiscreteScheduler": replace(_SOLVER, explicit={"timesteps": False, "sigmas": False}),
    "EulerAncestralDiscreteScheduler": _SOLVER,
    "LMSDiscreteScheduler": _MEMORY,
    "HeunDiscreteScheduler": replace(_SOLVER, explicit={"timesteps": False}, written=2),
    "KDPM2DiscreteScheduler": _INTERPOLATED,
    "KDPM2AncestralDiscreteScheduler": replace(
        _INTERPOLATED, arrays=(*_INTERPOLATED.arrays, "sigmas_up", "sigmas_down")
    ),
    "DPMSolverSDEScheduler": replace(_SOLVER, written=0),
    "EDMEulerScheduler": replace(_SOLVER, explicit={"sigmas": False}),
    "EDMDPMSolverMultistepScheduler": _LONG,
    "CosineDPMSolverMultistepScheduler": _LONG,
    "CMStochasticIterativeScheduler": replace(_SOLVER, explicit={"timesteps": False}),
    "SCMScheduler": replace(_TABLE, written=1),
    "FlowMatchEulerDiscreteScheduler": _FLOW,
    "FlowMatchHeunDiscreteScheduler": replace(_SOLVER, written=2),
    "FlowMatchLCMScheduler": _FLOW,
    "FlowMapEulerDiscreteScheduler": replace(_FLOW, noises_by_grid=False),
    "LTXEulerAncestralRFScheduler": replace(_FLOW, explicit={"sigmas": False, "timesteps": False}),
    "MiniMaxH3Scheduler": replace(_FLOW, explicit={"sigmas": False}, noises_by_grid=False),
    "HeliosScheduler": replace(_FLOW, explicit={"sigmas": True}),
    "RFD4ProteinaScheduler": Family(("timesteps", "_times", "_noise")),
    "FewStepScheduler": replace(
        _SOLVER,
        explicit={"timesteps": False, "sigmas": False},
        noises_by_grid=False,
        written=0,
        spacing="log_snr",
    ),
}


def family_of(scheduler: Scheduler) -> Family:
    """The row of a scheduler's class, or of the first of its bases that has one."""
    return FAMILIES[known_name(type(scheduler))]
