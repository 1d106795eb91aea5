"""What the page about the literature says of its figures is what the results say."""

import json
import math
import re

from folders import DOCS, ROOT


def results(name):
    file = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


PAGE = (DOCS / "related-work.md").read_text(encoding="utf-8")
ROWS = results("related")["rows"]
FEW = results("few_calls")["weights"]["embedded"]["cells"]
#: One-sided, at a level of 2.3 %.
CLEAR = 2.0


def stable(name, rows=ROWS):
    one = rows[name]["figures"]["molecule_stability"]
    return one["value"], one["std_error"]


def z(ours, theirs):
    """Standard errors by which one share is above another, as if of independent rows."""
    return (ours[0] - theirs[0]) / math.hypot(ours[1], theirs[1])


def gain(name):
    return ROWS[name]["gain"]["value"], ROWS[name]["gain"]["std_error"]


def test_every_row_has_the_same_molecules_and_calls():
    counts = {row["n"] for row in ROWS.values()}
    assert counts == {results("related")["n"]}
    for name, row in ROWS.items():
        assert abs(row["network_calls"] - row["calls"]) <= 1 / 3, name


def test_starts_under_a_deterministic_solver():
    """Scalar starts are worst; `shape` gains on noise, and perfect starts gain on `shape`."""
    for calls in (12, 20):
        noise = stable(f"dpm++ {calls}, noise")
        for kind in ("unit", "paper"):
            assert z(noise, stable(f"dpm++ {calls}, {kind} at 300")) > CLEAR
            assert ROWS[f"dpm++ {calls}, {kind} at 300"]["figures"]["v_x"]["value"] < 1.7
        perfect, shape = (stable(f"dpm++ {calls}, {kind} at 300") for kind in ("oracle", "shape"))
        assert z(perfect, shape) > CLEAR
    value, error = gain("dpm++ 12, shape at 300")
    assert value > CLEAR * error


def test_the_fitted_t_star_is_better_for_it_than_a_late_one():
    """At 501 `shape` gains in 12 and in 20 calls; at 300 it gains in 12 alone."""
    for calls in (12, 20):
        value, error = gain(f"dpm++ {calls}, shape at 501")
        assert value > CLEAR * error
    value, error = gain("dpm++ 20, shape at 300")
    assert abs(value) < CLEAR * error


def test_scalar_starts_at_the_fitted_t_star_are_stable_and_a_fifth_too_compact():
    data = results("related")["held_out"]["figures"]["v_x"]["value"]
    for kind in ("unit", "paper"):
        value, error = gain(f"dpm++ 12, {kind} at 501")
        assert value > -error
        v_x = ROWS[f"dpm++ 12, {kind} at 501"]["figures"]["v_x"]["value"]
        assert 0.15 < 1 - v_x / data < 0.22


def test_teleportation_is_stable_and_compact():
    data = results("related")["held_out"]["figures"]
    figures = ROWS["dpm++ 12, size at 501"]["figures"]
    assert z(stable("dpm++ 12, size at 501"), stable("dpm++ 12, noise")) > CLEAR
    assert abs(z(stable("dpm++ 12, size at 501"), stable("dpm++ 12, shape at 501"))) < CLEAR
    for name in ("v_x", "v_x_spread"):
        assert figures[name]["value"] < 0.95 * data[name]["value"]


def test_starts_help_most_on_lists_of_the_whole_table():
    even, _ = gain("dpm++ 12, shape at 300")
    for levels in ("exponential", "karras"):
        more, own = gain(f"dpm++ 12, shape at 300, {levels}")
        assert more > CLEAR * own
        assert more > even


def test_rules_matter_more_than_starts():
    """In twenty calls the stochastic rules are better from noise than DPM++ is from t*."""
    ours = stable("dpm++ 20, shape at 501")
    for name in ("sde-dpm++ 20, none", "few-step 20, none, matched"):
        assert z(stable(name, FEW), ours) > CLEAR
    assert z(stable("restart 20, noise"), stable("dpm++ 20, noise")) > CLEAR
    assert abs(z(stable("restart 12, noise"), stable("dpm++ 12, noise"))) < CLEAR
    assert gain("restart 20, shape at 300")[0] < CLEAR * gain("restart 20, shape at 300")[1]
    few = [stable(f"few-step 20, {s}, matched", FEW) for s in ("shape at 300", "none")]
    assert z(*few) > CLEAR
    for calls, adds in ((12, True), (20, False)):
        both = [stable(f"sde-dpm++ {calls}, {s}", FEW) for s in ("shape at 300", "none")]
        assert (z(*both) > CLEAR) is adds


def test_cached_layers_are_no_better_than_whole_calls():
    for calls in (12, 20):
        for start in ("noise", "shape at 300"):
            cached, whole = (stable(f"{rule} {calls}, {start}") for rule in ("cached", "dpm++"))
            assert z(cached, whole) < CLEAR
    assert z(stable("dpm++ 12, shape at 300"), stable("cached 12, shape at 300")) > CLEAR
    assert gain("cached 20, shape at 300")[0] < -CLEAR * gain("cached 20, shape at 300")[1]


def test_a_late_grid_leaves_little_to_a_start():
    noise, shape = (stable(f"few-step 12, {start} at 599", FEW) for start in ("noise", "shape"))
    assert abs(z(noise, shape)) < CLEAR


def test_five_of_ten_claims_are_shown():
    claims = [one for part in results("few_calls")["weights"].values() for one in part["claims"]]
    shown = [one for one in claims if one["verdict"] in ("shown", "no worse")]
    assert (len(claims), len(shown)) == (10, 5)
    assert "five are shown and five are not" in " ".join(PAGE.split())


def test_figures_of_training_are_those_of_its_table():
    table = (ROOT / "benchmarks" / "TRAINING.md").read_text(encoding="utf-8")
    told = re.search(r"error there\s+\(([\d.]+)\s+against ([\d.]+)\)", PAGE)
    rows = [
        re.search(rf"^\| {start} \| `shape` at 525 \|.*$", table, re.MULTILINE)[0]
        for start in (r"\[0, 525\]", "the full path")
    ]
    for row, error in zip(rows, told.groups(), strict=True):
        assert error in row
