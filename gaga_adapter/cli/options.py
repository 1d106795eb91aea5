"""Options that commands share: data and their encoding, judges, devices, outputs.

An option is an annotated type, `Device = Annotated[str, typer.Option(...)]`; a function beside
it turns the value into what it stands for. Options that belong together are the fields of a
dataclass: a command takes it as one parameter, and `flatten` shows its fields to typer one by one.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import torch
import typer

from gaga_adapter.cli.console import quiet_loading
from gaga_adapter.criteria import CRITERIA, Criterion, criterion
from gaga_adapter.distributed import Processes, Progress
from gaga_adapter.elements import SYMBOLS, atomic_number
from gaga_adapter.errors import (
    LARGEST_SEED,
    DataError,
    GAGAError,
    GAGAWarning,
    StatsMismatchError,
    WriteError,
)
from gaga_adapter.files.atomic import (
    STANDARD_OUTPUT,
    already_there,
    check_writable,
    file_behind,
    is_standard_output,
    is_stream,
)
from gaga_adapter.layout import Layout, MoleculeLayout

if TYPE_CHECKING:
    from gaga_adapter.molecules.formats import MoleculeStream
    from gaga_adapter.streaming import Batch

_BATCH = 2048  # molecules
_BATCH_NUMBERS = 4_000_000  # of dense arrays
_NEEDS_MODEL = "certificate"


# -- values that have names ------------------------------------------------------------------------

#: Names that the library has too, for it is slow to load: a test says that they are the same.
COVARIANCES = ("channel", "element", "low_rank", "full")
HYDROGENS = ("keep", "remove", "add")
MOLECULE_REFERENCES = ("auto", "shape", "size", "channel", "paper", "unit")
FORMATS = ("sdf", "sd", "mol", "xyz", "extxyz", "npz", "npy", "db", "smi", "csv")
REFERENCES = (*MOLECULE_REFERENCES, "element", "low_rank", "full")
REFINEMENTS = ("em", "tilt")

Names = Sequence[str] | Callable[[], Sequence[str]]


def one_of(names: Names, help: str, *flags: str) -> Any:  # noqa: ANN401
    """An option that takes one of some names; a function gives them when a value is checked."""

    def check(context: typer.Context, value: str | None) -> str | None:
        if value is not None and not context.resilient_parsing:
            require(value, names() if callable(names) else names)
        return value

    return typer.Option(*flags, help=help, callback=check, autocompletion=completion(names))


def require(value: str, names: Sequence[str]) -> None:
    """Refuse a value that is not one of the names, and suggest the nearest."""
    if value not in names:
        near = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.5)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise typer.BadParameter(f"{value!r} is none of {', '.join(names)}.{meant}")


def completion(names: Names) -> Callable[[str], list[str]]:
    """A function that completes names, for options that take other values, too."""

    def complete(incomplete: str) -> list[str]:
        known = names() if callable(names) else names
        return [name for name in known if name.startswith(incomplete)]

    return complete


def renamed_option(old: str, new: str) -> Any:  # noqa: ANN401
    """The hidden old name of an option: its use is an error that names the new one."""
    return _refused_option(old, f"the option {old} is called {new} now.")


def option_elsewhere(typed: str, advice: str) -> Any:  # noqa: ANN401
    """A hidden option that other commands have: its use is an error that says what to pass."""
    return _refused_option(typed, f"there is no {typed} here. {advice}")


def _refused_option(name: str, message: str) -> Any:  # noqa: ANN401
    def refuse(context: typer.Context, value: str | None) -> None:
        if value is not None and not context.resilient_parsing:
            raise typer.BadParameter(message)

    return typer.Option(name, hidden=True, callback=refuse)


def names_in(module: str, table: str) -> Callable[[], Sequence[str]]:
    """The keys of a table in a module that loads when they are asked for."""
    return lambda: tuple(getattr(import_module(module), table))


STATISTICS = names_in("gaga_adapter.stats", "EMBEDDED")
PIPELINES = ("qm9",)
Statistics = Annotated[
    str,
    typer.Argument(
        help="Folder that gaga fit wrote, hub id, or qm9 (ships with the package).",
        autocompletion=completion(STATISTICS),
    ),
]


# -- data and their encoding -----------------------------------------------------------------------

HydrogensOption = Annotated[
    str,
    one_of(
        HYDROGENS,
        "keep leaves them as they are, remove drops all of them, add adds those that the bonds "
        "imply (SDF, SMILES).",
        "--hydrogens",
    ),
]
Embed = Annotated[
    bool,
    typer.Option("--embed", help="Make geometries by ETKDG for SMILES and for SDF records in 2D."),
]
FormatOption = Annotated[
    str | None,
    one_of(
        FORMATS,
        "Format of all files, whatever their names say; needed for standard input.",
        "--format",
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave malformed molecules out and count them.")
]
SkipOthers = Annotated[
    bool,
    typer.Option("--skip-others", help="Leave molecules with other elements out and count them."),
]


def _within(least: int, most: int) -> Callable[[typer.Context, int], int]:
    """A callback that refuses numbers out of a range; the help has no room to print it."""

    def check(context: typer.Context, value: int) -> int:
        if not context.resilient_parsing and not least <= value <= most:
            allowed = f"{least} or more" if value < least else f"{least} to {most}"
            raise typer.BadParameter(f"{value} is out of range. Pass {allowed}.")
        return value

    return check


Pipeline = Annotated[
    str,
    typer.Option(
        help="Pipeline folder or hub id; qm9 is the small model shipped here.",
        autocompletion=completion(PIPELINES),
    ),
]
TStar = Annotated[
    float | None, typer.Option(help="Start at this timestep of the scheduler instead.")
]
Seed = Annotated[
    int, typer.Option(help="Seed of everything random.", callback=_within(0, LARGEST_SEED))
]


@dataclass(frozen=True)
class Parsing:
    """How molecules of files are read, where they are not encoded: what readers may advise."""

    hydrogens: HydrogensOption = "keep"
    embed: Embed = False
    skip_bad: SkipBad = False
    format: FormatOption = None

    def arguments(self) -> dict[str, Any]:
        """Arguments of `stream_molecules` and `read_molecules`, which check them."""
        return asdict(self)


@dataclass(frozen=True)
class Reading:
    """Data that a user names, and how molecules among them are read and encoded."""

    data: Annotated[
        list[str],
        typer.Argument(
            help="qm9, qm9:train, files, folders or patterns of molecules (.sdf, .sd, .mol, .xyz, "
            ".extxyz, also .gz, .bz2, .xz, .zst; .npz and .npy in EDM's layouts; ASE's .db; .smi "
            "or .csv with --embed; - for standard input), or one .npy of floats (M, C, ...) for "
            "images, latents and signals."
        ),
    ]
    elements: Annotated[
        str,
        typer.Option(
            help="Elements of the one-hot channels, in the model's order; auto looks them up in "
            "one pass and orders them by atomic number."
        ),
    ] = "H,C,N,O,F"
    skip_others: SkipOthers = False
    hydrogens: HydrogensOption = "keep"
    embed: Embed = False
    skip_bad: SkipBad = False
    format: FormatOption = None
    position_scale: Annotated[
        float, typer.Option(help="Positions, in angstrom, are divided by it.")
    ] = 1.0
    onehot_scale: Annotated[float, typer.Option(help="One-hot entries are divided by it.")] = 4.0
    charge_scale: Annotated[
        float | None,
        typer.Option(help="Atomic numbers are divided by it; without it there is no such channel."),
    ] = None
    channels: Annotated[
        int | None,
        typer.Option(
            help="Axis of an event of a .npy that holds the channels: 0 is the first, -1 the last "
            "(tokens x channels), 1 the second (frames x channels x height x width). The first if "
            "not given, with a warning if the numbers point to another.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, eq=False)
class Source:
    """A data set that can be streamed."""

    name: str  # for tables and provenance
    layout: Layout
    items: MoleculeStream | np.ndarray  # an array is (M, C, ...)

    @property
    def total(self) -> int | None:
        """Number of items; None for files, which are not counted before they are read."""
        return len(self.items) if isinstance(self.items, np.ndarray) else self.items.total

    def batches(self, share: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Pairs of x (B, N, 3+F) and mask (B, N), or dense x (B, C, ...).

        With a share (r, W) they are the batches r, r + W, ... alone. The other ones are not even
        parsed, so that several processes read files as many times faster.
        """
        if isinstance(self.items, np.ndarray):
            step = max(1, _BATCH_NUMBERS // max(1, self.items[0].size))
            for start in range(share[0] * step, len(self.items), share[1] * step):
                yield torch.from_numpy(np.array(self.items[start : start + step]))
            return
        from gaga_adapter.molecules.encoding import encode

        for part in self.items.shared(*share):
            yield encode(part, cast(MoleculeLayout, self.layout))

    def with_total(self, progress: Progress) -> Progress:
        """Progress that knows how many items there are; the library sees batches alone."""
        return lambda what, done, total: progress(
            what, done, self.total if what == "moments" else total
        )


def open_data(reading: Reading, seed: int = 0, progress: Progress | None = None) -> Source:
    """The data that a user named; files are streamed, and arrays mapped from disk, not read.

    The seed is that of the geometries by ETKDG; QM9 reports progress when it is read for the first
    time.
    """
    arrays = [name for name in reading.data if _is_array(name, reading.format)]
    if arrays:
        if len(reading.data) > 1:
            raise DataError(
                f"got {', '.join(reading.data)}: pass one .npy file at a time, and it alone."
            )
        _refuse_options_of_molecules(reading)
        return _open_array(Path(arrays[0]), reading.channels)
    if reading.channels is not None:
        raise DataError(
            f"--channels {reading.channels} names an axis of a .npy, and {', '.join(reading.data)} "
            "are molecules. Leave it out."
        )
    from gaga_adapter.molecules.formats import stream_molecules

    molecules = stream_molecules(
        reading.data,
        _BATCH,
        None,
        reading.hydrogens,  # type: ignore[arg-type]  # a wrong one is refused by name
        reading.embed,
        reading.skip_bad,
        seed,
        progress=progress,
        format=reading.format,
    )
    names = tuple(reading.elements.replace(",", " ").split())
    if [name.lower() for name in names] == ["auto"]:
        if reading.skip_others:
            raise DataError(
                "--skip-others leaves nothing out with --elements auto. Name the elements to keep."
            )
        names = molecules.found_elements()
    # CL, cl and 17 are Cl: the artefact names it as a model's layout does.
    names = tuple(SYMBOLS[atomic_number(name)] for name in names)
    layout = MoleculeLayout(
        names, reading.position_scale, reading.onehot_scale, reading.charge_scale
    )
    molecules = molecules.only(layout.elements, reading.skip_others)
    return Source(molecules.name, layout, molecules)


def _refuse_options_of_molecules(reading: Reading) -> None:
    """Refuse what a user asked of molecules, where the data are an array."""
    default = Reading(reading.data, channels=reading.channels)
    given = [
        f"--{field.name.replace('_', '-')}"
        for field in fields(Reading)
        if getattr(reading, field.name) != getattr(default, field.name)
    ]
    if given:
        raise DataError(
            f"{given[0]} is of molecules, and {reading.data[0]} is an array. Leave it out."
        )


def _is_array(name: str, format: str | None) -> bool:
    """Whether a name is that of an array of numbers, and not of molecules in one (EDM's GEOM)."""
    if format is not None or not name.lower().endswith(".npy"):
        return False
    from gaga_adapter.molecules.formats.flat import holds_molecules

    return not holds_molecules(Path(name))


def _open_array(file: Path, channels: int | None) -> Source:
    if not file.is_file():
        if file.exists():
            raise DataError(f"{file} is no regular file, and arrays are mapped from disk. Copy it.")
        raise DataError(f"no file {file}.")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"cannot read {file} ({error}). Write it with numpy.save.") from error
    if array.ndim < 2 or not array.size or array.dtype.kind != "f":
        raise DataError(
            f"{file} holds {array.dtype} {array.shape}; need floats (M, C, ...), one event per "
            "row, scaled as the model sees them."
        )
    from gaga_adapter.streaming import layout_of

    step = max(1, _BATCH_NUMBERS // max(1, array[0].size))
    first = torch.from_numpy(np.array(array[:step]))
    return Source(str(file), layout_of(first, channels), array)


# -- judges ----------------------------------------------------------------------------------------

Model = Annotated[
    str | None,
    typer.Option(
        help="Molecule pipeline (folder, hub id, or qm9) whose denoiser the certificate asks.",
        autocompletion=completion(PIPELINES),
    ),
]
CriterionOption = Annotated[
    str,
    one_of(
        tuple(CRITERIA),
        "Criterion that chooses t*: two_sample (classifiers, nats, minutes), cumulant (closed "
        "form, nats, seconds), certificate (a trained denoiser, nats) or ks_mi "
        "(as published, p-values).",
    ),
]
ReferenceOption = Annotated[
    str,
    one_of(
        REFERENCES,
        "Start to judge. Molecules: shape, size, channel, paper or unit. Arrays: full, low_rank, "
        "element, channel, paper or unit. auto is shape for molecules, and what "
        "--covariance says for arrays.",
    ),
]
CovarianceOption = Annotated[
    str,
    one_of(
        COVARIANCES,
        "Covariance of arrays: channel, element, low_rank or full. Images and latents of one size "
        "want low_rank; channel serves every size, and does not know how pixels depend on each "
        "other.",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        help="What may remain at t*: nats per item (0.5 if not given); for ks_mi the rate of false "
        "alarms on a whole curve (0.05 if not given).",
        show_default=False,
    ),
]
Refine = Annotated[
    list[str] | None,
    typer.Option(
        help="Way to refine the start of molecules on items of their own; may be given twice. em: "
        "mixing weights of its rows. tilt: a regression chooses one of 16 draws, without a network "
        "call. What does not help on other items is left out.",
        show_default=False,
        autocompletion=completion(REFINEMENTS),
    ),
]
RefineAt = Annotated[
    float | None,
    typer.Option(
        help="Log-SNR at which the start is refined, no noisier than t*; that of t* if not given.",
        show_default=False,
    ),
]
Items = Annotated[
    int,
    typer.Option(
        help="Number of items that the criteria see, drawn at random.",
        callback=_within(2, LARGEST_SEED),
    ),
]
OldSamples = Annotated[str | None, renamed_option("--samples", "--items")]


def check_covariance(source: Source, covariance: str) -> None:
    """Refuse a covariance of arrays for molecules, whose start `--reference` names."""
    if covariance != "channel" and isinstance(source.layout, MoleculeLayout):
        raise StatsMismatchError(
            f"--covariance {covariance} is of arrays, and {source.name} are molecules. "
            "Pass --reference shape, size, channel, paper or unit."
        )


def named_criteria(names: str | None, model: str | None) -> list[str]:
    """The names in a list with commas; without a list, all criteria that can be asked."""
    if names is not None:
        return [name.strip() for name in names.split(",")]
    return [name for name in CRITERIA if name != _NEEDS_MODEL or model is not None]


def make_criterion(name: str, model: str | None, device: torch.device | str = "cpu") -> Criterion:
    """A criterion by name; the certificate takes the denoiser of a molecule pipeline."""
    if name != _NEEDS_MODEL:
        return criterion(name)
    if model is None:
        raise GAGAError(
            "the certificate asks a trained denoiser. Pass --model FOLDER (or qm9, the small "
            "model shipped here), or choose another criterion."
        )
    from gaga_adapter.criteria import Certificate, as_denoiser
    from gaga_adapter.molecules.pipeline import MoleculePipeline

    quiet_loading()
    return Certificate(as_denoiser(MoleculePipeline.load(model).denoiser.to(device)))


# -- devices ---------------------------------------------------------------------------------------

Device = Annotated[
    str,
    typer.Option(
        help="Device of the model: auto, cpu, cuda, cuda:1 or mps. auto gives each process of a "
        "machine a GPU of its own, and takes the CPU where there is none.",
        autocompletion=completion(("auto", "cpu", "cuda", "mps")),
    ),
]


def torch_device(name: str) -> torch.device:
    """The device of this process by torch's name for it, or by `auto`.

    `auto` is `cuda:LOCAL_RANK` where there is CUDA; processes beyond the number of GPUs share them
    in turn.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", local % torch.cuda.device_count())
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise GAGAError(
            f"no device {name!r} here ({str(error).splitlines()[0]}). Pass auto, cpu, or cuda or "
            "mps where torch supports them."
        ) from error
    return device


# -- outputs: they are tried when the command line is read, before the work ------------------------


def writable_file(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of an option that names a file to make or replace."""
    if path is not None and not context.resilient_parsing and not is_stream(path):
        check_writable(path, file_behind(path).parent)
    return path


def file_or_stdout(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of an option that names a file, or standard output by `-`.

    Then the file is all that standard output gets, so there is no json document.
    """
    path = STANDARD_OUTPUT if path == Path("-") else path
    writable_file(context, path)
    return path


def require_one_document(path: Path, as_json: bool) -> None:
    """Refuse a file and a json document on one standard output."""
    if as_json and is_standard_output(path):
        raise typer.BadParameter(
            "the document would go to standard output, too. Name a file, or leave --json out.",
            param_hint="--json",
        )


def writable_folder(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of an option that names a folder to make, or to write into."""
    if path is not None and not context.resilient_parsing:
        if path == Path("-"):
            raise WriteError(
                "cannot write a folder to standard output. Name a folder; ./- is one of that name."
            )
        check_writable(path, Path(os.path.realpath(path)))
    return path


def picture(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of an option that names the file of a picture."""
    if writable_file(context, path) is not None and not context.resilient_parsing:
        from gaga_adapter.report.curves import check_picture

        check_picture(cast(Path, path))
    return path


Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]


def require_no_statistics(folder: Path, force: bool, also: str = "") -> None:
    """Refuse to replace statistics in a folder, unless `force` is given.

    Of several processes the first one looks, and all of them get its answer: it is the one that
    will write.
    """
    from gaga_adapter.stats import CONFIG_NAME, GAGAStats

    def look(beat: Callable[[], None]) -> None:
        if force or not (folder / CONFIG_NAME).is_file():
            return
        content = "statistics"  # damaged ones, or of a newer version
        with contextlib.suppress(GAGAError), warnings.catch_warnings():
            warnings.simplefilter("ignore", GAGAWarning)  # nobody is about to use them
            stats = GAGAStats.from_pretrained(folder)
            data = stats.provenance.get("data", "data")
            content = f"statistics of {data} ({stats.moments.count:,} items)"
            if stats.levels:
                calls = ", ".join(str(one.n_calls) for one in stats.levels)
                content += f" and levels of {calls} calls"
        raise already_there(folder, content, f"{also}Choose another --out, or pass --force")

    Processes.of_the_run().by_first(look)


Plot = Annotated[
    Path | None,
    typer.Option(help="Draw the curve into this .png, .svg or .pdf file.", callback=picture),
]
