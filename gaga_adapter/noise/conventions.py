r"""One row per diffusers scheduler class: where its noise levels are, what its network predicts.

Everything about a level follows from the ratio `r = b / a` of noise to signal,
`log_snr = -2 log r`. A convention says

- how samples are scaled, `r -> (a, b)`: variance preserving `a = 1 / sqrt(1 + r²)`, variance
  exploding `a = 1`, flow `a = 1 / (1 + r)`; always `b = r a`;
- how `scale_model_input` scales them for the network: the solvers in sigma divide by
  `sqrt(1 + r²)`, Karras et al. 2022 (Table 1) by `sqrt(sigma_data² + r²)`;
- where `r` is kept: in a table indexed by the timestep, in `scheduler.sigmas`, or as a formula of
  the timestep;
- what the network is asked for. All that a `prediction_type` can mean is linear in the clean data
  and in the network's input, `scale output = of_clean x_0 + of_seen x`, so one relation gives the
  output that stands for a clean prediction, and the clean prediction that an output stands for.

`ROWS` holds them by the name of the class, `REFUSED` the reasons of classes that have none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaga_adapter.errors import UnsupportedSchedulerError

Scheduler = Any  # a diffusers scheduler: their attributes differ from class to class


class Level(NamedTuple):
    """A noise level, `x = a x_0 + b eps`."""

    a: float
    b: float

    @property
    def log_snr(self) -> float:
        """`2 log(a / b)`, infinite at either end."""
        if not self.a or not self.b:
            return math.inf if self.a else -math.inf
        return 2 * math.log(self.a / self.b)


class Relation(NamedTuple):
    """The output of a network at one level: `scale output = of_clean x_0 + of_seen x`."""

    scale: float
    of_clean: float
    of_seen: float


def log_snr(ratio: Tensor) -> Tensor:
    """`-2 log r`, of any shape; minus infinity for pure noise."""
    return -2 * ratio.log()


def _level(a: float, ratio: float) -> Level:
    return Level(a, ratio * a if a else 1.0)


class Convention(ABC):
    """The way in which one scheduler keeps noise levels; every subclass is one such way.

    Args:
        scheduler: Diffusers scheduler, whose grid and tables are read whenever they are asked for.
        row: Row of its class.
    """

    #: Whether the pipelines of this kind take noise as it is, without `init_noise_sigma`.
    noise_is_bare: bool = False
    #: Whether `step` looks its timestep up in a table, which may be too short for it.
    looks_up: bool = False

    def __init__(self, scheduler: Scheduler, row: Row) -> None:
        self.scheduler = scheduler
        self.row = row

    def __reduce__(self) -> tuple[Callable[[Scheduler], Convention], tuple[Scheduler]]:
        return convention_of, (self.scheduler,)  # the rules of a row cannot be pickled

    def grid(self) -> Tensor:
        """Ratios (n,), float64, of the entries of `scheduler.timesteps`."""
        timesteps = self.scheduler.timesteps.tolist()
        return torch.tensor([self.ratio_at(t) for t in timesteps], dtype=torch.float64)

    @abstractmethod
    def ratio_at(self, timestep: float) -> float:
        """The ratio of a timestep, in the scheduler's own units."""

    @abstractmethod
    def timestep_at(self, ratio: float) -> float:
        """The timestep that has this ratio; of a table the nearest one, in log."""

    def sigma_at(self, ratio: float) -> float:
        """The number that `scheduler.sigmas` has for a ratio: itself, or the share of a flow."""
        return ratio

    @property
    def ends(self) -> tuple[float, float]:
        """Timesteps of the cleanest and of the noisiest level: by default, of data and of noise."""
        return self.timestep_at(0.0), self.timestep_at(math.inf)

    @property
    def table(self) -> Tensor | None:
        """Ratios (T,), float64, of the integer timesteps; `None` where a timestep is no index."""
        return None

    # -- levels ----------------------------------------------------------------------------------

    def signal(self, ratio: float) -> float:
        """`a` of a sample with this ratio: variance preserving by default."""
        return 1 / math.hypot(1, ratio)

    def seen_signal(self, ratio: float) -> float:
        """`a` of the network's input with this ratio, after `scale_model_input`."""
        return self.signal(ratio)

    def level(self, ratio: float) -> Level:
        """Coefficients of a sample with this ratio; `a` is 0 for pure noise."""
        return _level(self.signal(ratio), ratio)

    def seen_level(self, timestep: Tensor | float) -> Level:
        """Coefficients of the network's input at an entry of `scheduler.timesteps`."""
        ratio = self.ratio_at(float(timestep))
        return _level(self.seen_signal(ratio), ratio)

    # -- predictions -----------------------------------------------------------------------------

    @property
    def relation(self) -> Callable[[Convention, Level], Relation]:
        """The rule of the scheduler's own `prediction_type`.

        Raises:
            UnsupportedSchedulerError: If there is no rule for that type.
        """
        predictions = self.row.predictions
        kind = self.scheduler.config.get("prediction_type")
        rule = predictions.get(kind, predictions.get(None))
        if rule is None or (kind == "flow_prediction" and not isinstance(self, _Flow)):
            types = ", ".join(map(str, predictions))
            raise UnsupportedSchedulerError(
                f"{type(self.scheduler).__name__} (prediction_type={kind!r}) has no rule to turn "
                f"a clean prediction into its model output. Known: {types}"
                f"{' with use_flow_sigmas=True' if 'flow_prediction' in predictions else ''}."
            )
        return rule

    @property
    def wants_epsilon(self) -> bool:
        """Whether the network is asked for the noise itself."""
        return self.relation is _epsilon

    def output(self, clean: Tensor, seen: Tensor, timestep: Tensor | float) -> Tensor:
        """The model output that stands for the prediction `clean`, in its shape.

        It is zero where there is no noise: the scheduler then takes its sample for clean anyhow.

        Args:
            clean: Predicted x_0.
            seen: Network's input, of the same shape.
            timestep: Entry of `scheduler.timesteps` that the loop is at.
        """
        scale, of_clean, of_seen = self.relation(self, self.seen_level(timestep))
        if not scale:
            return torch.zeros_like(seen)
        return (of_clean * clean + of_seen * seen) / scale

    def clean(self, output: Tensor, seen: Tensor, timestep: Tensor | float) -> Tensor:
        """The clean prediction that a model output stands for: the inverse of `output`.

        An epsilon at pure noise determines none; the result is then not finite.
        """
        scale, of_clean, of_seen = self.relation(self, self.seen_level(timestep))
        return (scale * output - of_seen * seen) / of_clean


