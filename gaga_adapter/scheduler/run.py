"""One run of a truncated scheduler, from `set_timesteps` to its first step.

Only what happens before the first step differs from the base: the grid is cut, the noise is
mapped, an extra timestep is taken off again. The step that begins the run sets a counter; while
that is not at zero, the wrapped methods go straight to the base.
"""

from __future__ import annotations

import inspect
import math
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gaga_adapter.errors import ArtefactError, HandoverError, TruncationError, warn
from gaga_adapter.noise.conventions import convention_of
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.scheduler.families import family_of
from gaga_adapter.scheduler.grid import Finest, GridMaker
from gaga_adapter.scheduler.handover import HANDOVERS, Handover, NoiseMap, Start, is_same
from gaga_adapter.scheduler.options import Options
from gaga_adapter.stats import GAGAStats

Method = Callable[..., Any]  # of the base, unbound
Args = tuple[Any, ...]
Named = dict[str, Any]

_UNBOUNDED = sys.maxsize
#: Names of data, noise and timestep in the methods that noise data.
_NOISING = {
    "add_noise": ("original_samples", "noise", "timesteps"),
    "scale_noise": ("sample", "noise", "timestep"),
}


@dataclass(frozen=True)
class Truncation:
    """The statistics and options of one scheduler, and what follows from them.

    Immutable, so that copies of the scheduler share it.
    """

    stats: GAGAStats
    options: Options
    log_snr_star: float  # a run starts at the last entry of the grid at or below this log-SNR
    reference: ReferenceGaussian  # Gaussian start, at the level of the data

    def __deepcopy__(self, memo: dict[int, Any]) -> Truncation:
        return self


