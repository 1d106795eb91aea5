"""EDM's own evaluation script on a trained checkpoint, on its whole path and from t*.

    GAGA_EDM_REPO=... GAGA_EDM_CHECKPOINT=... python benchmarks/edm_launcher.py

`gaga run edm -- eval_analyze.py` runs twice in a copy of EDM's checkout, in which nothing is
edited: once to the last step of the model, which gives the numbers of the script alone, bit for
bit, and once from t*, which is fitted from the script's own loader. What the script prints is read:
atoms and molecules that are stable, and the bound of the negative log-likelihood; the calls of the
network are those that the launcher counts. The molecules that the script writes are judged by this
package, too, for standard errors and for their form. Molecules of the two runs are not of the same
seeds, since the script sets none. `edm_checkpoint.py` says what the two variables name.

A finished run is kept in `runs/edm_launcher`. Writes `benchmarks/results/edm_launcher.json`.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from edm_checkpoint import CHECKPOINT, REPO, WEIGHTS, missing, weights
from gaga_adapter.integrations.launcher.pickles import load_plain
from provenance import provenance

from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.formats import read_molecules
from gaga_adapter.molecules.metrics.evaluate import evaluate

ROOT = Path(__file__).parent.parent
MODEL = "outputs/checkpoint"
CALLS = re.compile(r"network calls: (\d+) per sample, from t\* = (\d+) of T = (\d+)")
OVERVIEW = re.compile(r"Overview: val nll (\S+) test nll (\S+) (\{.*\})")


def main() -> None:
    """Make what is missing, and write the results."""
    arguments = _arguments()
    reason = missing()
    if reason is not None:
        sys.exit(f"nothing to run: {reason}.")
    checkout = prepared(arguments.runs / "checkout", arguments.held_out)
    with weights().with_name("args.pickle").open("rb") as file:
        n_steps = load_plain(file).diffusion_steps
    runs = {"whole path": ["--stats", "none", "--t-star", str(n_steps)], "from t*": []}
    rows = {}
    for name, options in runs.items():
        kept = arguments.runs / f"{name.split()[0]}.json"
        if not kept.is_file():
            row = run(checkout, options, arguments.n, arguments.batch_size)
            with replacing(kept) as temporary:
                temporary.write_text(json.dumps(row, indent=1), encoding="utf-8")
        rows[name] = json.loads(kept.read_text(encoding="utf-8"))
    found = {
        **provenance(),
        "command": "gaga run edm -- eval_analyze.py",
        "edm": _commit(Path(os.environ[REPO])),
        "held_out": arguments.held_out,
        "rows": rows,
    }
    with replacing(arguments.out) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {arguments.out}")


def prepared(checkout: Path, n_held_out: int) -> Path:
    """A copy of EDM's checkout with the checkpoint, and QM9 with a part of its held-out splits.

    The whole splits would cost an hour of the bound, which this benchmark is not about.
    """
    if (checkout / "ready").is_file():
        return checkout
    shutil.rmtree(checkout, ignore_errors=True)
    shutil.copytree(
        os.environ[REPO], checkout, ignore=shutil.ignore_patterns(".git", "__pycache__", "outputs")
    )
    model = checkout / MODEL
    model.mkdir(parents=True)
    for name in ("args.pickle", WEIGHTS):
        shutil.copyfile(Path(os.environ[CHECKPOINT]) / name, model / name)
    _gaga(["prepare", "qm9", "--into", str(checkout)], ROOT)
    for name in ("valid", "test"):
        file = checkout / "qm9" / "temp" / "qm9" / f"{name}.npz"
        with np.load(file) as arrays:
            part = {key: values[:n_held_out] for key, values in arrays.items()}
        np.savez(file, **part)
    (checkout / "ready").touch()
    return checkout


def run(checkout: Path, options: list[str], n: int, batch_size: int) -> dict[str, Any]:
    """One run of the script, and what it says."""
    molecules = checkout / MODEL / "eval" / "analyzed_molecules"
    shutil.rmtree(molecules, ignore_errors=True)
    script = ["eval_analyze.py", "--model_path", MODEL, "--save_to_xyz", "True"]
    size = ["--n_samples", str(n), "--batch_size_gen", str(batch_size)]
    before = os.times()
    printed, said = _gaga(["run", "edm", *options, "--", *script, *size], checkout)
    after = os.times()
    calls, overview = CALLS.search(said), OVERVIEW.search(printed)
    if calls is None or overview is None:
        sys.exit(f"the script did not say what was expected:\n{said[-2000:]}\n{printed[-2000:]}")
    network_calls, t_star, n_steps = map(int, calls.groups())
    stability = ast.literal_eval(overview[3])
    together = molecules / "all.xyz"
    texts = [file.read_text(encoding="utf-8") for file in sorted(molecules.glob("*.txt"))]
    together.write_text("".join(texts), encoding="utf-8")
    return {
        "n": n,
        "network_calls": network_calls,
        "t_star": t_star,
        "n_steps": n_steps,
        "starts": re.findall(r"model starts at .*", said)[:1],
        "printed": {
            "atom_stability": stability["atm_stable"],
            "molecule_stability": stability["mol_stable"],
            "nll_valid": float(overview[1]),
            "nll_test": float(overview[2]),
        },
        "figures": evaluate(read_molecules(together)).to_dict(),
        "cpu_seconds": after[2] + after[3] - before[2] - before[3],
    }


def _gaga(arguments: list[str], folder: Path) -> tuple[str, str]:
    """A command of this package; its standard output and standard error."""
    command = [sys.executable, "-m", "gaga_adapter", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout, done.stderr


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=256, help="molecules of each run")
    parser.add_argument("--batch-size", type=int, default=32, help="molecules of a batch")
    parser.add_argument("--held-out", type=int, default=512, help="molecules of each bound")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "edm_launcher")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "edm_launcher.json"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
