"""A trained EDM checkpoint as a pipeline: EDM's own classes, its files read without running them.

It needs a checkout of EDM (github.com/ehoogeboom/e3_diffusion_for_molecules), named by the variable
`GAGA_EDM_REPO`, and the folder of the checkpoint with `args.pickle` and `generative_model_ema.npy`,
named by `GAGA_EDM_CHECKPOINT`.

EDM's network copies the features of both atoms to each pair and multiplies the copies. `pairwise`
multiplies before it copies, which is the same sum in another order, and three times as fast.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gaga_adapter.integrations import as_pipeline
from gaga_adapter.integrations.launcher.checkouts import require_checkout
from gaga_adapter.integrations.launcher.pickles import load_plain
from torch import Tensor, nn

from gaga_adapter.errors import GAGAError

REPO, CHECKPOINT = "GAGA_EDM_REPO", "GAGA_EDM_CHECKPOINT"
WEIGHTS = "generative_model_ema.npy"


def missing() -> str | None:
    """Why there is no checkpoint here; None if there is one."""
    for variable, what in ((REPO, "a checkout of EDM"), (CHECKPOINT, "a folder of a checkpoint")):
        if not Path(os.environ.get(variable, "?")).is_dir():
            return f"{variable} does not name {what}"
    try:
        require_checkout(Path(os.environ[REPO]), "edm")
    except GAGAError as error:
        return str(error)
    lost = [name for name in ("args.pickle", WEIGHTS) if not weights().with_name(name).is_file()]
    return f"{CHECKPOINT} has no {', '.join(lost)}" if lost else None


def weights() -> Path:
    """The file of the weights."""
    return Path(os.environ[CHECKPOINT]) / WEIGHTS


def load(fast: bool = True) -> Any:  # noqa: ANN401 - an EDMPipeline
    """The checkpoint as a pipeline with EDM's own sizes, under its own ancestral sampler."""
    with weights().with_name("args.pickle").open("rb") as file:
        args = load_plain(file)
    with _modules_of(Path(os.environ[REPO])), contextlib.redirect_stdout(io.StringIO()):
        from configs.datasets_config import qm9_with_h
        from qm9.models import get_model

        model, _, _ = get_model(args, torch.device("cpu"), qm9_with_h, None)
    model.load_state_dict(torch.load(weights(), map_location="cpu", weights_only=True))
    model.eval().requires_grad_(False)
    if fast:
        use_pairwise(model.dynamics)
    pipeline = as_pipeline(
        model, elements=qm9_with_h["atom_decoder"], size_counts=qm9_with_h["n_nodes"]
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextlib.contextmanager
def _modules_of(checkout: Path) -> Iterator[None]:
    """The checkout on Python's path while its modules are imported."""
    sys.path.insert(0, str(checkout))
    try:
        yield
    finally:
        sys.path.remove(str(checkout))


# -- the same network, faster ----------------------------------------------------------------------


def use_pairwise(dynamics: nn.Module) -> None:
    """Let EDM's `EGNN_dynamics_QM9` compute with `pairwise`, compiled.

    Raises:
        ValueError: If `pairwise` says something else than EDM's own network.
    """
    egnn, own = dynamics.egnn, dynamics.egnn.forward
    compiled = torch.compile(lambda *tensors: pairwise(egnn, *tensors), dynamic=True)

    def forward(
        h: Tensor,
        x: Tensor,
        edges: Any,  # noqa: ANN401 - EDM's indices, which are those of all pairs
        node_mask: Tensor,
        edge_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        n = edge_mask.numel() // node_mask.numel()  # pairs over atoms: atoms of a molecule
        parts = (t.reshape(len(t) // n, n, -1) for t in (h, x, node_mask))
        h, x = compiled(*parts, edge_mask.reshape(-1, n, n, 1))
        return h.flatten(0, 1), x.flatten(0, 1)

    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(
        4, 9, 3 + dynamics.egnn.embedding_out.out_features - 1, generator=generator
    )
    node_mask = (torch.arange(9) < torch.tensor([9, 8, 5, 3])[:, None])[..., None].float()
    edge_mask = (node_mask @ node_mask.mT * (1 - torch.eye(9))).reshape(-1, 1)
    sample = sample * node_mask
    sample[..., :3] -= node_mask * (sample.sum(1, keepdim=True) / node_mask.sum(1, True))[..., :3]
    results = []
    for network in (own, forward):
        egnn.forward = network
        time = torch.full((4, 1), 0.3)
        results.append(dynamics._forward(time, sample, node_mask, edge_mask, None))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


def pairwise(
    egnn: Any,  # noqa: ANN401 - EDM's EGNN
    h: Tensor,
    x: Tensor,
    node_mask: Tensor,
    edge_mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """What EDM's `EGNN` makes of features (B, N, F) and positions (B, N, 3)."""
    first, _ = _differences(x, 1)
    h = egnn.embedding(h)
    for i in range(egnn.n_layers):
        block = getattr(egnn, f"e_block_{i}")
        square, difference = _differences(x, block.norm_constant)
        lengths = torch.cat([square, first], -1)
        for k in range(block.n_layers):
            layer = getattr(block, f"gcl_{k}")
            message = _of_pairs(layer.edge_mlp, h, lengths)
            message = message * layer.att_mlp(message) if layer.attention else message
            gathered = (message * edge_mask).sum(2) / layer.normalization_factor
            h = (h + layer.node_mlp(torch.cat([h, gathered], -1))) * node_mask
        update = block.gcl_equiv
        pull = _of_pairs(update.coord_mlp, h, lengths)
        pull = torch.tanh(pull) * update.coords_range if update.tanh else pull
        shift = (difference * pull * edge_mask).sum(2) / update.normalization_factor
        x = (x + shift) * node_mask
        h = h * node_mask
    return egnn.embedding_out(h) * node_mask, x


def _of_pairs(layers: nn.Sequential, h: Tensor, lengths: Tensor) -> Tensor:
    """An EDM network of pairs, `[h_i, h_j, lengths]` -> (B, N, N, F), its first layer in parts."""
    width = h.shape[-1]
    left, right, rest = layers[0].weight.split([width, width, lengths.shape[-1]], dim=1)
    e = (h @ left.T + layers[0].bias)[:, :, None] + (h @ right.T)[:, None] + lengths @ rest.T
    return layers[1:](e)


def _differences(x: Tensor, constant: float) -> tuple[Tensor, Tensor]:
    """Squared distances (B, N, N, 1) and scaled differences (B, N, N, 3) of positions."""
    difference = x[:, :, None] - x[:, None]
    square = difference.square().sum(-1, keepdim=True)
    return square, difference / ((square + 1e-8).sqrt() + constant)