class TruncatedRun:
    """What every generated scheduler does instead of its base, before the first step of a run."""

    # Attributes of the base, or of most bases.
    timesteps: Tensor
    step_index: int | None
    _begin_index: Any

    _gaga_base: ClassVar[type[Any]]
    _gaga_signatures: ClassVar[dict[str, inspect.Signature]]

    _gaga: Truncation | None = None
    #: Results of the searches for respaced grids.
    _gaga_finest: dict[Any, Finest]
    #: Start of the run to come; `None` before `set_timesteps`.
    _gaga_start: Start | None = None
    #: False while the run is the base's own, bit for bit.
    _gaga_intercepts: bool = True
    #: Steps left in the run; at zero, the next call is the first of a run.
    _gaga_left: int = 0
    _gaga_hook: RemovableHandle | None = None

    def _gaga_truncation(self) -> Truncation:
        if self._gaga is None:
            raise ArtefactError(
                f"this {type(self).__name__} has no statistics. Make it with "
                "GAGAScheduler.from_pretrained(base, stats=...)."
            )
        return self._gaga

    # -- a run -----------------------------------------------------------------------------------

    def _gaga_mode(self) -> Handover:
        watched = self._gaga_hook is not None
        return HANDOVERS["hook" if watched else self._gaga_truncation().options.handover]

    @property
    def init_noise_sigma(self) -> Any:  # noqa: ANN401 - a number, or what maps
        """The base's own while the run is the base's own, else what maps noise to the start."""
        if self._gaga_intercepts:
            return NoiseMap(self._gaga_map_noise) if self._gaga_mode().takes_init else 1.0
        own = self.__dict__.get("init_noise_sigma")
        return getattr(super(), "init_noise_sigma", 1.0) if own is None else own

    @init_noise_sigma.setter
    def init_noise_sigma(self, value: Any) -> None:  # noqa: ANN401
        self.__dict__["init_noise_sigma"] = value

    def _gaga_map_noise(self, noise: Tensor) -> Tensor:
        start = self._gaga_start
        if start is None or self._gaga_left:
            when = "before set_timesteps" if start is None else "in the middle of a run"
            raise HandoverError(
                f"init_noise_sigma was used {when}. "
                "Call scheduler.set_timesteps, then scale the noise, for every run."
            )
        if start.shown is not None and is_same(noise, start.shown):
            raise HandoverError(
                "this start has been mapped already: scale the noise by init_noise_sigma once."
            )
        start.shown = start.transport(noise)
        start.is_mapped = True
        return start.shown

    def _gaga_set_timesteps(self, make: Method, args: Args, kwargs: Named) -> None:
        """The base's grid, cut; and the start of the run to come."""
        truncation = self._gaga_truncation()
        call = self._gaga_signatures["set_timesteps"].bind(self, *args, **kwargs)
        maker = GridMaker(
            self, make, call, truncation.log_snr_star, truncation.options.trained_log_snr
        )
        is_suffix = truncation.options.spacing == "suffix"
        cut = maker.suffix() if is_suffix else maker.respace(self._gaga_finest)
        self._gaga_start = None
        self._gaga_intercepts = not (cut.is_whole and truncation.reference.kind == "unit")
        self._gaga_left = 0 if self._gaga_intercepts else _UNBOUNDED
        if not self._gaga_intercepts:
            return
        timesteps = self.timesteps
        if not cut.reaches:
            warn(
                f"the grid of {self._gaga_base.__name__} begins at timestep "
                f"{float(timesteps[0]):g}, closer to the data than t*; the start is taken there. "
                "Use another timestep_spacing, or fewer steps."
            )
        bare = maker.convention.noise_is_bare or call.arguments.get("device") is None
        lead = _lead(timesteps, cut.before) if self._gaga_mode().leads(bare) else None
        self._gaga_start = Start(
            reference=truncation.reference.at(cut.level.a, cut.level.b),
            noise_scale=maker.convention.row.noise_scale(self),
            first=float(timesteps[0]),
            lead=lead,
            cut=cut,
            awaits_lead=lead is not None,
            is_extended=lead is not None,
        )
        if lead is not None:
            self.timesteps = torch.cat([timesteps.new_tensor([lead]), timesteps])

    def _gaga_scale(self, scale: Method, args: Args, kwargs: Named) -> Any:  # noqa: ANN401
        """`scale_model_input`, which may map before the first step of a run."""
        start = self._gaga_start
        if start is None or self._gaga_left:
            return scale(self, *args, **kwargs)
        call = self._gaga_signatures["scale_model_input"].bind(self, *args, **kwargs)
        sample: Tensor = call.arguments["sample"]
        # some bases name the timestep, others take it as one of *args
        timestep = _number(kwargs.get("timestep", (*args, None, None)[1]))
        if start.is_lead(timestep):
            return sample
        self._gaga_enter(start, timestep)
        if timestep not in (None, start.first) or start.is_settled:
            return scale(self, *args, **kwargs)
        if not self._gaga_mode().takes_scale:
            raise self._gaga_unmapped()
        call.arguments["sample"] = start.map_for_network(sample)
        start.shown = scale(*call.args, **call.kwargs)
        return start.shown

    def _gaga_first_step(self, step: Method, args: Args, kwargs: Named) -> Any:  # noqa: ANN401
        """`step` when no run is under way: the extra timestep, or the first step of a run."""
        start = self._gaga_start
        if start is None:
            raise HandoverError("there is no grid yet: call scheduler.set_timesteps first.")
        call = self._gaga_signatures["step"].bind(self, *args, **kwargs)
        sample: Tensor = call.arguments["sample"]
        timestep = _number(call.arguments["timestep"])
        if start.is_lead(timestep):
            if not start.is_settled:
                sample = start.transport(sample, start.noise_scale)
            start.is_mapped, start.awaits_lead = True, False
            self._gaga_drop_lead()
            return _step_output(call, sample)
        n_entries = self._gaga_enter(start, timestep)
        if not start.is_settled:
            if timestep != start.first:  # a loop that leaves out entries starts from noised data
                if timestep not in self.timesteps.tolist():
                    raise HandoverError(
                        f"the first step is at timestep {timestep}, which is no entry of "
                        "scheduler.timesteps. Pass its entries as they are."
                    )
                if not start.has_run:
                    self._gaga_warn_inside(start)
            elif start.noise is None:
                raise self._gaga_unmapped()
            else:
                call.arguments["sample"] = start.sample_for_step(sample)
        start.reset()
        self._gaga_left = n_entries - 1
        return step(*call.args, **call.kwargs)

    def _gaga_enter(self, start: Start, timestep: float | None) -> int:
        """Give the base its own grid, with the loop's place in it; how many entries the loop has.

        The base learns the first entry by its place and not by its value.
        """
        self._gaga_drop_lead()
        start.awaits_lead = False
        n_entries = len(self.timesteps)
        place, whole = 0, start.cut.whole
        if whole is not None:
            place, n_entries = start.cut.place, len(whole["timesteps"]) - start.cut.place
            for name, array in whole.items():
                setattr(self, name, array)
        if getattr(self, "_begin_index", 0) is None and self.step_index is None:
            if timestep == start.first:
                self._begin_index = place
        elif whole is not None and self.step_index is None and not start.is_placed:
            self._begin_index += place
        start.is_placed = True
        return n_entries

    def _gaga_drop_lead(self) -> None:
        """Take the extra timestep off the grid, before the base reads it."""
        start = self._gaga_start
        if start is not None and start.is_extended:
            self.timesteps = self.timesteps[1:]
            start.is_extended = False

    def _gaga_unmapped(self) -> HandoverError:
        mode = self._gaga_mode()
        return HandoverError(
            "the loop came to its first step without handing over its noise "
            f"(handover={mode.name!r}): {mode.advice}; or use handover='step', "
            "or scheduler.attach(pipe)."
        )

    # -- starts that are not noise ---------------------------------------------------------------

    def _gaga_begin(self, begin: Method, args: Args, kwargs: Named) -> None:
        """`set_begin_index`: a loop that begins beyond the first entry starts from noised data."""
        call = self._gaga_signatures["set_begin_index"].bind(self, *args, **kwargs)
        begin_index = call.arguments.get("begin_index", 0)
        start = self._gaga_start
        if start is not None and not self._gaga_left and begin_index > 0:
            begin_index -= start.is_extended
            self._gaga_drop_lead()
            start.is_data, start.awaits_lead = True, False
            self._gaga_warn_inside(start)
        begin(self, begin_index)

    def _gaga_warn_inside(self, start: Start) -> None:
        if not start.cut.is_whole:
            warn(
                "this loop starts inside of a truncated grid, from noised data: its sample stays "
                "as it is, and a strength counts from t*, not from pure noise. For the whole path "
                f"use {self._gaga_base.__name__}.from_config(scheduler.config)."
            )

    def _gaga_noise(self, add: Method, args: Args, kwargs: Named) -> Any:  # noqa: ANN401
        """`add_noise` and `scale_noise`, also before `set_timesteps` and off the grid.

        The schedulers that solve in sigma look a timestep up in the current grid and take some
        other level if it is not there; then the level is taken from the training path.
        """
        start = self._gaga_start
        data_name, noise_name, time_name = _NOISING[add.__name__]
        call = self._gaga_signatures[add.__name__].bind(self, *args, **kwargs)
        timesteps = torch.as_tensor(call.arguments[time_name])
        if not timesteps.numel():
            raise HandoverError(
                "the loop starts beyond the end of the truncated grid. Use spacing='respace', or "
                f"{self._gaga_base.__name__}.from_config(scheduler.config)."
            )
        if start is not None and not self._gaga_left:
            start.is_data = True
            self._gaga_drop_lead()
            if start.lead is not None and start.awaits_lead:
                first = torch.full_like(timesteps, start.first)
                timesteps = torch.where(timesteps.eq(start.lead), first, timesteps)
                call.arguments[time_name] = timesteps
        grid = self.timesteps
        has_grid = start is not None or not self._gaga_intercepts
        on_grid = has_grid and bool(torch.isin(timesteps.to(grid.device), grid).all())
        if on_grid or not family_of(self).noises_by_grid:
            return add(*call.args, **call.kwargs)
        data, noise = call.arguments[data_name], call.arguments[noise_name]
        convention = convention_of(self)
        low, high = sorted(convention.ends)
        slack = 1e-6 * max(1.0, abs(low), abs(high))  # timesteps are float32 numbers
        for t in timesteps.flatten().tolist():
            if not low - slack <= t <= high + slack:
                raise TruncationError(
                    f"{add.__name__} at timestep {t:g}, which is outside [{low:g}, {high:g}] for "
                    f"{self._gaga_base.__name__}. Pass training timesteps."
                )
        ratios = [convention.ratio_at(t) for t in timesteps.flatten().tolist()]
        levels = torch.tensor([convention.level(r) for r in ratios], dtype=torch.float64)
        a, b = levels.to(data).mT.reshape(2, -1, *([1] * (data.ndim - 1)))
        result: Tensor = a * data + b * noise
        return result

    def _gaga_watch(self, sample: Tensor) -> Tensor:
        start = self._gaga_start
        if start is None or self._gaga_left or start.is_settled or start.shown is not None:
            return sample
        return start.map_for_network(sample)


