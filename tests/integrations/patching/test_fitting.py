"""fit_from, patches that wait, latents that move, and statistics in the units of another model."""

import copy
import pickle
import types

import pytest
import torch
from fakes.cases import CASES, make_edm
from gaga_adapter.integrations import apply_patch, fit_from, in_layout, remove_patch
from gaga_adapter.integrations.patching.patch import state_of
from gaga_adapter.integrations.protocol import Adapter, adapter_for, adapter_named, lacks, register

import gaga_adapter
from gaga_adapter import testing
from gaga_adapter.errors import (
    DataError,
    GAGAWarning,
    StatsMismatchError,
    TruncationError,
    UnsupportedModelError,
)
from gaga_adapter.layout import AtomLayout, MoleculeLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import project

EDM, GEOLDM = CASES["edm"], CASES["geoldm"]
SYMBOLS = ("H", "C", "N", "O", "F")
QUICK = {
    "criterion": "cumulant",
    "reference": "size",
    "n_bootstrap": 0,
    "log_snr": (0.0, -3.0, -6.0),
    "tolerance": 3.0,
}


class Loader(list):
    """Batches, with a data set that knows its elements as QM9's does."""

    def __init__(self, batches, numbers=(1, 6, 7, 8, 9)):
        super().__init__(batches)
        self.dataset = types.SimpleNamespace(included_species=torch.tensor(numbers))

    def __iter__(self):
        torch.rand(3)  # a loader that shuffles draws from the global generator
        return super().__iter__()


def loader_for(case, model, n=8):
    sizes = (5, 9, 7, 6, 8) * 25
    return Loader(case.batch(model, sizes, seed) for seed in range(n))


# -- the diffused space --------------------------------------------------------------------------


@pytest.mark.parametrize("charges", [True, False])
def test_edm_is_fitted_on_what_its_loss_diffuses(charges, monkeypatch):
    model = EDM.model(charges=charges)
    loader = loader_for(EDM, model, 2)
    seen = []

    def kl_prior(self, xh, node_mask):
        seen.append(xh)
        return torch.zeros(len(xh))

    monkeypatch.setattr(type(model), "kl_prior", kl_prior)
    adapter = adapter_for(model)
    for batch in loader:
        x, mask = adapter.diffused(model, batch, None, torch.Generator())
        h = {"categorical": batch["one_hot"].float(), "integer": batch["charges"]}
        model(batch["positions"], h, mask.float()[..., None], batch["edge_mask"], None)
        assert torch.allclose(x, seen[-1], atol=1e-6)
        assert x.shape[-1] == 8 + charges
        assert torch.equal(mask, batch["atom_mask"])


def test_geoldm_is_fitted_on_its_latent_with_its_noise():
    model = GEOLDM.model()
    adapter = adapter_for(model)
    batch = GEOLDM.batch(model, (9,) * 4000)
    x, mask = adapter.diffused(model, batch, None, torch.Generator().manual_seed(0))
    h = {"categorical": batch["one_hot"].float(), "integer": batch["charges"]}
    z_x, _, z_h, _ = model.vae.encode(batch["positions"], h, mask.float()[..., None], None, None)
    sigma_0 = float(torch.sigmoid(model.gamma(torch.zeros(1, 1))).sqrt())
    noise = (x - torch.cat([z_x, z_h], -1)) / sigma_0
    assert torch.allclose(noise[..., :3].sum(1), torch.zeros(4000, 3), atol=1e-3)
    d = torch.tensor([8 / 9, 1.0])  # of the subspace, of the features
    variances = torch.stack([noise[..., :3].var(), noise[..., 3:].var()])
    assert torch.allclose(variances, d, rtol=0.05)  # 4000 molecules: 10 standard errors


def test_fit_from_gives_an_artefact_for_apply_patch(tmp_path):
    for case, layout in (
        (EDM, MoleculeLayout(SYMBOLS, 1.0, 4.0, 10.0)),
        (GEOLDM, AtomLayout(2)),
    ):
        model = case.model()
        before = torch.get_rng_state()
        stats = fit_from(model, loader_for(case, model), provenance={"data": "toy"}, **QUICK)
        assert torch.equal(before, torch.get_rng_state())
        assert stats.layout == layout
        assert stats.provenance["count"] == 1000
        assert stats.provenance["data"] == "toy"
        stats.save_pretrained(tmp_path / case.name)
        handle = apply_patch(model, tmp_path / case.name)
        assert 1 <= handle.t_star < case.n_steps
        again = fit_from(model, loader_for(case, model), **QUICK)  # of the patched model
        assert again.log_snr_star == stats.log_snr_star
        handle.remove()


