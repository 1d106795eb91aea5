"""What the EDM codebase itself says about molecules.

    python tests/goldens/edm_verdicts.py EDM_REPO                   # write edm_verdicts.json
    python tests/goldens/edm_verdicts.py EDM_REPO IN.npz OUT.json   # judge molecules of a file

It runs in its own process because EDM's top-level modules are called `qm9`, `configs` and `utils`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from rdkit import RDLogger

NOISE = (0.0, 0.05, 0.1, 0.2, 0.3)  # angstrom: broken molecules must get the same verdicts, too
PER_NOISE = 30
SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}


def judge_as_edm(positions, charges):
    """Verdicts of EDM's `check_stability` and `BasicMolecularMetrics`, one molecule at a time."""
    from configs.datasets_config import qm9_with_h
    from qm9.analyze import check_stability
    from qm9.rdkit_functions import BasicMolecularMetrics

    metrics = BasicMolecularMetrics(qm9_with_h, dataset_smiles_list=[])
    n_stable, stable, smiles = [], [], []
    for x, z in zip(positions, charges, strict=True):
        real = z > 0
        kind = torch.tensor([qm9_with_h["atom_encoder"][SYMBOLS[int(i)]] for i in z[real]])
        x = torch.tensor(x[real])
        whole, count, _ = check_stability(x, kind, qm9_with_h)
        valid, _ = metrics.compute_validity([(x, kind)])
        stable.append(bool(whole))
        n_stable.append(int(count))
        smiles.append(valid[0] if valid else None)
    return {"n_stable": n_stable, "stable": stable, "smiles": smiles}


def golden_molecules():
    """QM9 molecules with Gaussian noise on their positions, rounded to what the json holds."""
    from gaga_adapter.molecules.qm9.data import load_qm9

    rng = np.random.default_rng(0)
    qm9 = load_qm9()
    chosen = qm9.subset(rng.choice(len(qm9), len(NOISE) * PER_NOISE, replace=False))
    noise = np.repeat(NOISE, PER_NOISE)[:, None, None] * rng.normal(size=chosen.positions.shape)
    positions = (chosen.positions + noise) * chosen.mask[..., None]
    return positions.round(4).astype(np.float32), chosen.atomic_numbers


def main(repo, source=None, target=None):
    sys.path.insert(0, str(Path(repo).resolve()))
    RDLogger.DisableLog("rdApp.*")
    if source is not None:
        with np.load(source) as arrays:
            positions, charges = arrays["positions"], arrays["charges"]
        Path(target).write_text(json.dumps(judge_as_edm(positions, charges)), encoding="utf-8")
        return
    positions, charges = golden_molecules()
    with contextlib.redirect_stdout(io.StringIO()):
        verdicts = judge_as_edm(positions, charges)
    golden = [
        {
            "noise": float(noise),
            "charges": z[z > 0].tolist(),
            "positions": [[round(float(c), 4) for c in row] for row in x[z > 0]],
            **{key: values[index] for key, values in verdicts.items()},
        }
        for index, (noise, x, z) in enumerate(
            zip(np.repeat(NOISE, PER_NOISE), positions, charges, strict=True)
        )
    ]
    lines = ",\n".join(json.dumps(molecule, separators=(",", ":")) for molecule in golden)
    Path(__file__).with_suffix(".json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
