"""Molecules from files and into them. Coordinates are in angstrom throughout.

- `stream_molecules(sources, batch_size, ...)`: batches, one of which is in memory at a time;
- `read_molecules(sources, ...)`: all of them at once;
- `write_sdf`, `sdf_text`: an SDF file.

Each kind of source has a file here, which loads when such a source is read. Every reader names the
file and the molecule that it cannot read.
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from gaga_adapter.distributed import Progress
from gaga_adapter.errors import DataError, whole_number
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats.opening import COMPRESSIONS, STANDARD_INPUT, Input
from gaga_adapter.molecules.formats.record import (
    IMAGES,
    FileFormat,
    Format,
    Hydrogens,
    Record,
    Whole,
)
from gaga_adapter.molecules.formats.sdf import sdf_text, write_sdf
from gaga_adapter.molecules.formats.streaming import MoleculeStream, Tally

__all__ = [
    "Hydrogens",
    "MoleculeStream",
    "Record",
    "Tally",
    "read_molecules",
    "sdf_text",
    "stream_molecules",
    "write_sdf",
]

_ALL = 1 << 62  # a size of one batch for all molecules
#: Reader by suffix: the file beside this one, which loads when it is asked for, and its class.
READERS = {
    ".sdf": ("sdf", "SdfFile"),
    ".sd": ("sdf", "SdfFile"),
    ".mol": ("sdf", "SdfFile"),
    ".xyz": ("xyz", "XyzFile"),
    ".extxyz": ("xyz", "XyzFile"),
    ".npz": ("npz", "NpzFile"),
    ".npy": ("flat", "NpyFile"),
    ".db": ("ase_database", "AseDatabase"),
    ".smi": ("smiles", "SmilesFile"),
    ".csv": ("smiles", "CsvFile"),
}
#: Names of the formats, for sources whose own name does not tell.
FORMATS = tuple(suffix[1:] for suffix in READERS)
_GRAPHS = (".smi", ".csv")  # without geometries
_PLAIN = (".npz", ".npy", ".db")  # never compressed
#: Copies that atomic-datasets makes of the files beside them: read when they are named.
_COPIES = ("qm9_preprocessed_True.npz", "qm9_preprocessed_False.npz", "tmqm_preprocessed.npz")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_ALLOWED = (
    "qm9, qm9:train, qm9:valid, qm9:test, or a .sdf, .sd, .mol, .xyz, .extxyz (also .gz, .bz2, .xz "
    "or .zst), .npz, .npy or .db file, a folder or a pattern of such files, - for standard input, "
    "and .smi or .csv with --embed (embed=True)"
)


def stream_molecules(
    sources: Any,  # noqa: ANN401  # paths, or molecules of any package
    batch_size: int = 2048,
    elements: Sequence[str] | None = None,
    hydrogens: Hydrogens = "keep",
    embed: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
    format: str | None = None,
    skip_others: bool = False,
) -> MoleculeStream:
    """Molecules in batches, one of which is in memory at a time.

    Args:
        sources: `qm9`, `qm9:train`, `qm9:valid`, `qm9:test`; a .sdf, .sd, .mol, .xyz or .extxyz
            file (also .gz, .bz2, .xz or .zst), a .npz (EDM's arrays), .npy (EDM's GEOM, or
            positions of atomic-datasets) or .db (ASE) file, a folder or a pattern of them, `-` for
            standard input; .smi or .csv with `embed`; a list of these; or molecules in memory: a
            `MoleculeSet`, a data set of PyTorch Geometric, of Hugging Face `datasets` or of
            atomic-datasets, ASE's or rdkit's molecules, pairs of positions (n, 3) and atomic
            numbers (n,).
        batch_size: Largest number of molecules in a batch.
        elements: Chemical symbols that may occur; every element if None.
        hydrogens: `keep` them as they are, `remove` all, or `add` those that the bonds of the
            source imply.
        embed: Whether molecules without a geometry get one by ETKDG: SMILES, and SDF records in 2D.
            Those that ETKDG cannot embed are left out and counted.
        skip_bad: Whether malformed molecules are left out and counted, instead of raising on the
            first.
        seed: Seed of the embedding.
        share: Pair (r, W): only the batches r, r + W, ... are given, as to process r of W.
        progress: Function that is called while QM9 is read for the first time.
        format: Format of all files, such as `sdf`, whatever their names say; needed for standard
            input. A folder gives its files of that format.
        skip_others: Whether molecules with another element than `elements` are left out and
            counted, instead of raising on the first.

    Returns:
        An iterable of `MoleculeSet`s, which can be passed more than once, unless it reads a pipe:
        then call its `keep` before the first pass.

    Raises:
        DataError: If a source is missing, of an unknown kind, empty or unreadable (the molecule is
            named), or holds an element that is not allowed; here, or in a pass.
        MissingExtraError: If a format needs a package that is not installed.
    """
    batch_size = whole_number("batch_size", batch_size)
    if hydrogens not in get_args(Hydrogens):
        raise DataError(f"hydrogens={hydrogens!r}. Allowed: {', '.join(get_args(Hydrogens))}.")
    if not 0 <= share[0] < share[1]:
        raise DataError(f"share={share} must be (r, W) with 0 <= r < W.")
    if format is not None and format not in FORMATS:
        raise DataError(f"format={format!r}. Allowed: {', '.join(FORMATS)}.")
    if skip_others and elements is None:
        raise DataError(
            "skip_others=True leaves nothing out without elements. Pass the elements to keep."
        )
    kind = None if format is None else f".{format}"
    formats: list[Format[Any]] = []
    for source in _as_list(sources):
        if isinstance(source, MoleculeSet):
            formats.append(Whole(source))
        elif not isinstance(source, str | os.PathLike):
            from gaga_adapter.molecules.formats.objects import Objects

            formats.append(Objects(source))
        elif os.fspath(source) == "qm9" or os.fspath(source).startswith("qm9:"):
            from gaga_adapter.molecules.qm9 import data as qm9

            split: Any = os.fspath(source)[4:] or None  # the loader refuses an unknown one
            formats.append(Whole(qm9.load_qm9(split, progress=progress)))
        else:
            try:
                paths = _paths(source, embed, kind)
                formats += [_file(path, kind, hydrogens, embed, seed) for path in paths]
            except OSError as error:  # a name that is too long, a folder that may not be entered
                raise DataError(f"cannot read {source}: {error.strerror or error}.") from error
    if not formats:
        raise DataError(f"no source of molecules. Allowed: {_ALLOWED}.")
    for one in formats:
        if hydrogens == "add" and not one.states_bonds:
            raise DataError(
                f"{one.name} states no bonds, so hydrogens cannot be added. Allowed: .sdf, .smi "
                "and .csv; or keep, or remove."
            )
    stream = MoleculeStream(formats, batch_size, elements, hydrogens, skip_bad, share)
    return stream if elements is None else stream.only(elements, skip_others)


def read_molecules(
    sources: Any,  # noqa: ANN401
    elements: Sequence[str] | None = None,
    hydrogens: Hydrogens = "keep",
    embed: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    format: str | None = None,
    skip_others: bool = False,
) -> MoleculeSet:
    """All molecules of one or several sources, in memory.

    Arguments and errors are those of `stream_molecules`.
    """
    stream = stream_molecules(
        sources,
        _ALL,
        elements,
        hydrogens,
        embed,
        skip_bad,
        seed,
        progress=progress,
        format=format,
        skip_others=skip_others,
    )
    parts = list(stream)
    return parts[0] if len(parts) == 1 else MoleculeSet.concatenate(parts, stream.name)


def _as_list(sources: Any) -> Sequence[Any]:  # noqa: ANN401
    """Paths and sets one by one; a list of other objects is one data set."""
    if isinstance(sources, list | tuple) and all(
        isinstance(one, str | os.PathLike | MoleculeSet) for one in sources
    ):
        return sources
    return [sources]


def _paths(source: str | os.PathLike[str], embed: bool, wanted: str | None) -> list[Path]:
    """The files behind a name: itself, those of a folder, or those of a pattern."""
    name, path = os.fspath(source), Path(source)
    if path.is_dir():
        kinds = {kind for kind in READERS if embed or kind not in _GRAPHS}
        if wanted is not None:
            kinds = {kind for kind, reader in READERS.items() if reader == READERS[wanted]}
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        files = [file for file in files if _kind(file) in kinds and _is_source(file)]
        fault = f"the folder {name} has no file of molecules"
        if not files and any(_is_picture(file) for file in path.rglob("*")):
            raise DataError(f"{fault}, but pictures. {IMAGES}")
    elif not path.exists() and glob.has_magic(name):
        files = [Path(file) for file in sorted(glob.glob(name, recursive=True))]
        fault = f"no file matches {name}"
    else:
        is_file = name != STANDARD_INPUT and path == Path(STANDARD_INPUT)  # ./- is one
        return [path.absolute() if is_file else path]
    if not files:
        raise DataError(f"{fault}. Allowed: {_ALLOWED}.")
    return files


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _PICTURES


def _is_source(file: Path) -> bool:
    """Whether a file of a folder is read as one of its sources, and belongs to no other."""
    if file.suffix.lower() == ".npy":
        from gaga_adapter.molecules.formats.flat import holds_molecules

        return holds_molecules(file)
    return file.name not in _COPIES


def _file(
    path: Path, wanted: str | None, hydrogens: Hydrogens, embed: bool, seed: int
) -> Format[Any]:
    source = Input(path)
    kind = wanted or _kind(path)
    if _is_picture(path) and wanted is None:
        raise DataError(f"{source.name} is a picture, and no file of molecules. {IMAGES}")
    if kind not in READERS and (path.suffix or source.is_pipe or path.exists()):
        raise DataError(
            f"cannot tell what {source.name} is. Allowed: {_ALLOWED}. "
            f"{_advice(path, source.is_pipe)}"
        )
    if not source.is_pipe and not path.is_file():
        raise DataError(_missing(path))
    if not source.is_pipe and path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Pass a file with at least one molecule.")
    if kind in _GRAPHS and not embed:
        raise DataError(
            f"{source.name} holds SMILES, which have no geometry. Pass --embed (embed=True) for "
            "one by ETKDG."
        )
    module, name = READERS[kind]
    reader: type[FileFormat[Any]] = getattr(
        import_module(f"gaga_adapter.molecules.formats.{module}"), name
    )
    if reader.needs_file and source.is_pipe:
        raise DataError(
            f"{source.name} is a pipe, and {kind} files are not read from front to back. Save it "
            "in a file."
        )
    return reader(source, hydrogens, embed, seed)


def _advice(path: Path, is_pipe: bool) -> str:
    """What to do with a source of a kind that is not known."""
    named = (
        "If it holds one of these formats, name that with --format (format=): "
        f"{', '.join(FORMATS)}."
    )
    if is_pipe or not path.suffix or path.suffix.lower() in COMPRESSIONS:
        return named
    return f"{named} Open Babel converts others: obabel {path.name} -O {path.stem}.sdf"


def _missing(path: Path) -> str:
    """That there is no such file, and what may be meant."""
    if path.is_symlink() and not path.exists():
        return f"{path} is a link to {os.readlink(path)}, which does not exist."
    if path.exists():
        return f"{path} is neither a file nor a pipe."
    siblings = [one.name for one in path.parent.glob("*")]
    close = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f" Did you mean {path.parent / close[0]}?" if close else ""
    return f"there is no file{'' if path.suffix else ' or folder'} {path}.{hint}"


def _kind(path: Path) -> str:
    """The suffix, without that of a compression where a format can be compressed."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] != [] and suffixes[-1] in COMPRESSIONS and len(suffixes) == 2:
        return suffixes[0] if suffixes[0] in READERS and suffixes[0] not in _PLAIN else ""
    return suffixes[-1] if suffixes else ""
