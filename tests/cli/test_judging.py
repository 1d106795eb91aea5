"""FCD, strain and stated bonds as a user asks for them: tables, json, a page, and mistakes."""

import json

import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from gaga_adapter.cli import judging
from gaga_adapter.molecules.formats import write_sdf
from gaga_adapter.molecules.metrics import fcd, strain, valencies
from gaga_adapter.molecules.qm9.data import load_qm9

DRUGS = ["c1ccccc1", "C[N+](=O)[O-]", "CS(=O)(=O)C", "CCO", "CC(=O)[O-]"]


@pytest.fixture(scope="module")
def drugs(tmp_path_factory):
    """An SDF file with aromatic bonds and charges, as a model of drugs writes it."""
    file = tmp_path_factory.mktemp("drugs") / "drugs.sdf"
    blocks = []
    for smiles in DRUGS:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        blocks.append(Chem.MolToMolBlock(mol, kekulize=False) + "$$$$\n")
    file.write_text("".join(blocks))
    return file


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Samples and held-out molecules, both of QM9's test split, without stated bonds."""
    folder = tmp_path_factory.mktemp("few")
    whole = load_qm9("test").subset(slice(100))
    write_sdf(whole.subset(slice(15)), folder / "samples.sdf")
    write_sdf(whole.subset(slice(15, 100)), folder / "held-out.sdf")
    return folder / "samples.sdf", folder / "held-out.sdf"


def test_the_methods_are_those_of_the_library():
    assert tuple(strain.MOST_ITEMS) == judging.METHODS


