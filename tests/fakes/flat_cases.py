"""Models on flat batches of atoms as cases of the contract: how they are sampled and trained."""

import copy
import io
import pickle
import random
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

import gaussian_flat
import torch
from gaga_adapter.integrations import apply_patch, patched, remove_patch
from gaga_adapter.integrations.flat import to_flat, to_padded
from gaga_adapter.integrations.patching.prior import at_gamma
from gaga_adapter.integrations.protocol import adapter_for

from gaga_adapter.errors import TruncationError, UnsupportedModelError
from gaga_adapter.testing import SIZES, Case, same
from gaga_adapter.testing.adapter.case import raises

from . import gcdm_like


@dataclass
class GCDMCase(Case):
    """A model of GCDM.

    Attributes:
        graphs: Class of the batches that its loss takes.
    """

    graphs: type = gcdm_like.Batch

    @staticmethod
    def index(sizes):
        return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))

    def context(self, model, sizes):
        network = model._modules["dynamics_network"]
        n = getattr(network, "context_node_nf", 0) or getattr(
            network, "num_context_node_features", 0
        )
        return torch.linspace(-1, 1, n * len(sizes)).view(-1, n) if n else None

    def sample(self, model, sizes=SIZES, seed=1, **options):
        torch.manual_seed(seed)
        context = self.context(model, sizes)
        xh, _, _ = model.mol_gen_sample(
            len(sizes), torch.tensor(sizes), "cpu", context=context, **options
        )
        return (xh,)

    def batch(self, model, sizes=SIZES, seed=2):
        """What the Lightning module hands to the model, of molecules whose atoms are mixed."""
        generator = torch.Generator().manual_seed(seed)
        index = self.index(sizes)
        padded, mask = to_padded(torch.randn(len(index), 3, generator=generator), index)
        centred = padded - padded.sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        kinds = torch.randint(model.num_atom_types, index.shape, generator=generator)
        one_hot = torch.nn.functional.one_hot(kinds, model.num_atom_types)
        numbers = torch.tensor([1, 6, 7, 8, 9])[kinds]
        context = self.context(model, sizes)
        return self.graphs(
            x=to_flat(centred, index),
            one_hot=one_hot.float(),
            charges=numbers.float(),
            h={
                "categorical": one_hot.float(),
                "integer": numbers if model.include_charges else torch.zeros(0),
            },
            batch=index,
            mask=torch.ones_like(index).bool(),
            num_nodes_present=torch.tensor(sizes),
            props_context=None if context is None else context[index],
        )

    def loss(self, model, sizes=SIZES, seed=1):
        """The terms as the Lightning module puts them together, with its own number of steps."""
        self.needs("loss")
        batch = self.batch(model, sizes)
        n_steps = model._gaga.n_steps if hasattr(model, "_gaga") else model.T
        torch.manual_seed(seed)
        volume, error, weight, loss_0_x, loss_0_h, constants, kl, *_ = model(batch)
        if model.training and model.diffusion_cfg.loss_type == "l2":
            n_numbers = (3 + model.num_node_scalar_features) * torch.tensor(sizes)
            return 0.5 * error / n_numbers + loss_0_x / n_numbers + loss_0_h + kl - volume
        return n_steps * 0.5 * weight * error + loss_0_x + loss_0_h + constants + kl - volume

    def noise(self, model, sizes=SIZES, n_samples=None):
        index = self.index(sizes)
        real = torch.ones_like(index).bool()
        return to_padded(model.sample_combined_position_feature_noise(index, real), index)[0]

    def prior_term(self, model, xh, node_mask):
        sizes = node_mask.sum((1, 2)).long()
        index = self.index(sizes.tolist())
        real = torch.ones_like(index).bool()
        return model.compute_kl_prior(to_flat(xh, index), index, real, sizes, "cpu")

    def network_method(self, model):
        return model._modules["dynamics_network"], "forward"

    def network_inputs(self, model, draw):
        network, name = self.network_method(model)
        inner, seen = getattr(network, name), []

        def record(batch, xh, t, **kwargs):
            x, _ = to_padded(xh, batch.batch, batch.mask)
            seen.append((to_padded(t, batch.batch)[0][:, 0].clone(), x.clone()))
            return inner(batch, xh, t, **kwargs)

        with mock.patch.object(network, name, record):
            draw()
        return seen


