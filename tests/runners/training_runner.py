"""Tiny training runs, for processes that import this by name."""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from qm9_training import Recipe, Run

from gaga_adapter.subspace import mask_from_sizes, project

NET = {"width": 16, "pair_width": 4, "n_layers": 1, "n_vectors": 2, "n_heads": 2}
RECIPE = Recipe(steps=60, batch_size=8, warmup=4, net=NET)


def molecules():
    """Clusters of five to nine atoms with one-hot features."""
    generator = torch.Generator().manual_seed(0)
    mask = mask_from_sizes(torch.randint(5, 10, (96,), generator=generator))
    position = 1.4 * torch.randn(*mask.shape, 3, generator=generator)
    element = torch.randint(5, mask.shape, generator=generator)
    onehot = torch.nn.functional.one_hot(element, 5) / 4
    return project(torch.cat([position, onehot * mask[..., None]], -1), mask), mask


def train(folder, recipe=RECIPE, slowly=0.0, until=None):
    """A whole run; `slowly` leaves time for a kill between any two steps and amid the saves."""
    torch.set_num_threads(1)
    run = Run(recipe, Path(folder), torch.device("cpu"))
    if slowly:
        update = run._update

        def slow(loss):
            time.sleep(slowly)
            update(loss)

        run._update = slow
    run.train(*molecules(), save_every=3, log_every=2, until=until)
    return run


def train_as(rank, folder, meeting):
    """One of two processes."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    train(folder, Recipe(**{**vars(RECIPE), "steps": 6}), until=3)  # between two lines of metrics
    train(folder, Recipe(**{**vars(RECIPE), "steps": 6}))
    torch.distributed.destroy_process_group()
