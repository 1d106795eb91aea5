"""What every reader gives: one molecule as its file states it, or the reason why there is none.

A format reads in two steps. `records` cuts its source into pieces and costs little; `molecule`
parses one piece and takes the time. A process that has a share of the molecules thus skips the
others cheaply, and one malformed molecule does not end the file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import IO, Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import DataError
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats.opening import Input

Hydrogens = Literal["keep", "remove", "add"]
Piece = TypeVar("Piece")
#: Largest number of atoms in a molecule. A larger one in a file is taken for damage.
MOST_ATOMS = 1_000_000
#: What to do with a file that holds something else than molecules.
IMAGES = (
    "Images, latents and signals are read from one array of floats (M, C, ...), for images "
    "(M, C, H, W), scaled as the model sees them: write it with numpy.save into a .npy file."
)
#: Number of characters that no line of a text of molecules reaches.
MOST_CHARACTERS = 1_000_000


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
        is_bare: Whether its bonds imply hydrogens, and it has none at all, or none on carbon.
        is_radical: Whether the source states unpaired electrons.
        is_isotopic: Whether the source states isotopes.
        is_split: Whether the bonds of the source leave it in several pieces.
        is_flat: Whether the source calls it spatial, although it lies in the plane z = 0.
    """

    positions: NDArray[np.float32]
    atomic_numbers: NDArray[np.uint8]
    smiles: str | None = None
    mol: Any = None
    is_charged: bool = False
    is_periodic: bool = False
    is_bare: bool = False
    is_radical: bool = False
    is_isotopic: bool = False
    is_split: bool = False
    is_flat: bool = False

    @classmethod
    def of(
        cls,
        positions: ArrayLike,
        atomic_numbers: ArrayLike,
        smiles: str | None = None,
        mol: Any = None,  # noqa: ANN401  # rdkit has no types
        **marks: bool,
    ) -> Record:
        """Check one molecule; the arguments are the attributes.

        Raises:
            DataError: If there are no atoms, the shapes do not fit, an atomic number is not one of
                1 to 118, or a coordinate is not finite.
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
        if numbers.dtype.kind not in "iuf":
            raise DataError(f"has atomic numbers of type {numbers.dtype}; allowed: numbers")
        if not 1 <= numbers.min() <= numbers.max() < len(SYMBOLS):  # also where one is NaN
            raise DataError("has an atomic number that is not one of 1 to 118")
        if numbers.dtype.kind == "f" and (numbers % 1).any():
            part = numbers[numbers % 1 != 0][0]
            raise DataError(f"has the atomic number {part}, which is not a whole number")
        if not np.abs(given).max() < np.finfo(np.float32).max:
            raise DataError("has NaN or infinite coordinates")
        x, z = given.astype(np.float32), numbers.astype(np.uint8)
        return cls(x, z, smiles, mol, **marks)


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

    def with_bonds(self, piece: Piece, index: int) -> Record:
        """The same molecule, with its `mol` wherever the source states bonds."""
        return self.molecule(piece, index)

    def elements(self, piece: Piece, index: int) -> set[int]:
        """Atomic numbers that occur in one piece; raises like `molecule`."""
        return set(self.molecule(piece, index).atomic_numbers.tolist())


class FileFormat(Format[Piece]):
    """One file of molecules.

    Args:
        source: The file, or a pipe.
        hydrogens: Value `add` asks a format that states bonds for those that they imply.
        embed: Whether a molecule without a geometry gets one by ETKDG.
        seed: Seed of these geometries.

    Attributes:
        needs_file: Whether the format cannot be read from a pipe or a compressed file.
    """

    needs_file: bool = False

    def __init__(
        self, source: Input, hydrogens: Hydrogens = "keep", embed: bool = False, seed: int = 0
    ) -> None:
        self.name, self.source = source.name, source
        self._hydrogens, self._embed, self._seed = hydrogens, embed, seed

    def _lines(self, stream: IO[str]) -> Iterator[str]:
        """The lines of a text, with their ends; one that has no end in sight is an error."""
        number = 0
        while line := stream.readline(MOST_CHARACTERS):
            number += 1
            if len(line) == MOST_CHARACTERS:
                raise DataError(
                    f"{self.name}: line {number:,} has {MOST_CHARACTERS:,} characters or more: "
                    "this is no text of molecules."
                )
            yield line


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
    from rdkit import Chem

    n_atoms = mol.GetNumAtoms()
    if not mol.GetNumConformers():
        raise DataError("has no coordinates" if n_atoms else "has no atoms")
    # rdkit's own iterator over atoms is written in Python, and would cost more than all else.
    atoms = [mol.GetAtomWithIdx(index) for index in range(n_atoms)]
    numbers = [atom.GetAtomicNum() for atom in atoms]
    if 0 in numbers:
        symbol = atoms[numbers.index(0)].GetSymbol()
        raise DataError(
            f"has the atom {symbol!r}, which is a placeholder (a dummy, an R group, a query) and "
            "no element"
        )
    charged, radical, isotopic = _marks()
    return Record.of(
        mol.GetConformer().GetPositions(),
        numbers,
        smiles,
        mol=mol,
        is_charged=bool(mol.GetAtomsMatchingQuery(charged)),
        is_radical=bool(mol.GetAtomsMatchingQuery(radical)),
        is_isotopic=bool(mol.GetAtomsMatchingQuery(isotopic)),
        is_split=len(Chem.GetMolFrags(mol)) > 1,
        is_bare=_is_bare(mol, atoms, numbers),
    )


@cache
def _marks() -> tuple[Any, Any, Any]:
    """Queries of rdkit for atoms with a charge, with unpaired electrons, of a stated isotope."""
    from rdkit import Chem
    from rdkit.Chem import rdqueries

    return (
        Chem.AtomFromSmarts("[!+0]"),
        rdqueries.NumRadicalElectronsGreaterQueryAtom(0),
        rdqueries.IsotopeGreaterQueryAtom(0),
    )


def _is_bare(mol: Any, atoms: list[Any], numbers: list[int]) -> bool:  # noqa: ANN401
    """Whether hydrogens are implied, and there are none at all, or none on carbon.

    An atom that lacks a bond here and there does not count: generated molecules have such.
    """
    mol.UpdatePropertyCache(strict=False)
    if mol.GetNumAtoms(onlyExplicit=False) == len(atoms):
        return False
    if 1 not in numbers:
        return True
    carbons = [atom for atom, number in zip(atoms, numbers, strict=True) if number == 6]
    return any(atom.GetTotalNumHs() for atom in carbons) and not any(
        other.GetAtomicNum() == 1 for atom in carbons for other in atom.GetNeighbors()
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
        is_radical=record.is_radical,
        is_isotopic=record.is_isotopic,
        is_split=record.is_split,
        is_flat=record.is_flat,
    )