# -- the kinds -----------------------------------------------------------------------------------


class _Table(Convention):
    """Variance preserving, with the level in `alphas_cumprod[timestep]`."""

    looks_up = True

    @cached_property
    def table(self) -> Tensor:
        return _training_ratios(self.scheduler)

    def grid(self) -> Tensor:
        return self._entries(self.scheduler.timesteps.cpu().long())

    def _entries(self, timesteps: Tensor) -> Tensor:
        """Entries of the table; what lies beyond it (`steps_offset`) counts as pure noise."""
        last = len(self.table) - 1
        return torch.where(timesteps > last, math.inf, self.table[timesteps.clamp(max=last)])

    def ratio_at(self, timestep: float) -> float:
        """Linear in log r between two training timesteps, as diffusers' own conversion is."""
        timestep = min(max(timestep, 0), len(self.table) - 1)
        low = math.floor(timestep)
        weight = timestep - low
        if not weight:
            return float(self.table[low])
        below, above = self.table[low : low + 2].log()
        return float(torch.lerp(below, above, weight).exp())

    def timestep_at(self, ratio: float) -> float:
        return int((self.table.log() - math.log(ratio)).abs().argmin())

    @property
    def ends(self) -> tuple[float, float]:
        return 0, len(self.table) - 1


class _AscendingTable(_Table):
    """A table of PNDM, which keeps its plain grid, ascending, in `_timesteps`."""

    def grid(self) -> Tensor:
        return self._entries(torch.from_numpy(self.scheduler._timesteps[::-1].astype("int64")))


class _PreservingSigmas(_Table):
    """Variance preserving samples over a training table, solver in sigma."""

    looks_up = False

    def grid(self) -> Tensor:
        return _sigmas(self.scheduler)


class _ExplodingSigmas(_PreservingSigmas):
    """Variance exploding samples over a training table; the network's input is preserving."""

    def signal(self, ratio: float) -> float:
        return 1.0

    def seen_signal(self, ratio: float) -> float:
        return 1 / math.hypot(1, ratio)


