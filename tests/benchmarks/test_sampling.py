"""The table of samplers: resumed, shared and judged as it says; sentences that are computed."""

import itertools
import json
import math
import sys

import numpy as np
import pytest
import sampling
import sampling_tables
import verdicts

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
    assert said["worse"] == ["validity"]
    assert said["verdict"] == "worse"
    assert said["figures"]["validity"]["z"] == pytest.approx(-0.1 / math.hypot(0.01, 0.01))
    assert said["figures"]["W1 v_x"]["gain"] == pytest.approx(0.01)  # nearer is better
    assert said["fewer_calls"] == pytest.approx(1000 / 401)
    assert "novelty" not in said["figures"]


def test_a_mean_is_better_nearer_to_the_data_from_either_side():
    rival = cell(v_x=2.1)
    assert against(compared(rival, v_x=1.95))["figures"]["v_x"]["verdict"] == "no worse"
    for further in (1.8, 2.2):
        assert "v_x" in against(compared(rival, v_x=further))["worse"]


def test_equal_figures_with_small_errors_are_no_worse_and_with_large_ones_open():
    """The claim needs molecules: the same figures are open where the margin is not resolved."""
    sure, unsure = cell(), cell()
    for record, error in ((sure, 0.001), (unsure, 0.05)):
        for part in ("figures", "distances"):
            record[part] = {k: v | {"std_error": error} for k, v in record[part].items()}
    for record, verdict in ((sure, "no worse"), (unsure, "open")):
        start = record | {"t_star": 400, "reference": "shape", "spacing": "suffix"}
        cells = {"ddpm 1000, full": record, "ddpm 1000, shape at 400, suffix": start}
        found = {"cells": cells, "held_out": {"figures": sure["figures"]}}
        assert against(found | verdicts.compare(found))["verdict"] == verdict


def test_what_cannot_be_computed_is_worse():
    said = against(compared(W_bond_lengths=None, validity=None))
    assert set(said["worse"]) == {"validity", "W1 bond_lengths"}
    certain, collapsed = estimate(1.0, 0.0), estimate(0.0, 0.0)
    found = verdicts._one_sided(collapsed, certain, 1.0, 0.02)
    assert found["verdict"] == "worse"
    assert found["z"] == -verdicts.CLEAR


def rate(verdict, simulate, n=4000):
    return sum(one["verdict"] == verdict for one in map(simulate, range(n))) / n


@pytest.mark.parametrize(("true", "verdict"), [(-0.02, "no worse"), (0.0, "worse")])
def test_verdicts_on_a_share_err_as_rarely_as_they_say(true, verdict):
    """At the edge of the claim, 4,000 pairs of rows: 5 %, give or take 4.9 binomial errors."""
    draws = np.random.default_rng(0).normal(0.6, 0.01, (4000, 2))

    def simulate(k):
        ours, theirs = estimate(draws[k, 0] + true), estimate(draws[k, 1])
        return verdicts._one_sided(ours, theirs, 1.0, 0.02)

    slack = 4.9 * math.sqrt(0.05 * 0.95 / 4000)
    assert abs(rate(verdict, simulate) - 0.05) < slack


@pytest.mark.parametrize("theirs", [-0.1, -0.005, 0.0, 0.005, 0.1])
@pytest.mark.parametrize("side", [-1, 1])
def test_verdicts_on_a_form_err_no_more_often_than_they_say(theirs, side):
    """Rival `theirs` away from the data, cell further by the margin, or by nothing: 5 % at most.

    4.9 binomial errors are allowed beyond it. Near the data the absolute values are no normals.
    """
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.01, (4000, 3))

    def simulate(margin):
        def once(k):
            ours = side * (abs(theirs) + margin)
            rows = (ours, theirs, 0.0) + noise[k]
            return verdicts._about(*map(estimate, rows), 0.02)

        return once

    slack = 4.9 * math.sqrt(0.05 * 0.95 / 4000)
    assert rate("no worse", simulate(0.02)) < 0.05 + slack
    assert rate("worse", simulate(0.0)) < 0.05 + slack


def test_pooled_rows_err_no_more_often_than_they_say_however_they_depend():
    """Two rows of one claim at the edge, independent or the same: 5 % at most, plus 4.9 errors."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(-0.02, 0.01 * math.sqrt(2), (2, 4000))
    for other in (first, second):

        def simulate(k, other=other):
            parts = [
                verdicts.judged_sides([[gain]], [[0.01 * math.sqrt(2)]], 0.02)
                for gain in (first[k], other[k])
            ]
            return verdicts.pooled(parts)

        assert rate("no worse", simulate) < 0.05 + 4.9 * math.sqrt(0.05 * 0.95 / 4000)


def test_rows_of_one_claim_are_pooled():
    """A loss that neither row shows alone, and both together do not hide."""
    found = compared(validity=0.58)
    cells = found["cells"]
    more = {name.replace("1000", "200"): one | {"steps": 200} for name, one in list(cells.items())}
    both = {"cells": cells | more, "held_out": {"figures": cell()["figures"]}}
    claim = verdicts.compare(both)["pooled"]["ddpm, shape at 400, suffix"]
    assert claim["rows"] == ["ddpm 1000, shape at 400, suffix", "ddpm 200, shape at 400, suffix"]
    assert claim["figures"]["validity"]["gain"] == pytest.approx(-0.02)
    assert claim["figures"]["validity"]["std_error"] == pytest.approx(0.01 * math.sqrt(2))


def test_the_committed_verdicts_are_those_of_the_committed_figures():
    file = verdicts.RESULTS / "sampling.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    again = json.loads(json.dumps(verdicts.compare(found)))
    claim, same = "ddpm, shape at 400, suffix", "W1 bond_angles"
    assert found["pooled"].keys() == again["pooled"].keys()
    for name, one in again["cells"].items():
        kept = found["cells"][name]["against"]
        for rival, said in one["against"].items():
            assert kept[rival]["verdict"] == said["verdict"]
            assert kept[rival]["worse"] == said["worse"]
    assert same in again["pooled"][claim]["worse"]


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
    open_ = sampling_tables.goals(compared())
    assert "Not shown: 100 molecules are too few for it" in open_
    missed = sampling_tables.goals(compared(validity=0.57))
    assert "shown to be worse are validity (z = -2.1). Not met." in missed
    assert "`shape` 50 %" in sampling_tables.goals(compared(v_x_spread=1.0))
    assert open_.count("Not sampled.") == 2  # nothing in 200 steps, nothing with few calls


@pytest.mark.parametrize(
    ("stable", "said"), [(0.62, "Shown:"), (0.58, "Not shown:"), (0.3, "Not shown:")]
)
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
