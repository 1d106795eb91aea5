"""PoseBusters' checks: the answers are its own, and what it cannot answer is not passed."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from gaga_adapter.errors import DataError, MissingExtraError
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.chemistry import to_rdkit
from gaga_adapter.molecules.metrics.plausibility import answers, has_posebusters, plausibility

WATER = ([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], [8, 1, 1])
_TETRAHEDRON = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
METHANE = ([[0.0, 0.0, 0.0], *([0.63 * v for v in row] for row in _TETRAHEDRON)], [6, 1, 1, 1, 1])
APART = ([*WATER[0], [5.0, 0.0, 0.0], [5.0, 0.0, 0.74]], [8, 1, 1, 1, 1])
FIVE = ([*METHANE[0], [1.09, 0.0, 0.0]], [6, 1, 1, 1, 1, 1])


def test_answers_are_those_of_posebusters_with_its_own_settings():
    posebusters = pytest.importorskip("posebusters")
    mols = to_rdkit(MoleculeSet.from_list([METHANE, WATER, APART, FIVE]))
    before = [mol.ToBinary() for mol in mols]
    done = []
    found = answers(mols, done.append)
    assert done == [1, 2, 3, 4]
    assert [mol.ToBinary() for mol in mols] == before
    table = posebusters.PoseBusters(config="mol").bust(mols)
    assert list(found) == list(table.columns)
    for name, values in found.items():
        # PoseBusters gives booleans or, beside what it cannot compute, their numbers.
        np.testing.assert_array_equal(values, table[name].astype(float))
    assert found["all_atoms_connected"].tolist() == [1, 1, 0, 1]
    assert found["sanitization"].tolist()[3] == 0
    assert has_posebusters()


def test_a_relaxed_drug_passes_every_check():
    pytest.importorskip("posebusters")
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    aspirin = Chem.AddHs(Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O"))
    rdDistGeom.EmbedMolecule(aspirin, randomSeed=1)
    assert plausibility(answers([aspirin])).passed.value == 1.0


def test_shares_have_the_error_of_a_binomial_and_nothing_unknown_passes():
    found = plausibility(
        {
            "one": np.array([1.0, 1.0, 0.0, 1.0]),
            "two": np.array([1.0, np.nan, 1.0, 1.0]),
        }
    )
    assert found.n_molecules == 4
    assert found.passed.value == 0.5
    assert found.passed.std_error == pytest.approx(math.sqrt(0.25 / 3))
    assert found.checks["one"].passed.value == found.checks["two"].passed.value == 0.75
    assert found.checks["one"].passed.std_error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert [check.n_not_computable for check in found.checks.values()] == [0, 1]
    assert found.to_dict()["checks"]["two"]["n_not_computable"] == 1


def test_no_molecules_and_no_posebusters(monkeypatch):
    with pytest.raises(DataError, match="no molecules to check"):
        plausibility({})
    monkeypatch.setitem(sys.modules, "posebusters", None)
    with pytest.raises(MissingExtraError, match=r'pip install "gaga-adapter\[posebusters\]"'):
        answers([])
