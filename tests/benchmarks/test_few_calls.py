"""The rows of a few calls: sampled, resumed and judged as the script says; their sentences."""

import json
import math
import sys

import edm_checkpoint
import few_calls
import few_calls_tables
import numpy as np
import pytest
import torch
import verdicts
from other_starts import BareNoise, Oracle
from strain import strain

from gaga_adapter import FewStepScheduler, GAGAScheduler, GAGAStats
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.subspace import mask_from_sizes, project

CELLS = [
    few_calls.few(3, "shape", 300),
    few_calls.few(3, "none", matched=False),
    few_calls.Cell("re-noise", 3, "noise", 599, grid=few_calls.FLASHMOL),
    few_calls.Cell("sde-dpm++", 3, "shape", 300),
]


class Few(verdicts.HeldOut):
    """Forty molecules of the test split, and none that training has seen."""

    molecules = load_qm9("test").subset(slice(40))
    smiles = frozenset()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the script on tiny rows in a folder of its own, without EDM."""
    group = few_calls.Group("embedded", 4, CELLS)
    monkeypatch.setattr(few_calls, "GROUPS", {"claims": group})
    monkeypatch.setattr(few_calls, "HeldOut", Few)
    monkeypatch.setattr(few_calls, "CLAIMS", [])
    monkeypatch.delenv(edm_checkpoint.REPO, raising=False)

    def call(name, *more):
        folder = tmp_path / name
        argv = ["few_calls.py", "--no-compile", "--chunk", "2", "--group", "claims"]
        argv += ["--chunks", str(folder), "--out", str(folder / "few_calls.json")]
        monkeypatch.setattr(sys, "argv", [*argv, *more])
        few_calls.main()
        file = folder / "few_calls.json"
        return json.loads(file.read_text()) if file.exists() else None

    return call


@pytest.mark.data
def test_rows_are_resumed_and_their_calls_counted(run, capsys):
    assert run("one", "--shard", "0/2", "--sample-only") is None
    printed = capsys.readouterr()
    assert printed.out.count("#0") == len(CELLS)
    assert "GAGA_EDM_REPO does not name a checkout of EDM" in printed.err
    found = run("one")
    cells = found["weights"]["embedded"]["cells"]
    assert list(cells) == [cell.name for cell in CELLS]
    assert {cell["network_calls"] for cell in cells.values()} == {3}
    assert {cell["n"] for cell in cells.values()} == {4}
    assert run("one", "--merge")["weights"] == found["weights"]
    for name in ("molecule_stability", "v_x", "novelty"):
        assert "value" in cells[CELLS[0].name]["figures"][name]


def test_the_reason_is_given_where_there_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.delenv(edm_checkpoint.REPO, raising=False)
    assert "GAGA_EDM_REPO does not name" in edm_checkpoint.missing()
    monkeypatch.setenv(edm_checkpoint.REPO, str(tmp_path))
    monkeypatch.setenv(edm_checkpoint.CHECKPOINT, str(tmp_path))
    assert "is not a checkout of EDM" in edm_checkpoint.missing()


@pytest.mark.skipif(edm_checkpoint.missing() is not None, reason=str(edm_checkpoint.missing()))
def test_a_checkpoint_is_sampled_by_its_own_classes():
    """The faster network agrees with EDM's own, which `load` checks as well."""
    runs = []
    for fast in (False, True):
        pipe = edm_checkpoint.load(fast)
        generator = torch.Generator().manual_seed(0)
        runs.append(pipe(2, num_inference_steps=4, generator=generator))
    torch.testing.assert_close(runs[0].positions, runs[1].positions, rtol=1e-2, atol=1e-2)
    assert type(pipe.denoiser.model).__name__ == "EnVariationalDiffusion"


# -- starts --------------------------------------------------------------------------------------


def test_the_oracle_is_a_noised_molecule_of_the_same_size():
    """Without noise it is a molecule of the set, for any size; with noise it has the level's."""
    molecules = load_qm9("test").subset(slice(200))
    stats = GAGAStats.from_pretrained("qm9")
    sizes = torch.tensor([15, 18, 18, 20])
    mask = mask_from_sizes(sizes)
    noise = torch.randn(4, 20, 8, generator=torch.Generator().manual_seed(0))
    z = project(noise, mask)
    oracle = Oracle(molecules, molecules, stats)
    clean = oracle.at(1.0, 0.0).transport(z, mask)
    known, _ = encode(molecules, stats.layout)
    for row, n in enumerate(sizes.tolist()):
        own = known[torch.from_numpy(molecules.n_atoms == n), :n]
        assert (own - clean[row, :n]).abs().amax((1, 2)).min() < 1e-6
    noised = oracle.at(0.6, 0.8).transport(z, mask)
    torch.testing.assert_close(noised, 0.6 * clean + 0.8 * z)
    torch.testing.assert_close(BareNoise().at(0.6, 0.8).transport(z, mask), 0.8 * z)


