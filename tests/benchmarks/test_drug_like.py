"""Drug-like molecules: the same whatever happens on the way, and relaxed; the set of the tests."""

import gzip
import json
import sys
import zipfile

import drug_like
import numpy as np
import pytest
from drug_like import MEMBER, Recipe, chunks, make_all, moses_smiles, shuffled, summary
from folders import ROOT

from gaga_adapter import fit
from gaga_adapter.errors import DataError
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.formats import read_molecules, stream_molecules

SMILES = [
    "CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "CN1CCC[C@H]1c1cccnc1", "OC(=O)CCl", "FC(F)(F)CBr",
    "CS(=O)(=O)N", "no molecule", "C1#CC1C", "CCB(O)O", "NCC", "CC(C)C",
]  # fmt: skip
SET = ROOT / "tests/molecules/drugs.npz"


@pytest.fixture
def wheel(tmp_path):
    """As molsets keeps its training split."""
    table = "SMILES,SPLIT\n" + "".join(f"{smiles},train\n" for smiles in SMILES)
    with zipfile.ZipFile(tmp_path / "molsets.whl", "w") as archive:
        archive.writestr(MEMBER, gzip.compress(table.encode()))
        archive.writestr("moses/__init__.py", "raise RuntimeError('this must not be imported')")
    return tmp_path / "molsets.whl"


def recipe_of(chunk, seed=0):
    return Recipe("table", seed, chunk, 500, "version")


def arrays(files):
    read = read_molecules(files)
    index = np.concatenate([np.load(file)["index"] for file in files])
    return index, read.positions, read.atomic_numbers


