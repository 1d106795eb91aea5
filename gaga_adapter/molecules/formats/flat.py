"""Arrays that hold the atoms of all molecules one after the other, without padding.

- EDM's GEOM-DRUGS, `geom_drugs_30.npy`: rows (N, 5) of the number of a molecule, the atomic number
  and x, y, z. A molecule ends where the number changes, as in EDM's own loader.
- The folders of the package atomic-datasets: `train_positions.npy` (N, 3), `train_species.npy` (N,)
  and `train_offsets.npy` (M + 1,), molecule i being the atoms from offset i up to the next. Species
  are places in a list of elements that the package fixes for each data set.

Both are read some ten thousand rows at a time, and never held whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.record import MOST_ATOMS, FileFormat, Record
from gaga_adapter.molecules.formats.rows import Rows

_ATOMS = 1 << 16  # read at a time
_POSITIONS = "_positions.npy"
_SEEN = 1000  # rows from which the kind of an array is told
#: Atomic numbers that the species of atomic-datasets 0.1 stand for, by a file that only this data
#: set has: GEOMDrugs and ChEMBL3D.
_SPECIES = {
    "mol_indices.npy": (1, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 33, 35, 53, 80, 83),
    "metadata.json": (1, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 33, 35, 53, 80, 83, 34),
}
_ALLOWED = (
    "Allowed: rows (N, 5) of molecule, atomic number, x, y, z (EDM's geom_drugs_30.npy), or the "
    "..._positions.npy of a folder of atomic-datasets. Files that belong to such an array need not "
    "be named: name the array, or its folder"
)

#: Atomic numbers or species (n,), and positions (n, 3).
Atoms = tuple[NDArray[Any], NDArray[Any]]


class NpyFile(FileFormat[Atoms]):
    """One .npy file in one of the two layouts."""

    needs_file = True

    def records(self) -> Iterator[Atoms]:  # noqa: D102
        self._elements: NDArray[np.int64] | None = None
        with ExitStack() as stack:
            rows = _opened(stack, self.source.path)
            if rows.shape[1:] == (5,):
                yield from _by_index(rows, self.name)
                return
            beside = _beside(self.source.path)
            if rows.shape[1:] != (3,) or not beside("offsets.npy").exists():
                raise DataError(f"{self.name} has the shape {rows.shape}. {_ALLOWED}.")
            marks = [mark for mark in _SPECIES if beside(mark).exists()]
            if not marks or not beside("species.npy").exists():
                raise DataError(
                    f"{self.name} has no list of its elements beside it. Known: GEOMDrugs "
                    f"({beside('species.npy').name} and {beside('mol_indices.npy').name}) and "
                    f"ChEMBL3D ({beside('species.npy').name} and {beside('metadata.json').name}). "
                    "Other data sets of atomic-datasets can be passed as objects in Python."
                )
            self._elements = np.array(_SPECIES[marks[0]])
            species, offsets = (
                _opened(stack, beside(name)) for name in ("species.npy", "offsets.npy")
            )
            yield from by_offsets(offsets, species, rows, self.name)

    def molecule(self, piece: Atoms, index: int) -> Record:  # noqa: D102
        kinds, positions = piece
        if self._elements is not None:
            n = len(self._elements)
            if not ((kinds >= 0) & (kinds < n)).all():
                raise DataError(f"has a species that is not one of 0 to {n - 1}")
            kinds = self._elements[kinds]
        return Record.of(positions, kinds)


def holds_molecules(path: Path) -> bool:
    """Whether a .npy file holds molecules, and neither other numbers nor what belongs to them.

    An array of five columns counts if the first one is whole numbers and the second one atomic
    numbers.
    """
    if path.name.endswith(_POSITIONS):
        return _beside(path)("offsets.npy").exists()
    if not path.is_file():  # a pipe would wait
        return False
    try:
        with path.open("rb") as stream:
            rows = Rows(stream, path.stat().st_size, str(path))
            if rows.shape[1:] != (5,) or not rows.shape[0]:
                return False
            first = rows.read(min(_SEEN, rows.shape[0]))
    except (OSError, ValueError, EOFError):
        return False
    molecule, number = first[:, 0], first[:, 1]
    with np.errstate(invalid="ignore"):
        is_whole = bool((molecule % 1 == 0).all() and (number % 1 == 0).all())
    return is_whole and bool(((number > 0) & (number < len(SYMBOLS))).all())


def by_offsets(offsets: Rows, kinds: Rows, positions: Rows, name: str) -> Iterator[Atoms]:
    """The atoms of each molecule, which end where those of the next begin.

    Args:
        offsets: Number of the first atom of each molecule, and of all atoms at the end (M + 1,).
        kinds: Atomic numbers or species (N,).
        positions: Positions (N, 3).
        name: The name for messages.

    Raises:
        DataError: If the three do not fit.
    """
    n = positions.shape[0] if positions.shape else 0
    m = offsets.shape[0] - 1 if len(offsets.shape) == 1 else -1
    if (kinds.shape, positions.shape) != ((n,), (n, 3)) or m < 0:
        raise DataError(
            f"{name}: offsets {offsets.shape} and kinds of atoms {kinds.shape} do not fit "
            f"positions {positions.shape}. Allowed: (M + 1,), (N,) and (N, 3)."
        )
    if not (offsets.is_whole and kinds.is_whole):
        raise DataError(f"{name}: offsets and kinds of atoms must be integers by their type.")
    at = int(offsets.read(1)[0])
    if at != 0:
        raise DataError(f"{name}: the first of the offsets is {at}. Allowed: 0.")
    for start in range(0, m, _ATOMS):
        ends = offsets.read(min(_ATOMS, m - start)).astype(np.int64)
        if (np.diff(ends, prepend=at) < 0).any() or ends[-1] > n:
            raise DataError(f"{name}: the offsets must not fall, nor go beyond the {n:,} atoms.")
        first = 0
        while first < len(ends):  # as many molecules as fit into a block, and one at least
            last = max(first + 1, int(np.searchsorted(ends, at + _ATOMS, side="right")))
            count = int(ends[last - 1]) - at
            if count > MOST_ATOMS:
                raise DataError(
                    f"{name}: molecule {start + first} has {count:,} atoms. Allowed: up to "
                    f"{MOST_ATOMS:,}."
                )
            cuts = ends[first : last - 1] - at
            block = kinds.read(count), positions.read(count)
            yield from zip(*(np.split(array, cuts) for array in block), strict=True)
            first, at = last, int(ends[last - 1])
    if at != n:
        raise DataError(f"{name}: the offsets end at {at:,}, and there are {n:,} atoms.")


def _by_index(rows: Rows, name: str) -> Iterator[Atoms]:
    """The atoms of each molecule, which are those of neighbouring rows with one number."""
    n = rows.shape[0]
    rest = np.empty((0, 5))
    found = 0
    for start in range(0, n, _ATOMS):
        block = np.concatenate([rest, rows.read(min(_ATOMS, n - start))])
        index = block[:, 0]
        with np.errstate(invalid="ignore"):
            is_whole = (index % 1 == 0).all()
        if not is_whole:
            raise DataError(
                f"{name}: the first column must number the molecules, and holds "
                f"{index[index % 1 != 0][0]}. {_ALLOWED}."
            )
        *whole, rest = np.split(block, np.flatnonzero(np.diff(index)) + 1)
        if len(rest) > MOST_ATOMS:
            raise DataError(
                f"{name}: molecule {found + len(whole)} has more than {MOST_ATOMS:,} atoms."
            )
        found += len(whole)
        for one in whole:
            yield one[:, 1], one[:, 2:]
    if len(rest):
        yield rest[:, 1], rest[:, 2:]


def _beside(path: Path) -> Callable[[str], Path]:
    """Paths of the arrays that belong to the positions of a split."""
    prefix = path.name.removesuffix(_POSITIONS)
    return lambda name: path.with_name(f"{prefix}_{name}")


def _opened(stack: ExitStack, path: Path) -> Rows:
    stream = stack.enter_context(path.open("rb"))
    return Rows(stream, path.stat().st_size, str(path))