class _Karras(Convention):
    """Variance exploding, with timestep = ln(sigma) / 4 and c_in of Karras et al. 2022."""

    per_log = 0.25

    def grid(self) -> Tensor:
        return _sigmas(self.scheduler)

    def ratio_at(self, timestep: float) -> float:
        return math.exp(timestep / self.per_log)

    def timestep_at(self, ratio: float) -> float:
        return self.per_log * math.log(ratio)

    @property
    def ends(self) -> tuple[float, float]:
        config = self.scheduler.config
        return self.timestep_at(config.sigma_min), self.timestep_at(config.sigma_max)

    def signal(self, ratio: float) -> float:
        return 1.0

    def seen_signal(self, ratio: float) -> float:
        return 1 / math.hypot(ratio, float(self.scheduler.config.sigma_data))


class _Arctangent(_Karras):
    """Stable Audio: timestep = atan(sigma) 2 / pi."""

    def ratio_at(self, timestep: float) -> float:
        return math.tan(timestep * math.pi / 2)

    def timestep_at(self, ratio: float) -> float:
        return math.atan(ratio) / math.pi * 2


class _ThousandKarras(_Karras):
    """Consistency models: timestep = 250 ln(sigma)."""

    per_log = 250


class _QuarterLogTable(_Karras):
    """Euler for continuous v-prediction: the timestep is ln(sigma) / 4, not the table's index."""

    def seen_signal(self, ratio: float) -> float:
        return 1 / math.hypot(1, ratio)

    @property
    def ends(self) -> tuple[float, float]:
        ratios = _training_ratios(self.scheduler)
        return self.timestep_at(float(ratios[0])), self.timestep_at(float(ratios[-1]))


#: Largest error of a share of noise in float32, by which a shifted grid can begin above 1.
_ROUNDING = 1e-6


class _Flow(Convention):
    """`x = (1 - s) x_0 + s eps`, timestep = s times the number of training steps.

    Some configurations (`invert_sigmas`) keep 1 - s instead.
    """

    noise_is_bare = True

    def signal(self, ratio: float) -> float:
        return 1 / (1 + ratio)

    def grid(self) -> Tensor:
        share: Tensor = self._share(_sigmas(self.scheduler))
        share = torch.where(share < 1 + _ROUNDING, share.clamp(max=1), share)
        return share / (1 - share)

    def ratio_at(self, timestep: float) -> float:
        share: float = self._share(timestep / self._steps)
        return share / (1 - share) if share < 1 else math.inf

    def timestep_at(self, ratio: float) -> float:
        return self.sigma_at(ratio) * self._steps

    def sigma_at(self, ratio: float) -> float:
        share: float = self._share(1 / (1 + 1 / ratio) if ratio else 0.0)
        return share

    def _share(self, number: Any) -> Any:  # noqa: ANN401 - a float or a tensor
        """From the share of noise to the number that the scheduler has for it, and back."""
        return 1 - number if self.scheduler.config.get("invert_sigmas") else number

    @property
    def _steps(self) -> float:
        return float(self.scheduler.config.num_train_timesteps)


class _DataTime(Convention):
    """`x = t x_0 + (1 - t) eps`: the timestep counts from noise to data."""

    noise_is_bare = True

    def signal(self, ratio: float) -> float:
        return 1 / (1 + ratio)

    def ratio_at(self, timestep: float) -> float:
        return (1 - timestep) / timestep if timestep > 0 else math.inf

    def timestep_at(self, ratio: float) -> float:
        return 1 / (1 + ratio)

    def sigma_at(self, ratio: float) -> float:
        return 1 - self.timestep_at(ratio)


class _QuarterTurn(Convention):
    """`a = cos(pi t / 2)`, `b = sin(pi t / 2)`."""

    scale = 1.0
    turn = math.pi / 2

    def signal(self, ratio: float) -> float:
        return 1 / math.hypot(1, ratio / self.scale)

    def ratio_at(self, timestep: float) -> float:
        return self.scale * abs(math.tan(timestep * self.turn))

    def timestep_at(self, ratio: float) -> float:
        return math.atan(ratio / self.scale) / self.turn


class _TrigFlow(_QuarterTurn):
    """`x = cos(t) x_0 + sin(t) sigma_data eps` (Lu & Song 2024): the timestep is an angle."""

    noise_is_bare = True
    turn = 1.0

    def __init__(self, scheduler: Scheduler, row: Row) -> None:
        super().__init__(scheduler, row)
        self.scale = float(scheduler.config.sigma_data)


