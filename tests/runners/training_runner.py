"""Tiny training runs, for processes that import this by name."""

import io
import json
import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from qm9_training import METRICS, Recipe, Run

from gaga_adapter.subspace import mask_from_sizes, project

NET = {"width": 16, "pair_width": 4, "n_layers": 1, "n_vectors": 2, "n_heads": 2}
RECIPE = Recipe(steps=60, batch_size=8, warmup=4, net=NET)
SAVE_EVERY = 3


def molecules():
    """Clusters of five to nine atoms with one-hot features."""
    generator = torch.Generator().manual_seed(0)
    mask = mask_from_sizes(torch.randint(5, 10, (96,), generator=generator))
    position = 1.4 * torch.randn(*mask.shape, 3, generator=generator)
    element = torch.randint(5, mask.shape, generator=generator)
    onehot = torch.nn.functional.one_hot(element, 5) / 4
    return project(torch.cat([position, onehot * mask[..., None]], -1), mask), mask


def train(folder, recipe=RECIPE, until=None, prepare=lambda run: None):
    """A whole run; `prepare` may change it before it trains."""
    torch.set_num_threads(1)
    run = Run(recipe, Path(folder), torch.device("cpu"))
    prepare(run)
    run.train(*molecules(), save_every=SAVE_EVERY, log_every=2, until=until)
    return run


def train_until_killed(folder, place, step):
    """A run that SIGKILL ends at one place of one step, however fast the machine is.

    What a kill leaves are files, so the places are between what is done to them: before the
    `update` of the weights, with half of the `line` of metrics written, with half of the `state`
    written, before it is `replaced`, and once it is `saved`. The process is used up by this.
    """
    dumps, save, replace = json.dumps, torch.save, os.replace

    def prepare(run):
        update = run._update

        def die_at(here, done=0, begin=lambda: None):
            if (here, run.step + done) == (place, step):
                begin()
                os.kill(os.getpid(), signal.SIGKILL)

        def dying_update(loss, spent):
            die_at("update", done=1)
            update(loss, spent)

        def dying_dumps(line):
            text = dumps(line)
            metrics = run.folder / METRICS
            before = metrics.read_text() if metrics.exists() else ""
            die_at("line", begin=lambda: metrics.write_text(before + text[: len(text) // 2]))
            return text

        def dying_save(state, file):
            whole = io.BytesIO()
            save(state, whole)

            def half():
                file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
                file.flush()

            die_at("state", begin=half)
            file.write(whole.getvalue())

        def dying_replace(source, target):
            die_at("replaced")
            replace(source, target)
            die_at("saved")

        run._update, json.dumps = dying_update, dying_dumps
        torch.save, os.replace = dying_save, dying_replace

    train(folder, prepare=prepare)


def train_as(rank, folder, meeting):
    """One of two processes."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    train(folder, Recipe(**{**vars(RECIPE), "steps": 6}), until=3)  # between two lines of metrics
    train(folder, Recipe(**{**vars(RECIPE), "steps": 6}))
    torch.distributed.destroy_process_group()
