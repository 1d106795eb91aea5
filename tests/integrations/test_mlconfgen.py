"""The patch on mlconfgen as pip installs it: the contract, and what is its own."""

import dataclasses
import warnings
from unittest import mock

import pytest
import torch
from gaga_adapter.integrations import apply_patch, patched, remove_patch
from gaga_adapter.integrations.mlconfgen import MLConfGen
from gaga_adapter.integrations.patching.prior import at_gamma
from gaga_adapter.integrations.protocol import adapter_for

from gaga_adapter import testing
from gaga_adapter.errors import GAGAWarning, StatsMismatchError, UnsupportedModelError

pytest.importorskip("mlconfgen", reason="the package mlconfgen is not installed")
from mlconfgen.egnn import EGNNDynamics
from mlconfgen.equivariant_diffusion import EquivariantDiffusion

ELEMENTS = ("C", "N", "O", "F", "P", "S", "Cl", "Br")  # mlconfgen.utils.ATOM_DECODER's order


def make(n_steps):
    torch.manual_seed(0)
    dynamics = EGNNDynamics(in_node_nf=9, context_node_nf=3, hidden_nf=8)
    return EquivariantDiffusion(dynamics, in_node_nf=8, timesteps=n_steps).eval()


class MLConfGenCase(testing.Case):
    def given(self, model):
        node_mask, edge_mask = self.masks()
        return node_mask, edge_mask, self.context(model, node_mask)


CASE = MLConfGenCase.of(MLConfGen(), make)
# a warning that every model of this package earns, and one check is about
pytestmark = pytest.mark.filterwarnings("ignore:samples of:gaga_adapter.errors.GAGAWarning")


@pytest.mark.parametrize("check", testing.CHECKS)
def test_contract(check):
    try:
        testing.CHECKS[check](CASE)
    except testing.NotApplicable as reason:
        pytest.skip(str(reason))


def test_it_is_recognised_and_described():
    model = CASE.model()
    assert adapter_for(model).name == "mlconfgen"
    layout = adapter_for(model).layout(model, ELEMENTS)
    assert (layout.position_scale, layout.onehot_scale, layout.charge_scale) == (1.0, 9.0, None)
    with pytest.raises(StatsMismatchError, match="5 elements"):
        adapter_for(model).layout(model, ("H", "C", "N", "O", "F"))


def test_network_calls_of_a_thousand_steps():
    model = CASE.model(1000)
    sizes = (3,)
    calls = {}
    for t_star in (1000, 550):
        with patched(model, None, t_star=t_star):
            calls[t_star] = len(CASE.network_inputs(model, lambda: CASE.sample(model, sizes)))
    assert calls == {1000: 1001, 550: 551}


def test_the_time_steps_of_the_model_are_never_touched():
    model = CASE.model()
    steps = model.time_steps
    handle = apply_patch(model, None, t_star=7)
    assert model.time_steps.tolist() == [6, 5, 4, 3, 2, 1, 0]
    handle.remove()
    assert model.time_steps is steps


def test_fewer_steps_than_trained_are_the_models_own():
    """What `MLConformerGenerator(diffusion_steps=...)` does to a checkpoint."""
    model = CASE.model(100)
    model.gamma = type(model.gamma)(timesteps=20, precision=1e-5)
    model.time_steps = torch.arange(20).flip(0)
    model.T = 20
    apply_patch(model, None, t_star=11)
    seen = CASE.network_inputs(model, lambda: CASE.sample(model))
    assert [round(float(t[0]) * 20) for t, _ in seen] == list(range(11, -1, -1))


