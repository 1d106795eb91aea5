"""Molecules of rdkit and SMILES, with bonds by EDM's distance rule.

SMILES follow EDM's `qm9/rdkit_functions.py`: all hydrogens are explicit, bonds come from distances,
a molecule is valid when rdkit can sanitise it, and its SMILES is that of its largest fragment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.bonds import batches_with_bonds


def to_rdkit(molecules: MoleculeSet) -> list[Any]:
    """One `rdkit.Chem.Mol` per molecule, its positions the only conformer; not sanitised."""
    from rdkit import Chem

    mols = []
    for part, all_orders in batches_with_bonds(molecules):
        for index, orders in enumerate(all_orders):
            positions, numbers = part.molecule(index)
            mol = _build(numbers, orders)
            conformer = Chem.Conformer(len(numbers))
            conformer.SetPositions(positions.astype(np.float64))
            conformer.Set3D(True)
            mol.AddConformer(conformer, assignId=True)
            mols.append(mol.GetMol())
    return mols


def to_smiles(molecules: MoleculeSet, largest_fragment: bool = True) -> tuple[str | None, ...]:
    """Canonical SMILES of each molecule, hydrogens explicit; None where rdkit cannot sanitise it.

    They name the largest connected part alone (the first one among equals), as EDM does for
    generated molecules, or else all parts, as EDM does for training data.
    """
    from rdkit import rdBase

    with rdBase.BlockLogs():
        return tuple(
            _smiles(_build(part.molecule(index)[1], orders), largest_fragment)
            for part, all_orders in batches_with_bonds(molecules)
            for index, orders in enumerate(all_orders)
        )


def _build(numbers: NDArray[np.uint8], orders: NDArray[np.uint8]) -> Any:  # noqa: ANN401
    """An `rdkit.Chem.RWMol` of atoms (n,) and bond orders (>= n, >= n)."""
    from rdkit import Chem

    kinds = (Chem.BondType.ZERO, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
    mol = Chem.RWMol()
    for number in numbers.tolist():
        mol.AddAtom(Chem.Atom(number))
    for i, j in np.argwhere(np.tril(orders)).tolist():
        mol.AddBond(i, j, kinds[orders[i, j]])
    return mol


def _smiles(mol: Any, largest_fragment: bool) -> str | None:  # noqa: ANN401
    from rdkit import Chem

    try:
        Chem.SanitizeMol(mol)
        if largest_fragment:
            fragments = Chem.GetMolFrags(mol, asMols=True)
            mol = max(fragments, key=lambda fragment: fragment.GetNumAtoms())
            Chem.SanitizeMol(mol)
    except ValueError:  # rdkit's AtomValenceException, KekulizeException, ...
        return None
    return str(Chem.MolToSmiles(mol))
