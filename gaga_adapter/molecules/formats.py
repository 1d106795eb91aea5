"""Molecules from files and into them: QM9 by name, .sdf, multi-frame .xyz, and EDM's .npz.

Every reader names the file and the record it cannot read. Coordinates are in angstrom throughout.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gaga_adapter.atomic import replacing
from gaga_adapter.errors import DataError
from gaga_adapter.molecules.chemistry import to_rdkit
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.elements import SYMBOLS, atomic_number, atomic_numbers
from gaga_adapter.molecules.qm9 import load_qm9

Source = str | os.PathLike[str]


def read_molecules(
    source: Source | Sequence[Source], elements: Sequence[str] | None = None
) -> MoleculeSet:
    """Molecules of a data set, of a file, or of several one after the other.

    Args:
        source: `qm9`, `qm9:train`, `qm9:valid`, `qm9:test`, or a .sdf, .xyz or .npz file.
        elements: chemical symbols that may occur; every element if None.

    Raises:
        DataError: a source is missing, of an unknown kind, empty, unreadable (the record is named),
            or holds an element that is not allowed or a coordinate that is not finite.
    """
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not sources:
        raise DataError(f"no source of molecules. Allowed: {_ALLOWED}.")
    parts = [_read_one(one) for one in sources]
    molecules = parts[0] if len(parts) == 1 else MoleculeSet.concatenate(parts)
    if elements is not None:
        foreign = molecules.mask & ~np.isin(molecules.atomic_numbers, atomic_numbers(elements))
        if foreign.any():
            row, atom = np.argwhere(foreign)[0]
            raise DataError(
                f"{molecules.name}: molecule {row} has the element "
                f"{SYMBOLS[molecules.atomic_numbers[row, atom]]}. Allowed: {', '.join(elements)}."
            )
    return molecules


def sdf_text(molecules: MoleculeSet) -> str:
    """The text of an SDF file, bonds by EDM's distance rule."""
    from rdkit import Chem

    # The columns of the V2000 format end at 10,000 angstrom; a diverged sample may be beyond.
    is_far = bool((np.abs(molecules.positions) >= 1e4).any())
    blocks = []
    for index, mol in enumerate(to_rdkit(molecules)):
        mol.SetProp("_Name", f"{molecules.name} {index}")
        mol.UpdatePropertyCache(strict=False)
        blocks.append(Chem.MolToMolBlock(mol, kekulize=False, forceV3000=is_far))
    return "".join(f"{block}$$$$\n" for block in blocks)


def write_sdf(molecules: MoleculeSet, path: Source) -> None:
    """Write an SDF file (see `sdf_text`); it appears whole or not at all.

    Raises:
        WriteError: the file cannot be written.
    """
    text = sdf_text(molecules)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read_one(source: Source) -> MoleculeSet:
    name = os.fspath(source)
    if name == "qm9":
        return load_qm9()
    if name.startswith("qm9:"):
        return load_qm9(name.removeprefix("qm9:"))  # type: ignore[arg-type]  # it checks the split
    path = Path(name)
    if path.suffix.lower() not in _READERS:
        raise DataError(f"cannot tell what {name} is. Allowed: {_ALLOWED}.")
    if not path.is_file():
        raise DataError(f"there is no file {name}. Allowed: {_ALLOWED}.")
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty. Pass a file with at least one molecule.")
    try:
        return _READERS[path.suffix.lower()](path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {name}: {error}.") from error


def _read_xyz(path: Path) -> MoleculeSet:
    """Frames of a count, a comment and `element x y z ...` lines (extended xyz in that order)."""
    lines = path.read_text(encoding="utf-8").splitlines()
    molecules: list[tuple[list[list[float]], list[int]]] = []
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        record = f"{path}: molecule {len(molecules)}, line"
        if not lines[start].strip().isdecimal() or not int(lines[start]):
            raise DataError(
                f"{record} {start + 1}: got {lines[start]!r}, need the number of atoms."
            )
        stop = start + 2 + int(lines[start])
        if stop > len(lines):
            raise DataError(f"{record} {start + 1}: {int(lines[start])} atoms, but the file ends.")
        positions: list[list[float]] = []
        numbers: list[int] = []
        for row in range(start + 2, stop):
            fields = lines[row].split()
            try:
                numbers.append(atomic_number(fields[0]))
                positions.append([float(fields[1]), float(fields[2]), float(fields[3])])
            except DataError as error:
                raise DataError(f"{record} {row + 1}: {error}") from error
            except (IndexError, ValueError) as error:
                raise DataError(
                    f"{record} {row + 1}: got {lines[row]!r}, need `element x y z`."
                ) from error
        molecules.append((positions, numbers))
        start = stop
    return MoleculeSet.from_list(molecules, str(path))


def _read_sdf(path: Path) -> MoleculeSet:
    """Records as rdkit reads them, hydrogens kept and nothing sanitised."""
    from rdkit import Chem, rdBase

    molecules = []
    with rdBase.BlockLogs():
        for index, mol in enumerate(Chem.SDMolSupplier(str(path), removeHs=False, sanitize=False)):
            if mol is None:
                raise DataError(f"{path}: rdkit cannot read molecule {index}.")
            if not mol.GetNumAtoms() or not mol.GetNumConformers():
                raise DataError(f"{path}: molecule {index} has no atoms or no coordinates.")
            numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
            molecules.append((mol.GetConformer().GetPositions(), numbers))
    return MoleculeSet.from_list(molecules, str(path))


def _read_npz(path: Path) -> MoleculeSet:
    """EDM's arrays: `num_atoms` (M,), `charges` (M, N), `positions` (M, N, 3)."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            missing = {"num_atoms", "charges", "positions"} - set(arrays.files)
            if missing:
                raise DataError(
                    f"{path} has no {', '.join(sorted(missing))}. "
                    "Allowed: arrays num_atoms (M,), charges (M, N) and positions (M, N, 3)."
                )
            n_atoms, charges, positions = (
                arrays[key] for key in ("num_atoms", "charges", "positions")
            )
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path}: {error}.") from error
    if charges.ndim != 2 or n_atoms.shape != charges.shape[:1]:
        raise DataError(f"{path}: num_atoms {n_atoms.shape} does not fit charges {charges.shape}.")
    wrong = np.flatnonzero((charges > 0).sum(axis=1) != n_atoms)
    if len(wrong):
        raise DataError(f"{path}: molecule {wrong[0]} has not as many charges as num_atoms says.")
    return MoleculeSet(positions, charges, str(path))


_READERS: dict[str, Callable[[Path], MoleculeSet]] = {
    ".sdf": _read_sdf,
    ".xyz": _read_xyz,
    ".npz": _read_npz,
}
_ALLOWED = "qm9, qm9:train, qm9:valid, qm9:test, or a .sdf, .xyz or .npz file"
