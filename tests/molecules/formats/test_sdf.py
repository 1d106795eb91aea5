"""SDF records: what is wrong with them in rdkit's words, what is said of them, and their speed."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, RDLogger
from rdkit.Chem import rdDepictor, rdDistGeom

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.molecules.formats import read_molecules, stream_molecules
from gaga_adapter.molecules.formats.opening import Input
from gaga_adapter.molecules.formats.sdf import SdfFile
from gaga_adapter.molecules.formats.v2000 import plain_record


def embedded(smiles, hydrogens=True):
    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens else mol
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=3) == 0
    mol.SetProp("_Name", smiles)
    return mol


WATER, ETHANOL = embedded("O"), embedded("CCO")
BLOCK = Chem.MolToMolBlock(ETHANOL)
HEAD = "title\n  program         3D\n\n"


def read(tmp_path, text, name="a.sdf", **how):
    (tmp_path / name).write_text(text)
    return read_molecules(tmp_path / name, **how)


def record(atoms, bonds="", n_bonds=0, tail="M  END\n", label="3D"):
    rows = "".join(f"{x:10.4f}{y:10.4f}{z:10.4f} {s}\n" for s, x, y, z in atoms)
    head = f"title\n  program         {label}\n\n{len(atoms):3d}{n_bonds:3d}  0  0  0  0"
    return f"{head}            999 V2000\n{rows}{bonds}{tail}$$$$\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.replace("C   0", "Xx  0", 1), "Element 'Xx' not found"),
        (lambda t: t.replace(" V2000", " V2001"), "Unsupported CTAB version"),
        (lambda t: t.replace("  9  8", "  9999"), "EOF hit|line"),
        (lambda t: t.replace("  9  8", " 99  8"), "EOF hit|line"),
        (lambda t: t.replace("  1  2  1", "  1 77  1"), r"line|Range"),
        (lambda t: t.replace("M  END", ""), "line"),
        (lambda t: t.replace(".", "x", 1), "Cannot process coordinates on line 74"),
        (lambda t: "\n".join(t.split("\n")[:3]), "Counts line too short"),
    ],
)
def test_rdkits_reason_with_the_line_and_the_title(tmp_path, change, reason, capfd):
    changed = change(BLOCK)
    assert changed != BLOCK
    text = f"{BLOCK}$$$$\n" * 3 + f"{changed}$$$$\n{BLOCK}$$$$\n"
    line = 3 * (BLOCK.count("\n") + 1) + 1
    said = rf"a.sdf: molecule 3 cannot be read by rdkit: .*({reason}).*begins in line {line}, tit"
    with pytest.raises(DataError, match=said + r"led 'CCO'\)"):
        read(tmp_path, text)
    with pytest.warns(GAGAWarning, match=r"skipped 1 of 5 .*cannot be read by rdkit: "):
        assert len(read(tmp_path, text, skip_bad=True)) == 4
    assert capfd.readouterr() == ("", "")


def test_rdkits_log_goes_where_it_went(tmp_path, capfd):
    handlers = list(logging.getLogger("rdkit").handlers)
    with pytest.raises(DataError):
        read(tmp_path, "nothing\n")
    assert logging.getLogger("rdkit").handlers == handlers
    capfd.readouterr()
    assert Chem.MolFromSmiles("C(C") is None
    assert "extra open parentheses" in capfd.readouterr().err
    RDLogger.DisableLog("rdApp.*")
    try:
        with pytest.raises(DataError, match=r"molecule 0 cannot be read by rdkit: Counts line"):
            read(tmp_path, "nothing\n")
        assert Chem.MolFromSmiles("C(C") is None
        assert capfd.readouterr().err == ""
    finally:
        RDLogger.EnableLog("rdApp.error")
        RDLogger.EnableLog("rdApp.warning")


def test_empty_records(tmp_path):
    with pytest.raises(DataError, match=r"molecule 1 is empty: two `\$\$\$\$` lines .* line 24"):
        read(tmp_path, f"{BLOCK}$$$$\n$$$$\n")
    assert len(read(tmp_path, f"{BLOCK}$$$$\n\n \x1a")) == 1
    with pytest.raises(DataError, match="molecule 0 has no atoms"):
        read(tmp_path, record([]))


def test_mol_files_alone_and_strung_together(tmp_path):
    assert len(read(tmp_path, BLOCK, "a.mol")) == 1
    text = "".join(Chem.MolToMolBlock(mol) for mol in [WATER, ETHANOL] * 12)
    for name in ("a.mol", "a.sdf", "a.SD"):
        found = read(tmp_path, text, name)
        assert found.n_atoms.tolist() == [3, 9] * 12
    v3000 = Chem.MolToV3KMolBlock(WATER)
    mixed = v3000 + BLOCK + "$$$$\n" + v3000 + "> <a>\n1\n\n$$$$\n"
    assert read(tmp_path, mixed).n_atoms.tolist() == [3, 9, 3]


def test_a_missing_end_of_a_record_is_named(tmp_path):
    text = f"{BLOCK}> <energy>\n1\n\n{BLOCK}$$$$\n{BLOCK}$$$$\n"
    with pytest.raises(DataError, match=r"molecule 0 holds several molecules: a `\$\$\$\$` line"):
        read(tmp_path, text)
    with pytest.warns(GAGAWarning, match="skipped 1 of 2"):
        assert len(read(tmp_path, text, skip_bad=True)) == 1


def test_radicals_isotopes_and_pieces_are_counted(tmp_path):
    methyl, heavy = Chem.AddHs(Chem.MolFromSmiles("[CH3]")), embedded("[2H]O[2H]")
    rdDistGeom.EmbedMolecule(methyl, randomSeed=1)
    pair = embedded("O.O")
    text = "".join(Chem.MolToMolBlock(m) + "$$$$\n" for m in (methyl, heavy, pair, ETHANOL))
    (tmp_path / "a.sdf").write_text(text)
    stream = stream_molecules(tmp_path / "a.sdf")
    said = (
        "^1 molecules have unpaired electrons in the file: these are dropped, and the molecules "
        "stay. 1 molecules have isotopes in the file: these are dropped, and the molecules stay. "
        "1 molecules are in several pieces by the bonds"
    )
    with pytest.warns(GAGAWarning, match=said):
        assert sum(map(len, stream)) == 4
    counts = stream.tally
    assert (counts.n_radical, counts.n_isotopic, counts.n_split, counts.n_bare) == (1, 1, 1, 0)


def test_polar_hydrogens_alone_are_not_all(tmp_path):
    polar = Chem.RWMol(ETHANOL)
    for bond in [b for b in ETHANOL.GetBonds() if b.GetBeginAtom().GetAtomicNum() == 6]:
        if bond.GetEndAtom().GetAtomicNum() == 1:
            polar.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
    bare = [a.GetIdx() for a in polar.GetAtoms() if a.GetDegree() == 0]
    for index in sorted(bare, reverse=True):
        polar.RemoveAtom(index)
    assert polar.GetNumAtoms() == 4
    for carbon in polar.GetAtoms():
        carbon.SetNoImplicit(False)
    text = Chem.MolToMolBlock(polar) + "$$$$\n"
    with pytest.warns(GAGAWarning, match=r"1 molecules lack hydrogens .* those on carbon\): --hyd"):
        assert read(tmp_path, text).n_atoms.tolist() == [4]
    assert read(tmp_path, text, hydrogens="add").n_atoms.tolist() == [9]


def test_a_drawing_that_is_called_3d_is_none(tmp_path):
    flat = Chem.Mol(ETHANOL)
    rdDepictor.Compute2DCoords(flat)
    flat.GetConformer().Set3D(True)
    text = Chem.MolToMolBlock(flat) + "$$$$\n"
    assert text.split("\n")[1].rstrip().endswith("3D")
    with pytest.raises(DataError, match=r"molecule 0 has no 3D coordinates"):
        read(tmp_path, text)
    made = read(tmp_path, text, embed=True)
    assert abs(made.positions[0, :, 2]).max() > 0.3


def test_coordinates_out_of_this_world(tmp_path):
    text = "2\n\nC 0 0 0\nO 0 0 1e7\n1\n\nC 9999 0 0\n"
    with pytest.warns(GAGAWarning, match=r"^1 molecules have atoms 10,000 angstrom or more"):
        assert len(read(tmp_path, text, "a.xyz")) == 2


@pytest.mark.parametrize("symbol", ["R#", "*", "A", "Q", "L", "LP", "R1"])
def test_atoms_without_an_element(tmp_path, symbol):
    text = record([(f"{symbol:<3}" + " 0  0", 0, 0, 0), ("C   0  0", 0, 0, 1)])
    with pytest.raises(DataError, match=r"molecule 0 (has the atom .* placeholder|cannot be read)"):
        read(tmp_path, text)


# -- plain records, which are read without rdkit ---------------------------------------------------

SMILES = [
    "C", "O", "N", "C#N", "CC(=O)Nc1ccc(O)cc1", "OS(=O)(=O)c1ccccc1Cl", "FC(F)(F)CBr", "CP(C)C",
"OB(O)c1ccccc1", "C1CC1C#CC=C", "CI", "S", "CSC", "O=C=O", "ClC=CCl",
]  # fmt: skip


def of_rdkit(text):
    """The record as rdkit reads it."""
    return SdfFile(Input(Path("x.sdf"))).with_bonds((1, text), 0)


def same(text):
    """Check a plain record against rdkit's."""
    ours, theirs = plain_record(text), of_rdkit(text)
    assert ours is not None
    np.testing.assert_array_equal(ours.positions, theirs.positions)
    np.testing.assert_array_equal(ours.atomic_numbers, theirs.atomic_numbers)
    marks = ("charged", "periodic", "bare", "radical", "isotopic", "split", "flat")
    for mark in marks:
        assert getattr(ours, f"is_{mark}") == getattr(theirs, f"is_{mark}"), (mark, text)


