"""Strain: rdkit's and tblite's own energies, and more of it in what was bent by hand."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from rdkit.Chem import rdForceFieldHelpers as helpers

from gaga_adapter.errors import DataError, MissingExtraError
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics import strain as module
from gaga_adapter.molecules.metrics.chemistry import to_rdkit
from gaga_adapter.molecules.metrics.estimate import estimate_median
from gaga_adapter.molecules.metrics.strain import REASONS, relaxations, strain, summarised

WATER = ([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], [8, 1, 1])
HARTREE = 627.5094740631  # kcal/mol


def ethanol(stretch=0.0):
    """Ethanol at a minimum of MMFF94, with its first bond then made longer, in angstrom."""
    mol = Chem.AddHs(Chem.MolFromSmiles("OCC"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    assert helpers.MMFFOptimizeMolecule(mol, maxIters=5000) == 0
    conformer = mol.GetConformer()
    hydroxyl = next(a for a in mol.GetAtomWithIdx(0).GetNeighbors() if a.GetAtomicNum() == 1)
    along = conformer.GetAtomPosition(hydroxyl.GetIdx()) - conformer.GetAtomPosition(0)
    along.Normalize()
    moved = conformer.GetAtomPosition(hydroxyl.GetIdx()) + along * stretch
    conformer.SetAtomPosition(hydroxyl.GetIdx(), moved)
    return mol


def mmff_energy(mol):
    return helpers.MMFFGetMoleculeForceField(
        mol, helpers.MMFFGetMoleculeProperties(mol)
    ).CalcEnergy()


def test_the_energy_is_rdkits_and_what_was_stretched_has_more():
    """A bond of ethanol that was made longer frees what the stretching cost, to its own minimum."""
    rest, bent, torn = (ethanol(stretch) for stretch in (0.0, 0.1, 0.2))
    before = [mol.ToBinary() for mol in (rest, bent, torn)]
    freed = relaxations([rest, bent, torn])["freed"]
    assert [mol.ToBinary() for mol in (rest, bent, torn)] == before
    cost = [(mmff_energy(mol) - mmff_energy(rest)) / 9 for mol in (rest, bent, torn)]
    # The optimiser ends within 1e-3 kcal/mol of the minimum; rest is one already.
    np.testing.assert_allclose(freed, cost, rtol=1e-3, atol=1e-3)
    assert freed[0] < 1e-3 < freed[1] < freed[2]


def test_why_a_molecule_is_not_relaxed():
    five = Chem.RWMol(Chem.AddHs(Chem.MolFromSmiles("C")))
    five.AddBond(0, five.AddAtom(Chem.Atom("H")), Chem.BondType.SINGLE)
    apart = to_rdkit(MoleculeSet.from_list([([*WATER[0], [9, 0, 0]], [*WATER[1], 2])]))
    boron = Chem.AddHs(Chem.MolFromSmiles("B"))
    rdDistGeom.EmbedMolecule(boron, randomSeed=1)
    heavy = Chem.RemoveHs(ethanol())
    found = relaxations([five, *apart, heavy, boron, ethanol()])
    assert [REASONS[int(code)] for code in found["reason"][:4]] == list(REASONS[:4])
    assert np.isfinite(found["freed"]).tolist() == [False, False, False, False, True]
    figures = summarised(found, "mmff94")
    assert figures.n_molecules == 5
    assert figures.relaxed.value == 0.2
    assert figures.energy.value == found["freed"][4]
    assert figures.n_not_relaxed == dict(zip(REASONS, (1, 1, 1, 1, 0), strict=True))
    assert figures.to_dict()["energy"]["std_error"] is None


def test_one_hydrogen_too_few_is_no_strain():
    """MMFF94 would give the atom the constants of one that has it."""
    whole = ethanol()
    lacking = Chem.RWMol(whole)
    lacking.RemoveAtom(whole.GetNumAtoms() - 1)
    radical = Chem.AddHs(Chem.MolFromSmiles("C[CH2]"))
    rdDistGeom.EmbedMolecule(radical, randomSeed=1)
    found = relaxations([lacking, whole, radical])
    assert REASONS[int(found["reason"][0])] == "hydrogens missing"
    assert np.isfinite(found["freed"][1])
    assert found["reason"][2] != REASONS.index("hydrogens missing")


def test_a_relaxation_that_does_not_end_is_no_figure(monkeypatch):
    monkeypatch.setattr(module, "_MOST_STEPS", 1)
    found = strain([ethanol(0.2)])
    assert (found.energy, found.n_not_relaxed["not converged"]) == (None, 1)


def test_wrong_arguments(monkeypatch):
    with pytest.raises(DataError, match=r"method='dft'\. Allowed: mmff94, gfn2"):
        strain([ethanol()], "dft")
    with pytest.raises(DataError, match="no molecules to relax"):
        strain([])
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'needs tblite: pip install "gaga-adapter\[xtb\]"'):
        strain([ethanol()], "gfn2")


def test_the_median_has_the_error_that_repeated_draws_show():
    """Of M draws of an exponential law the median has the error 1 / sqrt(M), for large M.

    The mean of 400 estimates of it, each within 30 % or so, is within 10 % but once in a million.
    """
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(400, 201))
    found = [estimate_median(row) for row in draws]
    medians = np.median(draws, axis=1)
    assert [one.value for one in found] == medians.tolist()
    errors = np.array([one.std_error for one in found])
    assert errors.mean() == pytest.approx(1 / math.sqrt(201), rel=0.1)
    assert medians.std() == pytest.approx(1 / math.sqrt(201), rel=0.18)  # 5 errors of a spread
    assert estimate_median([]) is None
    assert estimate_median([3.0, 1.0]).std_error is None
    assert estimate_median(np.arange(6.0)).std_error == pytest.approx(5 / (2 * 1.96), rel=1e-4)


# -- GFN2-xTB --------------------------------------------------------------------------------------

needs_tblite = pytest.mark.skipif(find_spec("tblite") is None, reason="tblite has no wheel here")


def gfn2_energy(mol, charge=0):
    from tblite.interface import Calculator

    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    places = mol.GetConformer().GetPositions() / 0.529177210903
    calculator = Calculator("GFN2-xTB", numbers, places, charge=charge)
    calculator.set("verbosity", 0)
    return float(calculator.singlepoint().get("energy")) * HARTREE


@needs_tblite
def test_gfn2_frees_the_energy_that_tblite_says_stretching_costs():
    """Two ways to the same minimum differ by their own strain, to what the optimiser leaves."""
    rest, torn = ethanol(), ethanol(0.2)
    freed = relaxations([rest, torn], "gfn2")["freed"]
    cost = (gfn2_energy(torn) - gfn2_energy(rest)) / 9
    assert freed[1] - freed[0] == pytest.approx(cost, abs=0.01, rel=0.02)
    assert 0 <= freed[0] < freed[1]


@needs_tblite
def test_gfn2_knows_charges_and_unpaired_electrons():
    ammonium = Chem.AddHs(Chem.MolFromSmiles("[NH4+]"))
    rdDistGeom.EmbedMolecule(ammonium, randomSeed=1)
    methyl = Chem.AddHs(Chem.MolFromSmiles("[CH3]"))
    rdDistGeom.EmbedMolecule(methyl, randomSeed=1)
    found = strain([ammonium, methyl], "gfn2")
    assert (found.relaxed.value, found.method) == (1.0, "gfn2")
    assert 0 <= found.energy.value < 5


@needs_tblite
def test_gfn2_says_why_it_gives_no_energy(monkeypatch):
    uranium = Chem.MolFromSmiles("[U]")
    conformer = Chem.Conformer(1)
    uranium.AddConformer(conformer)
    monkeypatch.setattr(module, "_MOST_CALLS", 1)
    found = strain([uranium, ethanol(0.2)], "gfn2")
    assert found.n_not_relaxed == dict(zip(REASONS, (0, 0, 0, 1, 1), strict=True))
