"""The patch on MolCraftDiffusion as pip installs it: the contract, and what is its own.

Importing its models imports five packages that they do not use here; where these are missing, empty
modules stand in for them while this file is imported.
"""

import importlib.util

import pytest
import torch
from fakes.stand_ins import stand_ins
from gaga_adapter.integrations import apply_patch, patched, remove_patch
from gaga_adapter.integrations.protocol import adapter_for

from gaga_adapter import testing
from gaga_adapter.errors import UnsupportedModelError

UNUSED = ("omegaconf", "pandas", "torch_geometric", "torch_scatter", "wandb")


if importlib.util.find_spec("MolecularDiffusion") is None:
    pytest.skip("the package molcraftdiffusion is not installed", allow_module_level=True)
with stand_ins(UNUSED):
    from MolecularDiffusion.modules.models import EGNN_dynamics, EnVariationalDiffusion
    from MolecularDiffusion.modules.models.geoldm import diffusion as geoldm
    from MolecularDiffusion.modules.models.geoldm import networks
    from MolecularDiffusion.utils import remove_mean_with_mask


def dynamics(n_features, context=0):
    network = EGNN_dynamics(n_features + 1, context, 3, hidden_nf=8, n_layers=1, inv_sublayers=1)
    network.device = "cpu"  # the package's engine sets it
    return network


def make_edm(n_steps, schedule="polynomial_2", loss="l2", context=0):
    torch.manual_seed(0)
    model = EnVariationalDiffusion(
        dynamics(6, context),
        in_node_nf=6,
        timesteps=n_steps,
        noise_schedule=schedule,
        loss_type=loss,
        norm_values=(1.0, 4.0, 10.0),
    )
    model.device, model.n_context = "cpu", context
    return model.eval()


SMALL = {"n_dims": 3, "hidden_nf": 8, "n_layers": 1, "inv_sublayers": 1}


def make_geoldm_edm(n_steps, schedule="polynomial_2", loss="l2", charges=True, context=0):
    torch.manual_seed(0)
    model = geoldm.EnVariationalDiffusion(
        networks.EGNN_dynamics_QM9(6 + charges, context, **SMALL),
        in_node_nf=5 + charges,
        n_dims=3,
        timesteps=n_steps,
        noise_schedule=schedule,
        loss_type=loss,
        norm_values=(1.0, 4.0, 10.0),
        include_charges=charges,
    )
    model.n_context = context
    return model.eval()


def make_latent(
    n_steps, schedule="polynomial_2", loss="l2", charges=True, context=0, trainable=False
):
    torch.manual_seed(0)
    vae = geoldm.EnHierarchicalVAE(
        encoder=networks.EGNN_encoder_QM9(
            5 + charges, context, 2, include_charges=charges, **SMALL
        ),
        decoder=networks.EGNN_decoder_QM9(
            2, context, 5 + charges, include_charges=charges, **SMALL
        ),
        in_node_nf=5 + charges,
        n_dims=3,
        latent_node_nf=2,
        kl_weight=0.01,
        include_charges=charges,
    )
    model = geoldm.EnLatentDiffusion(
        vae=vae,
        trainable_ae=trainable,
        dynamics=networks.EGNN_dynamics_QM9(3, context, **SMALL),
        in_node_nf=2,
        n_dims=3,
        timesteps=n_steps,
        noise_schedule=schedule,
        loss_type=loss,
        include_charges=charges,
    )
    model.n_context = context
    return model.eval()


class MolCraftCase(testing.Case):
    def sample(self, model, sizes=testing.SIZES, seed=1, **options):
        torch.manual_seed(seed)
        node_mask, edge_mask = self.masks(sizes)
        given = (len(sizes), max(sizes), node_mask, edge_mask, self.context(model, node_mask))
        x, h, *_ = model.sample(*given, **options)
        del model.COV_R  # radii that `sample` leaves behind, patched or not
        return x, h["categorical"], h["integer"]

    def given_to_network(self, z, node_mask):
        x = remove_mean_with_mask(z[..., :3], node_mask)  # this `sample` projects once more
        return torch.cat([x, z[..., 3:]], -1)


CASES = {
    "edm": MolCraftCase(  # without charges, this class fails by itself
        "MolCraftDiffusion's EDM", make_edm, options=frozenset({"schedule", "loss", "context"})
    ),
    "geoldm_edm": testing.Case("MolCraftDiffusion's GeoLDM-EDM", make_geoldm_edm),
    "latent": testing.Case("MolCraftDiffusion's GeoLDM", make_latent),
}


@pytest.mark.parametrize("check", testing.CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_contract(case, check):
    try:
        testing.CHECKS[check](CASES[case])
    except testing.NotApplicable as reason:
        pytest.skip(str(reason))


def test_which_adapter_takes_which_class():
    names = {name: adapter_for(case.model()).name for name, case in CASES.items()}
    assert names == {"edm": "molcraftdiffusion", "geoldm_edm": "edm", "latent": "geoldm"}


@pytest.mark.parametrize("case", CASES)
def test_network_calls_of_a_thousand_steps(case):
    case = CASES[case]
    model = case.model(1000)
    calls = {}
    for t_star in (1000, 550):
        with patched(model, None, t_star=t_star):
            calls[t_star] = len(case.network_inputs(model, lambda: case.sample(model, (3,))))
    assert calls == {1000: 1001, 550: 551}


def test_what_means_absolute_steps_is_refused():
    case = CASES["edm"]
    model = case.model()
    plain = case.sample(model)
    apply_patch(model, case.stats(model), t_star=6)
    node_mask, edge_mask = case.masks()
    given = (3, 9, node_mask, edge_mask, None)
    condition = torch.zeros(3, 2, 9)
    for refused in (
        {"condition_tensor": condition, "condition_mode": "inpaint_xh"},
        {"condition_mode": "outpaint_xh"},
        {"n_retrys": 2, "n_frames": 4},
        {"silvr_cfgs": {"scale": 1.0}},
    ):
        with pytest.raises(UnsupportedModelError, match="absolute steps"):
            model.sample(*given, **refused)
    for name, call in {
        "sample_guidance": lambda: model.sample_guidance(3, None, node_mask, edge_mask),
        "sample_ddim": lambda: model.sample_ddim(*given),
        "phi_pyg": lambda: model.phi_pyg({}),
        "phi_distillation": lambda: model.phi_distillation(None, None, None, None, None),
    }.items():
        with pytest.raises(UnsupportedModelError, match=f"{name} cannot run truncated"):
            call()
    remove_patch(model)
    assert len(model.sample_ddim(*given)) == 3
    assert testing.same(plain, case.sample(model))


def test_frames_are_no_more_than_steps():
    case = CASES["edm"]
    model = case.model()
    apply_patch(model, case.stats(model), t_star=6)
    node_mask, edge_mask = case.masks()
    for frames, kept in ((100, 6), (3, 3)):
        _, _, chain = model.sample(3, 9, node_mask, edge_mask, None, n_frames=frames)
        assert len(chain) == kept
        assert bool(torch.isfinite(chain).all())


def test_extra_features_are_refused():
    model = CASES["edm"].model()
    model.extra_norm_values = (1.0,)
    with pytest.raises(UnsupportedModelError, match="it diffuses extra features"):
        apply_patch(model, None, t_star=2)
