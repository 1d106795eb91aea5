"""What every reader gives: one molecule as its file has it, or the reason why there is none.

A format reads in two steps. `records` cuts its source into pieces and costs little; `molecule`
makes sense of one piece, and is where the time goes. So a process that has a share of the molecules
skips the others cheaply, and one malformed molecule does not end the file.
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

Hydrogens = Literal["keep", "remove", "add"]
Piece = TypeVar("Piece")


@dataclass(frozen=True, eq=False)
class Record:
    """One molecule of n atoms.

    Attributes:
        positions: (n, 3) float32, angstrom.
        atomic_numbers: (n,) uint8.
        smiles: as the source states it.
        mol: the `rdkit.Chem.Mol` of a format that states bonds.
        is_charged: whether the source states charges.
        is_periodic: whether the source states a periodic cell.
        is_bare: whether it has no hydrogen, and its bonds imply some.
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
        """Check one molecule.

        Args:
            positions: (n, 3), angstrom.
            atomic_numbers: (n,).
            smiles: as the source states it.
            mol: rdkit molecule with the bonds of the source.
            is_charged: whether the source states charges.
            is_periodic: whether the source states a cell.
            is_bare: whether its bonds imply hydrogens, of which there are none.

        Raises:
            DataError: no atoms, other shapes, an atomic number outside 1 to 118, or coordinates
                that are not finite.
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
    """No geometry was found for a molecular graph; not a fault of the file."""


class Format(ABC, Generic[Piece]):
    """A source of molecules.

    Attributes:
        name: for messages and provenance.
        states_bonds: whether hydrogens can be added.
    """

    name: str
    states_bonds: bool = False

    @abstractmethod
    def records(self) -> Iterator[Piece]:
        """Pieces of one molecule each, in order; cheap, and with memory for one of them.

        Raises:
            DataError: what follows cannot be cut into molecules.
        """

    @abstractmethod
    def molecule(self, piece: Piece, index: int) -> Record:
        """The molecule in one piece.

        Args:
            piece: of `records`.
            index: its place in the source.

        Raises:
            DataError: the reason why there is none, to be read behind "molecule 3".
        """

    def elements(self, piece: Piece, index: int) -> set[int]:
        """Atomic numbers that occur in one piece; raises like `molecule`."""
        return set(self.molecule(piece, index).atomic_numbers.tolist())


def open_text(path: Path, errors: str = "strict") -> TextIO:
    """A text file, or one compressed by gzip if its name ends in .gz."""
    if path.suffix.lower() == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8", errors=errors))
    return path.open(encoding="utf-8", errors=errors)


def without_hydrogens(record: Record) -> Record:
    """The heavy atoms of a molecule, without the bonds of its source.

    Raises:
        DataError: there are none.
    """
    heavy = record.atomic_numbers > 1
    return Record.of(
        record.positions[heavy],
        record.atomic_numbers[heavy],
        record.smiles,
        is_charged=record.is_charged,
        is_periodic=record.is_periodic,
    )
