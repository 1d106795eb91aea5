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
_FORBIDDEN = _forbidden()


def bond_orders(molecules: MoleculeSet) -> NDArray[np.uint8]:
    """Bond orders (M, N, N) of all pairs: 0 to 3, symmetric, 0 on the diagonal and in padding.

    The arithmetic is float32, like EDM's own.
    """
    # Elements are few: the tables are reduced to those present, so that they stay in the cache.
    present, kind = np.unique(molecules.atomic_numbers, return_inverse=True)
    kind = kind.reshape(molecules.atomic_numbers.shape)
    pair = kind[:, :, None] * len(present) + kind[:, None, :]
    offsets = molecules.positions[:, :, None] - molecules.positions[:, None]
    with np.errstate(over="ignore"):  # a diverged sample is far from everything
        distance = np.float32(100) * np.sqrt((offsets**2).sum(axis=-1))
    orders = np.zeros(distance.shape, np.uint8)
    for longest in _LONGEST:
        orders += distance < longest[np.ix_(present, present)].ravel()[pair]
    diagonal = np.arange(orders.shape[1])
    orders[:, diagonal, diagonal] = 0
    return orders


def batches_with_bonds(molecules: MoleculeSet) -> Iterator[tuple[MoleculeSet, NDArray[np.uint8]]]:
    """Batches of a set, each with its bond orders; their size bounds the memory of pair tensors."""
    return ((part, bond_orders(part)) for part in molecules.batches(2048))


def stable_atoms(molecules: MoleculeSet, orders: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each atom (M, N) has an allowed sum of bond orders, which padding never has."""
    numbers = molecules.atomic_numbers
    unknown = sorted({SYMBOLS[z] for z in np.unique(numbers) if z} - set(_VALENCES))
    if unknown:
        raise DataError(
            f"{molecules.name}: no valence is known for {', '.join(unknown)}. "
            f"Allowed: {', '.join(_VALENCES)}."
        )
    return molecules.mask & ~broken_atoms(numbers, orders)


def known_elements() -> NDArray[np.bool_]:
    """(119,) whether a valence and a bond length are known; True for 0, which is padding.

    Stability says nothing about molecules with other elements.
    """
    known = np.logical_and(np.isfinite(_LONGEST).any(axis=(0, 1)), _FORBIDDEN.any(axis=1))
    known[0] = True
    return known


def broken_atoms(atomic_numbers: NDArray[np.uint8], orders: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether the bond orders of each atom have a sum that its element is known not to allow.

    Atomic numbers are (..., N), bond orders (..., N, N), and the result (..., N) is False in the
    padding and for elements without known valences.
    """
    valence = orders.sum(axis=-1, dtype=np.int64).clip(max=255)
    broken: NDArray[np.bool_] = _FORBIDDEN[atomic_numbers, valence]
    return broken


def connected(orders: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the bond graph (M, N, N) of each molecule has one component, as a single atom has."""
    bonded = orders > 0
    reached = np.zeros_like(mask)
    reached[:, 0] = True  # padding comes last, so the first row is an atom
    while True:
        further = reached | np.einsum("mi,mij->mj", reached, bonded)
        if np.array_equal(further, reached):
            whole: NDArray[np.bool_] = np.all(reached == mask, axis=1)
            return whole
        reached = further
