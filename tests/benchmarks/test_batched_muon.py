"""Muon on stacks of matrices, against PyTorch's own on one after the other."""

import pytest
import torch

if not hasattr(torch.optim, "Muon"):
    pytest.skip("torch has its Muon from 2.9 on", allow_module_level=True)

from batched_muon import BatchedMuon
from qm9_training import Recipe, optimizers_of

from gaga_adapter.molecules.denoiser import MoleculeDenoiser

SHAPES = [(8, 24), (24, 8), (8, 8), (8, 24), (24, 8)]


def weights(seed):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return [torch.nn.Parameter(one) for one in made]


def stepped(kind, steps=4, skip=None):
    """Weights after some steps whose gradients are the same for every optimizer."""
    parameters = weights(0)
    options = {"lr": 0.05, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    optimizer = kind(parameters, **options)
    for step in range(steps):
        for k, (parameter, gradient) in enumerate(zip(parameters, weights(1 + step), strict=True)):
            parameter.grad = None if k == skip else gradient.detach().clone()
        optimizer.step()
    return parameters, optimizer


def test_the_updates_are_those_of_pytorch():
    """Each step moves an entry by about 0.01; a product in bfloat16 is off by 1 in 256 of it."""
    for skip in (None, 3):
        ours, _ = stepped(BatchedMuon, skip=skip)
        theirs, _ = stepped(torch.optim.Muon, skip=skip)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1.5e-3, rtol=0)
        moved = (ours[0] - weights(0)[0]).detach().abs().mean()
        assert float(moved) > 0.01


def test_a_state_of_either_serves_the_other():
    _, theirs = stepped(torch.optim.Muon)
    parameters, ours = stepped(BatchedMuon)
    ours.load_state_dict(theirs.state_dict())
    for parameter, state in zip(parameters, theirs.state_dict()["state"].values(), strict=True):
        assert torch.equal(ours.state[parameter]["momentum_buffer"], state["momentum_buffer"])


def test_the_matrices_between_hidden_streams_are_its():
    net = {"width": 16, "pair_width": 4, "n_layers": 2, "n_vectors": 2, "n_heads": 2}
    model = MoleculeDenoiser(**net)
    adamw, muon = optimizers_of(model, Recipe(net=net))
    assert isinstance(muon, BatchedMuon)
    hidden = {id(p) for group in muon.param_groups for p in group["params"]}
    named = {name for name, p in model.named_parameters() if id(p) in hidden}
    assert named == {
        n for n, p in model.named_parameters() if n.startswith("layers") and p.ndim == 2
    }
    assert sum(len(g["params"]) for g in adamw.param_groups) + len(named) == len(
        list(model.parameters())
    )