# -- small parts of a run ------------------------------------------------------------------------


def _number(timestep: Any) -> float | None:  # noqa: ANN401 - whatever a loop passes
    """A timestep as a number, the first one of a batch."""
    if timestep is None:
        return None
    return float(timestep.flatten()[0]) if isinstance(timestep, Tensor) else float(timestep)


def _lead(timesteps: Tensor, before: float | None) -> float:
    """The extra timestep: the last entry that was cut off, else some value not in the grid."""
    taken = set(timesteps.tolist())
    if before is not None and before not in taken:
        return before
    first = timesteps[0].cpu()
    if timesteps.is_floating_point():
        falls = len(timesteps) < 2 or bool(timesteps[1] < timesteps[0])
        away = torch.tensor(math.inf if falls else -math.inf, dtype=timesteps.dtype)
        return float(torch.nextafter(first, away))
    return float(next((t for t in range(int(first), -1, -1) if t not in taken), int(first)))


def _step_output(call: inspect.BoundArguments, sample: Tensor) -> Any:  # noqa: ANN401
    """What `step` returns, in the base's own type, with the sample and nothing else."""
    from diffusers.schedulers.scheduling_utils import SchedulerOutput
    from diffusers.utils import BaseOutput

    returned = call.signature.return_annotation
    kinds = [k for k in (typing.get_args(returned) or (returned,)) if isinstance(k, type)]
    kind = next((k for k in kinds if issubclass(k, BaseOutput)), SchedulerOutput)
    values = {f.name: sample if f.name == "prev_sample" else None for f in fields(kind)}
    call.apply_defaults()
    if call.arguments.get("return_dict", True):
        return kind(**values)
    return tuple(values.values())
