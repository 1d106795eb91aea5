"""A scheduler: its class and convention, and what of its grid and of its network calls is cut."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from gaga_adapter.doctor.packages import installed_version
from gaga_adapter.doctor.section import Section, first_line
from gaga_adapter.errors import ArtefactError, GAGAError, GAGAWarning, TruncationError
from gaga_adapter.files.checked import read_json
from gaga_adapter.files.hub import check_repo_id
from gaga_adapter.noise.conventions import (
    Scheduler,
    convention_of,
    exported_schedulers,
    known_name,
)
from gaga_adapter.noise.timesteps import timestep_range
from gaga_adapter.scheduler.options import (
    CONFIG_NAME,
    OPTIONS_NAME,
    PREFIX,
    load_plain,
    plain_class,
    scheduler_folder,
)
from gaga_adapter.scheduler.wrapper import GAGAScheduler, network_calls

_PIPELINE = "model_index.json"
_WITHIN = "scheduler"  # folder of the scheduler in that of a pipeline
#: Entries of a grid that are printed at either end.
_SHOWN = 3


def scheduler(name: str, stats: str | None, steps: int) -> Section:
    """The scheduler that a user names, plain and cut at t*.

    Args:
        name: Folder or hub id, of a pipeline or of the scheduler alone.
        stats: Statistics for the cut; `None` for those that were saved with the scheduler, if any.
        steps: Number of steps of the grid.
    """
    found = _Found(name)
    with found.refused(f"Scheduler {name}"):
        base, has_statistics = found.load()
        found.describe(base)
        found.before(base, steps)
        if stats is None and not has_statistics:
            found.notes.append(
                f"Pass --stats, too, to see what is cut: {name} was saved without statistics."
            )
        else:
            found.after(stats, steps)
    return found.section()


class _Found:
    """What is found, step by step, until something is refused."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: list[tuple[str, str]] = [("named", name)]
        self.facts: dict[str, Any] = {"named": name}
        self._source: Any = None  # what the scheduler is loaded from
        self.problems: list[str] = []
        self.notes: list[str] = []

    def section(self) -> Section:
        facts = {**self.facts, "works": not self.problems}
        return Section(
            "Scheduler", tuple(self.lines), facts, tuple(self.problems), tuple(self.notes)
        )

    def add(self, name: str, text: str, **facts: Any) -> None:  # noqa: ANN401 - any json value
        """One line, and the same as facts."""
        self.lines.append((name, text))
        self.facts |= facts

    @contextmanager
    def refused(self, what: str) -> Iterator[None]:
        """Turn a refusal into a problem, and warnings into notes."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", GAGAWarning)
            try:
                yield
            except GAGAError as error:
                self.problems.append(f"{what}: {error}")
        told = dict.fromkeys(str(one.message) for one in said)
        # "t*" keeps its small letter, which is its name.
        self.notes += [
            one if one.startswith("t*") else f"{one[:1].upper()}{one[1:]}" for one in told
        ]

    def load(self) -> tuple[Scheduler, bool]:
        """The plain scheduler, and whether statistics were saved with it.

        Raises:
            ArtefactError: If there is none, or its class is not known to diffusers.
        """
        exported = exported_schedulers()
        if self.name in exported and not Path(self.name).exists():
            self.add("configuration", "the defaults of its class")
            self._source = _by_default(self.name)
            return self._source, False
        folder = self._folder()
        kind = _class_name(folder / CONFIG_NAME)
        if plain_class(kind.removeprefix(PREFIX)) is None:
            if kind.removeprefix(PREFIX) in exported:
                raise ArtefactError(f"its class {kind} {_missing(kind.removeprefix(PREFIX))}")
            raise ArtefactError(
                f"its class {kind} is none of diffusers, and no module of yours is imported here. "
                "Import it in Python, and pass the scheduler to GAGAScheduler.from_pretrained, "
                "which takes it if it derives from a class that is known."
            )
        self._source = folder
        return load_plain(folder), (folder / OPTIONS_NAME).is_file()

    def _folder(self) -> Path:
        """The folder of the scheduler, of a pipeline's that of its part."""
        place = Path(self.name)
        if place.is_file():  # its configuration
            place = place.parent
        if not place.is_dir():
            if "/" not in self.name:
                raise ArtefactError(
                    f"there is no folder {self.name}, and no scheduler class of diffusers has that "
                    "name. Pass a folder, a class such as DDIMScheduler, or a hub id such as "
                    "user/name."
                )
            try:
                check_repo_id(self.name)
            except ArtefactError as error:
                raise ArtefactError(f"there is no folder {self.name}, and {error}") from None
            try:
                return scheduler_folder(self.name, _WITHIN, None, None, None, False)
            except ArtefactError as error:
                try:
                    return scheduler_folder(self.name, None, None, None, None, False)
                except ArtefactError:
                    raise error from None
        if (place / _PIPELINE).is_file():
            kind = _class_name(place / _PIPELINE)
            self.add("pipeline", kind, pipeline=kind)
        for folder in (place, place / _WITHIN):
            if (folder / CONFIG_NAME).is_file():
                return folder
        raise ArtefactError(
            f"neither {CONFIG_NAME} nor {_WITHIN}/{CONFIG_NAME} is in {place}. Pass the folder of "
            "a pipeline or of its scheduler, as save_pretrained wrote it."
        )

    def describe(self, base: Scheduler) -> None:
        """The class, and what the tables say of it."""
        name = type(base).__name__
        self.add("class", name, scheduler=name)
        row = known_name(type(base))
        at = convention_of(base)
        levels = (inspect.getdoc(type(at)) or "").partition("\n")[0]
        prediction = base.config.get("prediction_type")
        clean, noisy = timestep_range(base)
        self.add("convention", f"row {row}: {levels}", row=row, levels=levels)
        self.add("network predicts", prediction or "set by its class", prediction=prediction)
        self.add("timesteps", f"{clean:g} (data) to {noisy:g} (noise)", timesteps=[clean, noisy])

    def before(self, base: Scheduler, steps: int) -> None:
        """The grid as it is without truncation."""
        _set_timesteps(base, steps, True)
        calls, grid = network_calls(base), base.timesteps.tolist()
        self.add(
            "grid before",
            f"{_entries(grid)}; {_number(calls)}",
            steps=steps,
            before={"timesteps": grid, "network_calls": calls},
        )
        if base.config.get("use_dynamic_shifting"):
            self.notes.append(
                "This grid is shifted by the size of the picture. It is shown for mu = "
                f"{_mu(base):g}, the largest that the configuration names; a pipeline works out "
                "its own."
            )

    def after(self, stats: str | None, steps: int) -> None:
        """The grid that is cut at t*, and the network calls of the kinds of loops."""
        wrapped: Any = GAGAScheduler.from_pretrained(self._source, stats=stats)
        own = type(wrapped).__name__
        self.add("wrapped", f"{own}, spacing {wrapped.spacing}", spacing=wrapped.spacing)
        self.add("start", f"{wrapped.reference} reference", reference=wrapped.reference)
        self.add("t*", f"timestep {wrapped.t_star:g}", t_star=wrapped.t_star)
        self.add("handover", wrapped.handover, handover=wrapped.handover)
        loops = {"scaled": wrapped, "bare": wrapped}
        if wrapped.handover == "auto":
            loops["attached"] = GAGAScheduler.from_pretrained(wrapped, handover="init")
        calls = {}
        for kind, one in loops.items():
            _set_timesteps(one, steps, kind != "bare")
            calls[kind] = one.n_calls
        shown = loops.get("attached", wrapped)
        grid = shown.timesteps.tolist()
        least = calls.get("attached", calls["scaled"])
        self.add(
            "grid after",
            f"{_entries(grid)}; {_number(least)}",
            after={"timesteps": grid, "network_calls": calls},
        )
        bare = f"{calls['bare']} in loops that take their noise as it is"
        if least < calls["bare"]:
            bare += f", or {least} after scheduler.attach(pipe)"
        if wrapped.handover != "auto":
            told = f"{calls['scaled']}, with the handover {wrapped.handover}"
        elif convention_of(wrapped).noise_is_bare:
            told = bare
        else:
            told = f"{calls['scaled']} in loops that scale their noise by init_noise_sigma; {bare}"
        self.add("network calls", told)
        if least == self.facts["before"]["network_calls"] and wrapped.spacing == "suffix":
            number = "1 step" if steps == 1 else f"{steps} steps"
            self.notes.append(
                f"Nothing is cut of {number}: at most the first of them is as noisy as t*."
            )


