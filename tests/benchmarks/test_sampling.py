"""The table of samplers: resumed, shared and judged as it says; sentences that are computed."""

import copy
import itertools
import json
import math
import sys

import pytest
import sampling
import sampling_tables
import verdicts
from scipy.stats import norm

from gaga_adapter.molecules.qm9.data import load_qm9

CELLS = [
    sampling.Cell("ddpm", 4),
    sampling.Cell("ddpm", 4, 400, "shape", "suffix"),
]


# -- the run -------------------------------------------------------------------------------------


class Few(verdicts.HeldOut):
    """Forty molecules of the test split, and none that training has seen."""

    molecules = load_qm9("test").subset(slice(40))
    smiles = frozenset()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the script on two tiny cells in a folder of its own."""
    monkeypatch.setattr(sampling, "GROUPS", {"main": CELLS})
    monkeypatch.setattr(sampling, "ORDER", [cell.name for cell in CELLS])
    monkeypatch.setattr(sampling, "HeldOut", Few)

    def call(name, *more):
        folder = tmp_path / name
        monkeypatch.setattr(sampling, "CHUNKS", folder / "lock")
        argv = ["sampling.py", "-n", "6", "--chunk", "2", "--group", "main"]
        argv += ["--chunks", str(folder / "chunks"), "--out", str(folder / "sampling.json")]
        monkeypatch.setattr(sys, "argv", [*argv, *more])
        sampling.main()
        file = folder / "sampling.json"
        return json.loads(file.read_text())["cells"] if file.exists() else None

    return call


def timeless(cells):
    return {
        name: {key: value for key, value in cell.items() if "seconds" not in key}
        for name, cell in cells.items()
    }


@pytest.mark.data
def test_interrupted_or_shared_it_is_the_same_table(run, monkeypatch):
    whole = run("whole")
    assert list(whole) == [cell.name for cell in CELLS]
    assert whole["ddpm 4, full"]["network_calls"] == 4
    assert whole["ddpm 4, shape at 400, suffix"]["network_calls"] < 4
    assert whole["ddpm 4, full"]["n"] == 6

    sample = sampling.Sampler.sample
    calls = itertools.count()

    def interrupted(self, *arguments):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return sample(self, *arguments)

    monkeypatch.setattr(sampling.Sampler, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    assert timeless(run("killed")) == timeless(whole)
    assert next(calls) == 7  # 4 chunks, the interrupted one, and the two that were left

    assert run("shared", "--shard", "0/2", "--sample-only") is None
    run("shared", "--shard", "1/2", "--sample-only")
    assert timeless(run("shared", "--merge")) == timeless(whole)

    with pytest.raises(SystemExit, match="Pass --replace"):
        run("whole", "--seed", "9")


# -- verdicts ------------------------------------------------------------------------------------


def estimate(value, error=0.01):
    return {"value": value, "std_error": error}


def cell(**changes):
    """A synthetic row; `changes` are values of figures or, as `W_bonds`, of distances."""
    figures = {name: estimate(0.6) for name in verdicts.SHARES}
    figures |= {name: estimate(2.0) for name in verdicts.FORMS}
    apart = {name: estimate(0.05) for name in ("v_x", "bond_lengths")}
    for name, value in changes.items():
        part = apart if name.startswith("W_") else figures
        key = name.removeprefix("W_")
        part[key] = None if value is None else estimate(value)
    return {
        "solver": "ddpm",
        "steps": 1000,
        "t_star": None,
        "reference": None,
        "spacing": None,
        "n": 100,
        "network_calls": 1000,
        "cpu_seconds": 1.0,
        "figures": figures,
        "distances": apart,
        "noise_floor": apart,
    }


def compared(rival=None, **changes):
    """What is said of a start at 400 against the full trajectory."""
    start = cell(**changes) | {"t_star": 400, "reference": "shape", "spacing": "suffix"}
    start |= {"network_calls": 401}
    cells = {"ddpm 1000, full": rival or cell(), "ddpm 1000, shape at 400, suffix": start}
    found = {"cells": cells, "held_out": {"figures": cell()["figures"]}}
    return found | verdicts.compare(found)


def against(found):
    return found["cells"]["ddpm 1000, shape at 400, suffix"]["against"]["full"]


def test_what_is_planted_is_found_and_nothing_else():
    said = against(compared(validity=0.5, W_v_x=0.04, v_x=2.001, novelty=0.1))
    assert said["worse"] == said["surely_worse"] == ["validity"]
    assert said["z"]["validity"] == pytest.approx(-0.1 / math.hypot(0.01, 0.01))
    assert said["z"]["W1 v_x"] > 0  # nearer is better
    assert said["fewer_calls"] == pytest.approx(1000 / 401)
    assert said["expected_by_chance"] == pytest.approx(norm.cdf(-2) * 10)


def test_a_mean_is_better_nearer_to_the_data_from_either_side():
    rival = cell(v_x=2.1)
    assert against(compared(rival, v_x=1.95))["z"]["v_x"] > 0
    assert "v_x" in against(compared(rival, v_x=1.8))["worse"]


def test_what_cannot_be_computed_is_worse():
    said = against(compared(W_bond_lengths=None, validity=None))
    assert set(said["worse"]) == set(said["surely_worse"]) == {"validity", "W1 bond_lengths"}
    certain = cell()
    certain["figures"]["validity"] = estimate(1.0, 0.0)
    collapsed = copy.deepcopy(certain)
    collapsed["figures"]["validity"] = estimate(0.0, 0.0)
    z = verdicts._z(collapsed["figures"]["validity"], certain["figures"]["validity"], 1.0)
    assert z == -verdicts.CLEAR


def test_holm():
    """Against the procedure written out with scipy's tails."""
    z = {"a": -3.1, "b": -2.6, "c": -2.4, "d": 0.3, "e": None, "f": -1.0}
    known = sorted((v, k) for k, v in z.items() if v is not None)
    expected = []
    for rank, (value, name) in enumerate(known):
        if norm.cdf(value) > 0.05 / (len(known) - rank):
            break
        expected.append(name)
    assert verdicts.surely_worse(z) == expected == ["a", "b", "c"]
    assert verdicts.surely_worse({"a": -2.2, "b": -1.0, "c": 0.0, "d": 0.0}) == []


