"""Bonds from distances alone, by the rule of the EDM codebase (Hoogeboom et al. 2022).

Two atoms are bonded with order 3, 2 or 1 when their distance is below the typical length of that
bond plus a margin of 3, 5 or 10 pm; the margins were tuned there to make QM9 itself look most
stable. An atom is stable when the orders of its bonds sum to a valence that its element allows.

Bond lengths in pm and valences are those of EDM's `qm9/bond_analyze.py` (MIT licence, authors Emiel
Hoogeboom and Victor Garcia Satorras), which takes the lengths from wiredchemist.com ("bond energies
and lengths") and chemistry-reference.com. Pairs without a length are never bonded. EDM looks a pair
up in the order of its element list, which makes C=S symmetric as it is here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.elements import SYMBOLS, atomic_number
from gaga_adapter.errors import DataError
from gaga_adapter.molecules.data import MoleculeSet

_SINGLE = {
    "H": "H74 B119 C109 N101 O96 F92 Si148 P144 S134 Cl127 As152 Br141 I161",
    "B": "Cl175",
    "C": "C154 N147 O143 F135 Si185 P184 S182 Cl177 Br194 I214",
    "N": "N145 O140 F136 P177 S168 Cl175 Br214 I222",
    "O": "O148 F142 Si163 P163 S151 Cl164 Br172 I194",
    "F": "F142 Si160 P156 S158 Cl166 Br178 I187",
    "Si": "Si233 S200 Cl202 Br215 I243",
    "P": "P221 S210 Cl203 Br222",
    "S": "S204 Cl207 Br225 I234",
    "Cl": "Cl199 Br214",
    "Br": "Br228",
    "I": "I266",
}
_DOUBLE = {"C": "C134 N129 O120 S160", "N": "N125 O121", "O": "O121 P150", "P": "S186"}
_TRIPLE = {"C": "C120 N116 O113", "N": "N110"}
_MARGINS = (10, 5, 3)

_VALENCES: dict[str, tuple[int, ...]] = {
    "H": (1,), "B": (3,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "Al": (3,), "Si": (4,),
    "P": (3, 5), "S": (4,), "Cl": (1,), "As": (3,), "Br": (1,), "I": (1,), "Hg": (1, 2),
    "Bi": (3, 5),
}  # fmt: skip


def _longest() -> NDArray[np.float32]:
    """(3, 119, 119): distance in pm below which two elements have a bond of order 1, 2, 3."""
    longest = np.full((3, len(SYMBOLS), len(SYMBOLS)), -np.inf, np.float32)
    for level, (table, margin) in enumerate(
        zip((_SINGLE, _DOUBLE, _TRIPLE), _MARGINS, strict=True)
    ):
        for first, row in table.items():
            for second, length in re.findall(r"([A-Z][a-z]?)(\d+)", row):
                i, j = atomic_number(first), atomic_number(second)
                longest[level, i, j] = longest[level, j, i] = int(length) + margin
    return longest


def _forbidden() -> NDArray[np.bool_]:
    """(119, 256): whether an element is known not to have a sum of bond orders."""
    forbidden = np.zeros((len(SYMBOLS), 256), np.bool_)
    for symbol, valences in _VALENCES.items():
        forbidden[atomic_number(symbol)] = ~np.isin(np.arange(256), valences)
    return forbidden


_LONGEST = _longest()
_REACH = 1.05 * float(_LONGEST.max()) / 100  # angstrom: no two atoms further apart are bonded
_APART = 4 * _REACH  # angstrom in the fourth coordinate between two molecules
_MOST_MOLECULES, _MOST_ATOMS = 2048, 1 << 17  # of a batch; the atoms with padding
_FORBIDDEN = _forbidden()


@dataclass(frozen=True, eq=False)
class Bonds:
    """All K bonds of M molecules, each once, in the order of molecules and atoms.

    Attributes:
        shape: Number of molecules M and of atoms of the widest one N.
        molecule: Row of the molecule (K,).
        first: Atom at one end (K,).
        second: Atom at the other end (K,), which comes later.
        order: Order of the bond (K,): 1, 2 or 3.
    """

    shape: tuple[int, int]
    molecule: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    order: NDArray[np.uint8]

    @classmethod
    def of(cls, molecules: MoleculeSet) -> Bonds:
        """The bonds of a set, by the rule; the arithmetic is float32, like EDM's own.

        Time and memory grow with the number of atoms: pairs that are too far apart for any bond are
        never looked at. A fourth coordinate keeps the molecules of a set apart.
        """
        from scipy.spatial import cKDTree

        row, atom = np.nonzero(molecules.mask)
        positions, numbers = molecules.positions[row, atom], molecules.atomic_numbers[row, atom]
        places = np.column_stack([positions.astype(np.float64), _APART * row])
        pairs = cKDTree(places).query_pairs(_REACH, output_type="ndarray")
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        one, other = pairs.T
        offsets = positions[one] - positions[other]
        with np.errstate(over="ignore"):  # a diverged sample is far from everything
            distance = np.float32(100) * np.sqrt((offsets**2).sum(axis=-1))
        order = np.zeros(len(pairs), np.uint8)
        for longest in _LONGEST:
            order += distance < longest[numbers[one], numbers[other]]
        is_bond = order > 0
        one, other = one[is_bond], other[is_bond]
        shape = (len(molecules), molecules.positions.shape[1])
        return cls(shape, row[one], atom[one], atom[other], order[is_bond])

    @property
    def valence(self) -> NDArray[np.int64]:
        """Sum of the bond orders of each atom (M, N)."""
        width = self.shape[1]
        ends = self.molecule * width + np.stack([self.first, self.second])
        orders = np.tile(self.order, 2)
        sums = np.bincount(ends.ravel(), orders, minlength=self.shape[0] * width)
        return sums.astype(np.int64).reshape(self.shape)

    def dense(self) -> NDArray[np.uint8]:
        """Bond orders (M, N, N) of all pairs: symmetric, 0 without a bond; for few molecules."""
        orders = np.zeros((*self.shape, self.shape[1]), np.uint8)
        orders[self.molecule, self.first, self.second] = self.order
        orders[self.molecule, self.second, self.first] = self.order
        return orders

    def by_molecule(self) -> list[list[tuple[int, int, int]]]:
        """First atom, second atom and order of the bonds of each molecule."""
        rows = list(zip(self.first.tolist(), self.second.tolist(), self.order.tolist()))  # noqa: B905
        ends = np.searchsorted(self.molecule, np.arange(self.shape[0] + 1)).tolist()
        return [rows[start:end] for start, end in pairwise(ends)]


def batches_with_bonds(molecules: MoleculeSet) -> Iterator[tuple[MoleculeSet, Bonds]]:
    """Batches of a set in its order, each with its bonds; their size bounds the memory."""
    for rows in batch_rows(molecules):
        part = molecules.subset(rows)
        yield part, Bonds.of(part)


def batch_rows(molecules: MoleculeSet) -> Iterator[slice]:
    """Rows of batches of a set, in order: as many atoms, with padding, as fit the memory."""
    n_atoms, start, widest = molecules.n_atoms.tolist(), 0, 0
    for row, n in enumerate(n_atoms):
        widest = max(widest, n)
        n_rows = row + 1 - start
        if n_rows > 1 and (n_rows > _MOST_MOLECULES or n_rows * widest > _MOST_ATOMS):
            yield slice(start, row)
            start, widest = row, n
    yield slice(start, len(n_atoms))


def stable_atoms(molecules: MoleculeSet, bonds: Bonds) -> NDArray[np.bool_]:
    """Whether each atom (M, N) has an allowed sum of bond orders, which padding never has."""
    numbers = molecules.atomic_numbers
    unknown = sorted({SYMBOLS[z] for z in np.unique(numbers) if z} - set(_VALENCES))
    if unknown:
        raise DataError(
            f"{molecules.name}: no valence is known for {', '.join(unknown)}. "
            f"Allowed: {', '.join(_VALENCES)}."
        )
    return molecules.mask & ~broken_atoms(numbers, bonds)


def known_elements() -> NDArray[np.bool_]:
    """(119,) whether a valence and a bond length are known; True for 0, which is padding.

    Stability says nothing about molecules with other elements.
    """
    known = np.logical_and(np.isfinite(_LONGEST).any(axis=(0, 1)), _FORBIDDEN.any(axis=1))
    known[0] = True
    return known


def broken_atoms(atomic_numbers: NDArray[np.uint8], bonds: Bonds) -> NDArray[np.bool_]:
    """Whether the bond orders of each atom (M, N) have a sum that its element is known to forbid.

    The result is False in the padding and for elements without known valences.
    """
    broken: NDArray[np.bool_] = _FORBIDDEN[atomic_numbers, bonds.valence.clip(max=255)]
    return broken


def connected(bonds: Bonds, n_atoms: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the bond graph of each molecule (M,) has one component, as a single atom has."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n_molecules, width = bonds.shape
    ends = bonds.molecule * width + np.stack([bonds.first, bonds.second])
    n_places = n_molecules * width
    # csgraph of scipy 1.11 takes indices of 32 bits: with others it prints an error and goes on.
    places = tuple(ends.astype(np.int32))
    graph = coo_array((np.ones(ends.shape[1]), places), (n_places, n_places))
    labels = connected_components(graph, directed=False)[1].reshape(bonds.shape)
    is_apart = (labels != labels[:, :1]) & (np.arange(width) < n_atoms[:, None])
    whole: NDArray[np.bool_] = ~is_apart.any(axis=1)
    return whole
