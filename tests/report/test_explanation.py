"""The plain words: every figure is that of the artefact, in full sentences, for every kind."""

import ast
import math
import re
import shlex
from dataclasses import replace

import diffusers
import pytest
import torch
from folders import ARTEFACTS, frozen_statistics
from toys import dense_stats

from gaga_adapter import FittedStates, GAGAStats, named_path
from gaga_adapter.layout import DenseLayout, MoleculeLayout, TokenLayout
from gaga_adapter.molecules.pipeline import edm_scheduler
from gaga_adapter.moments import DenseMoments
from gaga_adapter.report.explanation import _KNOWS, _code, explain, explain_states
from gaga_adapter.report.facts import home_savings, report_facts
from gaga_adapter.selection import right_guesses

STATES = ARTEFACTS / "states"


def text(told):
    return " ".join(words for _, words in told.paragraphs)


def sentences(words):
    return re.split(r"(?<=[.?!]) (?=[A-Z0-9])", words)


def test_figures_of_the_embedded_artefact(qm9):
    told = text(explain(qm9, "qm9"))
    chosen, start = qm9.selection, report_facts(qm9).home
    low, high = report_facts(qm9).home_interval
    last = max(chosen.by_items)
    for figure in (
        "130,831 molecules of qm9",
        f"timestep {start.value} of 1000 on the schedule edm/polynomial_2",
        f"90 % interval of {low:.0f} to {high:.0f}",
        f"noise of a standard deviation of {math.exp(-qm9.log_snr_star / 2):.2f}, in the units of",
        f"compared {chosen.curve.n_samples:,} molecules",
        f"no more than {chosen.tolerance:g} nats per molecule",
        "right in 75 % of all cases at most",
        f"{chosen.by_items[last][0]:.2f} with {last:,}",
        "the three axes and the composition of a molecule",
        "fall to 20 % in the worst case",
    ):
        assert figure in told, figure
    assert 12 <= len(sentences(told)) <= 18


def entries_left(timesteps, log_snr, star):
    """Entries of a grid from the last one at or beyond t* on, and one call for the start."""
    return sum(level > star for level in log_snr(timesteps)) + 1 + 1


def test_calls_are_those_of_grids_that_are_cut(qm9):
    """Counted on the grids of the shipped model, with the levels of the path that it has."""
    path, star = named_path("edm/polynomial_2"), qm9.log_snr_star
    calls = []
    for n in (1000, 200, 50):
        base = edm_scheduler()
        base.set_timesteps(n)
        calls.append(entries_left(base.timesteps, lambda t: path.log_snr(t / 1000), star))
    assert [saving.kept for saving in home_savings(qm9)] == calls
    assert [saving.full for saving in home_savings(qm9)] == [1000, 200, 50]
    one, two, three = calls
    told = f"{one} instead of 1000, {two} instead of 200 or {three} instead of 50 times"
    assert told in text(explain(qm9, "qm9"))


def test_calls_of_arrays_are_those_of_ddpm():
    stats, base = dense_stats(log_snr_star=0.0), diffusers.DDPMScheduler()
    base.set_timesteps(200)
    odds = (base.alphas_cumprod / (1 - base.alphas_cumprod)).double().log()
    calls = entries_left(base.timesteps, lambda t: odds[t], 0.0)
    (saving,) = home_savings(stats, [200])
    assert (saving.schedule, saving.full, saving.kept) == ("ddpm/linear", 200, calls)
    assert f"{calls} instead of 200" in text(explain(stats, "stats/"))


@pytest.mark.parametrize("nats", [0.0, 0.01, 0.2, 0.5, 1.0, 3.0, 10.0])
def test_no_guesser_is_right_more_often(nats):
    """Two pairs of laws at that divergence whose best guess has a closed form.

    Two unit normal laws at a distance d have `KL = d² / 2` and a best guess of `Phi(d / 2)`; a law
    on a set to which the other gives `exp(-KL)` is guessed right with `1 - exp(-KL) / 2`.
    """
    bound = right_guesses(nats)
    normal = 0.5 * (1 + math.erf(math.sqrt(2 * nats) / 2 / math.sqrt(2)))
    for best in (normal, 1 - math.exp(-nats) / 2):
        assert 0.5 <= best <= bound + 1e-12
    assert bound <= 1
    assert right_guesses(0.0) == 0.5


@pytest.mark.parametrize("folder", frozen_statistics(), ids=lambda folder: folder.name)
def test_every_kind_is_explained_in_sentences(folder):
    stats = GAGAStats.from_pretrained(folder)
    told = explain(stats, "my stats")
    words = text(told)
    layouts = {DenseLayout: "arrays", TokenLayout: "sets of tokens"}
    assert f"{stats.moments.count:,} {layouts.get(type(stats.layout), 'molecules')}" in words
    if isinstance(stats.layout, (DenseLayout, MoleculeLayout)):
        assert _KNOWS[stats.reference().kind] in words
    else:
        assert not re.search("composition|element", words)
    assert ("which is few" in words) == (stats.selection is not None)
    if stats.selection is not None:
        assert ("nearly always" in words) == (stats.selection.tolerance >= 5)
    assert told.title == str(stats.provenance.get("data", "my stats"))
    for one in sentences(words):
        assert re.match(r"[A-Z0-9t]", one), one
        assert one.endswith("."), one
    for word in ("None", "nan", "  ", "..", "{", "-0.00", " 0 features", " 1 features"):
        assert word not in words
    compile("\n".join(told.code), "code", "exec")
    assert '"my stats"' in told.code[-1]


