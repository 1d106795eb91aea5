"""`GAGAScheduler`: any diffusers scheduler, cut at t* and started from the fitted Gaussian.

Every supported class has a generated subclass, `class GAGADDIMScheduler(GAGAScheduler,
DDIMScheduler)`, that lets its base make a grid, cuts it in place (`grid.py`) and hands the
Gaussian to the loop (`handover.py`). It *is* its base in every other respect: attributes,
signatures, configuration. Since only the grid is cut, and no table, there is no inner scheduler
and nothing to delegate; once a run is under way, a step costs one look at a counter.

Generated classes are attributes of this package (PEP 562), where pickle and diffusers look for
them.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import sys
import typing
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from gaga_adapter.errors import ArtefactError, GAGAWarning
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.scheduler.conventions import Scheduler
from gaga_adapter.scheduler.families import supported_family
from gaga_adapter.scheduler.grid import GridMaker
from gaga_adapter.scheduler.handover import (
    HANDOVERS,
    Handover,
    HandoverError,
    NetworkHook,
    NoiseMap,
    Start,
    is_same,
)
from gaga_adapter.scheduler.levels import timestep_log_snr
from gaga_adapter.scheduler.storage import (
    PREFIX,
    Options,
    load_plain,
    plain_class,
    scheduler_folder,
)
from gaga_adapter.stats import GAGAStats

_UNBOUNDED = sys.maxsize
#: Names of data, noise and timestep in the methods that noise data.
_NOISING = {
    "add_noise": ("original_samples", "noise", "timesteps"),
    "scale_noise": ("sample", "noise", "timestep"),
}


@dataclass(frozen=True)
class Truncation:
    """What one scheduler was given, and what follows from it.

    Immutable, so that copies of the scheduler share it.

    Attributes:
        stats: fitted statistics.
        options: as asked for.
        log_snr_star: the run starts at the last entry of the grid at or below this log-SNR.
        reference: the Gaussian start, at the level of the data.
    """

    stats: GAGAStats
    options: Options
    log_snr_star: float
    reference: ReferenceGaussian

    def __deepcopy__(self, memo: dict[int, Any]) -> Truncation:
        return self


class GAGAScheduler:
    """A diffusers scheduler that starts at t* from the fitted Gaussian.

    `GAGAScheduler.from_pretrained(base, stats=...)` returns an instance of a generated subclass of
    this class and of the base's.
    """

    _gaga_base: ClassVar[type[Any]]
    _gaga_signatures: ClassVar[dict[str, inspect.Signature]]

    _gaga: Truncation | None = None
    #: Respaced grids found so far.
    _gaga_finest: dict[Any, int]
    #: Start of the run to come; `None` before `set_timesteps`.
    _gaga_start: Start | None = None
    #: False while the run is the base's own, bit for bit.
    _gaga_intercepts: bool = True
    #: Steps left in the run; at zero, the next call is the first of a run.
    _gaga_left: int = 0
    _gaga_hook: NetworkHook | None = None

    # -- making one ------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        base: Any,  # noqa: ANN401 - a scheduler, a folder or a hub id
        subfolder: str | None = None,
        stats: GAGAStats | str | Path | None = None,
        t_star: float | None = None,
        spacing: str | None = None,
        reference: str | None = None,
        handover: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> GAGAScheduler:
        """Truncate a scheduler, or load a truncated one that was saved.

        Args:
            base: a diffusers scheduler (it is copied), a folder, or a hub id. What a truncated
                scheduler was saved to brings its statistics and options along.
            subfolder: of the folder or repository, such as `scheduler`.
            stats: fitted statistics: an object, a folder, a hub id or an embedded name (`qm9`).
            t_star: first timestep in the scheduler's own units, instead of the fitted point.
            spacing: `suffix` (default) cuts the scheduler's grid at t*: fewer network calls.
                `respace` puts all steps inside of [0, t*].
            reference: kind of the Gaussian start; `auto` (default) is the finest that was fitted.
            handover: how the start enters the loop: `auto` (default), `init`, `step`, `scale` or
                `hook`.
            revision: branch, tag or commit of the base on the hub.
            token: hub token.
            cache_dir: where downloads are kept.
            local_files_only: do not ask the hub.

        Raises:
            UnsupportedSchedulerError: the base has no place for a Gaussian start.
            TruncationError: `t_star` is no timestep of the base, or an option is unknown.
            ArtefactError: the statistics, or the scheduler, cannot be read.
            StatsMismatchError: the reference is unknown or finer than what was fitted.
        """
        options: Options | None = None
        cache = None if cache_dir is None else str(cache_dir)
        if isinstance(base, str | Path):
            folder = scheduler_folder(
                str(base), subfolder, revision, token, cache, local_files_only
            )
            options = Options.load(folder)
            stats = folder if stats is None and options is not None else stats
            base = load_plain(folder)
        elif isinstance(base, GAGAScheduler) and base._gaga is not None:
            options = base._gaga.options
            stats = base._gaga.stats if stats is None else stats
        if stats is None:
            raise ArtefactError(
                f"no fitted statistics for {type(base).__name__}. "
                "Pass stats=..., what `gaga fit` wrote."
            )
        if not isinstance(stats, GAGAStats):
            stats = GAGAStats.from_pretrained(
                stats, token=token, cache_dir=cache, local_files_only=local_files_only
            )
        given = {"t_star": t_star, "spacing": spacing, "reference": reference, "handover": handover}
        named: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        return cls._gaga_truncated(base, stats, replace(options or Options(), **named))

    @classmethod
    def _gaga_truncated(cls, base: Scheduler, stats: GAGAStats, options: Options) -> GAGAScheduler:
        """A truncated copy of a scheduler."""
        supported_family(base)
        result = empty(base._gaga_base if isinstance(base, GAGAScheduler) else type(base))
        own = {k: v for k, v in base.__dict__.items() if not k.startswith("_gaga")}
        result.__dict__.update(copy.deepcopy(own))
        log_snr_star = stats.log_snr_star
        if options.t_star is not None:
            log_snr_star = timestep_log_snr(base, options.t_star)
        reference = stats.reference(options.reference)
        result._gaga = Truncation(stats, options, log_snr_star, reference)
        result._gaga_finest = {}
        return result

    @classmethod
    def from_config(cls, config: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Refused: a configuration has no statistics.

        Raises:
            ArtefactError: always, with what to do.
        """
        plain = cls._gaga_base.__name__ if hasattr(cls, "_gaga_base") else "the base class"
        raise ArtefactError(
            f"a configuration alone has no statistics for {cls.__name__}. "
            f"Pass {plain}.from_config(config) to GAGAScheduler.from_pretrained, with stats=..."
        )

    def save_pretrained(
        self,
        save_directory: str | Path,
        push_to_hub: bool = False,
        **kwargs: Any,  # noqa: ANN401 - diffusers' own signature
    ) -> None:
        """Write configuration, options and statistics into one folder, and push it if asked to.

        Raises:
            WriteError: the folder cannot be written; what was there before is intact.
        """
        truncation = self._gaga_truncation()
        truncation.stats.save_pretrained(save_directory)
        truncation.options.save(Path(save_directory))
        base: Any = super()
        base.save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in self.__dict__.items() if k != "_gaga_hook"}
        return empty, (self._gaga_base,), state

    @property
    def stats(self) -> GAGAStats:
        """The fitted statistics."""
        return self._gaga_truncation().stats

    @property
    def log_snr_star(self) -> float:
        """A run starts at the last entry of the grid at or below this log-SNR."""
        return self._gaga_truncation().log_snr_star

    def _gaga_truncation(self) -> Truncation:
        if self._gaga is None:
            raise ArtefactError(
                f"this {type(self).__name__} has no statistics. Make it with "
                "GAGAScheduler.from_pretrained(base, stats=...)."
            )
        return self._gaga

    # -- watching a network ----------------------------------------------------------------------

    def attach(self, pipe: Any) -> None:  # noqa: ANN401 - any diffusers pipeline
        """Become the pipeline's scheduler, and map the first input of its network.

        No pipeline then needs an extra network call. Copies and saved schedulers are not attached.

        Args:
            pipe: a pipeline with a `unet`, `transformer`, `prior`, `decoder` or `denoiser`.

        Raises:
            HandoverError: it has none of these.
        """
        self.detach()
        self._gaga_hook = NetworkHook.on(pipe, self._gaga_watch)
        pipe.scheduler = self

    def detach(self) -> None:
        """Stop watching the network; nothing happens if it was not watched."""
        if self._gaga_hook is not None:
            self._gaga_hook.remove()
            self._gaga_hook = None

    def _gaga_watch(self, sample: Tensor) -> Tensor:
        start = self._gaga_start
        if start is None or self._gaga_left or start.is_settled or start.shown is not None:
            return sample
        return start.map_for_network(sample)

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

    def _gaga_set_timesteps(
        self,
        make: Callable[..., None],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """The base's grid, cut; and the start of the run to come."""
        truncation = self._gaga_truncation()
        scheduler: Scheduler = self
        call = self._gaga_signatures["set_timesteps"].bind(self, *args, **kwargs)
        family = supported_family(self)
        maker = GridMaker(self, family, make, call, truncation.log_snr_star)
        if truncation.options.spacing == "suffix":
            cut = maker.suffix()
        else:
            cut = maker.respace(self._gaga_finest)
        self._gaga_start = None
        self._gaga_intercepts = not (cut.is_whole and truncation.reference.kind == "unit")
        self._gaga_left = 0 if self._gaga_intercepts else _UNBOUNDED
        if not self._gaga_intercepts:
            return
        timesteps: Tensor = scheduler.timesteps
        if not cut.reaches:
            warnings.warn(
                f"the grid of {self._gaga_base.__name__} begins at timestep "
                f"{float(timesteps[0]):g}, closer to the data than t*; the start is taken there. "
                "Use another timestep_spacing, or fewer steps.",
                GAGAWarning,
                stacklevel=3,
            )
        bare = maker.convention.noise_is_bare or call.arguments.get("device") is None
        lead = _lead(timesteps, cut.before) if self._gaga_mode().leads(bare) else None
        self._gaga_start = Start(
            reference=truncation.reference.at(cut.level.a, cut.level.b),
            noise_scale=family.noise_scale(self),
            first=float(timesteps[0]),
            lead=lead,
            is_truncated=not cut.is_whole,
            place=cut.place,
            whole=cut.whole,
            awaits_lead=lead is not None,
            is_extended=lead is not None,
        )
        if lead is not None:
            scheduler.timesteps = torch.cat([timesteps.new_tensor([lead]), timesteps])

    def _gaga_scale(
        self,
        scale: Callable[..., Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """`scale_model_input` before the first step of a run."""
        start = self._gaga_start
        if start is None:
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

    def _gaga_first_step(
        self,
        step: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # noqa: ANN401 - the base's own output
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
            if timestep != start.first:
                self._gaga_starts_inside(start, timestep)
            elif start.noise is None:
                raise self._gaga_unmapped()
            else:
                call.arguments["sample"] = start.sample_for_step(sample)
        start.reset()
        self._gaga_left = n_entries - 1
        return step(*call.args, **call.kwargs)

    def _gaga_enter(self, start: Start, timestep: float | None) -> int:
        """The loop is at an entry of the base's grid; the first gets its place, not its value.

        Returns:
            entries of the grid that the loop has.
        """
        scheduler: Scheduler = self
        self._gaga_drop_lead()
        start.awaits_lead = False
        n_entries = len(scheduler.timesteps)
        place = 0
        if start.whole is not None:
            place, n_entries = start.place, len(start.whole["timesteps"]) - start.place
            for name, array in start.whole.items():
                setattr(self, name, array)
        if getattr(self, "_begin_index", 0) is None and scheduler.step_index is None:
            if timestep == start.first:
                scheduler._begin_index = place
        elif start.whole is not None and scheduler.step_index is None and not start.is_placed:
            scheduler._begin_index += place
        start.is_placed = True
        return n_entries

    def _gaga_drop_lead(self) -> None:
        """Take the extra timestep off the grid, before the base reads it."""
        scheduler: Scheduler = self
        start = self._gaga_start
        if start is not None and start.is_extended:
            scheduler.timesteps = scheduler.timesteps[1:]
            start.is_extended = False

    def _gaga_unmapped(self) -> HandoverError:
        mode = self._gaga_mode()
        return HandoverError(
            "the loop came to its first step without handing over its noise "
            f"(handover={mode.name!r}): {mode.advice}; or use handover='step', "
            "or scheduler.attach(pipe)."
        )

    # -- starts that are not noise ---------------------------------------------------------------

    def _gaga_begin(self, begin: Callable[..., None], begin_index: int) -> None:
        """`set_begin_index`: beyond the first entry, it tells of noised data."""
        start = self._gaga_start
        if start is not None and not self._gaga_left and begin_index > 0:
            begin_index -= start.is_extended
            self._gaga_drop_lead()
            start.is_data, start.awaits_lead = True, False
            self._gaga_warn_inside(start)
        begin(self, begin_index)

    def _gaga_starts_inside(self, start: Start, timestep: float | None) -> None:
        """A loop that leaves out the first entries does not start from noise."""
        scheduler: Scheduler = self
        if timestep not in scheduler.timesteps.tolist():
            raise HandoverError(
                f"the first step is at timestep {timestep}, which is no entry of "
                "scheduler.timesteps. Pass its entries as they are."
            )
        if not start.has_run:
            self._gaga_warn_inside(start)

    def _gaga_warn_inside(self, start: Start) -> None:
        if start.is_truncated:
            warnings.warn(
                "this loop starts inside of a truncated grid, from noised data: its sample stays "
                "as it is, and a strength counts from t*, not from pure noise. For the whole path "
                f"use {self._gaga_base.__name__}.from_config(scheduler.config).",
                GAGAWarning,
                stacklevel=4,
            )

    def _gaga_noise(
        self,
        add: Callable[..., Tensor],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """`add_noise` and `scale_noise`, also before `set_timesteps` and off the grid.

        The schedulers that solve in sigma look a timestep up in the current grid and take some
        other level if it is not there; then the level is taken from the training path.
        """
        scheduler: Scheduler = self
        start = self._gaga_start
        data_name, noise_name, time_name = _NOISING[name]
        call = self._gaga_signatures[name].bind(self, *args, **kwargs)
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
        family = supported_family(self)
        grid: Tensor = scheduler.timesteps
        has_grid = start is not None or not self._gaga_intercepts
        on_grid = has_grid and bool(torch.isin(timesteps.to(grid.device), grid).all())
        if on_grid or not family.noises_by_grid:
            return add(*call.args, **call.kwargs)
        data, noise = call.arguments[data_name], call.arguments[noise_name]
        convention = family.convention(self)
        ratios = (convention.ratio_at(self, t) for t in timesteps.flatten().tolist())
        levels = torch.tensor(
            [(level.a, level.b) for level in map(convention.level, ratios)], dtype=torch.float64
        )
        a, b = levels.to(data).mT.reshape(2, -1, *([1] * (data.ndim - 1)))
        noised: Tensor = a * data + b * noise
        return noised


# -- generated classes ---------------------------------------------------------------------------

_GENERATED: dict[type[Any], type[Any]] = {}


def generated_class(base: type[Any]) -> type[Any]:
    """`class GAGA<Base>(GAGAScheduler, Base)`, made once per base."""
    if base not in _GENERATED:
        wrapped = {
            name: wrap(getattr(base, name), name)
            for name, wrap in _WRAPPERS.items()
            if hasattr(base, name)
        }
        body = {
            **wrapped,
            "__doc__": f"`{base.__name__}`, cut at t* and started from the fitted Gaussian.",
            "__module__": __package__,
            "_gaga_base": base,
            "_gaga_signatures": {n: inspect.signature(getattr(base, n)) for n in wrapped},
        }
        _GENERATED[base] = type(PREFIX + base.__name__, (GAGAScheduler, base), body)
    return _GENERATED[base]


def empty(base: type[Any]) -> GAGAScheduler:
    """A generated instance without attributes, for copies and pickles."""
    result: GAGAScheduler = object.__new__(generated_class(base))
    return result


def class_named(name: str) -> type[Any]:
    """The generated class of this name, whose base is in diffusers or has been imported.

    Raises:
        AttributeError: there is no such scheduler.
    """
    base = plain_class(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    if base is None:
        raise AttributeError(f"module {__package__!r} has no attribute {name!r}")
    return generated_class(base)


def _wrap_step(step: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(step)
    def wrapped(self: GAGAScheduler, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        left = self._gaga_left
        if left:
            self._gaga_left = left - 1
            return step(self, *args, **kwargs)
        return self._gaga_first_step(step, args, kwargs)

    return wrapped


def _wrap_scale(scale: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(scale)
    def wrapped(self: GAGAScheduler, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if self._gaga_left:
            return scale(self, *args, **kwargs)
        return self._gaga_scale(scale, args, kwargs)

    return wrapped


def _wrap_set_timesteps(make: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(make)
    def wrapped(self: GAGAScheduler, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        self._gaga_set_timesteps(make, args, kwargs)

    return wrapped


def _wrap_begin(begin: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(begin)
    def wrapped(self: GAGAScheduler, begin_index: int = 0) -> None:
        self._gaga_begin(begin, begin_index)

    return wrapped


def _wrap_noise(add: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(add)
    def wrapped(self: GAGAScheduler, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return self._gaga_noise(add, name, args, kwargs)

    return wrapped


_WRAPPERS: dict[str, Callable[[Callable[..., Any], str], Callable[..., Any]]] = {
    "step": _wrap_step,
    "scale_model_input": _wrap_scale,
    "set_timesteps": _wrap_set_timesteps,
    "set_begin_index": _wrap_begin,
    "add_noise": _wrap_noise,
    "scale_noise": _wrap_noise,
}


# -- small parts of a run ------------------------------------------------------------------------


def _number(timestep: Any) -> float | None:  # noqa: ANN401 - whatever a loop passes
    """A timestep as a number, the first one of a batch."""
    if timestep is None:
        return None
    return float(timestep.flatten()[0]) if isinstance(timestep, Tensor) else float(timestep)


def _lead(timesteps: Tensor, before: float | None) -> float:
    """The extra timestep: the entry cut off last, else some value that is not in the grid."""
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

    told = call.signature.return_annotation
    kinds = [k for k in (typing.get_args(told) or (told,)) if isinstance(k, type)]
    kind = next((k for k in kinds if issubclass(k, BaseOutput)), SchedulerOutput)
    values = {f.name: sample if f.name == "prev_sample" else None for f in fields(kind)}
    call.apply_defaults()
    if call.arguments.get("return_dict", True):
        return kind(**values)
    return tuple(values.values())