def same(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


def test_molecules_depend_neither_on_chunks_nor_on_processes_nor_on_a_stop(tmp_path, capsys):
    files = make_all(tmp_path / "a", SMILES, recipe_of(5), 1)
    expected = arrays(files)
    same(arrays(make_all(tmp_path / "b", SMILES, recipe_of(3), 2)), expected)
    before = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    capsys.readouterr()
    same(arrays(make_all(tmp_path / "a", SMILES, recipe_of(5), 1)), expected)
    assert "2 of 3 chunks are there" in capsys.readouterr().out
    after = [file.stat().st_mtime_ns for file in files]
    assert (after[0], after[2]) == (before[0], before[2])
    other = make_all(tmp_path / "a", SMILES, recipe_of(5, seed=1), 1)
    assert not set(files) & set(other)  # another recipe does not mix with this one
    assert abs(arrays(other)[1] - expected[1]).max() > 0.1


def test_failures_are_counted_and_named(tmp_path):
    files = make_all(tmp_path, SMILES, recipe_of(12), 1)
    found = summary(files)
    assert found["conformers"] == len(read_molecules(files)) == 9
    assert found["failed"] == 3
    assert found["causes"] == {
        "molecule cannot be read by rdkit": 1,
        "was not embedded by ETKDG": 1,
        "has atoms that MMFF94 does not know": 1,
    }
    assert found["examples"][0] == "no molecule cannot be read by rdkit"
    with pytest.raises(DataError, match="none of the 1 molecules from 0 on has a geometry"):
        make_all(tmp_path / "none", ["CCB(O)O"], recipe_of(12), 1)


def test_geometries_are_minima_of_mmff94(tmp_path):
    """By rdkit's gradient at the stored positions; ETKDG alone is far from a minimum."""
    from rdkit import Chem
    from rdkit.Chem import rdForceFieldHelpers as helpers

    files = make_all(tmp_path, SMILES[:7], recipe_of(12), 1)
    chunk = np.load(files[0])
    for row, smiles in enumerate(chunk["smiles"]):
        mol = Chem.AddHs(Chem.MolFromSmiles(str(smiles)))
        numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
        assert chunk["charges"][row][: len(numbers)].tolist() == numbers
        positions = chunk["positions"][row][: len(numbers)].astype(float)
        mol.AddConformer(Chem.Conformer(len(numbers)))
        mol.GetConformer().SetPositions(positions)
        field = helpers.MMFFGetMoleculeForceField(mol, helpers.MMFFGetMoleculeProperties(mol))
        assert np.abs(field.CalcGrad(positions.ravel().tolist())).max() < 0.1  # kcal/mol/angstrom


def test_the_table_is_taken_out_of_the_wheel_and_shuffled(wheel):
    smiles, digits = moses_smiles(wheel)
    assert smiles == SMILES
    assert len(digits) == 16
    assert "moses" not in sys.modules
    order = shuffled(smiles, 12, 0)
    assert (order != smiles, sorted(order)) == (True, sorted(smiles))
    assert shuffled(smiles, 5, 0) == order[:5]  # more of them are the same ones first
    assert shuffled(smiles, 12, 1) != order


def test_without_the_wheel_the_command_is_named(tmp_path, monkeypatch, capsys):
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a.txt", "a")
    (tmp_path / "text.whl").write_text("text")
    for name, message in (
        ("gone.whl", "there is no"),
        ("other.whl", "is not the wheel of molsets"),
        ("text.whl", "is not the wheel of molsets"),
        (".", "is not the wheel of molsets"),
    ):
        words = ["drug_like.py", str(tmp_path / name), "--into", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit, match=message) as caught:
            drug_like.main()
        assert "pip download --no-deps molsets" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_script_writes_what_edm_reads(wheel, tmp_path, monkeypatch, capsys):
    more = tmp_path / "more.whl"
    lines = "\n".join(["SMILES,SPLIT", *(f"{'C' * n}O,train" for n in range(1, 13))])
    with zipfile.ZipFile(more, "w") as archive:
        archive.writestr(MEMBER, gzip.compress(lines.encode()))
    words = ["x", str(more), "--into", str(tmp_path / "out"), "-n", "11", "--chunk", "4"]
    monkeypatch.setattr(sys, "argv", [*words, "--small", str(tmp_path / "small.npz")])
    drug_like.main()
    assert "3 of 3" not in capsys.readouterr().out
    rows = read_molecules(tmp_path / "out/geom")
    recorded = json.loads((tmp_path / "out/geom/summary.json").read_text())
    assert len(rows) == recorded["conformers"] == recorded["asked"] == 11
    assert recorded["recipe"]["most_steps"] == drug_like.MOST_STEPS
    files = [job[0] for job in chunks(tmp_path / "out", ["C"] * 11, Recipe(**recorded["recipe"]))]
    np.testing.assert_array_equal(rows.positions, read_molecules(files).positions)
    small = read_molecules(tmp_path / "small.npz")
    assert abs(small.positions - rows.positions).max() < 0.01


# -- the file of the tests -------------------------------------------------------------------------


def test_the_stored_molecules_are_drug_like():
    """Sizes and elements of MOSES, whose molecules weigh 250 to 350, and bonds of sound lengths."""
    molecules = read_molecules(SET)
    assert len(molecules) == 300
    assert set(np.unique(molecules.atomic_numbers)) == {0, 1, 6, 7, 8, 9, 16, 17, 35}
    mass = {0: 0, 1: 1.008, 6: 12.011, 7: 14.007, 8: 15.999, 9: 18.998, 16: 32.06, 17: 35.45,
            35: 79.904}  # fmt: skip
    weights = np.vectorize(mass.get)(molecules.atomic_numbers).sum(axis=1)
    assert (weights > 249).all()
    assert (weights < 351).all()
    for index in range(0, 300, 10):
        positions, numbers = molecules.molecule(index)
        distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        distance[np.diag_indices(len(numbers))] = np.inf
        hydrogens = distance[numbers == 1].min(axis=1)
        assert (hydrogens > 0.94).all()  # O-H 0.97, N-H 1.01, C-H 1.09, S-H 1.34
        assert (hydrogens < 1.40).all()
        bonds = distance < 1.25 * (1.0 + 0.75 * (numbers[:, None] > 1) * (numbers[None] > 1))
        reached = np.linalg.matrix_power(bonds + np.eye(len(numbers)), 60)[0]
        assert (reached > 0).all()


@pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning")
def test_statistics_of_drug_like_molecules():
    """The position variance by numpy alone; the curve falls towards noise."""
    layout = MoleculeLayout(("H", "C", "N", "O", "F", "S", "Cl", "Br"))
    stream = stream_molecules(SET, 64, layout.elements)
    stats = fit(
        (encode(part, layout) for part in stream),
        layout,
        criterion="cumulant",
        reference="channel",
        log_snr=(0.0, -1.0, -2.0, -3.0, -4.0),
    )
    whole = read_molecules(SET)
    square = 0.0
    for index in range(len(whole)):
        positions = whole.molecule(index)[0].astype(np.float64)
        square += ((positions - positions.mean(axis=0)) ** 2).sum()
    expected = square / (3 * (whole.n_atoms - 1)).sum()
    assert stats.moments.position_variance_per_dof == pytest.approx(expected, rel=1e-5)
    assert stats.moments.sizes.tolist() == sorted(set(whole.n_atoms.tolist()))
    curve = stats.selection.curve.value
    assert curve[0] > curve[-1]
