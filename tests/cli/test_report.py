"""`gaga report` as a user types it: the page, its json, and one line for a mistake."""

import json

import numpy as np
import pytest
import torch
import toys

from gaga_adapter import GAGAStats
from gaga_adapter.layout import AtomLayout, DenseLayout, MoleculeLayout
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.formats import write_sdf
from gaga_adapter.moments import DenseMoments, ExchangeableMoments


@pytest.fixture
def chains(tmp_path):
    """A folder with statistics of chains, and the SDF file they were fitted on."""
    molecules = toys.chains(200, (4, 9))
    layout = MoleculeLayout(("H", "C"))
    moments = ExchangeableMoments(layout.n_features)
    moments.update(*encode(molecules, layout))
    GAGAStats(layout, moments, 0.2, None, {"data": "chains"}).save_pretrained(tmp_path / "stats")
    write_sdf(molecules, tmp_path / "chains.sdf")
    return tmp_path / "stats", tmp_path / "chains.sdf"


def test_page_of_molecules_and_its_json(gaga, chains, tmp_path):
    stats, sdf = chains
    file = tmp_path / "page.html"
    code, out, err = gaga(
        "report", stats, "--data", sdf, "--samples", sdf, "--criteria", "none", "--items", 100,
        "--json", "--out", file,
    )  # fmt: skip
    assert code == 0, err
    assert "wrote" in err
    document = json.loads(out)
    assert document["stats"] == json.loads(json.dumps(GAGAStats.from_pretrained(stats).to_dict()))
    assert document["data"] == {"name": str(sdf), "count": 100}
    assert document["samples"]["count"] == 200
    assert document["written"]
    assert document["criteria"] == {}
    page = file.read_text(encoding="utf-8")
    assert "chains: sampling can start at step" in page
    assert 'aria-label="molecule C' in page


@pytest.mark.filterwarnings("default")  # the command prints them
def test_samples_of_other_elements_are_warned_of(gaga, chains, tmp_path):
    stats, sdf = chains
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0 0.9 -0.6\nH 0 0.9 0.6\n" * 3)
    words = ("report", stats, "--quiet", "--out", tmp_path / "page.html", "--samples")
    code, _, err = gaga(*words, tmp_path / "water.xyz")
    assert code == 0
    assert "warning: 3 atoms of the samples are O, and the statistics are of H, C: the" in err
    code, _, err = gaga(*words, sdf)
    assert (code, "of the samples are" in err) == (0, False)


@pytest.mark.filterwarnings("default")  # the command prints them
def test_data_with_other_elements_can_be_left_out(gaga, chains, tmp_path):
    stats, sdf = chains
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0 0.9 -0.6\nH 0 0.9 0.6\n")
    (tmp_path / "data").mkdir()
    for file in (sdf, tmp_path / "water.xyz"):
        file.rename(tmp_path / "data" / file.name)
    words = ("report", stats, "--criteria", "none", "--json", "--out", tmp_path / "page.html")
    code, _, err = gaga(*words, "--data", tmp_path / "data")
    assert (code, "leave such molecules out with --skip-others" in err) == (2, True)
    code, out, err = gaga(*words, "--data", tmp_path / "data", "--skip-others")
    assert code == 0, err
    assert json.loads(out)["data"]["count"] == 200
    assert "skipped 1 of 201 molecules (1 with other elements)" in err
    code, _, err = gaga(*words, "--skip-others")
    assert (code, "--skip-others is given and --data is not" in err) == (2, True)


def test_a_page_has_the_name_of_a_page(gaga, chains, tmp_path):
    code, _, err = gaga("report", chains[0], "--out", tmp_path / "page.pdf")
    assert (code, list(tmp_path.glob("page.*"))) == (2, [])
    assert f"a report is a page of HTML. Name it {tmp_path / 'page.html'}." in err


def test_further_curves_against_the_start_that_was_fitted(gaga, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1200, 2, 2, generator=generator) - 0.5
    moments = DenseMoments((2, 2))
    moments.update(x)
    GAGAStats(DenseLayout((2, 2)), moments, 0.0, None, {}).save_pretrained(tmp_path / "stats")
    np.save(tmp_path / "x.npy", x.numpy())
    code, out, err = gaga(
        "report", tmp_path / "stats", "--data", tmp_path / "x.npy", "--json", "--quiet",
        "--out", tmp_path / "page.html",
    )  # fmt: skip
    assert code == 0, err
    assert err == ""
    found = json.loads(out)["criteria"]["cumulant"]
    assert found["curve"]["reference"] == "channel"
    assert found["curve"]["n_samples"] == 1200
    noise, data = found["interval"]
    assert noise <= found["log_snr_star"] + 0.3
    assert noise <= data


def test_mistakes_are_one_line(gaga, chains, tmp_path):
    stats, sdf = chains
    page = tmp_path / "page.html"
    code, _, err = gaga("report", stats, "--criteria", "ks_mi", "--out", page)
    assert (code, err.count("\n")) == (2, 1)
    assert "--criteria ks_mi given without --data" in err
    code, _, err = gaga("report", stats, "--data", "x.npy", "--out", page)
    assert code == 2
    assert "Pass molecules" in err
    latent = ExchangeableMoments(1)
    latent.update(torch.randn(50, 4, 4, generator=torch.Generator().manual_seed(0)))
    GAGAStats(AtomLayout(1), latent, 0.0).save_pretrained(tmp_path / "latent")
    code, _, err = gaga("report", tmp_path / "latent", "--data", sdf, "--out", page)
    assert code == 2
    assert "no file holds" in err
    code, _, err = gaga("report", tmp_path / "latent", "--model", "embedded", "--out", page)
    assert code == 2
    assert "--model samples molecules" in err
    assert not page.exists()