def _class_name(file: Path) -> str:
    """The class that a configuration of diffusers names.

    Raises:
        ArtefactError: If there is none, or the file is no configuration.
    """
    try:
        return read_json(file, infinite=True).text("_class_name")
    except ArtefactError as error:
        raise ArtefactError(
            f"{str(error).rstrip('.')}. Save the scheduler or its pipeline again, by "
            "save_pretrained."
        ) from error


def _missing(name: str) -> str:
    """What a scheduler class needs for which diffusers has put a placeholder, and what to do."""
    placeholder = getattr(import_module("diffusers.schedulers"), name, None)
    needed = getattr(placeholder, "_backends", ())
    missing = [one for one in needed if installed_version(one) is None]
    if not missing:
        return (
            "cannot be imported from diffusers. Install diffusers again: pip install -U diffusers"
        )
    names = " ".join(missing)
    return f"needs what is not installed: {', '.join(missing)}. Run: pip install {names}"


def _by_default(name: str) -> Scheduler:
    """A scheduler with the default configuration of its class.

    Raises:
        ArtefactError: If it cannot be made without a configuration.
        UnsupportedSchedulerError: If its class is refused.
    """
    made = plain_class(name)
    if made is None:
        raise ArtefactError(f"{name} {_missing(name)}")
    known_name(made)
    try:
        return made()
    except TypeError as error:
        raise ArtefactError(
            f"{name} has no default configuration ({first_line(error)}). Pass a folder, as "
            "save_pretrained wrote it."
        ) from error