class _Wuerstchen(Convention):
    """A shifted squared cosine of a continuous timestep in [0, 1]."""

    def ratio_at(self, timestep: float) -> float:
        time = torch.tensor([timestep], dtype=torch.float64)
        abar = float(self.scheduler._alpha_cumprod(time, torch.device("cpu")))
        return math.sqrt((1 - abar) / abar)

    def timestep_at(self, ratio: float) -> float:
        """Bisection: abar falls monotonically in the timestep."""
        low, high = self.ends
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.ratio_at(middle) < ratio else (low, middle)
        return high

    @property
    def ends(self) -> tuple[float, float]:
        return 0.0, 1.0


class _Borrowed(Convention):
    """The levels and predictions of the scheduler that another one was made like, see `like`."""

    def __init__(self, scheduler: Scheduler, row: Row) -> None:
        super().__init__(scheduler, row)
        self._lender = convention_of(scheduler.like)
        self.noise_is_bare = self._lender.noise_is_bare
        self.looks_up = self._lender.looks_up

    def grid(self) -> Tensor:
        ratios: Tensor = self.scheduler.ratios
        return ratios

    def ratio_at(self, timestep: float) -> float:
        return self._lender.ratio_at(timestep)

    def timestep_at(self, ratio: float) -> float:
        return self._lender.timestep_at(ratio)

    @property
    def ends(self) -> tuple[float, float]:
        return self._lender.ends

    @property
    def table(self) -> Tensor | None:
        return self._lender.table

    def signal(self, ratio: float) -> float:
        return self._lender.signal(ratio)

    def seen_signal(self, ratio: float) -> float:
        return self._lender.seen_signal(ratio)

    @property
    def relation(self) -> Callable[[Convention, Level], Relation]:
        return self._lender.relation


def _training_ratios(scheduler: Scheduler) -> Tensor:
    abar = torch.as_tensor(scheduler.alphas_cumprod).detach().to("cpu", torch.float64)
    return ((1 - abar) / abar).sqrt()


def _sigmas(scheduler: Scheduler) -> Tensor:
    sigmas: Tensor = scheduler.sigmas[: len(scheduler.timesteps)]
    return sigmas.detach().to("cpu", torch.float64)


# -- what a network is asked for -------------------------------------------------------------------


def _epsilon(at: Convention, level: Level) -> Relation:
    return Relation(level.b, -level.a, 1.0)


def _sample(at: Convention, level: Level) -> Relation:
    return Relation(1.0, 1.0, 0.0)


def _v(at: Convention, level: Level) -> Relation:
    """`v = a eps - b x_0` (Salimans & Ho 2022), so that `x_0 = a x - b v`."""
    return Relation(level.b, -1.0, level.a)


def _velocity(at: Convention, level: Level) -> Relation:
    """`eps - x_0`; from noise to data where a scheduler counts the other way."""
    if at.scheduler.config.get("invert_sigmas"):
        return _backward_velocity(at, level)
    return Relation(level.b, -1.0, 1.0)


def _backward_velocity(at: Convention, level: Level) -> Relation:
    """`x_0 - eps`."""
    return Relation(level.b, 1.0, -1.0)


def _trigflow(at: Convention, level: Level) -> Relation:
    """`x_0 = cos(t) x - sin(t) output`."""
    return Relation(level.b / float(at.scheduler.config.sigma_data), -1.0, level.a)


def _preconditioned(sign: int, has_boundary: bool) -> Callable[[Convention, Level], Relation]:
    """`x_0 = c_skip x / c_in + c_out output` (Karras et al. 2022, Table 1), c_out of this sign.

    With a boundary, the output counts for nothing at sigma_min (Song et al. 2023).
    """

    def rule(at: Convention, level: Level) -> Relation:
        config, sigma = at.scheduler.config, level.b / level.a
        above = sigma - config.sigma_min if has_boundary else sigma
        c_out = above * config.sigma_data / math.hypot(sigma, config.sigma_data)
        c_skip = config.sigma_data**2 / (above**2 + config.sigma_data**2)
        return Relation(sign * c_out, 1.0, -c_skip / level.a)

    return rule


_Predictions = Mapping[str | None, Callable[[Convention, Level], Relation]]

#: Rules by the scheduler's word; that under `None` is for every word and for none.
_TABLE_PREDICTIONS: _Predictions = {"epsilon": _epsilon, "sample": _sample, "v_prediction": _v}
_DPM_PREDICTIONS: _Predictions = {**_TABLE_PREDICTIONS, "flow_prediction": _velocity}
_KARRAS_PREDICTIONS: _Predictions = {
    "epsilon": _preconditioned(1, has_boundary=False),
    "v_prediction": _preconditioned(-1, has_boundary=False),
}


