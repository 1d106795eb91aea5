"""The stand-ins of EDM and GeoLDM as cases of the contract."""

import contract
import torch

from fakes import edm_like


def make_edm(n_steps, schedule="polynomial_2", loss="l2", charges=True, context=0):
    torch.manual_seed(0)
    model = edm_like.EnVariationalDiffusion(
        edm_like.TinyDynamics(5 + charges, context),
        5 + charges,
        timesteps=n_steps,
        noise_schedule=schedule,
        loss_type=loss,
        include_charges=charges,
    )
    model.n_context = context
    return model.eval()


def make_geoldm(
    n_steps, schedule="polynomial_2", loss="l2", charges=True, context=0, trainable=False
):
    torch.manual_seed(0)
    vae = edm_like.EnHierarchicalVAE(
        edm_like.TinyCoder(5 + charges, 2, context),
        edm_like.TinyCoder(2, 5 + charges, context),
        5 + charges,
        2,
        include_charges=charges,
    )
    model = edm_like.EnLatentDiffusion(
        vae=vae,
        trainable_ae=trainable,
        dynamics=edm_like.TinyDynamics(2, context),
        in_node_nf=2,
        timesteps=n_steps,
        noise_schedule=schedule,
        loss_type=loss,
        include_charges=charges,
    )
    model.n_context = context
    return model.eval()


CASES = {
    "edm": contract.Case("the fake EDM", make_edm),
    "geoldm": contract.Case(
        "the fake GeoLDM",
        make_geoldm,
        options=frozenset({"schedule", "loss", "charges", "context", "trainable"}),
    ),
}