def test_a_row_has_the_levels_and_the_start_that_its_name_says():
    bench = few_calls.Bench("embedded", {}, None, None, Few(), compiled=False)
    matched = bench.scheduler(few_calls.few(8, "shape", 300))
    assert isinstance(matched, GAGAScheduler)
    assert (matched.reference, matched.t_star, matched.spacing) == ("shape", 300, "log_snr")
    assert (matched.config.log_snr_max, matched.config.match_below) == (5.5, 3.0)
    assert matched.stats.moments.keeps_tensors
    bare = bench.scheduler(few_calls.few(12, "none"))
    assert type(bare) is FewStepScheduler
    assert bare.moments is bench.stats.moments
    assert bench.scheduler(few_calls.few(12, "none", matched=False)).moments is None
    unmatched = bench.scheduler(few_calls.few(12, "size", 300, matched=False))
    assert unmatched.config.match_below == -math.inf
    assert bench.scheduler(few_calls.Cell("re-noise", 12)).config.renoise_from == -math.inf
    grid = bench.scheduler(CELLS[2])
    grid.set_timesteps(timesteps=list(few_calls.FLASHMOL), device="cpu")
    assert tuple(grid.timesteps.tolist()) == few_calls.FLASHMOL


# -- strain --------------------------------------------------------------------------------------


@pytest.mark.data
def test_strain_is_what_stretching_adds():
    """A force field's own minimum has none; molecules stretched by 2 % have more than as they are;
    and what cannot be sanitised, or comes in pieces, has no strain."""
    few = load_qm9("test").subset(slice(20))
    own = strain(few)
    stretched = strain(MoleculeSet(few.positions * 1.02, few.atomic_numbers))
    known = np.isfinite(own) & np.isfinite(stretched)
    assert known.sum() > 10
    assert (own[known] >= 0).all()
    assert (stretched[known] > own[known]).all()
    assert 0.1 < np.median(own[known]) < 0.6
    apart = MoleculeSet(few.positions * 3, few.atomic_numbers)
    assert np.isnan(strain(apart)).all()


# -- sentences -----------------------------------------------------------------------------------


def estimate(value, error=0.01):
    return {"value": value, "std_error": error}


def claim(**changes):
    figure = {"gain": -0.01, "std_error": 0.01, "margin": 0.02, "z": 1.0, "needs": 2.0}
    return {
        "said": "12 calls are worse in no figure", "weights": "embedded", "test": "non-inferior",
        "row": "a", "rival": "b", "pairs": 4096, "figures": {"validity": figure},
        "no_worse": [], "open": ["validity"], "worse": [], "verdict": "open", **changes,
    }  # fmt: skip


def test_a_claim_is_told_with_what_speaks_against_it():
    part = {"claims": [claim(), claim(verdict="no worse", open=[], no_worse=["validity"])]}
    told = few_calls_tables.asked({"weights": {"embedded": part}}).splitlines()[2:]
    assert (
        "| not shown | 0 of 1 figures are no worse; open: validity (-0.5 ± 0.5 margins)" in told[0]
    )
    assert "| **shown** | 1 of 1 figures are no worse" in told[1]
    worse = {"claims": [claim(verdict="worse", open=[], worse=["validity"])]}
    told = few_calls_tables.asked({"weights": {"edm": worse}})
    assert "| EDM checkpoint | 4096 | not met | 0 of 1 figures are no worse; worse: valid" in told


def test_the_sentence_on_novelty_has_the_figures_of_the_rows():
    def cell(calls, novel, new, rule="few-step", start="shape", t_star=300):
        figures = {"novelty": estimate(novel), "stable_and_new": estimate(new)}
        return {
            "rule": rule, "calls": calls, "network_calls": calls, "start": start,
            "t_star": t_star, "matched": True, "figures": figures,
        }  # fmt: skip

    cells = {
        "few-step 12, shape at 300, matched": cell(12, 0.7, 0.46),
        "few-step 40, shape at 300, matched": cell(40, 0.56, 0.44),
        "ddpm 1000, none": cell(1000, 0.74, 0.43, "ddpm", "none", None),
    }
    told = few_calls_tables.traded({"weights": {"embedded": {"cells": cells}}})
    assert "70 ± 1 % after 12 calls, 56 ± 1 % after 40 calls of the distinct" in told
    assert "74 ± 1 % after DDPM's 1000" in told
    assert "46 ± 1 % after 12, 44 ± 1 % after 40, and 43 ± 1 % after DDPM's 1000" in told


def test_rows_of_one_set_of_weights_that_differ_have_names_that_differ():
    for weights in ("embedded", "edm"):
        groups = (group for group in few_calls.GROUPS.values() if group.weights == weights)
        cells = {cell for group in groups for cell in group.cells}
        assert len({cell.name for cell in cells}) == len(cells)