# -- the table -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """All that somebody who runs a scheduler has to know of its class.

    Attributes:
        kind: Convention of its levels; may depend on the configuration.
        predictions: Rules for what its network is asked for, by `prediction_type`.
        tail: Number of last entries of `timesteps` at which the network is not called.
        noise_scale: Standard deviation that its pipelines give to unit noise by themselves.
        grid_arguments: Further arguments of `set_timesteps` for a number of steps.
        one_per_row: Arguments of `step` that it wants once for every row of the batch.
        unserved: Reason why a plain sampling loop cannot run it, although it can be truncated.
        refuse: Reason why an instance has no Gaussian start, by its configuration.
    """

    kind: Callable[[Scheduler, Row], Convention]
    predictions: _Predictions
    tail: int = 0
    noise_scale: Callable[[Scheduler], float] = lambda scheduler: 1.0
    grid_arguments: Callable[[int], Mapping[str, Any]] = lambda n_steps: {}
    one_per_row: tuple[str, ...] = ()
    unserved: str | None = None
    refuse: Callable[[Scheduler], str | None] = lambda scheduler: None


def _preserving_or_flow(scheduler: Scheduler, row: Row) -> Convention:
    """The DPM-Solver kin: variance preserving, or flow by their own switch."""
    kind = _Flow if scheduler.config.get("use_flow_sigmas") else _PreservingSigmas
    return kind(scheduler, row)


def _euler(scheduler: Scheduler, row: Row) -> Convention:
    config = scheduler.config
    continuous = config.get("timestep_type") == "continuous"
    is_v = config.get("prediction_type") == "v_prediction"
    return (_QuarterLogTable if continuous and is_v else _ExplodingSigmas)(scheduler, row)


def _helios_stages(scheduler: Scheduler) -> str | None:
    stages = scheduler.config.stages
    if stages == 1:
        return None
    return f"with stages={stages} every stage starts from noise of its own; use stages=1"


_ON_TABLE = Row(_Table, _TABLE_PREDICTIONS)
_ON_SIGMAS = Row(_ExplodingSigmas, _TABLE_PREDICTIONS)
_IN_FLOW = Row(_Flow, {None: _velocity})
_IN_DPM = Row(_preserving_or_flow, _DPM_PREDICTIONS)

#: Supported classes by name.
ROWS: dict[str, Row] = {
    "DDPMScheduler": _ON_TABLE,
    "DDPMParallelScheduler": _ON_TABLE,
    "LCMScheduler": _ON_TABLE,
    "TCDScheduler": _ON_TABLE,
    "UnCLIPScheduler": _ON_TABLE,
    "DDIMScheduler": _ON_TABLE,
    "DDIMParallelScheduler": _ON_TABLE,
    "CogVideoXDDIMScheduler": _ON_TABLE,
    "CogVideoXDPMScheduler": _ON_TABLE,
    "PNDMScheduler": Row(_AscendingTable, _TABLE_PREDICTIONS),
    "RePaintScheduler": Row(
        _Table,
        {None: _epsilon},
        unserved="it walks up and down again, and its step() takes the image that it repaints",
    ),
    "DDPMWuerstchenScheduler": Row(
        _Wuerstchen, {None: _epsilon}, tail=1, one_per_row=("timestep",)
    ),
    "IPNDMScheduler": Row(_QuarterTurn, {None: _v}),
    "DPMSolverMultistepScheduler": _IN_DPM,
    "DPMSolverSinglestepScheduler": _IN_DPM,
    "DEISMultistepScheduler": _IN_DPM,
    "UniPCMultistepScheduler": _IN_DPM,
    "SASolverScheduler": _IN_DPM,
    "EulerDiscreteScheduler": Row(_euler, _TABLE_PREDICTIONS),
    "EulerAncestralDiscreteScheduler": _ON_SIGMAS,
    "LMSDiscreteScheduler": _ON_SIGMAS,
    "HeunDiscreteScheduler": _ON_SIGMAS,
    "KDPM2DiscreteScheduler": _ON_SIGMAS,
    "KDPM2AncestralDiscreteScheduler": _ON_SIGMAS,
    "DPMSolverSDEScheduler": _ON_SIGMAS,
    "EDMEulerScheduler": Row(_Karras, _KARRAS_PREDICTIONS),
    "EDMDPMSolverMultistepScheduler": Row(_Karras, _KARRAS_PREDICTIONS),
    "CosineDPMSolverMultistepScheduler": Row(_Arctangent, _KARRAS_PREDICTIONS),
    "CMStochasticIterativeScheduler": Row(
        _ThousandKarras, {None: _preconditioned(1, has_boundary=True)}
    ),
    "SCMScheduler": Row(
        _TrigFlow,
        {"trigflow": _trigflow},
        tail=1,
        noise_scale=lambda scheduler: float(scheduler.config.sigma_data),
        # its default is made for two steps and refuses every other number
        grid_arguments=lambda n: {} if n == 2 else {"intermediate_timesteps": None},
    ),
    "FlowMatchEulerDiscreteScheduler": _IN_FLOW,
    "FlowMatchHeunDiscreteScheduler": _IN_FLOW,
    "FlowMatchLCMScheduler": _IN_FLOW,
    "FlowMapEulerDiscreteScheduler": _IN_FLOW,
    "LTXEulerAncestralRFScheduler": _IN_FLOW,
    "MiniMaxH3Scheduler": Row(_DataTime, {None: _backward_velocity}),
    "HeliosScheduler": replace(_IN_FLOW, refuse=_helios_stages),
    "RFD4ProteinaScheduler": Row(_DataTime, {None: _backward_velocity}, one_per_row=("generator",)),
    "FewStepScheduler": Row(
        _Borrowed,
        {},
        noise_scale=lambda scheduler: _row_of(scheduler.like).noise_scale(scheduler.like),
    ),
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


def exported_schedulers(library: Any = None) -> tuple[str, ...]:  # noqa: ANN401 - a module
    """Names of the scheduler classes that diffusers exports.

    Args:
        library: Module that exports the classes; `diffusers.schedulers` when `None`.
    """
    if library is None:
        library = import_module("diffusers.schedulers")
    # diffusers loads a class when it is first asked for; this table names all of them
    files = getattr(library, "_import_structure", {})
    names = {name for exported in files.values() for name in exported} or set(dir(library))
    return tuple(sorted(n for n in names - NOT_SCHEDULERS if n.endswith("Scheduler")))


def unknown_schedulers(library: Any = None) -> tuple[str, ...]:  # noqa: ANN401 - a module
    r"""Scheduler classes that diffusers exports and that neither `ROWS` nor `REFUSED` has by name.

    `gaga doctor` prints those of the installed diffusers. A check against a newer diffusers prints
    the classes that wait for a row, and fails if there are any:

        from gaga_adapter.noise.conventions import unknown_schedulers

        raise SystemExit("\n".join(unknown_schedulers()) or None)

    Args:
        library: Module that exports the classes; `diffusers.schedulers` when `None`.
    """
    known = ROWS.keys() | REFUSED.keys()
    return tuple(name for name in exported_schedulers(library) if name not in known)


def known_name(scheduler_class: type[Any]) -> str:
    """The key of `ROWS` for a scheduler class, found through its bases.

    Raises:
        UnsupportedSchedulerError: If the class is refused by name, or unknown.
    """
    name, supported = scheduler_class.__name__, f"Supported: {', '.join(ROWS)}."
    for base in scheduler_class.__mro__:
        if base.__name__ in REFUSED:
            raise UnsupportedSchedulerError(
                f"cannot use {name}: {REFUSED[base.__name__]}. {supported}"
            )
        if base.__name__ in ROWS:
            return base.__name__
    if issubclass(scheduler_class, type):
        raise UnsupportedSchedulerError(
            "got a class, and a scheduler is an object of one. Pass pipe.scheduler, or "
            "DDPMScheduler() instead of DDPMScheduler."
        )
    if hasattr(scheduler_class, "register_modules"):
        raise UnsupportedSchedulerError(
            f"got the pipeline {name}, and its scheduler is needed. Pass pipe.scheduler."
        )
    raise UnsupportedSchedulerError(
        f"cannot use {name}: it is none of the classes known, nor derived from one. {supported}"
    )


def convention_of(scheduler: Scheduler) -> Convention:
    """The convention of a scheduler.

    Raises:
        UnsupportedSchedulerError: If its class or its configuration is refused.
    """
    row = _row_of(scheduler)
    reason = row.refuse(scheduler)
    if reason:
        raise UnsupportedSchedulerError(f"cannot use this {type(scheduler).__name__}: {reason}.")
    return row.kind(scheduler, row)


def _row_of(scheduler: Scheduler) -> Row:
    return ROWS[known_name(type(scheduler))]
