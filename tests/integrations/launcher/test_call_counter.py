"""Network calls are counted where samples are drawn, and nowhere else."""

import copy

import pytest
import torch
from fakes import edm_like
from gaga_adapter.integrations import apply_patch
from gaga_adapter.integrations.launcher.call_counter import CallCounter
from gaga_adapter.integrations.protocol import adapter_for

MASK, EDGES = torch.ones(2, 4, 1), torch.ones(32, 1)
STEPS = 12


class OfItsOwn(edm_like.EnVariationalDiffusion):
    """A class that no other test has patched: generated subclasses are made once per class."""


class LatentOfItsOwn(edm_like.EnLatentDiffusion):
    """Its `sample` calls that of its base."""

    @torch.no_grad()
    def sample(self, n_samples, n_nodes, node_mask, edge_mask, context, fix_noise=False):
        return super().sample(n_samples, n_nodes, node_mask, edge_mask, context, fix_noise)


def make(latent):
    torch.manual_seed(0)
    if not latent:
        return OfItsOwn(edm_like.TinyDynamics(6), 6, timesteps=STEPS).eval()
    vae = edm_like.EnHierarchicalVAE(edm_like.TinyCoder(6, 2), edm_like.TinyCoder(2, 6), 6, 2)
    dynamics = edm_like.TinyDynamics(2)
    return LatentOfItsOwn(vae=vae, dynamics=dynamics, in_node_nf=2, timesteps=STEPS).eval()


def loss(model):
    x = torch.randn(2, 4, 3)
    h = {"categorical": torch.eye(5)[:4].expand(2, 4, 5), "integer": torch.ones(2, 4, 1)}
    return model(x - x.mean(1, keepdim=True), h, MASK, EDGES)


@pytest.mark.parametrize("latent", [False, True])
def test_samples_are_counted_and_losses_are_not(latent):
    said = []
    model = make(latent)
    classes = [cls for cls in type(model).__mro__ if cls.__module__ != "builtins"]
    before = [dict(vars(cls)) for cls in classes]
    counter = CallCounter(said.append)
    with counter.watch(model, adapter_for(model)):
        model.sample(2, 4, MASK, EDGES, None)
        loss(model)
        assert said == []  # not patched yet
        apply_patch(model, None, t_star=7)  # its own check is no sample
        twin = copy.deepcopy(model)
        for each in (model, twin):
            each.sample(2, 4, MASK, EDGES, None)
            loss(each)
        model.sample_chain(1, 4, MASK[:1], EDGES[:16], None, keep_frames=3)
        with pytest.raises(RuntimeError, match="size"):
            model.sample(2, 4, MASK, EDGES, torch.ones(2, 3, 1))
        loss(model)
    assert dict(counter.batches) == {(STEPS + 1, STEPS, STEPS): 1, (8, 7, STEPS): 3}
    assert counter.lines() == [
        "network calls: 13 per sample, from t* = 12 of T = 12 (13 without); 1 batch sampled",
        "network calls: 8 per sample, from t* = 7 of T = 12 (13 without); 3 batches sampled",
    ]
    kind = "geoldm" if latent else "edm"
    assert said[1:] == ["network calls: 8 per sample, from t* = 7 of T = 12 (13 without)"]
    assert said[0].startswith(f"{kind} model starts at t* = 7 of T = 12 (log-SNR ")
    assert said[0].endswith("from N(0, I)")
    assert [dict(vars(cls)) for cls in classes] == before
