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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gaga_adapter.errors import (
    ArtefactError,
    HandoverError,
    StatsMismatchError,
    TruncationError,
    warn,
)
from gaga_adapter.noise.conventions import convention_of
from gaga_adapter.noise.fitted import FittedLevels
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.scheduler.families import family_of
from gaga_adapter.scheduler.fractions import (
    check_end,
    forgets_data,
    loop_arguments,
    moved_entry,
    starts_from_data,
    warn_of_fractions,
)
from gaga_adapter.scheduler.grid import Cut, Finest, GridMaker
from gaga_adapter.scheduler.handover import HANDOVERS, Event, Handover, State
from gaga_adapter.scheduler.noise_map import NoiseMap
from gaga_adapter.scheduler.options import OWN_LEVELS, Options
from gaga_adapter.scheduler.start import Entry, Start
from gaga_adapter.scheduler.watch import Watch
from gaga_adapter.selection import warn_of_condition
from gaga_adapter.stats import GAGAStats

Method = Callable[..., Any]  # of the base, unbound
Args = tuple[Any, ...]
Named = dict[str, Any]

_UNBOUNDED = sys.maxsize
#: Log-SNR of a path's end from which on N(0, I) is as good as the fitted start: the signal is then
#: one per cent of the variance. A schedule made for training in [0, t*] ends far above.
_PURE_NOISE = math.log(0.01 / 0.99)
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
    channel: ReferenceGaussian  # the coarsest Gaussian of the same data
    unit: ReferenceGaussian  # the law of unit noise

    def levels_for(self, n_calls: int) -> FittedLevels | None:
        """The fitted levels of a run of so many calls, if the spacing asks for them.

        Raises:
            TruncationError: If it asks for fitted levels alone, and there are none for this number.
        """
        if self.options.spacing not in ("fitted", "auto"):
            return None
        here = [one for one in self.stats.levels if one.starts_at(self.log_snr_star)]
        known = {one.n_calls: one for one in here if one.reference == self.reference.kind}
        if n_calls not in known and self.options.spacing == "fitted":
            which = ", ".join(map(str, sorted(known))) or "none"
            raise TruncationError(
                f"no levels were fitted for {n_calls} calls from log-SNR {self.log_snr_star:.4g} "
                f"with the {self.reference.kind!r} start. Fitted numbers of calls: {which}. Fit "
                'them with `gaga levels`, or use spacing="log_snr".'
            )
        return known.get(n_calls)

    def __deepcopy__(self, memo: dict[int, Any]) -> Truncation:
        return self


@dataclass(frozen=True)
class SolverView:
    """The grid that a solver works on, where it is another than the loop's.

    The loop's grid has an extra timestep that no solver may see; and a solver that ends a short
    run at lower orders gets its long grid back, of which the loop has the last entries only.
    """

    loop: Named  # attributes of the scheduler as the loop reads them
    solver: Named  # the same attributes for the solver
    offset: int  # place in the solver's grid of the loop's first entry

    def call(self, scheduler: Any, method: Method, args: Args, kwargs: Named) -> Any:  # noqa: ANN401
        """Call a method of the base with the solver's grid, and places counted in it.

        Raises:
            HandoverError: If the loop has replaced its grid, which the solver would not see.
        """
        state = scheduler.__dict__
        for name, own in self.loop.items():
            if state.get(name) is not own:
                raise HandoverError(
                    f"scheduler.{name} was replaced after set_timesteps, and the solver has a "
                    "grid of its own here. Give the entries to set_timesteps, which cuts them, or "
                    'use handover="init".'
                )
        state.update(self.solver)
        self._shift(state, self.offset)
        try:
            return method(scheduler, *args, **kwargs)
        finally:
            state.update(self.loop)
            self._shift(state, -self.offset)

    @staticmethod
    def _shift(state: Named, by: int) -> None:
        for name in ("_step_index", "_begin_index"):
            place = state.get(name)
            if place is not None:
                state[name] = max(0, place + by)  # the extra timestep is the first entry to it


