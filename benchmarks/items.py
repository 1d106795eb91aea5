"""What the number of items does to the two-sample bound: the same molecules, more and more of them.

    python benchmarks/items.py

The bound of `shape` is drawn at two levels of `edm/polynomial_2`, on the first n molecules of one
random order of QM9's test split, against the statistics that ship with the package.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from gaga_adapter import GAGAStats, TwoSample, named_path
from gaga_adapter.errors import GAGAWarning
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.qm9.data import load_qm9

RESULT = Path(__file__).parent / "results" / "items.json"
N_ITEMS = (250, 500, 1000, 2000, 4000, 8000)
T = (400, 525)


def markdown(found: dict[str, Any]) -> str:
    """The table of the manual."""
    head = " | ".join(f"{n:,}" for n in found["n"])
    lines = [f"| molecules | {head} |", "|---" * (len(found["n"]) + 1) + "|"]
    for t, rows in found["bound"].items():
        cells = " | ".join(f"{value:.2f} ± {error:.2f}" for value, error in rows)
        lines.append(f"| t = {t} | {cells} |")
    lines += [
        "",
        "Two-sample lower bound of KL(noised QM9 \\|\\| `shape`) in nats, by the number of "
        "molecules that the classifier sees. `python benchmarks/items.py`",
    ]
    return "\n".join(lines)


def main() -> None:
    """Draw the bounds and write them."""
    stats, path = GAGAStats.from_pretrained("qm9"), named_path("edm/polynomial_2")
    x, mask = encode(load_qm9("test"), stats.layout)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([float(path.log_snr(t / 1000)) for t in T], dtype=torch.float64)
    found: dict[str, Any] = provenance() | {"n": N_ITEMS, "t": T, "bound": {t: [] for t in T}}
    for n in N_ITEMS:
        judge = TwoSample(n_samples=n, check_reference=False, n_permutations=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GAGAWarning)  # few items are the point
            curve = judge.curve(
                x[order[:n]],
                mask[order[:n]],
                stats.reference("shape"),
                levels,
                torch.Generator().manual_seed(0),
            )
        for t, *row in zip(T, curve.value, curve.std_error, strict=True):
            found["bound"][t].append(row)
            print(n, t, *row, flush=True)
    with replacing(RESULT) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