@torch.no_grad()
def test_animation_starts_at_t_star():
    model = CASE.model()
    stats = CASE.stats(model)
    torch.manual_seed(1)
    before = list(model.animate(*CASE.given(model)))
    with patched(model, None, t_star=CASE.n_steps):
        torch.manual_seed(1)
        again = list(model.animate(*CASE.given(model)))
    assert all(testing.same(a, b) for a, b in zip(before, again, strict=True))

    node_mask = CASE.given(model)[0]
    torch.manual_seed(1)
    z = model.sample_combined_position_feature_noise(3, 9, node_mask)
    handle = apply_patch(model, stats, t_star=6, reference="size")
    reference = at_gamma(stats.reference("size"), -handle.log_snr)
    expected = reference.transport(z, node_mask[..., 0] > 0)
    frames = []

    def draw():
        animation = model.animate(*CASE.given(model))
        torch.manual_seed(1)  # nothing is drawn before the first frame
        frames.extend(animation)

    seen = CASE.network_inputs(model, draw)
    assert len(frames) == 6
    assert torch.equal(seen[0][1], expected)
    # between two frames, noise that somebody else asks for is plain
    animation = model.animate(*CASE.given(model))
    next(animation)
    torch.manual_seed(1)
    assert torch.equal(z, model.sample_combined_position_feature_noise(3, 9, node_mask))


@torch.no_grad()
def test_resampling_repeats_the_steps_that_are_left():
    model = CASE.model()
    apply_patch(model, CASE.stats(model), t_star=6)
    given = CASE.given(model)
    seen = CASE.network_inputs(model, lambda: model(*given, resample_steps=2))
    assert [round(float(t[0]) * CASE.n_steps) for t, _ in seen] == [
        *(t for t in range(6, 0, -1) for _ in range(3)),
        0,
    ]


@torch.no_grad()
def test_what_means_absolute_steps_or_foreign_noise_is_refused():
    model = CASE.model()
    node_mask, edge_mask, context = given = CASE.given(model)
    z = model.sample_combined_position_feature_noise(3, 9, node_mask)
    fixed = node_mask * (torch.arange(9) < 2)[None, :, None]
    calls = {
        "denoise": lambda: model.denoise(z, *given),
        "teach": lambda: model.teach(z, *given),
        "inpaint": lambda: model.inpaint(*given, z, fixed),
        "ifm_merge_fragments": lambda: model.ifm_merge_fragments(*given, z, 5),
        "ifm_merge_fragments_with_injection": lambda: model.ifm_merge_fragments_with_injection(
            node_mask, edge_mask, fixed, context, z, 5
        ),
    }

    def all_outputs():
        outputs = []
        for call in calls.values():
            torch.manual_seed(1)
            out = call()
            outputs += out if isinstance(out, tuple) else [out]
        return outputs

    before = all_outputs()
    apply_patch(model, CASE.stats(model), t_star=6)
    CASE.sample(model)
    for name, call in calls.items():
        with pytest.raises(UnsupportedModelError, match=f"{name} cannot run truncated"):
            call()
    with (
        mock.patch.object(model.dynamics, "forward", side_effect=ZeroDivisionError),
        pytest.raises(ZeroDivisionError),
    ):
        CASE.sample(model)
    with pytest.raises(UnsupportedModelError, match="denoise"):
        model.denoise(z, *given)
    remove_patch(model)
    assert testing.same(before, all_outputs())


def test_the_last_class_is_told_and_given_back():
    model = CASE.model()
    with pytest.warns(GAGAWarning, match="last element class"):
        apply_patch(model, None, t_star=2)

    def last_class_share():
        _, one_hot = CASE.sample(model, sizes=(9,) * 40)
        assert torch.equal(one_hot.sum(-1), torch.ones(40, 9))
        return float(one_hot[..., -1].mean())

    assert last_class_share() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply_patch(model, None, t_star=2, fix_last_class=True)
    assert last_class_share() > 0


def test_a_class_without_its_steps_is_refused():
    model = CASE.model()
    del model.time_steps
    with pytest.raises(UnsupportedModelError, match="mlconfgen: no attribute 'time_steps'"):
        apply_patch(model, None, t_star=2)


def test_another_loader_is_not_known():
    from gaga_adapter.integrations import fit_from

    with pytest.raises(UnsupportedModelError, match="comes without a loader"):
        fit_from(CASE.model(), [dataclasses.make_dataclass("Batch", [])()], elements=ELEMENTS)
