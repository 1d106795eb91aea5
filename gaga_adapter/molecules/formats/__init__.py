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
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from gaga_adapter.distributed import Progress
from gaga_adapter.errors import DataError, whole_number
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats.record import FileFormat, Format, Hydrogens, Record, Whole
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
    ".xyz": ("xyz", "XyzFile"),
    ".extxyz": ("xyz", "XyzFile"),
    ".npz": ("npz", "NpzFile"),
    ".db": ("ase_database", "AseDatabase"),
    ".smi": ("smiles", "SmilesFile"),
    ".csv": ("smiles", "SmilesFile"),
}
_GRAPHS = (".smi", ".csv")  # without geometries
_COMPRESSED = (".sdf", ".xyz", ".extxyz", ".smi", ".csv")  # read with .gz behind, too
_ALLOWED = (
    "qm9, qm9:train, qm9:valid, qm9:test, or a .sdf, .xyz, .extxyz (also .gz), .npz or .db file, a "
    "folder or a pattern of such files, and .smi or .csv with --embed (embed=True)"
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
) -> MoleculeStream:
    """Molecules in batches, one of which is in memory at a time.

    Args:
        sources: `qm9`, `qm9:train`, `qm9:valid`, `qm9:test`; a .sdf, .xyz, .extxyz (all three also
            .gz), .npz (EDM's arrays) or .db (ASE) file, a folder or a pattern of them; .smi or .csv
            with `embed`; a list of these; or molecules in memory: a `MoleculeSet`, a data set of
            PyTorch Geometric or of Hugging Face `datasets`, ASE's or rdkit's molecules, pairs of
            positions (n, 3) and atomic numbers (n,).
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

    Returns:
        An iterable of `MoleculeSet`s, which can be passed more than once.

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
            formats += [_file(path, hydrogens, embed, seed) for path in _paths(source, embed)]
    if not formats:
        raise DataError(f"no source of molecules. Allowed: {_ALLOWED}.")
    for one in formats:
        if hydrogens == "add" and not one.states_bonds:
            raise DataError(
                f"{one.name} states no bonds, so hydrogens cannot be added. Allowed: .sdf, .smi "
                "and .csv; or keep, or remove."
            )
    return MoleculeStream(formats, batch_size, elements, hydrogens, skip_bad, share)


def read_molecules(
    sources: Any,  # noqa: ANN401
    elements: Sequence[str] | None = None,
    hydrogens: Hydrogens = "keep",
    embed: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> MoleculeSet:
    """All molecules of one or several sources, in memory.

    Arguments and errors are those of `stream_molecules`.
    """
    stream = stream_molecules(
        sources, _ALL, elements, hydrogens, embed, skip_bad, seed, progress=progress
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


def _paths(source: str | os.PathLike[str], embed: bool) -> list[Path]:
    """The files behind a name: itself, those of a folder, or those of a pattern."""
    name, path = os.fspath(source), Path(source)
    if path.is_dir():
        kinds = {kind for kind in READERS if embed or kind not in _GRAPHS}
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        files = [file for file in files if _kind(file) in kinds]
        fault = f"the folder {name} has no file of molecules"
    elif not path.exists() and glob.has_magic(name):
        files = [Path(file) for file in sorted(glob.glob(name, recursive=True))]
        fault = f"no file matches {name}"
    else:
        return [path]
    if not files:
        raise DataError(f"{fault}. Allowed: {_ALLOWED}.")
    return files


def _file(path: Path, hydrogens: Hydrogens, embed: bool, seed: int) -> Format[Any]:
    kind = _kind(path)
    if kind not in READERS and (path.suffix or path.exists()):
        raise DataError(
            f"cannot tell what {path} is. Allowed: {_ALLOWED}. Open Babel converts others: "
            f"obabel {path.name} -O {path.stem}.sdf"
        )
    if not path.is_file():
        siblings = [one.name for one in path.parent.glob("*")]
        close = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f" Did you mean {path.parent / close[0]}?" if close else ""
        raise DataError(f"there is no file{'' if path.suffix else ' or folder'} {path}.{hint}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Pass a file with at least one molecule.")
    if kind in _GRAPHS and not embed:
        raise DataError(
            f"{path} holds SMILES, which have no geometry. Pass --embed (embed=True) for one by "
            "ETKDG."
        )
    module, name = READERS[kind]
    reader: Callable[..., FileFormat[Any]] = getattr(
        import_module(f"gaga_adapter.molecules.formats.{module}"), name
    )
    return reader(path, hydrogens, embed, seed)


def _kind(path: Path) -> str:
    """The suffix, without .gz where a format can be compressed."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".gz"] and suffixes[0] in _COMPRESSED:
        return suffixes[0]
    return suffixes[-1] if suffixes else ""