def test_the_loader_names_the_elements():
    adapter = adapter_named("edm")
    assert adapter.elements(Loader([])) == SYMBOLS
    geom = types.SimpleNamespace(atomic_number_list=torch.tensor([[1.0, 5.0, 35.0]]))
    data = types.SimpleNamespace(dataset=types.SimpleNamespace(transform=geom))
    assert adapter.elements(data) == ("H", "B", "Br")
    assert adapter.elements([]) is None


def test_loaders_that_cannot_be_used_are_refused():
    model = EDM.model()
    with pytest.raises(DataError, match="loader is empty"):
        fit_from(model, Loader([]))
    with pytest.raises(DataError, match=r"must be a dict with positions, one_hot, atom_mask"):
        fit_from(model, Loader([{"positions": torch.zeros(1, 2, 3)}]))
    with pytest.raises(DataError, match="a batch is Tensor"):
        fit_from(model, Loader([torch.zeros(3)]))
    with pytest.raises(DataError, match="which elements"):
        fit_from(model, list(loader_for(EDM, model, 1)))
    with pytest.raises(StatsMismatchError, match="3 elements"):
        fit_from(model, Loader(loader_for(EDM, model, 1), numbers=(1, 6, 7)))
    batch = EDM.batch(model)
    batch["one_hot"][1, 2] = False
    with pytest.raises(DataError, match=r"atom 2 of molecule 1 .* none of the 5 elements"):
        fit_from(model, Loader([batch]))
    batch = EDM.batch(model)
    batch["one_hot"] = batch["one_hot"][..., :4]
    with pytest.raises(StatsMismatchError, match="the loader has 4 elements, the model 5"):
        fit_from(model, Loader([batch]))
    with pytest.raises(UnsupportedModelError, match="cannot patch Linear"):
        fit_from(torch.nn.Linear(1, 1), Loader([]))


def test_a_conditional_encoder_asks_for_its_context():
    model = GEOLDM.model(context=2)
    loader = loader_for(GEOLDM, model)
    with pytest.raises(DataError, match="context of 2 channels"):
        fit_from(model, loader, **QUICK)

    def context(batch):
        return torch.ones(*batch["atom_mask"].shape, 2) * batch["atom_mask"][..., None]

    apply_patch(model, fit_from(model, loader, context=context, **QUICK))


# -- latents that move ---------------------------------------------------------------------------


def test_statistics_of_other_weights_are_refused():
    model = GEOLDM.model()
    stats = GEOLDM.stats(model)
    for parameter in model.vae.encoder.parameters():
        parameter.data += 0.5
    with pytest.raises(StatsMismatchError, match=r"another latent.*fit_from"):
        apply_patch(model, stats)
    assert state_of(model) is None


def test_weights_loaded_after_the_fit_are_noticed_when_sampling():
    model, trained = GEOLDM.model(), GEOLDM.model()
    for parameter in trained.vae.encoder.parameters():
        parameter.data += 0.5
    apply_patch(model, GEOLDM.stats(model))
    GEOLDM.sample(model)
    model.load_state_dict(trained.state_dict())
    with pytest.raises(StatsMismatchError, match="loaded or trained since"):
        GEOLDM.sample(model)
    apply_patch(model, GEOLDM.stats(model))  # fitted again
    GEOLDM.sample(model)


def test_rounding_of_an_average_of_frozen_weights_is_not_a_new_latent():
    model = GEOLDM.model()
    apply_patch(model, GEOLDM.stats(model))
    for parameter in model.vae.parameters():
        parameter.data = parameter.data * 0.999 + parameter.data * (1 - 0.999)
    GEOLDM.sample(model)


def test_an_autoencoder_that_trains_warns():
    model = GEOLDM.model(trainable=True)
    apply_patch(model, GEOLDM.stats(model))
    for parameter in model.vae.encoder.parameters():
        parameter.data += 0.5
    with pytest.warns(GAGAWarning, match="another latent"):
        GEOLDM.sample(model)


# -- patches that wait ---------------------------------------------------------------------------


