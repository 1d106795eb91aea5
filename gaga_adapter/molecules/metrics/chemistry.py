"""Molecules of rdkit and SMILES, with bonds by EDM's distance rule.

SMILES follow EDM's `qm9/rdkit_functions.py`: all hydrogens are explicit, bonds come from distances,
a molecule is valid when rdkit can sanitise it, and its SMILES is that of its largest fragment.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.bonds import Bonds, batches_with_bonds


def to_rdkit(molecules: MoleculeSet) -> list[Any]:
    """One `rdkit.Chem.Mol` per molecule, its positions the only conformer; not sanitised."""
    return list(rdkit_molecules(molecules))


def rdkit_molecules(molecules: MoleculeSet) -> Iterator[Any]:
    """The molecules of `to_rdkit` one by one."""
    from rdkit import Chem

    for part, bonds in batches_with_bonds(molecules):
        for index, own in enumerate(bonds.by_molecule()):
            positions, numbers = part.molecule(index)
            mol = _build(numbers, own)
            conformer = Chem.Conformer(len(numbers))
            conformer.SetPositions(positions.astype(np.float64))
            conformer.Set3D(True)
            mol.AddConformer(conformer, assignId=True)
            yield mol.GetMol()


def sanitised(molecules: MoleculeSet) -> Iterator[tuple[int, Any]]:
    """Place and molecule of `to_rdkit` of those that rdkit can sanitise, without its log."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        for row, mol in enumerate(rdkit_molecules(molecules)):
            try:
                Chem.SanitizeMol(mol)
            except ValueError:  # rdkit's AtomValenceException, KekulizeException, ...
                continue
            yield row, mol


def to_smiles(molecules: MoleculeSet, largest_fragment: bool = True) -> tuple[str | None, ...]:
    """Canonical SMILES of each molecule, hydrogens explicit; None where rdkit cannot sanitise it.

    They name the largest connected part alone (the first one among equals), as EDM does for
    generated molecules, or else all parts, as EDM does for training data.
    """
    return tuple(
        smiles
        for part, bonds in batches_with_bonds(molecules)
        for smiles in smiles_of(part, bonds, largest_fragment)
    )


def smiles_of(
    molecules: MoleculeSet, bonds: Bonds, largest_fragment: bool = True
) -> list[str | None]:
    """The SMILES of `to_smiles` of one batch whose bonds are known."""
    from rdkit import rdBase

    with rdBase.BlockLogs():
        return [
            mol_smiles(_build(molecules.molecule(index)[1], own), largest_fragment)
            for index, own in enumerate(bonds.by_molecule())
        ]


def _build(numbers: NDArray[np.uint8], bonds: list[tuple[int, int, int]]) -> Any:  # noqa: ANN401
    """An `rdkit.Chem.RWMol` of atoms (n,) and its bonds: two atoms and an order."""
    from rdkit import Chem

    kinds = (Chem.BondType.ZERO, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
    mol = Chem.RWMol()
    for number in numbers.tolist():
        mol.AddAtom(Chem.Atom(number))
    # By the later atom, then the earlier one: the order of bonds decides on that of the SMILES.
    for i, j, order in sorted(bonds, key=itemgetter(1, 0)):
        mol.AddBond(j, i, kinds[order])
    return mol


def mol_smiles(mol: Any, largest_fragment: bool = True) -> str | None:  # noqa: ANN401
    """The SMILES of `to_smiles` of an rdkit molecule, which is sanitised in place."""
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
