"""How far each reference is from noised QM9, in nats per molecule that a classifier finds.

    python benchmarks/references.py -n 8000

The lower bound of KL(noised QM9 || reference) of the `two_sample` criterion, for every kind of
reference at the same levels of `edm/polynomial_2`, on held-out molecules. Writes
`benchmarks/results/references.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from gaga_adapter import GAGAStats, named_path
from gaga_adapter.criteria import TwoSample
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.qm9.data import load_qm9

RESULT = Path(__file__).parent / "results" / "references.json"


def main() -> None:
    """Draw the curves, write after each, print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=8000, help="molecules from each side")
    parser.add_argument("--t", type=int, nargs="*", default=[300, 400, 500, 550, 600, 700, 800])
    parser.add_argument("--kinds", nargs="*", default=["unit", "paper", "channel", "size", "shape"])
    args = parser.parse_args()
    stats, path = GAGAStats.from_pretrained("qm9"), named_path("edm/polynomial_2")
    x, mask = encode(load_qm9("test").subset(range(args.n)), MoleculeLayout())
    log_snr = path.log_snr(torch.tensor(args.t, dtype=torch.float64) / 1000)
    found: dict[str, Any] = provenance() | {"n": args.n, "t": args.t, "curves": {}}
    print("reference " + "".join(f"      t={t:4}" for t in args.t))
    for kind in args.kinds:
        curve = TwoSample(n_samples=args.n).curve(
            x, mask, stats.reference(kind), log_snr, generator=torch.Generator().manual_seed(0)
        )
        found["curves"][kind] = curve.to_dict()
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        cells = zip(curve.value, curve.std_error, strict=True)
        print(f"{kind:10}" + "".join(f" {v:5.2f}±{e:.2f}" for v, e in cells), flush=True)


if __name__ == "__main__":
    main()
