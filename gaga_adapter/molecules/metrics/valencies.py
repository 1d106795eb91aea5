"""Valencies from stated bonds, by the corrected table for drug-like molecules.

EDM's rule takes bonds from distances and knows neither charges nor aromatic bonds. Models that make
bonds and charges themselves are judged by these, and most published figures on GEOM-drugs cut the
sum of an atom's bond orders down to a whole number, or counted an aromatic bond as a single one.
Their tables were then widened until the data passed, so that a carbon with three bonds passed, too
(Nikitin, Dunn, Koes and Isayev, "GEOM-Drugs revisited", 2025, arXiv:2505.00169).

An aromatic bond has the order 1.5, but the sum of orders does not tell right from wrong: it is 4
for a carbon of benzene, 4.5 where two rings meet, and 5 beside the oxygen of a pyridone. So their
table, which is the one here, holds pairs: how many aromatic bonds an atom has, and the sum of the
orders of its other bonds, for each element and formal charge of the atom. Drawn with single and
double bonds in turn, the same atom has no aromatic bonds and the sum of a plain one. Only bonds
that are there count: hydrogens that are merely implied are missing. The table holds what occurs in
GEOM-drugs, where a sulfoxide has charges: one drawn as S=O counts as unstable.

Molecules with an element that the table lacks are not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.elements import SYMBOLS, atomic_number
from gaga_adapter.molecules.metrics.estimate import Estimate, estimate_mean, estimate_ratio

#: Name of the rule, for tables and json.
RULE = "stated bonds, GEOM-Drugs revisited"

# By element and formal charge: the number of aromatic bonds, and the sum of the other orders.
_TABLE: dict[str, dict[int, str]] = {
    "H": {0: "0+1"},
    "B": {-1: "0+4", 0: "0+3"},
    "C": {-1: "0+3 2+1 3+0", 0: "0+4 2+2 2+1 3+0", 1: "0+3 2+1 3+0"},
    "N": {-2: "0+1", -1: "0+2 2+0", 0: "0+3 2+0 2+1 3+0", 1: "0+4 2+0 2+1 2+2 3+0"},
    "O": {-1: "0+1", 0: "0+2 2+0", 1: "0+3"},
    "F": {0: "0+1"},
    "Si": {0: "0+4", 1: "0+5"},
    "P": {0: "0+3 0+5", 1: "0+4"},
    "S": {-1: "0+1", 0: "0+2 0+3 0+6 2+0", 1: "0+3 2+0 2+1 3+0", 2: "0+4 2+1 2+2", 3: "0+2 0+5"},
    "Cl": {0: "0+1", 1: "0+2"},
    "Br": {0: "0+1", 1: "0+2"},
    "I": {0: "0+1", 1: "0+2", 2: "0+3"},
    "Bi": {0: "0+3", 2: "0+5"},
}
_ALLOWED = frozenset(
    (atomic_number(symbol), charge, int(aromatic), float(others))
    for symbol, by_charge in _TABLE.items()
    for charge, pairs in by_charge.items()
    for aromatic, others in (pair.split("+") for pair in pairs.split())
)
_KNOWN = frozenset(atomic_number(symbol) for symbol in _TABLE)


@dataclass(frozen=True)
class StatedVerdict:
    """The finding for one molecule by the bonds that its source states.

    Attributes:
        n_atoms: Number of atoms.
        n_stable: Number of atoms with an allowed valency; None where the table lacks an element.
        is_valid: Whether rdkit can sanitise the molecule.
        is_connected: Whether the bonds hold it in one piece.
        unknown: Elements that the table lacks.
    """

    n_atoms: int
    n_stable: int | None
    is_valid: bool
    is_connected: bool
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Valencies:
    """Figures of molecules by the bonds that their source states; None where none is judged.

    Attributes:
        rule: Name of the rule.
        n_molecules: Number of molecules that are judged.
        n_not_judged: Number of molecules with an element that the table lacks.
        elements_not_judged: These elements.
        atom_stability: Share of atoms with an allowed valency.
        molecule_stability: Share of molecules whose atoms all have one.
        validity: Share of molecules that rdkit can sanitise, of all; in how many pieces they are
            is not asked.
        connected: Share of molecules in one piece, of all.
    """

    rule: str
    n_molecules: int
    n_not_judged: int
    elements_not_judged: tuple[str, ...]
    atom_stability: Estimate | None
    molecule_stability: Estimate | None
    validity: Estimate | None
    connected: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """JSON form: nested dictionaries of `value` and `std_error`, null where not computable."""
        return asdict(self)


def allowed_atoms(mol: Any) -> NDArray[np.bool_]:  # noqa: ANN401  # rdkit has no types
    """Whether each atom (n,) of an rdkit molecule has an allowed valency, by its explicit bonds."""
    from rdkit.Chem import BondType

    n_atoms = mol.GetNumAtoms()
    aromatic, others = [0] * n_atoms, [0.0] * n_atoms
    for bond in mol.GetBonds():
        for atom in (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()):
            if bond.GetBondType() == BondType.AROMATIC:
                aromatic[atom] += 1
            else:
                others[atom] += bond.GetBondTypeAsDouble()
    atoms = [mol.GetAtomWithIdx(index) for index in range(n_atoms)]
    return np.array(
        [
            (atom.GetAtomicNum(), atom.GetFormalCharge(), *pair) in _ALLOWED
            for atom, *pair in zip(atoms, aromatic, others, strict=True)
        ],
        np.bool_,
    )


def stated_verdict(mol: Any) -> StatedVerdict:  # noqa: ANN401
    """The verdict on one rdkit molecule, which is not changed."""
    from rdkit import Chem, rdBase

    numbers = {atom.GetAtomicNum() for atom in mol.GetAtoms()}
    unknown = tuple(SYMBOLS[number] for number in sorted(numbers - _KNOWN))
    try:
        with rdBase.BlockLogs():
            Chem.SanitizeMol(Chem.Mol(mol))
        is_valid = True
    except ValueError:  # rdkit's AtomValenceException, KekulizeException, ...
        is_valid = False
    n_stable = None if unknown else int(allowed_atoms(mol).sum())
    return StatedVerdict(
        mol.GetNumAtoms(), n_stable, is_valid, len(Chem.GetMolFrags(mol)) == 1, unknown
    )


def valencies(mols: Iterable[Any]) -> Valencies:
    """Figures of rdkit molecules by the bonds that they have, with standard errors."""
    return summarised([stated_verdict(mol) for mol in mols])


def summarised(verdicts: Sequence[StatedVerdict]) -> Valencies:
    """The figures of molecules whose verdicts are known."""
    known = [one for one in verdicts if one.n_stable is not None]
    unknown = {symbol for one in verdicts for symbol in one.unknown}
    n_atoms = np.array([one.n_atoms for one in known])
    n_stable = np.array([one.n_stable for one in known])
    return Valencies(
        RULE,
        len(known),
        len(verdicts) - len(known),
        tuple(sorted(unknown, key=SYMBOLS.index)),
        estimate_ratio(n_stable, n_atoms) if known else None,
        estimate_mean(np.equal(n_stable, n_atoms)),
        estimate_mean([one.is_valid for one in verdicts]),
        estimate_mean([one.is_connected for one in verdicts]),
    )
