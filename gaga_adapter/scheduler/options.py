"""What a truncated scheduler leaves on disk, and how schedulers are found there.

A folder holds the scheduler's own `scheduler_config.json`, unchanged but for the class name, the
fitted statistics (`gaga_config.json`, `gaga_stats.safetensors`), and the options of the
truncation in `gaga_scheduler.json`. A plain diffusers scheduler can still be loaded from it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from gaga_adapter.errors import ArtefactError, TruncationError, plain_number, warn
from gaga_adapter.files.atomic import replacing
from gaga_adapter.files.checked import MOST_BYTES, Fields, read_json, to_json
from gaga_adapter.files.hub import download
from gaga_adapter.noise.conventions import Scheduler, convention_of
from gaga_adapter.noise.fitted import LEVELS_NAME
from gaga_adapter.noise.levels import MOST_LOG_SNR, check_log_snr
from gaga_adapter.noise.timesteps import timestep_log_snr, timestep_range
from gaga_adapter.scheduler.handover import HANDOVERS
from gaga_adapter.stats import CONFIG_NAME as STATS_CONFIG
from gaga_adapter.stats import TENSORS_NAME, GAGAStats

CONFIG_NAME = "scheduler_config.json"
OPTIONS_NAME = "gaga_scheduler.json"
SCHEMA_VERSION = 1
#: Spacings that choose the levels themselves; of a list that a loop passes only the number counts.
OWN_LEVELS = ("log_snr", "fitted", "auto")
SPACINGS = ("suffix", "respace", *OWN_LEVELS)
#: Generated classes are named after their base.
PREFIX = "GAGA"
#: Timesteps of a scheduler, whose tables are made when it is read.
_MOST_TIMESTEPS = 1_000_000
#: Where timesteps count further than this, a number below 1 is probably meant as a share.
_FEW_TIMESTEPS = 10


@dataclass(frozen=True)
class Options:
    """How a scheduler is truncated.

    Raises:
        TruncationError: If `t_star` or `trained_log_snr` is no finite number, or `spacing` or
            `handover` is unknown.
    """

    t_star: float | None = None  # first timestep, in the scheduler's units, if not the fitted one
    spacing: str = "suffix"  # layout of the grid, see `grid.py`
    reference: str = "auto"  # kind of the Gaussian start, as in `GAGAStats.reference`
    handover: str = "auto"  # way of the start into the loop, see `handover.py`
    trained_log_snr: float | None = None  # noisiest level in training, if not the whole path

    def __post_init__(self) -> None:
        if self.t_star is not None:
            number = plain_number("t_star", self.t_star, "Pass an entry of scheduler.timesteps.")
            object.__setattr__(self, "t_star", number)
        if self.trained_log_snr is not None:
            number = check_log_snr("trained_log_snr", self.trained_log_snr)
            object.__setattr__(self, "trained_log_snr", number)
        for what, allowed in (("spacing", SPACINGS), ("handover", tuple(HANDOVERS))):
            value = getattr(self, what)
            if value not in allowed:
                raise TruncationError(f"{what}={value!r} is unknown. Known: {', '.join(allowed)}.")

    def save(self, folder: Path) -> None:
        """Write the options into a folder."""
        text = to_json({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=2) + "\n"
        with replacing(folder / OPTIONS_NAME) as draft:
            draft.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Options | None:
        """The options that were saved in a folder, if any.

        Raises:
            ArtefactError: If they cannot be read, or are those of a newer version.
        """
        file = folder / OPTIONS_NAME
        if not file.is_file():
            return None
        try:
            about = read_json(file)
            version = about.integer("schema_version", 1, MOST_BYTES)
            if version <= SCHEMA_VERSION:
                names = [field.name for field in dataclass_fields(cls)]
                about.only(("schema_version", *names))
                return cls(**{name: _option(about, name) for name in names if name in about.data})
        except (ArtefactError, TruncationError) as error:
            raise ArtefactError(
                f"{file} is corrupt ({str(error).rstrip('.')}). Save the scheduler again."
            ) from error
        raise ArtefactError(
            f"{file} has schema_version={version}, this version of gaga-adapter reads up to "
            f"{SCHEMA_VERSION}. Upgrade: pip install -U gaga-adapter."
        )

    def log_snr_star(self, scheduler: Scheduler, stats: GAGAStats) -> float:
        """The log-SNR that a scheduler starts at: that of `t_star`, or the fitted one.

        A `GAGAWarning` says when `t_star` looks like a share of the path: at a level where the data
        are nearly clean, a Gaussian start is none.

        Raises:
            TruncationError: If `t_star` is no timestep of the scheduler, or lies between 0 and 1
                where timesteps are integers.
        """
        if self.t_star is None:
            return stats.log_snr_star
        level = timestep_log_snr(scheduler, self.t_star)
        clean, noisy = timestep_range(scheduler)
        table = convention_of(scheduler).table
        if table is not None and 0 < self.t_star < 1:
            raise TruncationError(
                f"t_star={self.t_star:g} lies between two timesteps of {type(scheduler).__name__}, "
                f"where the data are nearly clean. It counts timesteps, the integers {clean:g} to "
                f"{noisy:g} here, and is no share of the path: {self.t_star:g} of {len(table)} is "
                f"{round(self.t_star * len(table))}."
            )
        if stats.selection is not None and level > stats.selection.curve.log_snr[0]:
            judged = f"their curve begins at {stats.selection.curve.log_snr[0]:g}"
        elif 0 < self.t_star < 1 and max(clean, noisy) > _FEW_TIMESTEPS and level > 0:
            judged = f"t* was fitted at {stats.log_snr_star:.3g}"
        else:
            return level
        warn(
            f"t_star={self.t_star:g} is at log-SNR {level:.3g}, where the data are nearly clean; "
            f"{judged}. It counts timesteps of the scheduler, {clean:g} to {noisy:g} here, and is "
            "no share of the path."
        )
        return level


def _option(about: Fields, name: str) -> Any:  # noqa: ANN401 - of the type of the option
    if name in ("spacing", "reference", "handover"):
        return about.text(name)
    if not about.is_given(name):
        return None
    if name == "t_star":
        return about.number(name)
    return about.number(name, -MOST_LOG_SNR, MOST_LOG_SNR)


def scheduler_folder(name: str, subfolder: str | None, *asked: Any) -> Path:  # noqa: ANN401
    """A local folder with a scheduler's configuration, downloaded if `name` is a hub id.

    `asked` are the arguments of `files.hub.download` from `revision` on.
    """
    folder = Path(name)
    if not folder.is_dir():
        within = f"{subfolder}/" if subfolder else ""
        folder = download(
            name,
            [
                f"{within}{name}"
                for name in (CONFIG_NAME, OPTIONS_NAME, STATS_CONFIG, TENSORS_NAME, LEVELS_NAME)
            ],
            "Pass a scheduler, a folder with its configuration, or a hub id.",
            *asked,
        )
    folder = folder / subfolder if subfolder else folder
    if not (folder / CONFIG_NAME).is_file():
        raise ArtefactError(
            f"no {CONFIG_NAME} in {folder}. Pass the folder of a scheduler, or "
            "subfolder='scheduler' with that of a pipeline."
        )
    return folder


def load_plain(folder: Path) -> Scheduler:
    """The plain scheduler of a folder, whether it was saved plain or truncated."""
    file = folder / CONFIG_NAME
    try:
        about = read_json(file, infinite=True)
        name = about.text("_class_name")
        if about.is_given("num_train_timesteps"):
            about.number("num_train_timesteps", 0, _MOST_TIMESTEPS)
    except ArtefactError as error:
        raise ArtefactError(f"{file} is no configuration of a scheduler ({error})") from error
    scheduler_class = plain_class(name.removeprefix(PREFIX))
    if scheduler_class is None:
        raise ArtefactError(
            f"{file} names the class {name!r}, which diffusers does not have. "
            "Import the module that defines it first."
        )
    try:
        return scheduler_class.from_pretrained(folder)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise ArtefactError(
            f"{file} is no configuration that {name} can be made from ({type(e).__name__}: "
            f"{str(e).partition(chr(10))[0]}). Save the scheduler again."
        ) from e


def plain_class(name: str) -> type[Any] | None:
    """A scheduler class of diffusers, or one derived from them that has been imported.

    Of several that have the name, such as those of a cell that was run twice, it is the last that
    was defined and has a configuration.
    """
    import diffusers

    from gaga_adapter import few_step

    exported = getattr(diffusers.schedulers, name, getattr(few_step, name, None))
    if isinstance(exported, type) and issubclass(exported, diffusers.SchedulerMixin):
        return exported
    todo: list[type[Any]] = [diffusers.SchedulerMixin]
    while todo:
        derived = todo.pop()
        is_plain = issubclass(derived, diffusers.ConfigMixin) and not hasattr(derived, "_gaga_base")
        if derived.__name__ == name and is_plain:
            return derived
        todo += derived.__subclasses__()
    return None