def test_a_patch_can_wait_for_the_weights():
    model, trained = GEOLDM.model(), GEOLDM.model()
    for parameter in trained.parameters():
        parameter.data += 0.3
    fits = []

    def fit(waiting):
        fits.append(waiting)
        return GEOLDM.stats(waiting)

    handle = apply_patch(model, fit, t_star=6)
    average = copy.deepcopy(model)
    assert model.T == GEOLDM.n_steps
    model.load_state_dict(trained.state_dict())
    average.load_state_dict(trained.state_dict())
    assert not fits
    assert len(GEOLDM.network_inputs(model, lambda: GEOLDM.sample(model))) == 7
    assert handle.t_star == model.T == 6
    GEOLDM.loss(model)
    GEOLDM.sample(average)  # the same latent: no second fit
    assert len(fits) == 1
    handle.remove()
    assert type(model) is type(trained)
    assert average.T == 6
    remove_patch(average)
    assert torch.equal(GEOLDM.sample(average)[0], GEOLDM.sample(trained)[0])


def test_a_waiting_patch_fits_again_for_another_latent():
    model = GEOLDM.model()
    fits = []
    apply_patch(model, lambda m: fits.append(0) or GEOLDM.stats(m))
    other = copy.deepcopy(model)
    for parameter in other.vae.encoder.parameters():
        parameter.data += 0.5
    GEOLDM.loss(model.train())
    GEOLDM.loss(other.train())
    assert len(fits) == 2


def test_a_waiting_patch_can_be_removed_settled_and_fail():
    model = EDM.model()
    plain = EDM.sample(model)
    handle = apply_patch(model, lambda m: EDM.stats(m), t_star=5)
    with pytest.raises(UnsupportedModelError, match="settle"):
        pickle.dumps(model)
    with pytest.raises(UnsupportedModelError, match="settle"):
        EDM.sample(model._replicate_for_data_parallel())
    handle.remove()
    assert state_of(model) is None
    assert all(map(torch.equal, EDM.sample(model), plain))
    with pytest.raises(TruncationError, match="removed before"):
        handle.settle()

    handle = apply_patch(model, lambda m: EDM.stats(m), t_star=5)
    assert handle.settle().t_star == model.T == 5
    pickle.dumps(model)

    def fail(model):
        raise DataError("the loader is empty")

    handle = apply_patch(model, fail)
    with pytest.raises(DataError):
        EDM.sample(model)
    assert state_of(model) is handle.state  # and it waits on
    handle.remove()
    assert all(map(torch.equal, EDM.sample(model), plain))


# -- the units of another model ------------------------------------------------------------------


def test_embedded_statistics_serve_every_normalisation_of_qm9():
    model = make_edm(20)
    with pytest.warns(GAGAWarning, match=r"one-hot\[H,C,N,O,F\] /4\) and are used for 3\+6"):
        handle = apply_patch(model, "qm9")
    assert handle.settle().stats.layout == MoleculeLayout(SYMBOLS, 1.0, 4.0, 10.0)
    EDM.sample(model)
    plain = make_edm(20, charges=False)
    with pytest.warns(GAGAWarning, match="last element class"):
        assert apply_patch(plain, "qm9").settle().stats.layout == MoleculeLayout()


def test_mapped_moments_are_those_of_the_mapped_data():
    have, want = MoleculeLayout(SYMBOLS, 1.0, 4.0), MoleculeLayout(SYMBOLS, 2.0, 8.0, 10.0)
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(3, 9, (300,), generator=generator)
    mask = torch.arange(9) < sizes[:, None]
    kind = torch.randint(5, mask.shape, generator=generator)
    one_hot = torch.nn.functional.one_hot(kind, 5).double()
    numbers = torch.tensor([1, 6, 7, 8, 9])[kind][..., None].double()
    x = torch.randn(300, 9, 3, generator=generator).double()

    def moments(layout):
        parts = [x / layout.position_scale, one_hot / layout.onehot_scale]
        if layout.charge_scale is not None:
            parts.append(numbers / layout.charge_scale)
        result = ExchangeableMoments(layout.n_features)
        result.update(project(torch.cat(parts, -1), mask), mask)
        return result

    expected = moments(want)
    with pytest.warns(GAGAWarning, match=r"t\* was chosen"):
        found = in_layout(GAGAStats(have, moments(have), 0.0), want, "shape").moments
    for name in ("v_x", "v_x_std", "feature_mean", "within", "between"):
        assert torch.allclose(getattr(found, name), getattr(expected, name)), name
    assert torch.allclose(found.position_fourth_cumulant(), expected.position_fourth_cumulant())
    for size in (3, 8):
        tables = [found.sampled(size), expected.sampled(size)]
        orders = [table[0].sum(1).argsort() for table in tables]  # no two have the same gyration
        for left, right in zip(*tables, strict=True):
            assert torch.allclose(left[orders[0]], right[orders[1]], atol=1e-5)
    stats = GAGAStats(have, moments(have), 0.0)
    with pytest.raises(StatsMismatchError, match="Fit again"):
        in_layout(stats, want, "paper")
    with pytest.raises(StatsMismatchError, match="Fit again"):
        in_layout(stats, MoleculeLayout(("H", "C", "N", "O", "S")), "shape")


