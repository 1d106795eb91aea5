"""Molecules of any format through the commands, and what is said of those that make no sense."""

from __future__ import annotations

import bz2
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from gaga_adapter import GAGAStats
from gaga_adapter.cli.options import Reading, open_data
from gaga_adapter.errors import DataError
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats import read_molecules, write_sdf
from gaga_adapter.molecules.metrics import plausibility

_TETRAHEDRON = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
METHANE = ([[0.0, 0.0, 0.0], *([0.63 * v for v in row] for row in _TETRAHEDRON)], [6, 1, 1, 1, 1])
WATER = ([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], [8, 1, 1])
SELENIDE = ([[0.0, 0.0, 0.0], [0.0, 1.06, 1.0], [0.0, -1.06, 1.0]], [34, 1, 1])


@pytest.fixture(scope="module")
def sulphides(tmp_path_factory):
    """1100 chains of H, C and S in a folder of two files, one molecule of which is broken."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("sulphides")
    text = []
    for index in range(1100):
        n = int(rng.integers(3, 7))
        x = np.cumsum(rng.normal((1.2, 0, 0), 0.3, size=(n, 3)), axis=0)
        symbols = rng.choice(["H", "C", "S"], size=n)
        text.append(f"{n}\nchain {index}\n")
        text += [f"{s} {a:.5f} {b:.5f} {c:.5f}\n" for s, (a, b, c) in zip(symbols, x, strict=True)]
    (folder / "a.xyz").write_text("".join(text))
    (folder / "b.xyz").write_text("1\n\nQq 0 0 0\n2\n\nH 0 0 0\nH 0 0 0.7\n")
    return folder


@pytest.mark.filterwarnings("default")  # the command prints them
def test_a_folder_with_elements_looked_up_and_bad_molecules_left_out(gaga, sulphides):
    chosen = ["--criteria", "cumulant", "--items", 1100, "--tolerance", 5, "--json"]
    code, out, err = gaga("criteria", sulphides / "a.xyz", *chosen)
    assert (code, out) == (2, "")
    assert "a.xyz: molecule 1 has the element S" in err
    assert "--elements H,C,N,O,F,S" in err
    code, _, err = gaga("criteria", sulphides, "--elements", "auto", *chosen)
    assert code == 2
    assert "b.xyz: molecule 0 has in line 3 an unknown element 'Qq'" in err
    assert "--skip-bad" in err
    assert err.count("\n") == 1
    code, out, err = gaga("criteria", sulphides, "--elements", "auto", "--skip-bad", *chosen)
    assert code == 0, err
    assert json.loads(out)["count"] == 1101
    assert "skipped 1 of 1,102 molecules (1 malformed)" in err


@pytest.mark.filterwarnings("default")  # the command prints them
def test_molecules_with_other_elements_are_left_out(gaga, sulphides, tmp_path):
    lines = (sulphides / "a.xyz").read_text().splitlines()
    sizes = [place for place, line in enumerate(lines) if line.isdecimal()]
    molecules = [lines[a:b] for a, b in itertools.pairwise([*sizes, len(lines)])]
    n_kept = sum(not any(line.startswith("S") for line in one) for one in molecules)
    fit = ["--reference", "unit", "--criterion", "cumulant", "--tolerance", 1e6]
    words = ["fit", sulphides / "a.xyz", "--elements", "H,C", "--out", tmp_path / "stats", *fit]
    assert "leave such molecules out with --skip-others" in gaga(*words).err
    code, _, err = gaga(*words, "--skip-others")
    assert code == 0, err
    assert f"skipped {1100 - n_kept:,} of 1,100 molecules ({1100 - n_kept:,} with other el" in err
    stats = GAGAStats.from_pretrained(tmp_path / "stats")
    assert stats.moments.count == n_kept
    assert stats.provenance["skip_others"] is True
    code, _, err = gaga(*words[:2], "--elements", "auto", *words[4:], "--skip-others", "--force")
    assert (code, "--skip-others leaves nothing out with --elements auto" in err) == (2, True)


def test_sources_are_dealt_to_processes(sulphides, tmp_path, monkeypatch):
    monkeypatch.setattr("gaga_adapter.cli.options._BATCH", 300)
    monkeypatch.setattr("gaga_adapter.cli.options._BATCH_NUMBERS", 8)
    molecules = open_data(Reading([str(sulphides / "a.xyz")], "H,C,S"))
    assert molecules.total is None
    np.save(tmp_path / "a.npy", np.arange(42, dtype=np.float32).reshape(21, 2))
    array = open_data(Reading([str(tmp_path / "a.npy")]))
    assert array.total == 21
    for source, whole in ((molecules, [300, 300, 300, 200]), (array, [4, 4, 4, 4, 4, 1])):
        alone = [batch[0] if isinstance(batch, tuple) else batch for batch in source.batches()]
        assert [len(batch) for batch in alone] == whole
        for r in range(2):
            share = list(source.batches((r, 2)))
            share = [batch[0] if isinstance(batch, tuple) else batch for batch in share]
            assert all(map(torch.equal, share, alone[r::2]))
            assert len(share) == len(alone[r::2])


@pytest.mark.parametrize("words", ["H,C,O,SE", "h c o se", "1,6,8,34", "AUTO"])
def test_elements_are_kept_under_their_own_names(tmp_path, words):
    (tmp_path / "a.smi").write_text("CCO\nC[Se]C\n")
    source = open_data(Reading([str(tmp_path / "a.smi")], words, embed=True))
    assert source.layout.elements == ("H", "C", "O", "Se")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ({"elements": "auto"}, "--elements"),
        ({"skip_others": True}, "--skip-others"),
        ({"position_scale": 2.0}, "--position-scale"),
    ],
)
def test_what_is_asked_of_molecules_is_refused_for_arrays(tmp_path, words, name):
    file = tmp_path / "a.npy"
    np.save(file, np.zeros((21, 2), np.float32))
    with pytest.raises(DataError, match=rf"^{name} is of molecules, and .*a.npy is an array"):
        open_data(Reading([str(file)], **words))
    assert open_data(Reading([str(file)], channels=0)).total == 21


def test_elements_hydrogens_and_smiles_through_open_data(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\nC[Se]C\n")
    source = open_data(Reading([str(tmp_path / "a.smi")], "auto", embed=True), seed=1)
    assert source.layout.elements == ("H", "C", "O", "Se")
    x, mask = next(source.batches())
    assert x.shape == (2, 9, 3 + 4)
    assert mask.sum(1).tolist() == [9, 9]
    bare = open_data(Reading([str(tmp_path / "a.smi")], "auto", embed=True, hydrogens="remove"))
    assert bare.layout.elements == ("C", "O", "Se")
    assert next(bare.batches())[1].sum(1).tolist() == [3, 3]
    with pytest.raises(DataError, match=r"a.smi holds SMILES"):
        open_data(Reading([str(tmp_path / "a.smi")]))


@pytest.fixture
def sdf(tmp_path):
    write_sdf(MoleculeSet.from_list([METHANE, WATER, METHANE], "three"), tmp_path / "three.sdf")
    return tmp_path / "three.sdf"


def test_evaluate_says_all_in_one_document(gaga, sdf):
    pytest.importorskip("posebusters")
    copy = sdf.with_name("copy.sdf")
    copy.write_bytes(sdf.read_bytes())
    code, out, err = gaga("evaluate", sdf, "--json", "--against", copy, "--posebusters-items", 2)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["n_molecules"], found["n_read"], found["left_out"]) == (3, 3, 0)
    assert found["molecule_stability"] == {"value": 1.0, "std_error": 0.0}
    assert found["not_judged"] == {"n_molecules": 0, "elements": []}
    assert found["posebusters"]["n_molecules"] == 2
    assert found["posebusters"]["checks"]["bond_lengths"]["passed"]["value"] == 1.0
    assert found["distances"]["against"] == str(copy)
    assert found["distances"]["measured"]["v_x"]["value"] == 0.0
    code, out, _ = gaga("evaluate", sdf, "--against", copy, "--posebusters-items", 1)
    for text in (
        "molecule stability %",
        "all checks",
        "bond angles, degrees",
        "needs twice as many",
    ):
        assert text in out
    assert "PoseBusters: 1 of 3 molecules" in out


@pytest.mark.filterwarnings("default")  # the command prints them
def test_molecules_that_are_compared_with_themselves_are_warned_of(gaga, sdf, monkeypatch):
    monkeypatch.chdir(sdf.parent)
    code, _, err = gaga("evaluate", sdf, "--no-posebusters", "--against", sdf.name)
    assert code == 0
    assert "three.sdf is judged and compared with itself: the distances say nothing" in err


def test_evaluate_reads_a_pipe_twice_for_posebusters(gaga, sdf, monkeypatch):
    pytest.importorskip("posebusters")
    with (sdf.parent / "three.sdf.bz2").open("wb") as stream:
        stream.write(bz2.compress(sdf.read_bytes()))
    with subprocess.Popen(["cat", sdf.parent / "three.sdf.bz2"], stdout=subprocess.PIPE) as cat:
        monkeypatch.setattr(sys, "stdin", cat.stdout)
        code, out, err = gaga(
            "evaluate", "-", "--format", "sdf", "--json", "--posebusters-items", 1
        )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["data"], found["n_read"]) == ("standard input", 3)
    assert found["posebusters"]["n_molecules"] == 1


@pytest.mark.filterwarnings("default")  # the command prints them
def test_advice_of_evaluate_and_report_can_be_followed(gaga, sdf, tmp_path):
    (tmp_path / "a.smi").write_text("O\nC\n")
    code, out, err = gaga("evaluate", tmp_path / "a.smi", "--no-posebusters")
    assert (code, "--embed" in err) == (2, True)
    code, out, _ = gaga("evaluate", tmp_path / "a.smi", "--embed", "--no-posebusters", "--json")
    assert (code, json.loads(out)["n_read"]) == (0, 2)
    broken = tmp_path / "broken.sdf"
    broken.write_text(sdf.read_text() + "nothing\n$$$$\n")
    against = ["evaluate", sdf, "--against", broken, "--no-posebusters"]
    page = ["report", "qm9", "--samples", broken, "--out", tmp_path / "page.html"]
    for words in (against, page):
        code, _, err = gaga(*words)
        assert (code, "--skip-bad" in err) == (2, True)
        code, _, err = gaga(*words, "--skip-bad")
        assert code == 0, err


def test_posebusters_judges_the_bonds_of_the_file(gaga, tmp_path):
    """Water with one bond alone: two pieces for PoseBusters, one molecule by distances."""
    pytest.importorskip("posebusters")
    write_sdf(MoleculeSet.from_list([WATER], "water"), tmp_path / "a.sdf")
    text = (tmp_path / "a.sdf").read_text()
    bonds = [line for line in text.splitlines() if line.split()[-1:] == ["0"] and len(line) == 12]
    assert len(bonds) == 2
    cut = text.replace("  3  2  0", "  3  1  0", 1).replace(bonds[1] + "\n", "")
    (tmp_path / "a.sdf").write_text(cut)
    code, out, err = gaga("evaluate", tmp_path / "a.sdf", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["molecule_stability"]["value"] == 1.0
    assert found["posebusters"]["checks"]["all_atoms_connected"]["passed"]["value"] == 0.0


def test_what_is_not_judged_is_said(gaga, tmp_path):
    file = tmp_path / "a.xyz"
    rows = []
    for (x, z), symbols in ((WATER, "O H H"), (SELENIDE, "Se H H")):
        rows.append(f"{len(z)}\n\n")
        rows += [f"{s} {a} {b} {c}\n" for s, (a, b, c) in zip(symbols.split(), x, strict=True)]
    file.write_text("".join(rows))
    code, out, err = gaga("evaluate", file, "--no-posebusters")
    assert code == 0
    assert "not judged: 1 of 2 molecules, which have Se" in err
    code, out, _ = gaga("evaluate", file, "--no-posebusters", "--json")
    found = json.loads(out)
    assert found["not_judged"] == {"n_molecules": 1, "elements": ["Se"]}
    assert (found["n_molecules"], found["n_read"]) == (1, 2)
    assert found["posebusters"] is found["distances"] is None
    file.write_text("".join(rows[4:]))
    code, out, err = gaga("evaluate", file, "--no-posebusters")
    assert code == 2
    assert "no molecule has elements of known valences alone" in err


@pytest.mark.filterwarnings("default")  # the command prints them
def test_charged_atoms_are_said_to_count_as_unstable(gaga, tmp_path):
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    ammonium = Chem.AddHs(Chem.MolFromSmiles("[NH4+]"))
    rdDistGeom.EmbedMolecule(ammonium, randomSeed=1)
    (tmp_path / "a.sdf").write_text(Chem.MolToMolBlock(ammonium) + "$$$$\n")
    code, out, err = gaga("evaluate", tmp_path / "a.sdf", "--no-posebusters", "--json")
    assert json.loads(out)["n_charged"] == 1
    assert json.loads(out)["molecule_stability"]["value"] == 0.0
    code, out, err = gaga("evaluate", tmp_path / "a.sdf", "--no-posebusters")
    assert code == 0
    assert "1 molecules have formal charges in the file. EDM's valences" in err


def test_posebusters_is_optional_unless_asked_for(gaga, sdf, monkeypatch):
    monkeypatch.setattr(plausibility, "has_posebusters", lambda: False)
    code, out, _ = gaga("evaluate", sdf, "--json")
    assert (code, json.loads(out)["posebusters"]) == (0, None)
    code, out, err = gaga("evaluate", sdf, "--posebusters")
    assert (code, out) == (2, "")
    assert 'needs posebusters: pip install "gaga-adapter[posebusters]"' in err


@pytest.mark.filterwarnings("default")  # the command prints them
def test_heavy_atoms_get_their_hydrogens_before_they_are_judged(gaga, tmp_path):
    from rdkit import Chem

    mol = Chem.MolFromSmiles("C")
    Chem.rdDistGeom.EmbedMolecule(mol)
    (tmp_path / "a.sdf").write_text(Chem.MolToMolBlock(mol) + "$$$$\n")
    code, out, err = gaga("evaluate", tmp_path / "a.sdf", "--no-posebusters", "--json")
    assert json.loads(out)["molecule_stability"]["value"] == 0.0
    assert "lack hydrogens that their bonds imply" in err
    options = ["--no-posebusters", "--json", "--hydrogens", "add"]
    code, out, err = gaga("evaluate", tmp_path / "a.sdf", *options)
    assert (code, err) == (0, "")
    assert json.loads(out)["molecule_stability"]["value"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "gone.sdf"], "there is no file gone.sdf"),
        (["evaluate", "samples.pdb"], "cannot tell what samples.pdb is"),
        (["evaluate", "*.db"], "no file matches *.db"),
        (["evaluate", "empty.sdf"], "empty.sdf is empty"),
        (["evaluate", "a.smi"], "a.smi holds SMILES"),
        (["evaluate", "good.xyz", "--against", "gone.sdf"], "there is no file gone.sdf"),
        (["evaluate", "good.xyz", "--hydrogens", "add"], "good.xyz states no bonds"),
        (["evaluate", "good.xyz", "--hydrogens", "yes"], "'yes' is none of keep, remove, add"),
        (["fit", "good.xyz", "--out", "x", "--hydrogens", "remove"], "good.xyz: molecule 0 has no"),
        (["fit", "good.xyz", "--out", "x", "--elements", "H,Qq"], "unknown element 'Qq'"),
        (["fit", "-", "--out", "x"], "cannot tell what standard input is"),
        (["fit", "good.xyz", "--out", "x", "--format", "pdb"], "'pdb' is none of sdf, sd, mol"),
        (["criteria", "gone.db"], "there is no file gone.db"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(gaga, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.sdf").touch()
    (tmp_path / "a.smi").write_text("CCO\n")
    (tmp_path / "good.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    code, out, err = gaga(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("gaga: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()
    assert len(read_molecules("good.xyz")) == 1
