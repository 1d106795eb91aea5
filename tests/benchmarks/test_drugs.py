"""The benchmark of drug-like molecules on its small set: replicas, moments, tables."""

from functools import partial

import drugs
import numpy as np
import pytest
import torch
from folders import ROOT

from gaga_adapter import fit, named_path
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats import read_molecules

SET = ROOT / "tests/molecules/drugs.npz"


def distances(molecules, index):
    positions = molecules.molecule(index)[0].astype(float)
    return np.linalg.norm(positions[:, None] - positions[None], axis=-1)


def test_replicas_are_the_molecules_turned_and_a_little_noisy():
    whole = read_molecules(SET)
    made = MoleculeSet.concatenate(list(drugs.replicas(SET, 700)))
    assert len(made) == 700  # two passes of 300, and 100 of a third one
    for index in (0, 299, 300, 650):
        original = index % 300
        assert (made.molecule(index)[1] == whole.molecule(original)[1]).all()
        difference = distances(made, index) - distances(whole, original)
        # Two independent shifts along a line: a spread of 0.01 * sqrt(2), and six of it at most.
        assert abs(difference).max() < 6.5 * drugs.NOISE * 2**0.5
        assert 0.5 < difference.std() / (drugs.NOISE * 2**0.5) < 1.5
        moved = made.molecule(index)[0] - whole.molecule(original)[0]
        assert abs(moved).max() > 0.5
    assert abs(made.molecule(0)[0] - made.molecule(300)[0]).max() > 0.5


def test_moments_in_a_process_of_their_own():
    found = drugs.in_a_process(SET, 1000)
    assert found["conformers"] == 1000
    assert found["peak_mebibytes"] >= found["peak_before_mebibytes"] > 20
    here = drugs.moments_of(SET, 1000)
    assert found["position_variance_per_dof"] == pytest.approx(
        here["position_variance_per_dof"], rel=1e-6
    )


@pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning")
def test_tables_say_what_was_found(monkeypatch):
    """With a criterion that takes no time; the step of t* by the schedule itself."""
    monkeypatch.setattr(drugs, "fit", partial(fit, criterion="cumulant", reference="channel"))
    row = drugs.fitted(read_molecules(SET).batches(100), drugs.ELEMENTS, 300)
    assert row["molecules"] == 300
    path = named_path("edm/polynomial_2")
    levels = path.log_snr(torch.tensor([row["t_star"] - 1, row["t_star"]]).double() / 1000)
    assert levels[0] > row["log_snr_star"] >= levels[1] - 1e-9
    assert drugs.blown_up({"QM9": row, "drug-like": row}) == row["t_star"]
    larger = {"position_variance_per_dof": 4 * row["position_variance_per_dof"]}
    step = drugs.blown_up({"QM9": row, "drug-like": larger})
    levels = path.log_snr(torch.tensor([step - 1, step]).double() / 1000)
    assert levels[0] > row["log_snr_star"] - np.log(4) >= levels[1] - 1e-9
    size, star = next(iter(row["t_star_by_size"].items()))
    monkeypatch.setattr(drugs, "SIZES", (size, 9))
    memory = [{"conformers": 10_000, "peak_mebibytes": 300.4, "peak_before_mebibytes": 200.0,
               "cpu_seconds": 1.6}]  # fmt: skip
    text = drugs.markdown({"sets": {"QM9": row, "drug-like": row}, "items": 300, "memory": memory})
    assert f"| drug-like | 300 | 25 to 54, mean 39.9 | 6.73 | **{row['t_star']}** (" in text
    assert "| 10,000 | 300 | 200 | 2 |" in text
    assert f"| N = {size} | N = 9 |" in text
    assert f"| drug-like | {star} | – |" in text
    assert "The 300 conformers again and again" in text