def test_certificates_between_measured_levels(tmp_path, monkeypatch):
    curve = {"value": [4.0, 1.0], "std_error": [0.1, 0.2]}
    (tmp_path / "certificate.json").write_text(
        json.dumps({"t": [300, 400], "curves": {"s": curve}})
    )
    monkeypatch.setattr(verdicts, "RESULTS", tmp_path)
    found = verdicts._certificates()
    assert found["s", 300] == {"value": 4.0, "std_error": 0.1, "interpolated": False}
    assert found["s", 350]["value"] == pytest.approx(2.0)  # the geometric mean
    assert found["s", 350]["interpolated"]
    assert ("s", 401) not in found


# -- sentences -----------------------------------------------------------------------------------


def test_sentences_follow_the_figures():
    met = sampling_tables.goals(compared())
    assert "none of 10 figures is worse by two standard errors: met" in met
    missed = sampling_tables.goals(compared(validity=0.57))
    assert "1 of 10 figures are worse" in missed
    assert "validity (z = -2.1). Missed, though none of them stands" in missed
    assert "validity also after Holm's correction" in sampling_tables.goals(compared(validity=0.3))
    assert "`shape` 50 %" in sampling_tables.goals(compared(v_x_spread=1.0))
    assert met.count("Not sampled.") == 2  # nothing in 200 steps, nothing with few calls


@pytest.mark.parametrize(("stable", "said"), [(0.58, "Met by"), (0.3, "Missed: the best is")])
def test_few_calls(stable, said):
    quick = cell(molecule_stability=stable)
    quick |= {"steps": 50, "network_calls": 50, "t_star": 400, "reference": "shape"}
    cells = {"ddpm 1000, full": cell(), "ddpm 50, shape at 400, respace": quick}
    found = {"cells": cells, "held_out": {"figures": cell()["figures"]}}
    text = sampling_tables.goals(found | verdicts.compare(found))
    assert f"{said} ddpm 50, shape at 400, respace" in text


def test_tables_have_a_cell_in_every_column():
    found = compared(validity=None)
    for table in (sampling_tables.short, sampling_tables.quality, sampling_tables.apart):
        rows = [line for line in table(found).splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) == 1
        assert len(rows) >= 4