def test_statistics_of_a_latent_are_not_those_of_atoms():
    edm, geoldm = EDM.model(), GEOLDM.model()
    moments = ExchangeableMoments(6)
    moments.update(torch.randn(8, 5, 9, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(StatsMismatchError, match=r"describe 3.6 channels .positions, features"):
        apply_patch(edm, GAGAStats(AtomLayout(6), moments, 0.0))
    with pytest.raises(StatsMismatchError, match=r"one-hot.* the model diffuses 3.2 channels"):
        apply_patch(geoldm, "qm9")


def test_biased_normalisation_has_no_named_channels():
    model = EDM.model()
    model.norm_biases = (None, 0.1, 0.0)
    stats = fit_from(model, loader_for(EDM, model), **QUICK)
    assert stats.layout == AtomLayout(6)
    apply_patch(model, stats)


# -- the next adapter ----------------------------------------------------------------------------


class Generator(torch.nn.Module):
    """Another codebase: it samples in `forward`, has no loss, and refuses to know `sample`."""

    def __init__(self):
        super().__init__()
        self.inner = make_edm(20)
        self.gamma, self.dynamics, self.T = self.inner.gamma, self.inner.dynamics, 20

    def phi(self, x, t, node_mask, edge_mask, context):
        return self.inner.phi(x, t, node_mask, edge_mask, context)

    def sample_combined_position_feature_noise(self, n_samples, n_nodes, node_mask):
        return self.inner.sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)

    def forward(self, node_mask, edge_mask):
        z = self.sample_combined_position_feature_noise(*node_mask.shape[:2], node_mask)
        for step in range(self.T, 0, -1):
            t = torch.full((len(z), 1), step / self.T)
            z = z - 0.01 * self.phi(z, t, node_mask, edge_mask, None)
        self.phi(z, torch.zeros(len(z), 1), node_mask, edge_mask, None)
        return (z,)

    def inpaint(self, z, t_start):
        return z


class GeneratorAdapter(Adapter):
    name = "generator"
    starts = ("forward",)
    prior_term = None
    refused = {"inpaint": "t_start counts absolute steps"}  # noqa: RUF012

    def reasons(self, model):
        return lacks(model, ("T", "gamma"), {"inpaint": ("t_start",)})

    def layout(self, model, elements):
        return MoleculeLayout(elements or SYMBOLS, 1.0, 4.0, 10.0)

    def draw(self, model, node_mask, edge_mask):
        model(node_mask, edge_mask)


def test_an_adapter_of_another_codebase_is_a_few_lines():
    register(GeneratorAdapter())
    try:
        case = testing.Case("another", lambda n_steps: Generator(), frozenset(), frozenset())

        def sample(model, sizes=testing.SIZES, seed=1):
            torch.manual_seed(seed)
            with torch.no_grad():
                return model(*case.masks(sizes))

        case.sample = sample
        case.batch = None
        for name in (
            "the_network_is_called_once_per_step_from_t_star",
            "a_deep_copy_is_patched_and_independent",
            "a_whole_model_can_be_saved",
            "applied_twice_is_applied_once",
            "no_random_number_more_is_drawn",
        ):
            stats = EDM.stats(make_edm(20))
            case.stats = lambda model, stats=stats: stats
            testing.CHECKS[name](case)
        model = Generator()
        assert model.inpaint(1, 2) == 1
        apply_patch(model, stats, t_star=3)
        with pytest.raises(UnsupportedModelError, match=r"Generator.inpaint .*absolute steps"):
            model.inpaint(1, 2)
        with pytest.raises(UnsupportedModelError, match="without a loader"):
            fit_from(model, [1], elements=SYMBOLS)
    finally:
        from gaga_adapter.integrations import protocol

        del protocol._ADAPTERS["generator"]


def test_the_names_are_public():
    assert callable(gaga_adapter.integrations.apply_patch)
    assert callable(gaga_adapter.integrations.fit_from)
