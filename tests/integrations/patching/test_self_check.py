"""What a model does is seen when it is patched: its sampler, its loss, and its own assertions."""

from types import SimpleNamespace

import pytest
import torch
from fakes import edm_like
from fakes.cases import CASES, make_edm
from fakes.forks import CentredNoise, NoLoss, Paper
from gaga_adapter.integrations import apply_patch, as_pipeline, fit_from, remove_patch
from gaga_adapter.integrations.patching.patch import state_of
from gaga_adapter.integrations.protocol import adapter_for

from gaga_adapter.errors import StatsMismatchError, TruncationError, UnsupportedModelError
from gaga_adapter.layout import AtomLayout

CASE = CASES["edm"]
EDM = edm_like.EnVariationalDiffusion


def make(kind, n_steps=20):
    """A stand-in model whose class has methods of its own."""
    model = make_edm(n_steps)
    model.__class__ = kind
    return model


def times(model, draw):
    return [t for t, _ in CASE.network_inputs(model, draw)]


class OwnEnd(EDM):
    """Its loss draws times up to an argument, whatever its number of steps."""

    def forward(self, x, h, node_mask=None, edge_mask=None, context=None, max_t=20):
        before, self.end = self.T, max_t
        try:
            return super().forward(x, h, node_mask, edge_mask, context)
        finally:
            self.T = before

    def compute_loss(self, x, h, node_mask, edge_mask, context, t0_always):
        xh = torch.cat([x, h["categorical"], h["integer"]], -1)
        t = torch.randint(0, self.end + 1, (len(x), 1)) / self.T
        out = self.phi(xh, t, node_mask, edge_mask, context)
        return out.square().flatten(1).sum(1) + self.kl_prior(xh, node_mask)


class OnlyPositions(EDM):
    """Its elements do not start from noise, and no adapter knows it."""

    def sample_combined_position_feature_noise(self, n_samples, n_nodes, node_mask):
        z = super().sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)
        return z[..., :3]


class OnlyInEvaluation(EDM):
    """It samples in evaluation mode only, and says nothing more, as GeoRCG does."""

    def sample(self, n_samples, n_nodes, node_mask, edge_mask, context, fix_noise=False):
        assert not self.training
        return super().sample(n_samples, n_nodes, node_mask, edge_mask, context, fix_noise)

    def ddim_sample(self, n_samples, n_nodes, node_mask, edge_mask, context):
        raise NotImplementedError


class WantsLabel(EDM):
    """Its loss needs more than a batch."""

    def forward(self, x, h, node_mask=None, edge_mask=None, context=None, label=None):
        assert label is not None
        return super().forward(x, h, node_mask, edge_mask, context)


def test_a_loss_that_is_not_truncated_is_refused_by_name_and_sampling_is_not():
    model = make(OwnEnd)
    handle = apply_patch(model, CASE.stats(model), t_star=6)
    assert len(times(model, lambda: CASE.sample(model))) == 7
    for mode in (True, False):
        with pytest.raises(UnsupportedModelError, match=r"draws times up to .* max_t") as refused:
            CASE.loss(model.train(mode))
        assert "can be sampled from t*, but not be trained" in str(refused.value)
    handle.remove()
    CASE.loss(model)


def test_times_beyond_t_star_are_refused_where_no_check_could_see_them():
    model = make(OwnEnd)
    model.end = 20
    apply_patch(model, CASE.stats(model), t_star=6)
    batch = CASE.batch(model)
    mask = batch["atom_mask"].float()[..., None]
    h = {"categorical": batch["one_hot"].float(), "integer": batch["charges"].float()}
    torch.manual_seed(0)  # the first three times are not all up to t*
    with pytest.raises(UnsupportedModelError, match=r"beyond t\* = 6 of 20"):
        model.compute_loss(batch["positions"], h, mask, None, None, False)


@pytest.mark.parametrize("kind", [CentredNoise, OnlyPositions])
def test_noise_of_another_kind_is_refused_with_the_reason(kind):
    model = make(kind)
    reason = {CentredNoise: "its noise of the features has zero mean", OnlyPositions: "noise of 3"}
    with pytest.raises(UnsupportedModelError, match=reason[kind]) as refused:
        apply_patch(model, CASE.stats(model), t_star=6)
    assert "fit_from" not in str(refused.value)
    assert state_of(model) is None
    if kind is CentredNoise:
        apply_patch(model, None, t_star=6)
        assert len(times(model, lambda: CASE.sample(model))) == 7
    else:
        with pytest.raises(UnsupportedModelError, match="noise of 3"):
            apply_patch(model, None, t_star=6)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_that_samples_in_evaluation_mode_only_is_patched_in_any(training):
    model = make(OnlyInEvaluation).train(training)
    apply_patch(model, CASE.stats(model), t_star=6)
    assert model.training is training
    assert len(times(model.eval(), lambda: CASE.sample(model))) == 7
    with pytest.raises(UnsupportedModelError, match="does not know where this sampler starts"):
        model.ddim_sample(2, 3, None, None, None)


def test_a_loss_that_cannot_be_run_is_refused_with_its_own_line():
    model = make(WantsLabel)
    apply_patch(model, CASE.stats(model), t_star=6)
    CASE.sample(model)
    with pytest.raises(UnsupportedModelError, match=r"AssertionError at .*`assert label"):
        CASE.loss(model)


def test_a_class_without_a_loss_is_sampled():
    model = make_edm(20)
    model.__class__ = NoLoss
    apply_patch(model, CASE.stats(model), t_star=6)
    assert len(times(model, lambda: CASE.sample(model))) == 7
    with pytest.raises(UnsupportedModelError, match="its class has no loss"):
        CASE.loss(model)
    remove_patch(model)
    CASE.sample(model)


