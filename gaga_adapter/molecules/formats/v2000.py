"""Plain V2000 records, read without a chemistry library.

Most records of large files are plain: neutral closed-shell molecules with single, double and triple
bonds and nothing between the bonds and `M  END`. Their columns hold all that is asked of a record,
so they are cut out here, in half of the time that rdkit takes. Whatever else a record holds, down
to one column that is not as expected, leaves the decision to rdkit.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

import numpy as np

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.molecules.formats.record import Record

#: Third line of the records that are written here. Their bonds are those of EDM's distance rule, so
#: that a sample with a bond too few is no molecule of several pieces, and lacks no hydrogens.
BY_DISTANCES = "bonds from distances"
_COUNTS = re.compile(
    r"([ \d]{3})([ \d]{3})(?:  0|   )[ \d]{3}(?:  [01]|   )[ \d]{18} V2000\s*", re.A
)
_BOND = re.compile(r"([ \d]{2}\d)([ \d]{2}\d)  ([123])(?:  [0-6])?[ 0]*", re.A)
_NUMBERS = {f" {symbol:<3}": number for number, symbol in enumerate(SYMBOLS) if number}


def plain_record(text: str) -> Record | None:
    """The molecule of a record, or None if it is not plain; without its bonds."""
    lines = text.split("\n")
    counts = _COUNTS.fullmatch(lines[3]) if len(lines) > 4 else None
    if counts is None or lines[1][20:22].upper() == "2D":
        return None
    try:
        n, n_bonds = int(counts[1]), int(counts[2])
        atoms, bond_lines = lines[4 : 4 + n], lines[4 + n : 4 + n + n_bonds]
        coordinates = "".join([line[:30] for line in atoms]).encode("ascii")
        if (
            n == 0
            or len(coordinates) != 30 * n
            or coordinates.translate(None, b" 0123456789.-")
            or lines[4 + n + n_bonds].rstrip() != "M  END"
            or text.count("M  END") > 1
        ):
            return None
        positions = np.frombuffer(coordinates, "S10").astype(np.float64).reshape(n, 3)
        numbers = [_atomic_number(line[30:]) for line in atoms]
        bonds = [_bond(line) for line in bond_lines]
    except (ValueError, KeyError, IndexError):
        return None
    if not positions[:, 2].any() or len({both for _, _, _, both in bonds}) < n_bonds:
        return None
    valences = [0] * n
    try:
        for i, j, order, _ in bonds:
            valences[i] += order
            valences[j] += order
    except IndexError:
        return None
    is_stated = lines[2].strip() != BY_DISTANCES
    lacking = {
        number
        for number, valence in set(zip(numbers, valences, strict=True))
        if number != 1 and _lacks_hydrogens(number, valence)
    }
    is_bare = bool(lacking) and 1 not in numbers
    if is_stated and 6 in lacking and not is_bare:
        is_bare = not any({numbers[i], numbers[j]} == {1, 6} for i, j, _, _ in bonds)
    return Record(
        positions.astype(np.float32),
        np.array(numbers, np.uint8),
        is_bare=is_bare,
        is_split=is_stated and not _is_connected(n, [both for _, _, _, both in bonds]),
    )


# Files of millions of molecules have few distinct lines of bonds, and few distinct ends of atoms.


@lru_cache(1 << 12)
def _atomic_number(columns: str) -> int:
    """Atomic number in an atom's columns behind the coordinates, if nothing else is in them."""
    if columns[4:].strip(" 0"):
        raise ValueError(columns)
    return _NUMBERS[columns[:4]]


@lru_cache(1 << 16)
def _bond(line: str) -> tuple[int, int, int, int]:
    """Both atoms of a bond, from 0, its order, and the atoms as bits."""
    fields = _BOND.fullmatch(line)
    if fields is None:
        raise ValueError(line)
    i, j = int(fields[1]) - 1, int(fields[2]) - 1
    if i < 0 or j < 0 or i == j:
        raise ValueError(line)
    return i, j, int(fields[3]), 1 << i | 1 << j


def _is_connected(n: int, bonds: list[int]) -> bool:
    """Whether bonds, as bits of their atoms, hold n atoms together."""
    reached, before = 1, 0
    while reached != before:
        before = reached
        for both in bonds:
            if both & reached:
                reached |= both
        bonds.reverse()  # so that a chain is done in two rounds, whatever its direction
    return reached == (1 << n) - 1


@cache
def _lacks_hydrogens(number: int, valence: int) -> bool:
    """Whether rdkit adds hydrogens to a neutral atom with bonds of this order in all."""
    from rdkit import Chem

    mol = Chem.RWMol()
    mol.AddAtom(Chem.Atom(number))
    for _ in range(valence):
        mol.AddBond(0, mol.AddAtom(Chem.Atom("F")), Chem.BondType.SINGLE)
    mol.UpdatePropertyCache(strict=False)
    return bool(mol.GetAtomWithIdx(0).GetTotalNumHs())