@pytest.mark.parametrize(
    ("name", "told", "untold"),
    [
        ("tokens", "whose tokens have 2 features each", "atom"),
        ("positions", "takes the three axes of a molecule of the data that", "feature"),
        ("0_1_atoms", "a position and 1 feature each", "composition"),
        ("0_1_charges", "a position, an atomic number and an element (H, C)", "nothing"),
        ("mixed_size", "takes the composition of a molecule of the data, shows", "three axes of"),
        ("refined_em", "It is refined by mixing weights by EM, fitted at", "tilt"),
        ("several_bounds", "nearer to the data is that of two_sample.", "bound is loose"),
    ],
)
def test_words_are_those_of_the_kind(name, told, untold):
    words = text(explain(GAGAStats.from_pretrained(ARTEFACTS / name), "a"))
    assert told in words
    assert untold not in words


def test_another_t_star_is_not_what_the_criterion_saw(qm9):
    words = text(explain(replace(qm9, log_snr_star=1.0), "a"))
    assert "and from log-SNR 0.25 on towards noise it found" in words
    assert "from t* on towards noise" not in words


def test_lines_to_type_take_any_name(qm9):
    name = 'C:\\new\\my "stats"'
    shell, *python = explain(qm9, name).code
    assert shlex.split(shell)[4:6] == ["--stats", name]
    assert ast.literal_eval(python[-1].partition("stats=")[2].removesuffix(")")) == name


def test_no_curve_p_values_and_a_path_that_is_too_short(qm9):
    given = text(explain(dense_stats(), "a"))
    assert "t* was given by hand" in given
    assert "The criterion" not in given
    curve = replace(qm9.selection.curve, unit="p-value", criterion="ks_mi", value=(0.5,) * 15)
    p_values = replace(qm9, selection=replace(qm9.selection, curve=curve, tolerance=0.05))
    words = text(explain(p_values, "a"))
    assert "with 5 % of false alarms" in words
    assert "Nats measure" not in words
    end = text(explain(dense_stats(log_snr_star=-10.1), "a"))
    assert "Nothing with the ancestral sampler on ddpm/linear: its path ends" in end
    assert "called less often" not in end
    far = text(explain(dense_stats(log_snr_star=-30.0), "a"))
    assert "nothing can be left out" in far
    assert "called less often" not in far


def test_types_that_stay_discrete(qm9):
    curve = replace(qm9.selection.curve, reference="mixed")
    stats = replace(qm9, selection=replace(qm9.selection, curve=curve), refinement=None)
    told = explain(stats, "stats/")
    share = 1 / (1 + math.exp(stats.log_snr_star / 2))  # s of a flow where 2 log((1 - s) / s) is it
    assert f"begins at s = {share:.3f} on the schedule flow/linear" in text(told)
    assert f"{100 * (1 - share):.0f} % of a path with even steps" in text(told)
    assert "shows some of the types" in text(told)
    assert told.code[-1].startswith("handle = apply_patch(model, ")


def test_states_level_by_level():
    states = FittedStates.from_pretrained(STATES)
    told = explain_states(states, str(STATES))
    here = states.at(states.level_star)
    for figure in (
        f"{len(states.measured)} levels of the codebase's own time, which rises towards data",
        f"from noise to level {states.level_star:g}",
        f"{here.value:.2f} ± {here.std_error:.2f} nats per molecule",
        f"where {states.tolerance:g} were tolerated",
        f"these {here.moments.count + here.n_held_out:,} molecules",
    ):
        assert figure in text(told), figure
    names = {"sizes": [3, 5, 4]}
    exec("\n".join(told.code), names)
    assert names["x"].shape[:2] == (3, 5)


def test_arrays_and_tokens_have_words_of_their_own():
    x = torch.randn(60, 5, 8, generator=torch.Generator().manual_seed(0))
    moments = DenseMoments((5, 8), kind="channel")
    moments.update(x)
    words = text(explain(GAGAStats(DenseLayout((5, 8)), moments, 0.5), "a"))
    assert "60 arrays, each with 5 x 8 numbers" in words


def test_elements_that_the_model_that_ships_lacks_are_named():
    qm9 = GAGAStats.from_pretrained("qm9")
    assert explain(qm9, "qm9").code[0].startswith("gaga sample")
    others = {("H", "C", "N", "O", "S"): "S", ("H", "C", "S", "Cl", "Br"): "Br, Cl and S"}
    for elements, words in others.items():
        stats = replace(qm9, layout=MoleculeLayout(elements))
        note = _code(stats, "stats/")[0]
        assert note.startswith(f"# pipe: of a model that was trained with {words};"), note
    stats = replace(qm9, layout=MoleculeLayout(("C", "H", "N", "O", "F")))  # another order
    note = _code(stats, "stats/")[0]
    assert note.startswith(
        "# pipe: of a model with 3+5 channels (positions /1, one-hot[C,H,N,O,F] /4);"
    )
    assert note.endswith(
        "the one that ships has 3+5 channels (positions /1, one-hot[H,C,N,O,F] /4)"
    )
