"""How strained molecules are: what a relaxation in the force field MMFF94 frees.

Stability counts bonds and does not see whether they are stretched. A molecule that rdkit can
sanitise, that is connected, and whose atoms the force field knows, is relaxed from where it is; the
energy that this frees, in kcal/mol an atom, is its strain. QM9's own molecules are relaxed in DFT
and not in MMFF94, so theirs is not 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.chemistry import sanitised

_MOST_STEPS = 5000


def strain(molecules: MoleculeSet) -> NDArray[np.float64]:
    """Energy freed (M,), kcal/mol an atom; NaN where it cannot be computed."""
    from rdkit import Chem
    from rdkit.Chem import rdForceFieldHelpers as helpers

    freed = np.full(len(molecules), np.nan)
    for row, mol in sanitised(molecules):
        if len(Chem.GetMolFrags(mol)) != 1 or not helpers.MMFFHasAllMoleculeParams(mol):
            continue
        field = helpers.MMFFGetMoleculeForceField(mol, helpers.MMFFGetMoleculeProperties(mol))
        if field is None:
            continue
        before = field.CalcEnergy()
        if field.Minimize(maxIts=_MOST_STEPS) == 0:
            freed[row] = (before - field.CalcEnergy()) / mol.GetNumAtoms()
    return freed
