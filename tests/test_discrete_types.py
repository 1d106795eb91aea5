"""Statistics whose types stay discrete start flows alone: every entry that diffuses says so."""

import json
import math

import diffusers
import pytest
import torch
from fakes.edm_like import make_edm
from gaga_adapter.integrations import apply_patch
from gaga_adapter.integrations.karras import truncate_sigmas
from gaga_adapter.integrations.patching.patch import state_of

from gaga_adapter import FlowPath, GAGAScheduler, GAGAStats, TwoSample, fit, fit_levels
from gaga_adapter.errors import GAGAWarning, StatsMismatchError, TruncationError
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.report.card import card_section
from gaga_adapter.report.facts import report_facts
from gaga_adapter.report.page import page
from gaga_adapter.training.elbo import truncated_elbo

LAYOUT = MoleculeLayout()
pytestmark = pytest.mark.filterwarnings("ignore:.*make a loose lower bound")


def molecules(n=400):
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(7) < torch.arange(n)[:, None] % 4 + 4
    x = torch.randn(n, 7, 3, generator=generator).cumsum(1)
    x = x - (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    kinds = torch.randint(5, mask.shape, generator=generator)
    types = torch.nn.functional.one_hot(kinds, 5) / LAYOUT.onehot_scale
    return torch.cat([x, types], -1) * mask[..., None], mask


@pytest.fixture(scope="module")
def stats():
    quick = TwoSample(folds=2, max_iter=5, n_permutations=9, check_reference=False)
    options = {"tolerance": 9.0, "log_snr": (0.0, -4.0), "n_criterion": 300, "n_bootstrap": 0}
    return fit([molecules()], LAYOUT, quick, "mixed", **options)


def edm():
    return make_edm(50, charges=False)


def elbo(stats, reference):
    x, mask = molecules(4)
    return truncated_elbo(lambda y, sigma, m: y, x, mask, FlowPath(), stats, reference=reference)


SIGMAS = [80.0, 10.0, 5.0, 2.0, 1.0, 0.5]
ENTRIES = {
    "stats.start": lambda stats, kind: stats.start(kind),
    "sigmas": lambda stats, kind: truncate_sigmas(SIGMAS, stats, reference=kind),
    "scheduler": lambda stats, kind: GAGAScheduler.from_pretrained(
        diffusers.DDPMScheduler(), stats=stats, reference=kind
    ),
    "levels": lambda stats, kind: fit_levels(
        lambda y, sigma, mask: y, stats, 3, molecules(40), reference=kind, method="bound"
    ),
    "patch": lambda stats, kind: apply_patch(edm(), stats, reference=kind, fix_last_class=True),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_diffuses_its_types_refuses_them(stats, entry):
    assert stats.has_discrete_types
    for kind in ("auto", "mixed", "mixed_size"):
        with pytest.raises(StatsMismatchError, match=r"diffuses them.*reference='shape'.*flows"):
            ENTRIES[entry](stats, kind)
    with pytest.warns(GAGAWarning, match="chosen for the 'mixed' reference"):
        ENTRIES[entry](stats, "shape")


def test_a_model_that_was_refused_is_not_patched(stats):
    model = edm()
    with pytest.raises(StatsMismatchError, match="diffuses them"):
        apply_patch(model, stats)
    assert state_of(model) is None


def test_no_schedule_is_made_of_them(stats):
    base = diffusers.DDPMScheduler()
    with pytest.raises(StatsMismatchError, match="Fit with reference='shape'"):
        stats.training_scheduler(base, 10)
    assert len(GAGAStats(LAYOUT, stats.moments, 0.0).training_scheduler(base, 10).betas) == 10


def test_a_bound_on_the_likelihood_is_refused(stats):
    with pytest.raises(StatsMismatchError, match="no density"):
        elbo(stats, "auto")


def test_a_flow_may_ask_for_them(stats):
    assert stats.start(discrete_types=True).kind == "mixed"
    plain = GAGAStats(LAYOUT, stats.moments, 0.0)
    assert not plain.has_discrete_types
    assert plain.start("shape").kind == "shape"


def test_a_start_of_another_kind_by_hand_is_the_callers_choice(stats):
    """No warning, which would be an error here: the level is not that of the statistics."""
    truncate_sigmas(SIGMAS, stats, reference="shape", sigma_star=4.0)
    apply_patch(edm(), stats, reference="size", t_star=30, fix_last_class=True)


@pytest.mark.parametrize("t_star", ["10", True, math.nan, 10.5, 0, 51])
def test_a_step_that_is_none(t_star):
    with pytest.raises(TruncationError, match=r"t_star=.* Pass an integer from 1 to 50"):
        apply_patch(edm(), None, t_star=t_star)


def test_only_flows_are_named(gaga, stats, tmp_path):
    stats.save_pretrained(tmp_path / "stats")
    shown = gaga("show", tmp_path / "stats")
    assert shown.code == 0
    assert "flow/linear" in shown.out
    assert "edm/" not in shown.out
    said = json.loads(gaga("show", tmp_path / "stats", "--json").out)["t_star"]
    s = 1 / (1 + math.exp(stats.log_snr_star / 2))  # (1 - s) / s is the root of the SNR
    assert said == {"flow/linear": pytest.approx(s)}
    card = card_section(stats, "me/it", has_picture=False)
    assert "integrations.flows.tabasco" in card
    assert "GAGAScheduler" not in card
    text = page(report_facts(stats))
    assert f"sampling can start at s = {s:.3f}" in text
    assert "edm/polynomial_2" not in text
