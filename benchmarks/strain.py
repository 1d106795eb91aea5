"""How strained molecules are: what a relaxation in the force field MMFF94 frees.

The mechanism is that of `gaga evaluate --strain`; bonds follow from distances. QM9's own molecules
are relaxed in DFT and not in MMFF94, so theirs is not 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.chemistry import rdkit_molecules
from gaga_adapter.molecules.metrics.strain import relaxations


def strain(molecules: MoleculeSet) -> NDArray[np.float64]:
    """Energy freed (M,), kcal/mol an atom; NaN where it cannot be computed."""
    return relaxations(rdkit_molecules(molecules))["freed"]
