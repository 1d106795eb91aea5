"""A copy of a real checkout with a small data set, in which `gaga run` runs its scripts."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from gaga_adapter.integrations.launcher.prepare import SMILES, write_data

COUNTED = """
import json
from gaga_adapter.cli import main
from gaga_adapter.integrations.launcher.hooks import after_import, replace_attribute

times = []  # of every network call


def counting(models):
    forward = models.EGNN_dynamics_QM9._forward

    def counted(self, t, *args, **kwargs):
        times.append(round(1000 * float(t.flatten()[0])))
        return forward(self, t, *args, **kwargs)

    return replace_attribute(models.EGNN_dynamics_QM9, "_forward", counted)


with after_import(("egnn.models",), counting):
    try:
        main()
    finally:
        print("times", json.dumps(times))
"""
TINY = (
    "--n_epochs 1 --n_stability_samples 4 --diffusion_noise_schedule polynomial_2 "
    "--diffusion_noise_precision 1e-5 --diffusion_steps 1000 --diffusion_loss_type l2 "
    "--batch_size 32 --nf 16 --n_layers 2 --lr 1e-4 --normalize_factors [1,4,10] --test_epochs 1 "
    "--ema_decay 0.99 --no-cuda --no_wandb"
).split()


def chains(n):
    """Chains of 5 to 12 atoms, each with all of H, C, N, O, F, as an npz file of upstream's."""
    rng = np.random.default_rng(n)
    sizes = np.resize(np.arange(5, 13), n)
    charges, positions = np.zeros((n, 12), np.int64), np.zeros((n, 12, 3), np.float32)
    for row, size in enumerate(sizes):
        charges[row, :size] = rng.permutation(np.resize([1, 6, 7, 8, 9, 1, 6], size))
        steps = rng.normal(size=(size, 3)) * 0.4 + [1.1, 0, 0]
        positions[row, :size] = np.cumsum(steps, axis=0)
    return {"num_atoms": sizes, "charges": charges, "positions": positions}


def printed(out, what):
    return re.search(rf"^{what} (.*)$", out, re.MULTILINE).group(1)


def real_checkout(kind, tmp_path_factory, files=()):
    """`run(*arguments, code=0)`: the times of all network calls, standard output and error.

    `files` are more files of the copy, as pairs of a path and a text.
    """
    variable = f"GAGA_{kind.upper()}_REPO"
    repo = os.environ.get(variable)
    if not repo:
        pytest.skip(f"{variable} does not name a checkout")
    pytest.importorskip("matplotlib", reason="upstream imports matplotlib")
    folder = tmp_path_factory.mktemp(kind) / "repo"
    left_out = (".git", "outputs", "temp", "exp", "figures", "figure", "generated_samples")
    shutil.copytree(repo, folder, ignore=shutil.ignore_patterns(*left_out))
    splits = {"train": chains(128), "valid": chains(32), "test": chains(24)}
    write_data(folder, splits, {name: ["C"] for name in SMILES})
    for name, text in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def run(*arguments, code=0, kind=kind):
        command = [sys.executable, "-c", COUNTED, "run", kind, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        assert done.returncode == code, done.stderr[-3000:]
        return json.loads(printed(done.stdout, "times")), done.stdout, done.stderr

    run.folder = folder
    return run