@pytest.mark.filterwarnings("default")  # the command prints them
def test_stated_bonds_are_judged_beside_edms_rule(gaga, drugs):
    code, out, err = gaga("evaluate", drugs, "--no-posebusters", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["valency_rule"] == "bonds from distances, EDM"
    assert found["molecule_stability"]["value"] < 1  # charges, aromatic rings, six bonds of sulphur
    assert found["stated_bonds"]["rule"] == valencies.RULE
    assert found["stated_bonds"]["n_molecules"] == len(DRUGS)
    assert found["stated_bonds"]["molecule_stability"]["value"] == 1.0
    code, out, err = gaga("evaluate", drugs, "--no-posebusters")
    assert code == 0
    for text in (valencies.RULE, "bonds from distances, EDM", "5 molecules as stated"):
        assert text in " ".join(out.split())  # a long path breaks the title
    assert "charged ones count as unstable there" in err
    assert "the first takes bonds from distances, by EDM's table, which was made for QM9" in err
    assert "the second takes those that the file states" in err
    assert "novelty" not in out  # it was not asked for


def test_bonds_that_follow_from_distances_are_not_called_stated(gaga, few):
    code, out, err = gaga("evaluate", few[0], "--no-posebusters", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["stated_bonds"] is None


@pytest.mark.data
def test_fcd_and_strain_beside_held_out_molecules(gaga, few):
    words = ["evaluate", few[0], "--against", few[1], "--fcd", "--strain", "--no-posebusters"]
    code, out, err = gaga(*words, "--strain-items", 12, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["fcd"]["against"] == found["strain"]["against"] == str(few[1])
    assert found["fcd"]["graphs"] == "from distances, EDM"
    assert 0 < found["fcd"]["by_chance"]["value"]
    assert found["fcd"]["n_molecules"] + found["fcd"]["n_left_out"] == 15
    assert (found["strain"]["method"], found["strain"]["n_molecules"]) == ("mmff94", 12)
    assert 0.1 < found["strain"]["energy"]["value"] < 0.8
    assert found["strain"]["held_out"]["n_molecules"] == 12
    code, out, _ = gaga(*words)
    for text in (
        "FCD from",
        "by chance alone",
        "strain, relaxed by mmff94",
        "15 molecules",
        "85 of",
    ):
        assert text in out


@pytest.mark.filterwarnings("default")  # the command prints them
def test_fcd_takes_stated_graphs_where_both_sides_state_them(gaga, drugs):
    words = ["evaluate", drugs, "--against", drugs, "--fcd", "--no-posebusters", "--json"]
    code, out, err = gaga(*words)
    assert code == 0, err
    found = json.loads(out)["fcd"]
    assert found["graphs"] == "stated"
    assert (found["n_molecules"], found["n_left_out"]) == (len(DRUGS), 0)
    assert found["measured"]["value"] == pytest.approx(0, abs=1e-4)


@pytest.mark.filterwarnings("default")  # the command prints them
def test_strain_takes_the_bonds_and_charges_that_a_file_states(gaga, drugs):
    """By distances nitromethane and the ions are no molecules that MMFF94 knows."""
    code, out, err = gaga("evaluate", drugs, "--strain", "--no-posebusters", "--json")
    assert code == 0, err
    found = json.loads(out)["strain"]
    assert found["relaxed"]["value"] == 1.0
    assert found["held_out"] is found["against"] is None


def test_gfn2_by_name(gaga, few):
    pytest.importorskip("tblite")
    words = ["evaluate", few[0], "--strain-by", "gfn2", "--strain-items", 3, "--no-posebusters"]
    code, out, err = gaga(*words, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["strain"]
    assert (found["method"], found["n_molecules"]) == ("gfn2", 3)
    assert 0 <= found["energy"]["value"] < 1


@pytest.mark.data
def test_a_page_has_the_rows_that_were_asked_for(gaga, few, tmp_path):
    words = ["report", "qm9", "--samples", few[0], "--data", few[1], "--criteria", "none"]
    code, out, err = gaga(*words, "--fcd", "--strain", "--json", "--out", tmp_path / "a.html")
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)["samples"]["metrics"]}
    (fcd,) = (name for name in rows if name.startswith("FCD of "))
    for name in ("strain by mmff94, median", "relaxed by mmff94", fcd):
        assert rows[name]["samples"][0] > 0
        assert rows[name]["data"][0] > 0
        assert name in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert not [name for name in rows if name.startswith("PoseBusters") or "stated" in name]


@pytest.mark.filterwarnings("default")  # the command prints them
def test_a_page_has_every_check_of_posebusters_and_stated_bonds(gaga, drugs, tmp_path):
    pytest.importorskip("posebusters")
    words = ["report", "qm9", "--samples", drugs, "--posebusters", "--json"]
    code, out, err = gaga(*words, "--out", tmp_path / "a.html")
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)["samples"]["metrics"]}
    assert rows["molecules stable, bonds as stated"]["samples"] == [100.0, 0.0]
    checks = [name for name in rows if name.startswith("PoseBusters: ")]
    assert {"PoseBusters: bond lengths", "PoseBusters: all checks"} < set(checks)
    assert len(checks) > 10


def test_mistakes_are_one_line_before_the_work(gaga, few, monkeypatch):
    for words, message in (
        (["evaluate", few[0], "--fcd"], "Pass --against qm9:test"),
        (["evaluate", few[0], "--strain-items", 5], "Pass --strain with it"),
        (["evaluate", few[0], "--strain", "gfn2"], "Name the energy by --strain-by gfn2"),
        (["evaluate", few[0], "--strain-by", "gfn"], "Did you mean gfn2?"),
        (
            ["report", "qm9", "--samples", few[0], "--fcd", "--out", "p.html"],
            "Pass --data qm9:test",
        ),
        (["report", "qm9", "--strain", "--out", "p.html"], "Pass --samples or --model"),
    ):
        code, out, err = gaga(*words)
        assert (code, out) == (2, ""), words
        assert message in err
    monkeypatch.setattr(fcd, "find_spec", lambda name: None)
    monkeypatch.setattr(strain, "find_spec", lambda name: None)
    code, out, err = gaga("evaluate", few[0], "--against", few[1], "--fcd")
    assert (code, out) == (2, "")
    assert 'needs fcd: pip install "gaga-adapter[fcd]"' in err
    code, out, err = gaga("evaluate", few[0], "--strain-by", "gfn2")
    assert (code, out) == (2, "")
    assert 'needs tblite: pip install "gaga-adapter[xtb]"' in err