def configuration(n_steps, schedule="polynomial_2", loss="l2", charges=True):
    """The two configurations that upstream's class takes, as far as the stand-in reads them."""
    diffusion = SimpleNamespace(
        num_timesteps=n_steps,
        noise_schedule=schedule,
        loss_type=loss,
        norm_values=[1.0, 4.0, 10.0],
        norm_biases=[None, 0.0, 0.0],
        self_condition=False,
    )
    return diffusion, SimpleNamespace(num_atom_types=5, num_x_dims=3, include_charges=charges)


def make_gcdm(
    n_steps, schedule="polynomial_2", loss="l2", charges=True, context=0, self_condition=False
):
    torch.manual_seed(0)
    diffusion, data = configuration(n_steps, schedule, loss, charges)
    diffusion.self_condition = self_condition
    network = gcdm_like.GCPNetDynamics(5 + charges, context, self_condition)
    sizes = {"n_nodes": list(range(3, 30))}
    return gcdm_like.EquivariantVariationalDiffusion(network, diffusion, data, sizes).eval()


GCDM_OPTIONS = frozenset({"schedule", "loss", "charges", "context"})
GCDM = GCDMCase(
    "the fake GCDM",
    make_gcdm,
    options=GCDM_OPTIONS,
    verbs=frozenset({"sample", "loss"}),
    elements=("H", "C", "N", "O", "F"),
)


# -- what is GCDM's own ----------------------------------------------------------------------------


def steps_of(case, model, **options):
    """The times that the network is given, as steps of the model."""
    sizes = (3, 4)
    seen = case.network_inputs(model, lambda: case.sample(model, sizes, **options))
    return [float(t[0]) * case.n_steps for t, _ in seen]


