"""What a truncated scheduler leaves on disk, and how schedulers are found there.

A folder holds the scheduler's own `scheduler_config.json`, unchanged but for the class name, the
fitted statistics (`gaga_config.json`, `gaga_stats.safetensors`), and the options of the
truncation in `gaga_scheduler.json`. A plain diffusers scheduler can still be loaded from it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gaga_adapter.errors import ArtefactError, TruncationError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.files.hub import download
from gaga_adapter.noise.conventions import Scheduler
from gaga_adapter.scheduler.handover import HANDOVERS

CONFIG_NAME = "scheduler_config.json"
OPTIONS_NAME = "gaga_scheduler.json"
SCHEMA_VERSION = 1
SPACINGS = ("suffix", "respace")
#: Generated classes are named after their base.
PREFIX = "GAGA"


@dataclass(frozen=True)
class Options:
    """How a scheduler is truncated."""

    t_star: float | None = None  # first timestep, in the scheduler's units, if not the fitted one
    spacing: str = "suffix"  # layout of the grid, see `grid.py`
    reference: str = "auto"  # kind of the Gaussian start, as in `GAGAStats.reference`
    handover: str = "auto"  # way of the start into the loop, see `handover.py`
    trained_log_snr: float | None = None  # noisiest level in training, if not the whole path

    def __post_init__(self) -> None:
        for what, allowed in (("spacing", SPACINGS), ("handover", tuple(HANDOVERS))):
            value = getattr(self, what)
            if value not in allowed:
                raise TruncationError(f"{what}={value!r} is unknown. Known: {', '.join(allowed)}.")

    def save(self, folder: Path) -> None:
        """Write the options into a folder."""
        text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=2) + "\n"
        with replacing(folder / OPTIONS_NAME) as draft:
            draft.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Options | None:
        """The options that were saved in a folder, if any."""
        file = folder / OPTIONS_NAME
        if not file.is_file():
            return None
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            version = fields.pop("schema_version")
            if version <= SCHEMA_VERSION:
                return cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(
                f"{file} is corrupt ({error}). Save the scheduler again."
            ) from error
        raise ArtefactError(
            f"{file} has schema_version={version}, this version of gaga-adapter reads up to "
            f"{SCHEMA_VERSION}. Upgrade: pip install -U gaga-adapter."
        )


def scheduler_folder(name: str, subfolder: str | None, *asked: Any) -> Path:  # noqa: ANN401
    """A local folder with a scheduler's configuration, downloaded if `name` is a hub id.

    `asked` are the arguments of `files.hub.download` from `revision` on.
    """
    folder = Path(name)
    if not folder.is_dir():
        within = f"{subfolder}/" if subfolder else ""
        folder = download(
            name,
            [f"{within}{CONFIG_NAME}", f"{within}gaga_*"],
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
        name = str(json.loads(file.read_text(encoding="utf-8"))["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{file} is no configuration of a scheduler ({error!r}).") from error
    scheduler_class = plain_class(name.removeprefix(PREFIX))
    if scheduler_class is None:
        raise ArtefactError(
            f"{file} names the class {name!r}, which diffusers does not have. "
            "Import the module that defines it first."
        )
    return scheduler_class.from_pretrained(folder)


def plain_class(name: str) -> type[Any] | None:
    """A scheduler class of diffusers, or one derived from them that has been imported."""
    import diffusers

    exported = getattr(diffusers.schedulers, name, None)
    if isinstance(exported, type):
        return exported
    todo: list[type[Any]] = [diffusers.SchedulerMixin]
    while todo:
        derived = todo.pop()
        if derived.__name__ == name and not hasattr(derived, "_gaga_base"):
            return derived
        todo += derived.__subclasses__()
    return None