def _set_timesteps(one: Scheduler, steps: int, with_device: bool) -> None:
    """Make the grid of a number of steps, as loops that name a device do, or without.

    Raises:
        TruncationError: If the scheduler refuses the number.
    """
    known = inspect.signature(one.set_timesteps).parameters
    arguments: dict[str, Any] = dict(convention_of(one).row.grid_arguments(steps))
    if with_device and "device" in known:
        arguments["device"] = "cpu"
    if "mu" in known and one.config.get("use_dynamic_shifting"):
        arguments["mu"] = _mu(one)
    try:
        one.set_timesteps(num_inference_steps=steps, **arguments)
    except GAGAError:
        raise
    except (ValueError, TypeError, IndexError, RuntimeError, ZeroDivisionError) as error:
        raise TruncationError(
            f"{type(one).__name__} makes no grid of {steps} steps ({first_line(error)}). Pass "
            "another number with --steps."
        ) from error


def _mu(one: Scheduler) -> float:
    return float(one.config.get("max_shift") or 1.15)


def _entries(timesteps: list[float]) -> str:
    """The first and the last entries of a grid."""
    texts = [f"{t:.5g}" for t in timesteps]
    if len(texts) > 2 * _SHOWN:
        texts = [*texts[:_SHOWN], "...", *texts[-_SHOWN:]]
    return ", ".join(texts)


def _number(calls: int) -> str:
    return f"{calls} network call{'' if calls == 1 else 's'}"
