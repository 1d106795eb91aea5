"""Valencies by stated bonds: hand-made molecules, right and wrong, drawn in both ways."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
from rdkit import Chem

from gaga_adapter.distributed import Processes
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats import stream_molecules, write_sdf
from gaga_adapter.molecules.metrics.stated import mols_of, read_stated
from gaga_adapter.molecules.metrics.valencies import (
    RULE,
    allowed_atoms,
    stated_verdict,
    valencies,
)

WATER = ([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], [8, 1, 1])


def with_hydrogens(smiles, kekulised=False):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if kekulised:
        Chem.Kekulize(mol, clearAromaticFlags=True)
    return mol


def drawn(atoms, bonds, kinds=Chem.BondType):
    """Atoms as (symbol, charge) and bonds as (i, j, kind), with nothing implied and unchecked."""
    mol = Chem.RWMol()
    for symbol, charge in atoms:
        atom = Chem.Atom(symbol)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j, kind in bonds:
        mol.AddBond(i, j, getattr(kinds, kind))
    return mol.GetMol()


SOUND = {
    "benzene": "c1ccccc1",
    "naphthalene": "c1ccc2ccccc2c1",
    "pyridone": "O=c1cccc[nH]1",
    "thiophene": "c1ccsc1",
    "nitromethane": "C[N+](=O)[O-]",
    "ammonium": "[NH4+]",
    "a sulfone": "CS(=O)(=O)C",
    "a phosphate": "COP(=O)(O)OC",
    "a carboxylate": "CC(=O)[O-]",
    "hydrogen cyanide": "C#N",
    "pyridinium": "C[n+]1ccccc1",
}


@pytest.mark.parametrize("kekulised", [False, True])
@pytest.mark.parametrize("name", SOUND)
def test_sound_molecules_pass_however_they_are_drawn(name, kekulised):
    mol = with_hydrogens(SOUND[name], kekulised)
    before = mol.ToBinary()
    assert allowed_atoms(mol).all()
    verdict = stated_verdict(mol)
    assert verdict.n_stable == verdict.n_atoms == mol.GetNumAtoms()
    assert verdict.is_valid
    assert verdict.is_connected
    assert mol.ToBinary() == before


def test_wrong_molecules_fail_at_the_atom_that_is_wrong():
    hydrogens = [("H", 0)] * 4
    ammonia_of_four = drawn([("N", 0), *hydrogens], [(0, k, "SINGLE") for k in (1, 2, 3, 4)])
    assert allowed_atoms(ammonia_of_four).tolist() == [False, True, True, True, True]
    methyl = drawn([("C", 0), *hydrogens[:3]], [(0, k, "SINGLE") for k in (1, 2, 3)])
    assert allowed_atoms(methyl).tolist() == [False, True, True, True]
    # The nitro group with five bonds and no charges, which older tables let through.
    bonds = [(0, 1, "DOUBLE"), (0, 2, "DOUBLE"), (0, 3, "SINGLE")]
    nitro = drawn([("N", 0), ("O", 0), ("O", 0), ("H", 0)], bonds)
    assert allowed_atoms(nitro).tolist() == [False, True, True, True]
    # An oxide with the charge of the wrong sign.
    oxide = drawn([("O", 1), ("H", 0)], [(0, 1, "SINGLE")])
    assert allowed_atoms(oxide).tolist() == [False, True]


def test_an_aromatic_bond_is_neither_a_single_one_nor_cut_down():
    """Benzene without a hydrogen has a carbon of 1.5 + 1.5 = 3: it is a radical, and fails.

    Where an aromatic bond counts as 1, the carbons of sound benzene have 3, and a table that lets
    them pass takes the radical with it.
    """
    ring = [(k, (k + 1) % 6, "AROMATIC") for k in range(6)]
    hydrogens = [(k, 6 + k, "SINGLE") for k in range(5)]
    phenyl = drawn([("C", 0)] * 6 + [("H", 0)] * 5, ring + hydrogens)
    assert allowed_atoms(phenyl).tolist() == [True] * 5 + [False] + [True] * 5
    whole = drawn([("C", 0)] * 6 + [("H", 0)] * 6, [*ring, *hydrogens, (5, 11, "SINGLE")])
    assert allowed_atoms(whole).all()


def test_figures_of_a_set_and_what_the_table_lacks():
    mols = [
        with_hydrogens("c1ccccc1"),
        drawn([("C", 0), ("H", 0)], [(0, 1, "SINGLE")]),
        with_hydrogens("[NH4+].[Cl-]"),
        with_hydrogens("C[Se]C"),
    ]
    found = valencies(mols)
    assert (found.rule, found.n_molecules) == (RULE, 3)
    assert (found.n_not_judged, found.elements_not_judged) == (1, ("Se",))
    assert found.atom_stability.value == pytest.approx((12 + 1 + 5) / (12 + 2 + 6))
    assert found.molecule_stability.value == pytest.approx(1 / 3)
    assert found.molecule_stability.std_error == pytest.approx(math.sqrt(2 / 9 / 2))
    assert found.connected.value == pytest.approx(3 / 4)  # the table is not asked for that
    assert found.to_dict()["validity"]["value"] == 1.0  # a radical is valid for rdkit
    nobody = valencies(mols[3:])
    assert (nobody.n_molecules, nobody.atom_stability, nobody.validity.value) == (0, None, 1.0)


# -- what files state ------------------------------------------------------------------------------


def embedded(smiles):
    from rdkit.Chem import rdDistGeom

    mol = with_hydrogens(smiles)
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    return mol


@pytest.mark.filterwarnings("ignore:.* formal charges in the file")
def test_stated_bonds_are_read_and_those_by_distances_are_not(tmp_path):
    """Benzene with aromatic bonds, nitromethane with charges, then two files without bonds."""
    blocks = [
        Chem.MolToMolBlock(embedded("c1ccccc1"), kekulize=False),
        Chem.MolToMolBlock(embedded("C[N+](=O)[O-]")),
    ]
    assert "  1  2  4" in blocks[0]
    file = tmp_path / "a.sdf"
    file.write_text("".join(f"{block}$$$$\n" for block in blocks))
    stream = stream_molecules(file)
    molecules = next(iter(stream))
    done = []
    found = read_stated(stream, progress=lambda what, n, total: done.append((n, total)))
    assert done[-1] == (2, 2)
    assert [one.n_stable for one in found.verdicts] == [12, 7]
    assert [Chem.CanonSmiles(one) for one in found.smiles] == ["c1ccccc1", "C[N+](=O)[O-]"]
    mols = mols_of(molecules, stream, [1])
    assert [Chem.GetFormalCharge(mol) for mol in mols] == [0]
    assert [atom.GetFormalCharge() for atom in mols[0].GetAtoms()][:4] == [0, 1, 0, -1]

    write_sdf(MoleculeSet.from_list([WATER], "water"), tmp_path / "b.sdf")
    both = stream_molecules([file, tmp_path / "b.sdf"])
    whole = MoleculeSet.concatenate(list(both))
    found = read_stated(both)
    assert (found.verdicts[2], found.smiles) == (None, None)
    assert mols_of(whole, both, [2])[0].GetNumBonds() == 2
    assert read_stated(stream_molecules(MoleculeSet.from_list([WATER]))).verdicts == (None,)


def test_stated_smiles_stand_for_bonds():
    stated = MoleculeSet.from_list([WATER], smiles=["O"])
    found = read_stated(stream_molecules(stated))
    assert (found.verdicts, found.smiles) == ((None,), ("O",))


class OneOfTwo(Processes):
    """A process whose neighbour is thought of: what it has stands for both shares."""

    @contextmanager
    def in_step(self, report=None):
        yield lambda done: None

    def everyones(self, value):
        return [value, value]


def test_processes_share_the_molecules():
    """Molecules of 1, 2, 3 and 4 atoms: the first process has the odd ones, the other the even."""
    mols = [embedded(smiles) for smiles in ("[He]", "[H][H]", "O", "N")]
    whole = read_stated(stream_molecules(mols)).verdicts
    assert [one.n_atoms for one in whole] == [1, 2, 3, 4]
    for rank in range(2):
        found = read_stated(stream_molecules(mols), OneOfTwo(rank, 2)).verdicts
        assert found[rank::2] == whole[rank::2]
