"""What every reader gives: one molecule as its file states it, or the reason why there is none.

A format reads in two steps. `records` cuts its source into pieces and costs little; `molecule`
parses one piece and takes the time. A process that has a share of the molecules thus skips the
others cheaply, and one malformed molecule does not end the file.
"""

from __future__ import annotations

import gzip
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TextIO, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import DataError
from gaga_adapter.molecules.data import MoleculeSet

Hydrogens = Literal["keep", "remove", "add"]
Piece = TypeVar("Piece")


@dataclass(frozen=True, eq=False)
class Record:
    """One molecule of n atoms.

    Attributes:
        positions: Positions (n, 3) float32, angstrom.
        atomic_numbers: Atomic numbers (n,) uint8.
        smiles: SMILES as the source states it.
        mol: The `rdkit.Chem.Mol` of a format that states bonds.
        is_charged: Whether the source states charges.
        is_periodic: Whether the source states a periodic cell.
        is_bare: Whether it has no hydrogen, although its bonds imply some.
    """

    positions: NDArray[np.float32]
    atomic_numbers: NDArray[np.uint8]
    smiles: str | None = None
    mol: Any = None
    is_charged: bool = False
    is_periodic: bool = False
    is_bare: bool = False

    @classmethod
    def of(
        cls,
        positions: ArrayLike,
        atomic_numbers: ArrayLike,
        smiles: str | None = None,
        mol: Any = None,  # noqa: ANN401  # rdkit has no types
        is_charged: bool = False,
        is_periodic: bool = False,
        is_bare: bool = False,
    ) -> Record:
        """Check one molecule; the arguments are the attributes.

        Raises:
            DataError: If there are no atoms, the shapes do not fit, an atomic number is outside 1
                to 118, or a coordinate is not finite.
        """
        try:
            given = np.asarray(positions, np.float64)
            numbers = np.asarray(atomic_numbers)
        except (TypeError, ValueError) as error:  # ragged or no numbers
            raise DataError(f"has no arrays of numbers: {error}") from error
        if not len(numbers):
            raise DataError("has no atoms")
        if numbers.ndim != 1 or given.shape != (len(numbers), 3):
            raise DataError(
                f"has positions {given.shape} and atomic numbers {numbers.shape}; allowed: "
                "(n, 3) and (n,)"
            )
        if numbers.dtype.kind not in "iuf" or not 1 <= numbers.min() <= numbers.max() < len(
            SYMBOLS
        ):
            raise DataError("has an atomic number that is not one of 1 to 118")
        if not np.abs(given).max() < np.finfo(np.float32).max:
            raise DataError("has NaN or infinite coordinates")
        x, z = given.astype(np.float32), numbers.astype(np.uint8)
        return cls(x, z, smiles, mol, is_charged, is_periodic, is_bare)


class NotEmbedded(DataError):
    """A molecular graph got no geometry, which is not a fault of the file."""


class Format(ABC, Generic[Piece]):
    """A source of molecules.

    Attributes:
        name: The name for messages and provenance.
        states_bonds: Whether hydrogens can be added.
        total: Number of molecules, where it is known without a pass.
    """

    name: str
    states_bonds: bool = False
    total: int | None = None

    @abstractmethod
    def records(self) -> Iterator[Piece]:
        """Pieces of one molecule each, in order, quickly and with one of them in memory.

        Raises:
            DataError: If the rest of the source cannot be cut into molecules.
        """

    @abstractmethod
    def molecule(self, piece: Piece, index: int) -> Record:
        """The molecule in one of the `records`; `index` is its place in the source.

        Raises:
            DataError: If there is none; the message continues a sentence that begins "molecule 3".
        """

    def elements(self, piece: Piece, index: int) -> set[int]:
        """Atomic numbers that occur in one piece; raises like `molecule`."""
        return set(self.molecule(piece, index).atomic_numbers.tolist())


class FileFormat(Format[Piece]):
    """One file of molecules.

    Args:
        path: The file.
        hydrogens: Value `add` asks a format that states bonds for those that they imply.
        embed: Whether a molecule without a geometry gets one by ETKDG.
        seed: Seed of these geometries.
    """

    def __init__(
        self, path: Path, hydrogens: Hydrogens = "keep", embed: bool = False, seed: int = 0
    ) -> None:
        self.name, self._path = str(path), path
        self._hydrogens, self._embed, self._seed = hydrogens, embed, seed

    def _text(self, errors: str = "strict") -> TextIO:
        """The file as text; it is compressed by gzip if its name ends in .gz."""
        if self._path.suffix.lower() == ".gz":
            return cast(TextIO, gzip.open(self._path, "rt", encoding="utf-8", errors=errors))
        return self._path.open(encoding="utf-8", errors=errors)


class Whole(Format[int]):
    """A set of molecules that was checked when it was made; its pieces are its rows."""

    def __init__(self, molecules: MoleculeSet) -> None:
        self.name, self.molecules, self.total = molecules.name, molecules, len(molecules)

    def records(self) -> Iterator[int]:  # noqa: D102
        return iter(range(len(self.molecules)))

    def molecule(self, piece: int, index: int) -> Record:  # noqa: D102
        smiles = self.molecules.smiles
        return Record(*self.molecules.molecule(piece), None if smiles is None else smiles[piece])


def record_of(mol: Any, smiles: str | None = None) -> Record:  # noqa: ANN401  # rdkit has no types
    """The record of an rdkit molecule with a conformer, sanitised or not."""
    if not mol.GetNumConformers():
        raise DataError("has no coordinates" if mol.GetNumAtoms() else "has no atoms")
    # rdkit's own iterator over atoms is written in Python, and would cost more than all else.
    atoms = [mol.GetAtomWithIdx(index) for index in range(mol.GetNumAtoms())]
    numbers = [atom.GetAtomicNum() for atom in atoms]
    is_bare = False
    if 1 not in numbers:
        mol.UpdatePropertyCache(strict=False)
        is_bare = any(atom.GetTotalNumHs() for atom in atoms)
    return Record.of(
        mol.GetConformer().GetPositions(),
        numbers,
        smiles,
        mol=mol,
        is_charged=any(atom.GetFormalCharge() for atom in atoms),
        is_bare=is_bare,
    )


def without_hydrogens(record: Record) -> Record:
    """The heavy atoms of a molecule, without the bonds of its source."""
    heavy = record.atomic_numbers > 1
    return Record.of(
        record.positions[heavy],
        record.atomic_numbers[heavy],
        record.smiles,
        is_charged=record.is_charged,
        is_periodic=record.is_periodic,
    )