def with_warnings(draw):
    """What a function returns, and the texts of its warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        return draw(), [str(warning.message) for warning in said]


def num_timesteps_are_steps_from_t_star(case):
    model = case.model()
    apply_patch(model, case.stats(model), t_star=12)
    assert [round(s, 4) for s in steps_of(case, model, num_timesteps=4)] == [12, 9, 6, 3, 0]
    assert [round(s) for s in steps_of(case, model, num_timesteps=5)] == [12, 10, 7, 5, 2, 0]
    remove_patch(model)
    assert [round(s) for s in steps_of(case, model, num_timesteps=4)] == [20, 15, 10, 5, 0]
    plain = case.sample(model, num_timesteps=7)  # which does not divide the steps
    with patched(model, None, t_star=case.n_steps):
        assert same(plain, case.sample(model, num_timesteps=7))


def no_sample_takes_a_step_twice(case):
    model = case.model()
    apply_patch(model, case.stats(model), t_star=11)
    every = list(range(11, -1, -1))
    assert [round(s) for s in steps_of(case, model, num_timesteps=case.n_steps)] == every
    whole = case.sample(model)
    assert same(whole, case.sample(model, num_timesteps=case.n_steps))
    frames = case.sample(model, num_timesteps=case.n_steps, return_frames=case.n_steps)[0]
    assert len(frames) == 11  # as a chain of the evaluation asks for them
    for steps in (*range(1, 15), case.n_steps - 1, 2 * case.n_steps):
        times, said = with_warnings(lambda k=steps: steps_of(case, model, num_timesteps=k))
        times = [round(s) for s in times]
        assert ["the 11 steps from t*" in text for text in said] == [True] * (11 < steps)
        assert len(times) == len(set(times)) == min(steps, 11) + 1
        assert (times[0], times[-1]) == (11, 0)
    original = {"num_timesteps": case.n_steps, "norm_with_original_timesteps": True}
    assert same(whole, case.sample(model, **original))


def frames_of_a_chain_divide_its_steps(case):
    model = case.model()
    apply_patch(model, case.stats(model), t_star=13)
    for frames, steps in ((5, 10), (13, 13), (100, 13), (1, 13)):
        times = steps_of(case, model, return_frames=frames)
        assert len(times) == steps + 1, frames
        kept = case.sample(model, return_frames=frames)[0]
        assert kept.shape[:-2] == (() if frames == 1 else (min(frames, 13),))
        assert bool(torch.isfinite(kept).all())


def atoms_that_do_not_exist_are_no_part_of_the_start(case):
    model = case.model()
    stats = case.stats(model)
    sizes, index = (5, 9, 7), case.index((5, 9, 7))
    real = torch.ones_like(index).bool()
    real[[0, 6, 20]] = False
    torch.manual_seed(1)
    z = model.sample_combined_position_feature_noise(index, real)
    handle = apply_patch(model, stats, t_star=11, reference="size")
    reference = at_gamma(stats.reference("size"), -handle.log_snr)
    expected = reference.transport(*to_padded(z, index, real))
    seen = case.network_inputs(model, lambda: case.sample(model, sizes, node_mask=real))
    assert torch.equal(seen[0][1], expected)
    assert expected.shape == (3, 8, expected.shape[-1])


def what_means_something_else_is_refused(case):
    model = case.model()
    apply_patch(model, case.stats(model), t_star=11)
    for options, words in (
        ({"fix_noise": True}, "centres that noise over the batch"),
        ({"generate_x_only": True}, "positions and features"),
        ({"norm_with_original_timesteps": True, "num_timesteps": 5}, "absolute step"),
    ):
        with raises(UnsupportedModelError, words, "remove_patch"):
            case.sample(model, **options)
    assert len(steps_of(case, model, norm_with_original_timesteps=True)) == 12
    for name, given in (("mol_gen_optimize", ([], None, "cpu")), ("inpaint", ({}, None))):
        with raises(UnsupportedModelError, f"{name} cannot run truncated", "remove_patch"):
            getattr(model, name)(*given)


def a_self_conditioned_model_asks_twice_a_step(case):
    model = case.make(case.n_steps, self_condition=True)
    apply_patch(model, case.stats(model), t_star=6)
    steps = [round(s) for s in steps_of(case, model)]
    assert steps == [6, *(s for s in range(5, 0, -1) for _ in range(2)), 0, 0]
    for seed in range(4):  # half of the losses are conditioned on a prediction of the model
        random.seed(seed)
        seen = case.network_inputs(model.train(), lambda: case.loss(model, (4,) * 3))
        assert max(float(t.max()) for t, _ in seen) <= 6 / case.n_steps + 1e-6


def samples_have_exactly_the_moments_of_gaussian_data(case):
    model = case.make(100)
    stats = gaussian_flat.data_stats(adapter_for(model).layout(model, case.elements))
    gamma = model.gamma(torch.arange(101)[:, None] / 100).flatten().detach()
    model.dynamics_network = network = gaussian_flat.ExactDenoiser(stats, gamma)
    sizes = gaussian_flat.SIZES * 1500
    for t_star, reference in ((55, "size"), (20, "size"), (55, "unit")):
        apply_patch(model, stats, t_star=t_star, reference=reference)
        case.sample(model, sizes)
        scores = gaussian_flat.scores(stats, gamma, t_star, *network.last)
        worst = max(map(abs, scores))
        if reference == "size":
            assert worst < gaussian_flat.MOST, (t_star, scores)
        else:
            assert worst > 2 * gaussian_flat.MOST  # so that it can fail
    # Every linear step loses a little of the variance; those beyond t* are not taken any more.
    gamma, c = gamma.double(), torch.tensor([0.1, 0.5, 2.0, 4.0], dtype=torch.float64)
    data = torch.sigmoid(-gamma[0]) * c + torch.sigmoid(gamma[0])
    cut, whole = ((gaussian_flat.sampled_variance(gamma, t, c) - data).abs() for t in (55, 100))
    assert bool((cut < whole).all())


def the_weights_of_the_terms_are_those_of_t_star_steps(case):
    model = case.model(loss="vlb")
    apply_patch(model, case.stats(model), t_star=8, reference="size")
    for mode in (True, False):
        model.train(mode)
        *_, t = terms = model(case.batch(model, (4,) * 32))
        gamma_s, gamma_t = model.gamma((t - 1)[:, None] / 8), model.gamma(t[:, None] / 8)
        expected = 8 * torch.expm1(gamma_t - gamma_s).flatten()
        inside = t > 0
        weights = case.n_steps * terms[2]
        assert torch.allclose(weights[inside], expected[inside], rtol=1e-4, atol=1e-5)


def a_checkpoint_of_the_module_around_it_says_how_far_it_was_trained(case):
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ddpm = case.model()

    module, other = Module(), Module()
    apply_patch(module.ddpm, case.stats(module.ddpm), t_star=8)
    torch.autograd.backward(case.loss(module.ddpm.train()).mean())
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for t_star in (8, 5):
        apply_patch(other.ddpm, case.stats(other.ddpm), t_star=t_star)
        case.sample(other.ddpm)
    apply_patch(other.ddpm, case.stats(other.ddpm), t_star=12)
    with raises(TruncationError, "knows nothing noisier"):
        case.sample(other.ddpm)


def a_patch_can_wait_for_the_first_use(case):
    model = case.model()
    handle = apply_patch(model, case.stats)
    plain = case.model()
    apply_patch(plain, case.stats(plain))
    assert same(case.sample(model), case.sample(plain))
    assert handle.t_star < case.n_steps
    handle.remove()
    assert same(case.sample(model), case.sample(case.model()))


def the_network_of_a_patched_model_is_still_its_module(case):
    model = case.model()
    network, keys = model.dynamics_network, list(model.state_dict())
    apply_patch(model, case.stats(model), t_star=6)
    assert list(model.dynamics_network.parameters()) == list(network.parameters())
    for twin in (
        copy.deepcopy(model.dynamics_network),
        pickle.loads(pickle.dumps(model.dynamics_network)),
    ):
        assert type(twin) is type(network)
        assert same(list(twin.parameters()), list(network.parameters()))
    model.dynamics_network = other = copy.deepcopy(network)  # of an average, for example
    for parameter in other.parameters():
        parameter.data += 0.1
    assert list(model.state_dict()) == keys
    assert round(steps_of(case, model)[0]) == 6
    remove_patch(model)
    assert model.dynamics_network is other


def what_is_written_to_the_network_of_a_patched_model_stays(case):
    model = case.model()
    network, before = model.dynamics_network, case.sample(case.model())
    handle = apply_patch(model, case.stats(model), t_star=6)
    seen = model.dynamics_network
    assert isinstance(seen, torch.nn.Module)
    assert isinstance(seen, type(network))
    assert seen == network
    assert len({seen, model.dynamics_network, network}) == 1
    assert repr(seen) == repr(network)
    seen.note = "kept"
    model.dynamics_network.extra = torch.nn.Linear(1, 1)
    assert network.note == "kept"
    assert "extra.weight" in network.state_dict()
    assert vars(model.dynamics_network)["note"] == "kept"
    del model.dynamics_network.extra
    assert "extra" not in network._modules
    part = next(name for name, _ in network.named_children())
    kept = getattr(network, part)
    setattr(model.dynamics_network, part, None)
    assert getattr(network, part) is None
    setattr(model.dynamics_network, part, kept)
    del seen.note
    # Set again, or inside of another module, its times are still those of the network.
    begin = case.sample(model)
    model.dynamics_network = model.dynamics_network
    assert same(begin, case.sample(model))
    assert model._modules["dynamics_network"] is network
    around = Around(model.dynamics_network)
    assert list(around.parameters()) == list(network.parameters())
    model.dynamics_network = around
    assert [round(s) for s in steps_of(case, model)] == list(range(6, -1, -1))
    assert same(begin, case.sample(model))
    handle.remove()
    assert same(before, case.sample(model))
    model.dynamics_network = network
    assert same(before, case.sample(model))


class Around(torch.nn.Module):
    """A network in another one, as of an average or a compiled one."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, batch, xh, t, **kwargs):
        return self.inner(batch, xh, t, **kwargs)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["inner"], name)


