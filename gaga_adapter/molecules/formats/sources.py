"""From what a user names to the formats that read it: data sets, files, folders, patterns."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gaga_adapter.errors import DataError
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats.ase_database import AseDatabase
from gaga_adapter.molecules.formats.npz import NpzFile
from gaga_adapter.molecules.formats.objects import Objects, Whole
from gaga_adapter.molecules.formats.record import Format, Hydrogens
from gaga_adapter.molecules.formats.sdf import SdfFile
from gaga_adapter.molecules.formats.smiles import SmilesFile
from gaga_adapter.molecules.formats.xyz import XyzFile
from gaga_adapter.molecules.qm9.data import load_qm9

GEOMETRIES = (".sdf", ".xyz", ".extxyz", ".npz", ".db")
GRAPHS = (".smi", ".csv")
COMPRESSED = (".sdf", ".xyz", ".extxyz", ".smi", ".csv")
ALLOWED = (
    "qm9, qm9:train, qm9:valid, qm9:test, or a .sdf, .xyz, .extxyz (also .gz), .npz or .db file, a "
    "folder or a pattern of such files, and .smi or .csv with --embed (embed=True)"
)


def opened(
    sources: Any,  # noqa: ANN401  # paths, or molecules of any package
    hydrogens: Hydrogens = "keep",
    embed: bool = False,
    seed: int = 0,
) -> list[Format[Any]]:
    """What reads each source, in order.

    Args:
        sources: a path or name, a sequence of them, or a data set of objects.
        hydrogens: `add` asks for formats that state bonds.
        embed: whether graphs get geometries.
        seed: of the embedding.

    Raises:
        DataError: nothing there, of an unknown kind, empty, or without bonds to add hydrogens by.
        MissingExtraError: the reader of a format is not installed.
    """
    found: list[Format[Any]] = []
    for source in _listed(sources):
        if isinstance(source, MoleculeSet):
            found.append(Whole(source))
        elif not isinstance(source, str | os.PathLike):
            found.append(Objects(source))
        elif os.fspath(source) == "qm9" or os.fspath(source).startswith("qm9:"):
            split = os.fspath(source)[4:] or None
            found.append(Whole(load_qm9(split)))  # type: ignore[arg-type]  # it checks the split
        else:
            found += [_file(path, hydrogens, embed, seed) for path in _paths(source, embed)]
    if not found:
        raise DataError(f"no source of molecules. Allowed: {ALLOWED}.")
    for one in found:
        if hydrogens == "add" and not one.states_bonds:
            raise DataError(
                f"{one.name} states no bonds, so hydrogens cannot be added. Allowed: .sdf, .smi "
                "and .csv; or keep, or remove."
            )
    return found


def _listed(sources: Any) -> Sequence[Any]:  # noqa: ANN401
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
        kinds = (*GEOMETRIES, *GRAPHS) if embed else GEOMETRIES
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        files = [file for file in files if _kind(file) in kinds]
        if not files:
            raise DataError(f"the folder {name} has no file of molecules. Allowed: {ALLOWED}.")
        return files
    if not path.exists() and glob.has_magic(name):
        files = [Path(file) for file in sorted(glob.glob(name, recursive=True))]
        if not files:
            raise DataError(f"no file matches {name}. Allowed: {ALLOWED}.")
        return files
    return [path]


def _file(path: Path, hydrogens: Hydrogens, embed: bool, seed: int) -> Format[Any]:
    readers: dict[str, Callable[[], Format[Any]]] = {
        ".sdf": lambda: SdfFile(path, hydrogens, embed, seed),
        ".xyz": lambda: XyzFile(path),
        ".extxyz": lambda: XyzFile(path),
        ".npz": lambda: NpzFile(path),
        ".db": lambda: AseDatabase(path),
        ".smi": lambda: SmilesFile(path, seed),
        ".csv": lambda: SmilesFile(path, seed),
    }
    kind = _kind(path)
    if kind not in readers and (path.suffix or path.exists()):
        raise DataError(
            f"cannot tell what {path} is. Allowed: {ALLOWED}. Open Babel converts others: "
            f"obabel {path.name} -O {path.stem}.sdf"
        )
    if not path.is_file():
        siblings = [one.name for one in path.parent.glob("*")]
        close = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f" Did you mean {path.parent / close[0]}?" if close else ""
        raise DataError(f"there is no file{'' if path.suffix else ' or folder'} {path}.{hint}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Pass a file with at least one molecule.")
    if kind in GRAPHS and not embed:
        raise DataError(
            f"{path} holds SMILES, which have no geometry. Pass --embed (embed=True) for one by "
            "ETKDG."
        )
    return readers[kind]()


def _kind(path: Path) -> str:
    """The suffix, without .gz where a format can be compressed."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".gz"] and suffixes[0] in COMPRESSED:
        return suffixes[0]
    return suffixes[-1] if suffixes else ""
