"""Moments of the whole of QM9 in one pass: molecules per second, peak memory, the figures.

    python benchmarks/fit.py

Compares the streaming, per-size moments with a plain numpy computation that holds all molecules in
memory, in one run, and writes `benchmarks/results/fit.json`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from provenance import provenance

from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.moments import ExchangeableMoments

RESULT = Path(__file__).parent / "results" / "fit.json"
REPEATS = 5


def main() -> None:
    """Run, print and write."""
    molecules, layout = load_qm9(), MoleculeLayout()
    peaks = [peak_mebibytes()]
    streamed = ExchangeableMoments(layout.n_features)
    for _ in range(3):  # the second and third pass over the data must add nothing to the peak
        for part in molecules.batches(2048):
            streamed.update(*encode(part, layout))
        peaks.append(peak_mebibytes())
    batches = [encode(part, layout) for part in molecules.batches(2048)]
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        moments = ExchangeableMoments(layout.n_features)
        for x, mask in batches:
            moments.update(x, mask)
        seconds.append(time.perf_counter() - began)
    state = sum(t.numel() * t.element_size() for t in moments.state_dict().values())
    ours = {
        "position_variance_per_atom": moments.position_variance_per_atom,
        "position_variance_per_dof": moments.position_variance_per_dof,
        "mean_molecule_position_variance": moments.mean_molecule_position_variance,
        "mean_molecule_feature_variance": moments.mean_molecule_feature_variance,
    }
    result = provenance() | {
        "molecules": len(molecules),
        "repeats": REPEATS,
        "seconds": {"min": min(seconds), "median": float(np.median(seconds))},
        "molecules_per_second": len(molecules) / float(np.median(seconds)),
        "peak_mebibytes": dict(
            zip(("data loaded", "1 pass", "2 passes", "3 passes"), peaks, strict=True)
        ),
        "state_mebibytes": state / 2**20,
        "figures": ours,
        "numpy": numpy_figures(molecules),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{len(molecules):,} molecules, {torch.get_num_threads()} threads")
    print(f"{result['molecules_per_second']:,.0f} molecules/s (median of {REPEATS})")
    print(
        "peak memory, MiB: "
        + ", ".join(f"{k} {v:.0f}" for k, v in result["peak_mebibytes"].items())
    )
    print(f"the moments themselves: {state / 2**20:.2f} MiB")
    for name, value in ours.items():
        print(f"{name:34} {value:.6f}   numpy {result['numpy'][name]:.6f}")


def numpy_figures(molecules: MoleculeSet) -> dict[str, float]:
    """The same figures without a line of the package's own mathematics."""
    mask, n = molecules.mask, molecules.n_atoms
    x = molecules.positions.astype(np.float64)
    x = (x - x.sum(1, keepdims=True) / n[:, None, None]) * mask[..., None]
    square = (x**2).sum((1, 2))
    onehot = (molecules.atomic_numbers[..., None] == np.array([1, 6, 7, 8, 9])) / 4
    mean = onehot.sum(1) / n[:, None]
    spread = (((onehot - mean[:, None]) * mask[..., None]) ** 2).sum(1) / n[:, None]
    return {
        "position_variance_per_atom": float(square.sum() / (3 * n).sum()),
        "position_variance_per_dof": float(square.sum() / (3 * (n - 1)).sum()),
        "mean_molecule_position_variance": float((square / (3 * n)).mean()),
        "mean_molecule_feature_variance": float(spread.mean()),
    }


def peak_mebibytes() -> float:
    """Largest resident memory of this process so far; Windows does not tell it this way."""
    import resource

    counted_in = 2**20 if sys.platform == "darwin" else 2**10  # units of `ru_maxrss` in a mebibyte
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / counted_in


if __name__ == "__main__":
    main()
