"""`gaga levels` as a user types it."""

import json

import pytest
import toys

from gaga_adapter import GAGAStats
from gaga_adapter.molecules.formats import write_sdf


@pytest.fixture
def sdf(tmp_path):
    file = tmp_path / "chains.sdf"
    write_sdf(toys.chains(40), file)
    return file


def test_levels_are_fitted_stored_and_used(gaga, sdf, tmp_path):
    stats = tmp_path / "stats"
    words = ["--items", 16, "--out", stats]
    code, out, err = gaga("levels", sdf, "--calls", 3, "--calls", 2, *words, "--json")
    assert code == 0, err
    found = json.loads(out)["levels"]
    assert [len(one["log_snrs"]) for one in found] == [3, 2]
    assert f"wrote {stats}" in err
    kept = GAGAStats.from_pretrained(stats).levels
    assert json.loads(json.dumps([one.to_dict() for one in kept])) == found[::-1]

    # Again, into the folder that is the user's own now.
    code, out, err = gaga("levels", sdf, "--calls", 2, *words[:2], "--stats", stats)
    assert code == 0, err
    assert "log-SNR of the calls" in out
    assert "re-noised" in out
    assert len(GAGAStats.from_pretrained(stats).levels) == 2


@pytest.mark.filterwarnings("default")  # the command prints them
def test_other_elements_are_named_by_their_place_in_the_file_and_can_be_left_out(
    gaga, sdf, tmp_path
):
    file = tmp_path / "mixed.xyz"
    file.write_text("2\n\nH 0 0 0\nH 0 0 0.74\n3\n\nS 0 0 0\nH 0 0.96 0.93\nH 0 -0.96 0.93\n")
    words = ("levels", sdf, file, "--calls", 2, "--items", 16, "--out", tmp_path / "stats")
    code, _, err = gaga(*words)
    assert code == 2
    assert "mixed.xyz: molecule 1 has the element S. Allowed: H, C, N, O, F" in err
    assert "--skip-others" in err
    code, _, err = gaga(*words, "--skip-others")
    assert code == 0, err
    assert "skipped 1 of 42 molecules (1 with other elements)" in err


def test_mistakes_are_one_line(gaga, sdf, tmp_path):
    for words, message in (
        (["--calls", 3], "qm9 is no folder of yours"),
        (["--calls", 1, "--out", tmp_path / "s"], "--calls"),
        (["--calls", 3, "--method", "guess", "--out", tmp_path / "s"], "none of bound, search"),
        (["--calls", 3, "--items", 4, "--out", tmp_path / "s"], "--items"),
    ):
        code, out, err = gaga("levels", sdf, *words)
        assert (code, out) == (2, "")
        assert message in err
        assert "Traceback" not in err
    assert not (tmp_path / "s").exists()