class TruncatedRun:
    """What every generated scheduler does instead of its base, before the first step of a run."""

    # Attributes of the base, or of most bases.
    timesteps: Tensor
    order: int
    step_index: int | None
    _begin_index: Any

    _gaga_base: ClassVar[type[Any]]
    _gaga_signatures: ClassVar[dict[str, inspect.Signature]]

    _gaga: Truncation | None = None
    #: Results of the searches for respaced grids.
    _gaga_finest: dict[Any, Finest]
    #: State of the hand-over, and the noise that has been handed over.
    _gaga_start: Start | None = None
    #: The grid before the cut, for what a loop says in fractions of it.
    _gaga_whole: Sequence[float] = ()
    #: The solver's own view of the grid, where it differs from the loop's.
    _gaga_view: SolverView | None = None
    #: Steps left in the run; at zero, the next call is the first of a run.
    _gaga_left: int = 0
    _gaga_watch: Watch | None = None

    def _gaga_truncation(self) -> Truncation:
        if self._gaga is None:
            raise ArtefactError(
                f"this {type(self).__name__} has no statistics. Make it with "
                "GAGAScheduler.from_pretrained(base, stats=...)."
            )
        return self._gaga

    # -- a run -----------------------------------------------------------------------------------

    def _gaga_mode(self) -> Handover:
        watched = self._gaga_watch is not None
        return HANDOVERS["hook" if watched else self._gaga_truncation().options.handover]

    def _gaga_at(self) -> Start:
        """The start, whose run is over when no step of it is left."""
        start = self._gaga_start
        if start is None:
            self._gaga_truncation()
            start = self._gaga_start = Start()
        if start.state is State.RUNNING and not self._gaga_left:
            start.move(Event.LAST)
        return start

    @property
    def init_noise_sigma(self) -> Any:  # noqa: ANN401 - a number, or what maps
        """The base's own while the run is the base's own, else what maps noise to the start."""
        own: Any = self.__dict__.get("init_noise_sigma")
        own = getattr(super(), "init_noise_sigma", 1.0) if own is None else own
        if self._gaga is None:
            return own
        start = self._gaga_at()
        if start.state is State.NO_GRID:  # latents before the grid: the loop is caught later
            start.number = float(own)
            return own
        if start.state is State.OWN:
            return own
        return NoiseMap(start.multiply) if self._gaga_mode().takes_init else 1.0

    @init_noise_sigma.setter
    def init_noise_sigma(self, value: Any) -> None:  # noqa: ANN401
        self.__dict__["init_noise_sigma"] = value

    def _gaga_set_timesteps(self, make: Method, args: Args, kwargs: Named) -> None:
        """The base's grid, cut; and the start of the run to come."""
        truncation = self._gaga_truncation()
        call = self._gaga_signatures["set_timesteps"].bind(self, *args, **kwargs)
        start = self._gaga_at()
        start.ask()
        self._gaga_view, self._gaga_left = None, 0
        loop = loop_arguments(self)
        if starts_from_data(loop) and truncation.options.trained_log_snr is None:
            make(*call.args, **call.kwargs)
            self._gaga_own()
            return
        maker = GridMaker(
            self, make, call, truncation.log_snr_star, truncation.options.trained_log_snr
        )
        spacing = truncation.options.spacing
        is_suffix = spacing == "suffix"
        if spacing in OWN_LEVELS:
            levels = truncation.levels_for(maker.n_steps)
            cut = maker.even_in_log_snr() if levels is None else maker.fitted(levels)
        else:
            cut = maker.suffix() if is_suffix else maker.respace(self._gaga_finest)
        reference = truncation.reference.at(cut.level.a, cut.level.b)
        mode = self._gaga_mode()
        is_bare = maker.convention.noise_is_bare or call.arguments.get("device") is None
        leads = mode.leads_always or (mode.leads_bare and is_bare)
        # Where nothing is cut of a path that ends in noise, there is nothing to gain from the start
        # that a call would cost.
        is_noise = reference.kind == "unit" or reference.a == 0
        ends_in_noise = cut.reaches and cut.level.log_snr <= _PURE_NOISE
        if cut.is_whole and (is_noise or (ends_in_noise and leads and not mode.leads_always)):
            self._gaga_own()
            return
        timesteps, first = self.timesteps, float(self.timesteps[0])
        if not cut.reaches:
            fewer = "." if len(cut.timesteps) == 1 else ", or fewer steps."
            warn(
                f"the grid of {self._gaga_base.__name__} begins at timestep {first:g}, closer to "
                "the data than t*; the start is taken there. Use another timestep_spacing" + fewer
            )
        if is_suffix and 0 < len(timesteps) < min(family_of(self).least_memory, len(cut.timesteps)):
            warn(
                f"{len(timesteps)} of {len(cut.timesteps)} steps are left from t* on, and "
                f"{self._gaga_base.__name__} begins with steps of order 1. For as many calls, and "
                f'finer steps, use spacing="respace" with num_inference_steps={len(timesteps)}.'
            )
        if not cut.is_whole:
            n_train = int(getattr(self, "config", {}).get("num_train_timesteps", 1000))
            check_end(loop, n_train, first)
            n_asked = call.arguments.get("num_inference_steps")
            warn_of_fractions(loop, cut.timesteps, timesteps.tolist(), n_asked)
        lead = _lead(timesteps, cut.before) if leads else None
        self._gaga_whole = cut.timesteps
        self._gaga_view = self._gaga_two_views(cut, lead)
        start.forgets_data = forgets_data(loop)
        start.set_grid(
            Entry(
                reference=reference,
                channel=truncation.channel.at(cut.level.a, cut.level.b),
                unit=truncation.unit,
                noise_scale=maker.convention.row.noise_scale(self),
                timestep=first,
                lead=lead,
                is_whole=cut.is_whole,
            )
        )

    def _gaga_own(self) -> None:
        """Leave the run to the base, bit for bit."""
        self._gaga_at().move(Event.OWN_GRID)
        self._gaga_left = _UNBOUNDED

    def _gaga_two_views(self, cut: Cut, lead: float | None) -> SolverView | None:
        """Put the extra timestep into the loop's grid; what the solver sees of it all."""
        arrays = {name: getattr(self, name) for name in family_of(self).arrays}
        arrays.setdefault("timesteps", self.timesteps)
        loop, solver, offset = arrays, arrays, 0
        if lead is not None:
            fronts = {**cut.front, "timesteps": lead}
            loop = {name: _with_front(array, fronts.get(name)) for name, array in arrays.items()}
            # of one storage, so that what a loop writes into an entry reaches the solver
            solver, offset = {name: array[1:] for name, array in loop.items()}, -1
        if cut.whole is not None:
            solver, offset = dict(cut.whole), cut.place + offset
        self.__dict__.update(loop)
        return None if loop is solver else SolverView(loop, solver, offset)

    def _gaga_call(self, method: Method, args: Args, kwargs: Named) -> Any:  # noqa: ANN401
        """A method of the base, in the solver's view of the grid."""
        if self._gaga_view is None:
            return method(self, *args, **kwargs)
        return self._gaga_view.call(self, method, args, kwargs)

    def _gaga_later_step(self, step: Method, args: Args, kwargs: Named) -> Any:  # noqa: ANN401
        """`step` in the middle of a run whose solver has another view of the grid."""
        self._gaga_begin_anew(*args, *kwargs.values())
        if not self._gaga_left:
            return self._gaga_first_step(step, args, kwargs)
        self._gaga_left -= 1
        return self._gaga_call(step, args, kwargs)

    def _gaga_begin_anew(self, *arguments: Any) -> None:  # noqa: ANN401 - whatever a loop passes
        """End a run that broke off, when a loop comes to the first entry of its grid again.

        The entry is known by its place in memory: a look at its value would wait for the device.
        """
        if self._gaga_left and self._gaga_at().state is State.RUNNING:
            first = self.timesteps.data_ptr()
            if any(isinstance(x, Tensor) and x.data_ptr() == first for x in arguments):
                self._gaga_left = 0

    def _gaga_scale(self, scale: Method, args: Args, kwargs: Named) -> Any:  # noqa: ANN401
        """`scale_model_input`, which may map before the first step of a run."""
        # some bases name the timestep, others take it as one of *args
        given = kwargs.get("timestep", (*args, None, None)[1])
        self._gaga_begin_anew(given)
        start = self._gaga_at()
        if start.entry is None or self._gaga_left:
            return self._gaga_call(scale, args, kwargs)
        call = self._gaga_signatures["scale_model_input"].bind(self, *args, **kwargs)
        sample: Tensor = call.arguments["sample"]
        timestep = _number(given)
        if start.is_lead(timestep):
            return sample
        self._gaga_check_unused()
        self._gaga_place(timestep)
        is_first = timestep in (None, start.entry.timestep)
        if is_first:
            start.take_noise(sample)
        if is_first and start.state is not State.DATA:
            if not self._gaga_mode().takes_scale and start.state is not State.MAPPED:
                raise self._gaga_unmapped()
            if self._gaga_mode().takes_scale:
                call.arguments["sample"] = start.show(sample)
            if start.state is State.MAPPED and not start.holds_start(sample):
                start.check_known(sample)
        result: Tensor = self._gaga_call(scale, call.args[1:], call.kwargs)
        if start.state is State.SHOWN:
            start.seen = result
        return result

    def _gaga_first_step(self, step: Method, args: Args, kwargs: Named) -> Any:  # noqa: ANN401
        """`step` when no run is under way: the extra timestep, or the first step of a run."""
        start = self._gaga_at()
        if start.entry is None:
            start.move(Event.FIRST)
        call = self._gaga_signatures["step"].bind(self, *args, **kwargs)
        sample: Tensor = call.arguments["sample"]
        timestep = _number(call.arguments["timestep"])
        if start.is_lead(timestep):
            sample = start.lead(sample)
            if getattr(self, "_begin_index", None) == 0:
                self._begin_index = 1
            return _step_output(call, sample)
        self._gaga_check_unused()
        entry = start.entry
        assert entry is not None
        is_first = timestep == entry.timestep
        is_start = False
        if is_first:
            start.take_noise(sample)
            is_start = start.recognise(sample)
        elif timestep not in self.timesteps.tolist():
            raise HandoverError(
                f"the first step is at timestep {timestep}, which is no entry of "
                "scheduler.timesteps. Pass its entries as they are."
            )
        if is_first and start.state in (State.READY, State.DONE):
            raise self._gaga_unmapped()
        if not is_first and start.state is State.READY:
            self._gaga_warn_inside(timestep)
        if is_first and not is_start:
            call.arguments["sample"] = start.first_sample(sample)
        self._gaga_place(timestep)
        start.begin(Event.FIRST if is_first else Event.INSIDE)
        place = 0 if is_first else self.timesteps.tolist().index(timestep)
        n_taken = max(place, int(entry.lead is not None)) + 1
        self._gaga_left = len(self.timesteps) - n_taken
        return self._gaga_call(step, call.args[1:], call.kwargs)

    def _gaga_check_unused(self) -> None:
        """Refuse a second run over the grid of a solver that counts its steps."""
        used = getattr(self, "step_index", None)
        if used is not None and used >= len(self.timesteps):
            raise HandoverError(
                f"{self._gaga_base.__name__} has gone through its grid. "
                "Call scheduler.set_timesteps for every run."
            )

    def _gaga_place(self, timestep: float | None) -> None:
        """Tell the base where the loop begins: by the place of the entry, not by its value."""
        entry = self._gaga_at().entry
        if entry is None or timestep != entry.timestep:
            return
        if getattr(self, "_begin_index", 0) is None and self.step_index is None:
            self._begin_index = int(entry.lead is not None)

    def _gaga_unmapped(self) -> HandoverError:
        mode = self._gaga_mode()
        if self._gaga_watch is not None:
            watched = type(self._gaga_watch.pipe).__name__
            return HandoverError(
                "the loop came to its first step without handing over its noise. The scheduler is "
                f"attached to a {watched}, whose networks saw none: attach it to the pipeline that "
                "runs, or detach it and use handover='step'."
            )
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
        start = self._gaga_at()
        if start.entry is not None and not self._gaga_left and begin_index > 0:
            start.move(Event.BEGIN_INSIDE)
            start.awaits_lead = False
            if begin_index < len(self.timesteps):
                self._gaga_warn_inside(float(self.timesteps[begin_index]))
        begin(self, begin_index)

    def _gaga_warn_inside(self, timestep: float | None) -> None:
        """Say which strength starts where the loop would have started without truncation."""
        start, whole = self._gaga_at(), self._gaga_whole
        entry = start.entry
        if entry is None or entry.is_whole or timestep is None:
            return
        if start.has_warned:
            return
        start.has_warned = True
        cut = self.timesteps.tolist()[int(entry.lead is not None) :]
        place = cut.index(timestep)
        place += int(entry.lead is not None and place > 0)
        wanted = whole[min(place, len(whole) - 1)]
        moved = moved_entry(place, whole, cut)
        plain = f"{self._gaga_base.__name__}.from_config(scheduler.config)"
        advice = f"use {plain}"
        if moved or wanted == entry.timestep:
            share = 1 - math.floor(moved + 1e-9) / len(whole)
            advice = f"pass strength={share:.3g}, or {advice}"
        warn(
            f"this loop starts inside of a truncated grid, from noised data at timestep "
            f"{timestep:g}: its sample stays as it is, and a strength counts from t*. Without "
            f"truncation it would start at {wanted:g}; for that {advice}."
        )

    def _gaga_noise(self, add: Method, args: Args, kwargs: Named) -> Any:  # noqa: ANN401
        """`add_noise` and `scale_noise`, also before `set_timesteps` and off the grid.

        The schedulers that solve in sigma look a timestep up in the current grid and take some
        other level if it is not there; then the level is taken from the training path.
        """
        start = self._gaga_at()
        data_name, noise_name, time_name = _NOISING[add.__name__]
        call = self._gaga_signatures[add.__name__].bind(self, *args, **kwargs)
        timesteps = torch.as_tensor(call.arguments[time_name])
        if not timesteps.numel():
            plain = f"{self._gaga_base.__name__}.from_config(scheduler.config)"
            n_whole, n_cut = len(self._gaga_whole), len(self.timesteps)
            advice = f"use {plain}"
            if n_cut < n_whole:
                more = 1 - n_cut / n_whole
                advice = f"pass a strength that is larger by {more:.3g}, or {advice}"
            raise HandoverError(
                "the loop starts beyond the end of the truncated grid: a strength counts from t*. "
                f"For the timestep that it would start at without truncation {advice}."
            )
        entry = None if self._gaga_left else start.entry
        if entry is not None:
            if entry.lead is not None:
                first = torch.full_like(timesteps, entry.timestep)
                timesteps = torch.where(timesteps.eq(entry.lead), first, timesteps)
                call.arguments[time_name] = timesteps
            is_first = bool(timesteps.eq(entry.timestep).all())
            if start.forgets_data and is_first and start.state is State.READY:
                return self._gaga_without_data(call.arguments[noise_name])
        has_grid = start.entry is not None or start.state is State.OWN
        grid = self.timesteps
        on_grid = has_grid and bool(torch.isin(timesteps.to(grid.device), grid).all())
        # data that are noised to the level of no entry are not what the loop starts from
        if entry is not None and on_grid:
            if start.state is not State.MAPPED:
                self._gaga_warn_inside(_number(timesteps))
            start.move(Event.ADD_NOISE)
        if on_grid or not family_of(self).noises_by_grid:
            result: Tensor = self._gaga_call(add, call.args[1:], call.kwargs)
            if entry is not None and on_grid and start.state is State.DATA:
                start.data.append(result)
            return result
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
        noised: Tensor = a * data + b * noise
        return noised

    def _gaga_without_data(self, noise: Tensor) -> Tensor:
        """The start in place of data that are noised to the end of the path (`strength=1`).

        Where it is another layout than was fitted, as before packing, it is still to be mapped.
        """
        try:
            return self._gaga_at().multiply(noise)
        except StatsMismatchError:
            return noise

    # -- a watched pipeline ----------------------------------------------------------------------

    def _gaga_n_steps(self, asked: int) -> int:
        """Steps of the loop, for the progress bar of a pipeline that asked for so many."""
        is_cut = self._gaga_at().entry is not None and asked == len(self._gaga_whole) // self.order
        return -(-len(self.timesteps) // self.order) if is_cut else asked

    def _gaga_show(self, sample: Tensor, timesteps: Tensor | None) -> Tensor:
        """What a watched network is given: the start, before the first step of a run."""
        start = self._gaga_at()
        watched = self._gaga_watch
        is_idle = start.entry is None or self._gaga_left or start.state is State.DONE
        if is_idle or watched is None or getattr(watched.pipe, "scheduler", self) is not self:
            return sample  # the network is used for something else
        if start.is_lead(None):
            return sample
        start.take_noise(sample)
        if start.state is State.DATA:
            return sample
        if timesteps is not None and timesteps.numel() > 1 and timesteps.min() < timesteps.max():
            raise HandoverError(
                "the network is given several noise levels at once, as for frames that are known "
                "beforehand. A single start has one level: use the plain scheduler here."
            )
        shown = start.show(sample)
        if start.is_inside(sample):
            warn_of_condition("what the network is given beside its sample, such as an image,")
        return shown

    def _gaga_break_off(self) -> None:
        """End a run in the middle: a pipeline that prepares latents has begun anew."""
        if self._gaga_at().state is State.RUNNING:
            self._gaga_left = 0

    def _gaga_prepare(self, latents: Tensor) -> Tensor:
        """What a watched pipeline goes on with, of the latents that it has prepared."""
        return self._gaga_at().prepare(latents)


# -- small parts of a run ------------------------------------------------------------------------


def _number(timestep: Any) -> float | None:  # noqa: ANN401 - whatever a loop passes
    """A timestep as a number, the first one of a batch."""
    if timestep is None:
        return None
    return float(timestep.flatten()[0]) if isinstance(timestep, Tensor) else float(timestep)


def _with_front(array: Any, front: Any) -> Any:  # noqa: ANN401 - Tensor or numpy array
    """An array with one entry more at the front; its own first entry again if none is named."""
    if isinstance(array, Tensor):
        head = array[:1] if front is None else array.new_tensor([float(front)])
        return torch.cat([head, array])
    return np.concatenate([array[:1] if front is None else np.asarray([front], array.dtype), array])


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