def the_order_of_the_atoms_of_a_batch_does_not_matter_to_its_prior_term(case):
    model = case.model()
    apply_patch(model, case.stats(model), t_star=11, reference="size")
    sizes, index = torch.tensor((5, 9, 7)), case.index((5, 9, 7))
    generator = torch.Generator().manual_seed(1)
    xh = torch.randn(len(index), 9, generator=generator)
    order = torch.randperm(len(index), generator=generator)
    real = torch.ones_like(index).bool()
    nats = model.compute_kl_prior(xh, index, real, sizes, "cpu")
    again = model.compute_kl_prior(xh[order], index[order], real, sizes, "cpu")
    assert nats.shape == (3,)
    assert torch.allclose(nats, again, rtol=1e-5, atol=1e-4)


GCDM_CHECKS = {
    check.__name__: check
    for check in (
        num_timesteps_are_steps_from_t_star,
        no_sample_takes_a_step_twice,
        frames_of_a_chain_divide_its_steps,
        atoms_that_do_not_exist_are_no_part_of_the_start,
        what_means_something_else_is_refused,
        a_self_conditioned_model_asks_twice_a_step,
        samples_have_exactly_the_moments_of_gaussian_data,
        the_weights_of_the_terms_are_those_of_t_star_steps,
        a_checkpoint_of_the_module_around_it_says_how_far_it_was_trained,
        a_patch_can_wait_for_the_first_use,
        the_network_of_a_patched_model_is_still_its_module,
        what_is_written_to_the_network_of_a_patched_model_stays,
        the_order_of_the_atoms_of_a_batch_does_not_matter_to_its_prior_term,
    )
}
