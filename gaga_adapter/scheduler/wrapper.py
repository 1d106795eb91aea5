"""`GAGAScheduler`: any diffusers scheduler, cut at t* and started from the fitted Gaussian.

Every supported class has a generated subclass, `class GAGADDIMScheduler(GAGAScheduler,
DDIMScheduler)`, that lets its base make a grid, cuts it in place (`grid.py`) and hands the
Gaussian to the loop (`handover.py`). It *is* its base in every other respect: attributes,
signatures, configuration. Since only the grid is cut, and no table, there is no inner scheduler
and nothing to delegate; once a run is under way, a step costs one look at a counter.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from gaga_adapter.errors import ArtefactError, TruncationError
from gaga_adapter.noise.conventions import Scheduler, convention_of
from gaga_adapter.noise.draws import batch_uniforms, entries
from gaga_adapter.noise.timesteps import t_star as first_timestep
from gaga_adapter.noise.timesteps import timestep_log_snr, training_timesteps
from gaga_adapter.scheduler.families import family_of
from gaga_adapter.scheduler.options import (
    CONFIG_NAME,
    PREFIX,
    Options,
    load_plain,
    plain_class,
    scheduler_folder,
)
from gaga_adapter.scheduler.run import Args, Method, Named, TruncatedRun, Truncation
from gaga_adapter.scheduler.watch import networks_of, watch
from gaga_adapter.stats import GAGAStats
from gaga_adapter.trained import check_trained, trained_log_snr

Base = TypeVar("Base")


class GAGAScheduler(TruncatedRun):
    """A diffusers scheduler that starts at t* from the fitted Gaussian.

    `GAGAScheduler.from_pretrained(base, stats)` returns an instance of a generated subclass of this
    class and of the base's, with `t_star`, `spacing`, `reference`, `handover` and `n_calls`.
    """

    _gaga_n_calls: int | None = None

    # -- making one ------------------------------------------------------------------------------

    @overload
    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        stats: GAGAStats | str | Path | None = None,
        *,
        t_star: float | None = None,
        spacing: str | None = None,
        reference: str | None = None,
        handover: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> GAGAScheduler: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        base: Base,
        stats: GAGAStats | str | Path | None = None,
        *,
        t_star: float | None = None,
        spacing: str | None = None,
        reference: str | None = None,
        handover: str | None = None,
    ) -> Base: ...

    @classmethod
    def from_pretrained(
        cls,
        base: Any,
        stats: GAGAStats | str | Path | None = None,
        *,
        t_star: float | None = None,
        spacing: str | None = None,
        reference: str | None = None,
        handover: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Any:
        """Truncate a scheduler, or load a truncated one that was saved.

        The result is a `GAGAScheduler` and an instance of the base's own class; type checkers see
        the latter.

        Args:
            base: Diffusers scheduler (it is copied), folder, or hub id. A truncated scheduler that
                was saved there brings its statistics and options along.
            stats: Fitted statistics: an object, a folder, a hub id or an embedded name (`qm9`).
            t_star: First timestep in the scheduler's own units, instead of the fitted point.
            spacing: Layout of the grid. `suffix` cuts the scheduler's grid at t*: fewer network
                calls. `respace` puts all steps of such a grid inside of [0, t*]. `log_snr` makes
                as many levels, even in log-SNR from t* to 6 or the scheduler's own `log_snr_max`;
                of sigmas or timesteps that the loop passes only the number counts, and neither a
                shift nor Karras sigmas move a level. `fitted` has the levels that `fit_levels`
                chose for a model and this number of steps. By default `log_snr` for a
                `FewStepScheduler`, or, if the statistics have fitted levels, `auto`, which takes
                these where they are for the number of steps; and `suffix` for others.
            reference: Kind of the Gaussian start; `auto` (default) is the finest that was fitted.
            handover: Way of the start into the loop: `auto` (default), `init`, `step`, `scale` or
                `hook`.
            subfolder: Folder inside of the folder or repository, such as `scheduler`.
            revision: Branch, tag or commit of the base on the hub.
            token: Hub token.
            cache_dir: Folder for downloads.
            local_files_only: Whether to leave the hub alone and use earlier downloads only.

        Raises:
            UnsupportedSchedulerError: If the base has no place for a Gaussian start.
            TruncationError: If `t_star` is no timestep of the base, or an option is unknown.
            ArtefactError: If the statistics, or the scheduler, cannot be read.
            StatsMismatchError: If the reference is unknown or finer than what was fitted.
        """
        options: Options | None = None
        if isinstance(base, str | Path):
            if isinstance(stats, str) and (Path(base) / stats / CONFIG_NAME).is_file():
                raise ArtefactError(
                    f"{stats!r} is the folder of a scheduler in {base}; statistics come second. "
                    f"Pass subfolder={stats!r}."
                )
            folder = scheduler_folder(
                str(base), subfolder, revision, token, cache_dir, local_files_only
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
                stats, token=token, cache_dir=cache_dir, local_files_only=local_files_only
            )
        new = {"t_star": t_star, "spacing": spacing, "reference": reference, "handover": handover}
        changes: dict[str, Any] = {k: v for k, v in new.items() if v is not None}
        if options is None:
            usual = family_of(base).spacing
            is_auto = usual == "log_snr" and bool(stats.levels)
            options = Options(spacing="auto" if is_auto else usual)
        return cls._gaga_truncate(base, stats, replace(options, **changes))

    @classmethod
    def _gaga_truncate(cls, base: Scheduler, stats: GAGAStats, options: Options) -> GAGAScheduler:
        """A truncated copy of a scheduler."""
        convention_of(base)
        result = empty(base._gaga_base if isinstance(base, GAGAScheduler) else type(base))
        own = {k: v for k, v in base.__dict__.items() if not k.startswith("_gaga")}
        result.__dict__.update(copy.deepcopy(own))
        log_snr_star = options.log_snr_star(base, stats)
        check_trained(options.trained_log_snr, log_snr_star)
        chosen = None if options.t_star is None else log_snr_star
        reference = stats.start(options.reference, chosen)
        channel, unit = stats.reference("channel"), stats.reference("unit").at(0.0, 1.0)
        result._gaga = Truncation(stats, options, log_snr_star, reference, channel, unit)
        result._gaga_finest = {}
        if hasattr(result, "take_moments"):
            result.take_moments(stats.moments)
        return result

    @classmethod
    def from_config(cls, config: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Refuse to make a scheduler from a configuration, which has no statistics.

        Raises:
            ArtefactError: Always; its message says what to do.
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
            WriteError: If the folder cannot be written; what was there before is intact.
        """
        truncation = self._gaga_truncation()
        truncation.stats.save_pretrained(save_directory)
        truncation.options.save(Path(save_directory))
        base: Any = super()
        base.save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in self.__dict__.items() if k != "_gaga_watch"}
        return empty, (self._gaga_base,), state

    @property
    def stats(self) -> GAGAStats:
        """The fitted statistics."""
        return self._gaga_truncation().stats

    @property
    def log_snr_star(self) -> float:
        """A run starts at the last entry of the grid at or below this log-SNR."""
        return self._gaga_truncation().log_snr_star

    @property
    def t_star(self) -> float:
        """First training timestep at or beyond `log_snr_star`, in the scheduler's own units.

        Raises:
            TruncationError: If the scheduler's path never gets that noisy.
        """
        option = self._gaga_truncation().options.t_star
        return first_timestep(self, self.log_snr_star) if option is None else option

    @property
    def spacing(self) -> str:
        """`suffix`, `respace`, `log_snr`, `fitted` or `auto`."""
        return self._gaga_truncation().options.spacing

    @property
    def reference(self) -> str:
        """Kind of the Gaussian start, such as `shape`."""
        return self._gaga_truncation().reference.kind

    @property
    def handover(self) -> str:
        """Way of the start into the loop; `hook` while a network is watched."""
        return self._gaga_mode().name

    @property
    def n_calls(self) -> int | None:
        """Network calls of a loop over the current grid; `None` before `set_timesteps`."""
        return self._gaga_n_calls

    def __repr__(self) -> str:
        # A table of a thousand betas would push what was asked for off the screen.
        own = re.sub(r"\[[^\[\]]{400,}\]", _entries, super().__repr__())
        if self._gaga is None:
            return own
        try:
            start = f"{self.t_star:g}"
        except TruncationError:
            start = "beyond the path"
        name = type(self).__name__
        facts = (
            f"t_star={start}, spacing={self.spacing}, reference={self.reference}, "
            f"handover={self.handover}, n_calls={self.n_calls}"
        )
        return own.replace(name, f"{name}({facts})", 1)

    # -- training --------------------------------------------------------------------------------

    def training_timesteps(self) -> Tensor:
        """Timesteps (K,) to train on, from data to t*, in the scheduler's own units.

        Raises:
            UnsupportedSchedulerError: If the scheduler trains on continuous noise levels.
        """
        return training_timesteps(self, self.log_snr_star)

    def sample_timesteps(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Timesteps (B,) for one training batch: uniform on [0, t*], stratified over the batch.

        Use it instead of `torch.randint(0, scheduler.config.num_train_timesteps, (batch_size,))`.
        From then on the scheduler, saved or not, starts no run at a noisier level than it trained
        on. For importance weights use `TruncatedTimesteps.table(scheduler.training_timesteps(),
        importance=True)`.

        Args:
            batch_size: Number of examples of this process; several processes draw different
                timesteps.
            generator: Source of randomness.
            device: Device of the result; that of the generator, else the CPU, when `None`.

        Raises:
            UnsupportedSchedulerError: If the scheduler trains on continuous noise levels.
        """
        timesteps = self.training_timesteps()
        self.keep_within(timestep_log_snr(self, float(timesteps[-1])))
        batch = entries(timesteps, batch_uniforms(batch_size, generator))
        return batch if device is None else batch.to(device)

    def keep_within(self, log_snr: float | None) -> None:
        """Start no run where the network was not trained; `None` lifts the limit.

        Args:
            log_snr: Log-SNR of the noisiest level in training.

        Raises:
            TruncationError: If t* itself is noisier.
        """
        truncation = self._gaga_truncation()
        if log_snr == truncation.options.trained_log_snr:
            return
        options = replace(truncation.options, trained_log_snr=log_snr)
        check_trained(log_snr, truncation.log_snr_star)
        self._gaga = replace(truncation, options=options)

    def check_levels(self, *networks: Any, n_calls: int | None = None) -> None:  # noqa: ANN401
        """Warn if fitted levels are to be used that were fitted to another network.

        Args:
            networks: Networks that are to be called.
            n_calls: Number of calls of the run; `None` for all that levels were fitted for.

        Raises:
            TruncationError: If the spacing is `fitted`, and no levels are for this number.
        """
        truncation = self._gaga_truncation()
        numbers = {one.n_calls for one in self.stats.levels} if n_calls is None else {n_calls}
        for number in sorted(numbers):
            levels = truncation.levels_for(number)
            if levels is not None:
                levels.check_model(*networks)
                return

    @property
    def trained_log_snr(self) -> float | None:
        """Log-SNR of the noisiest level in training; `None` if it was the whole path."""
        return self._gaga_truncation().options.trained_log_snr

    # -- watching a network ----------------------------------------------------------------------

    def attach(self, pipe: Any) -> None:  # noqa: ANN401 - any diffusers pipeline
        """Become the pipeline's scheduler, and map the noise that it prepares.

        The latents that `prepare_latents` returns are mapped, for all networks of the pipeline; if
        there is no such method, the first input of every network that takes a timestep is mapped.
        No pipeline then needs an extra network call. Copies and saved schedulers are not attached.
        If the checkpoint of a network says how far it was trained, no run starts beyond.

        Args:
            pipe: Pipeline with a network that takes a timestep, such as a `unet`, a `transformer`
                or a `prior`.

        Raises:
            HandoverError: If it has no such network, or several schedulers.
            TruncationError: If a network was trained on a shorter trajectory than t*.
        """
        self.detach()
        networks = networks_of(pipe)
        self.check_levels(*networks)
        records = [trained_log_snr(network) for network in networks]
        trained = [record for record in records if record is not None]
        if trained:
            self.keep_within(max(trained))
        other = getattr(pipe, "scheduler", None)
        if isinstance(other, GAGAScheduler):
            other.detach()
        self._gaga_watch = watch(
            pipe,
            show=self._gaga_show,
            begin=self._gaga_break_off,
            prepare=self._gaga_prepare,
            n_steps=self._gaga_n_steps,
        )
        pipe.scheduler = self

    def detach(self) -> None:
        """Stop watching the pipeline; nothing happens if it was not watched."""
        if self._gaga_watch is not None:
            self._gaga_watch.remove()
            self._gaga_watch = None
            self._gaga_at().handed = []


def _entries(numbers: re.Match[str]) -> str:
    return f"[... {numbers[0].count(',') + 1} entries]"


# -- generated classes ---------------------------------------------------------------------------

_GENERATED: dict[type[Any], type[Any]] = {}


def generated_class(base: type[Any]) -> type[Any]:
    """`class GAGA<Base>(GAGAScheduler, Base)`, made once per base."""
    if base not in _GENERATED:
        methods = {
            name: _wrap(getattr(base, name), handler)
            for name, handler in _HANDLERS.items()
            if hasattr(base, name)
        }
        body = {
            "scale_model_input": _as_it_is,  # some pipelines ask their scheduler's exact class
            **methods,
            "__doc__": f"`{base.__name__}`, cut at t* and started from the fitted Gaussian.",
            "__module__": __package__,
            "_gaga_base": base,
            "_gaga_signatures": {n: inspect.signature(getattr(base, n)) for n in methods},
        }
        _GENERATED[base] = type(PREFIX + base.__name__, (GAGAScheduler, base), body)
    return _GENERATED[base]


def _as_it_is(self: GAGAScheduler, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
    """`scale_model_input` of a scheduler whose networks take the sample as it is."""
    return sample


def empty(base: type[Any]) -> GAGAScheduler:
    """A generated instance without attributes, for copies and pickles."""
    result: GAGAScheduler = object.__new__(generated_class(base))
    return result


def class_named(name: str) -> type[Any]:
    """The generated class of this name, whose base is in diffusers or has been imported.

    Of several that have the name it is the last that was made.
    """
    for made in reversed(_GENERATED.values()):
        if made.__name__ == name:
            return made
    base = plain_class(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    if base is None:
        raise AttributeError(f"module {__package__!r} has no attribute {name!r}")
    return generated_class(base)


def _wrap(method: Method, handler: Callable[..., Any] | None) -> Method:
    """A method of the base that goes through ours; `step` only until a run is under way."""

    @functools.wraps(method)
    def step(self: GAGAScheduler, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        left = self._gaga_left
        if left:
            if self._gaga_view is not None:
                return self._gaga_later_step(method, args, kwargs)
            self._gaga_left = left - 1
            return method(self, *args, **kwargs)
        return self._gaga_first_step(method, args, kwargs)

    @functools.wraps(method)
    def other(self: GAGAScheduler, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        assert handler is not None
        return handler(self, method, args, kwargs)

    return step if handler is None else other


def _make_grid(scheduler: GAGAScheduler, make: Method, args: Args, kwargs: Named) -> None:
    """`set_timesteps`: the base's grid, cut; and how many network calls a loop over it makes."""
    scheduler._gaga_n_calls = None
    scheduler._gaga_set_timesteps(make, args, kwargs)
    scheduler._gaga_n_calls = network_calls(scheduler)


def network_calls(scheduler: Scheduler) -> int:
    """Network calls of a loop over the current grid of a scheduler, wrapped or plain.

    The network is not called for the tail, nor where RePaint goes back up.
    """
    timesteps = scheduler.timesteps
    undone = int((timesteps.diff() > 0).sum()) if hasattr(scheduler, "undo_step") else 0
    return len(timesteps) - undone - convention_of(scheduler).row.tail


_HANDLERS: dict[str, Callable[..., Any] | None] = {
    "step": None,
    "scale_model_input": TruncatedRun._gaga_scale,
    "set_timesteps": _make_grid,
    "set_begin_index": TruncatedRun._gaga_begin,
    "add_noise": TruncatedRun._gaga_noise,
    "scale_noise": TruncatedRun._gaga_noise,
}