@pytest.mark.parametrize("smiles", SMILES)
@pytest.mark.parametrize("hydrogens", [True, False])
def test_plain_records_are_those_of_rdkit(smiles, hydrogens):
    mol = embedded(smiles, hydrogens)
    for atom in mol.GetAtoms():
        atom.SetNoImplicit(False)  # or else its valence is written into a column of its own
    x = mol.GetConformer().GetPositions() + 0.25  # an atom alone is not at the origin
    mol.GetConformer().SetPositions(x)
    same(Chem.MolToMolBlock(mol))
    same(Chem.MolToMolBlock(mol, kekulize=True).replace("  1  0\n", "  1  0  0  0  0\n"))


@pytest.mark.parametrize("number", [n for n in range(1, len(SYMBOLS)) if n != 1])
def test_the_hydrogens_that_a_bare_atom_implies(number):
    same(record([(f"{SYMBOLS[number]:<3} 0  0", 0.5, 0, 1)]))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("M  END", "M  CHG  1   1   1\nM  END"),
        lambda t: t.replace("M  END", "M  ISO  1   1  13\nM  END"),
        lambda t: t.replace("M  END", "M  RAD  1   1   2\nM  END"),
        lambda t: t.replace("C   0  0", "C   0  3", 1),
        lambda t: t.replace("C   0  0", "C   1  0", 1),
        lambda t: t.replace("C   0  0", "D   0  0", 1),
        lambda t: t.replace("  1  2  1", "  1  2  4"),
        lambda t: t.replace("  1  2  1", "  2  1  1").replace("  1  4  1", "  1  2  1"),
        lambda t: t.replace("  1  2  1", "  1  1  1"),
        lambda t: t.replace("  1  2  1", "  1 12  1"),
        lambda t: t.replace("3D", "2D"),
        lambda t: t.replace("  9  8", "  8  8"),
        lambda t: t.replace("V2000", "V3000"),
        lambda t: t.replace(".", "e", 1),
    ],
)
def test_what_is_not_plain_is_left_to_rdkit(change):
    assert plain_record(BLOCK) is not None
    assert change(BLOCK) != BLOCK
    assert plain_record(change(BLOCK)) is None