@pytest.mark.parametrize("t_star", [1, 2, 20])
@pytest.mark.parametrize("kind", [EDM, OwnEnd])
def test_the_check_leaves_nothing_behind(kind, t_star):
    model = make(kind)
    model.dynamics.mlp[1].train()
    modes = [module.training for module in model.modules()]
    state, values = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    apply_patch(model, CASE.stats(model), t_star=t_star)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, values, model.parameters()))


# -- the paper's own code --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper():
    """A model of the paper's code, and statistics of it."""
    model = make(Paper)
    loader = [CASE.batch(model, (5, 9, 7, 6, 8) * 40, seed) for seed in range(6)]
    how = {"criterion": "cumulant", "reference": "size", "tolerance": 1000.0, "n_bootstrap": 0}
    return model, fit_from(model, loader, log_snr=(0.0, -3.0), **how)


@pytest.mark.parametrize("reference", ["auto", "size", "shape", "channel", "unit"])
def test_the_papers_code_is_fitted_and_started_centred(paper, reference):
    model, stats = paper
    assert stats.layout == AtomLayout(6)
    handle = apply_patch(model, stats, t_star=6, reference=reference)
    assert adapter_for(model).name == "paper"
    calls = CASE.network_inputs(model, lambda: CASE.sample(model))
    assert [round(float(t[0]) * 20) for t, _ in calls] == list(range(6, -1, -1))
    assert float(calls[0][1].sum(1).abs().max()) < 1e-4
    for mode in (True, False):
        seen = times(model.train(mode), lambda: CASE.loss(model, sizes=(4,) * 64))
        assert {round(float(t) * 20) for t in torch.cat(seen)} == set(range(7))
        assert torch.isfinite(CASE.loss(model)).all()
    handle.remove()


def test_the_variance_of_the_papers_start_is_that_of_centred_data(paper):
    """Its features have the covariance of the noised, centred one-hots: an oracle by sampling."""
    model, stats = paper
    loader = [CASE.batch(model, (7,) * 4000, seed=9)]
    x = adapter_for(model).diffused(model, loader[0], None, torch.Generator())[0]
    a2 = torch.sigmoid(torch.tensor(apply_patch(model, stats, t_star=6).log_snr))
    torch.manual_seed(0)
    noise = CentredNoise.sample_combined_position_feature_noise(
        model, 4000, 7, torch.ones(4000, 7, 1)
    )
    expected = (a2.sqrt() * x + (1 - a2).sqrt() * noise)[..., 3:].flatten(0, 1)
    seen = CASE.network_inputs(model, lambda: CASE.sample(model, sizes=(7,) * 4000))
    remove_patch(model)
    found = seen[0][1][..., 3:].flatten(0, 1)
    # Statistics of 8,400 atoms: a variance has a standard error below 2 %.
    assert torch.allclose(found.var(0), expected.var(0), rtol=0.1, atol=1e-3)
    assert torch.allclose(found.mean(0), torch.zeros(6), atol=1e-4)


def test_what_the_papers_code_cannot_do_is_refused(paper):
    model, stats = paper
    with pytest.raises(StatsMismatchError, match="fit_from"):
        apply_patch(model, CASE.stats(make_edm(20)), t_star=6)
    apply_patch(model, stats, t_star=6)
    with pytest.raises(TruncationError, match=r"does not start at t\* = 6"):
        model.sample_shortcut(2, 3, None, None, None, start_point=5)
    batch = CASE.batch(model)
    mask = batch["atom_mask"].float()[..., None]
    h = {"categorical": batch["one_hot"].float(), "integer": batch["charges"].float()}
    given = batch["positions"], h, mask, batch["edge_mask"], None
    assert float(torch.cat(times(model, lambda: model(*given, 20))).max()) <= 6 / 20
    with pytest.raises(TruncationError, match="max_t=4 is closer to the data than t\\* = 6"):
        model(*given, 4)
    remove_patch(model)
    with pytest.raises(UnsupportedModelError, match="zero mean over the atoms"):
        as_pipeline(model)


@pytest.mark.parametrize("bend", ["scaled", "moved", "drawn again"])
def test_a_start_that_does_not_reach_the_network_is_refused(bend):
    """Noise that a sampler changes after it is drawn would bend, or lose, the start."""

    class Bent(EDM):
        def sample(self, n_samples, n_nodes, node_mask, edge_mask, context):
            z = self.sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)
            if bend == "drawn again":
                z = self.sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)
            z = {"scaled": 2 * z, "moved": z + 3 * node_mask}.get(bend, z)
            for step in reversed(range(self.T)):
                time = torch.full((n_samples, 1), (step + 1) / self.T)
                z = z - 0.1 * self.phi(z, time, node_mask, edge_mask, context)
            self.phi(z, torch.zeros(n_samples, 1), node_mask, edge_mask, context)
            return z

    model = make(Bent)
    with pytest.raises(UnsupportedModelError, match="not what its network is called with first"):
        apply_patch(model, None, t_star=10)


def test_a_model_inside_of_another_module_is_named():
    inside = make_edm(20)
    outside = torch.nn.ModuleDict({"ddpm": inside})
    with pytest.raises(UnsupportedModelError, match="pass its 'ddpm'") as caught:
        apply_patch(outside, None, t_star=10)
    assert len(str(caught.value)) < 1500
    with pytest.raises(UnsupportedModelError, match="statistics come second"):
        apply_patch(SimpleNamespace(log_snr_star=0.0), inside)
