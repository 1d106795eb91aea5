"""The t* that each criterion gives on QM9, with intervals, beside the published 550.

    python benchmarks/criteria_qm9.py -n 8000

Every criterion judges the same molecules of the test split, which are neither in the table of the
`shape` reference nor in the training set of the model that the certificate asks. Writes
`benchmarks/results/criteria_qm9.json` and, for each reference, a picture of the curves.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from gaga_adapter import GAGAStats, named_path
from gaga_adapter.criteria import Criterion, CriterionCurve
from gaga_adapter.criteria.certificate import Certificate
from gaga_adapter.criteria.cumulant import Cumulant
from gaga_adapter.criteria.denoisers import as_denoiser
from gaga_adapter.criteria.ks_mi import KSMI
from gaga_adapter.criteria.two_sample import TwoSample
from gaga_adapter.errors import TruncationError
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.pipeline import MoleculePipeline
from gaga_adapter.molecules.qm9 import load_qm9
from gaga_adapter.report.curves import save_curves
from gaga_adapter.selection import Selection, bootstrap, select, select_by_size

RESULTS = Path(__file__).parent / "results"
PUBLISHED_T_STAR = 550


def judged(curve: CriterionCurve) -> tuple[Selection | None, dict[str, Any]]:
    """The choice on a curve, and what is recorded of it."""
    path = named_path("edm/polynomial_2")

    def step(log_snr: float) -> int:
        return path.index_at_log_snr(log_snr)

    record: dict[str, Any] = {"curve": curve.to_dict(), "t_star": None}
    try:
        chosen = select(curve)
    except TruncationError as error:
        return None, record | {"reason": str(error)}
    low, high = bootstrap(curve, generator=torch.Generator().manual_seed(0))
    chosen = Selection(chosen.log_snr_star, chosen.tolerance, curve, chosen.reason, (low, high))
    record |= {
        "log_snr_star": chosen.log_snr_star,
        "t_star": step(chosen.log_snr_star),
        "t_star_interval": [step(high), step(low)],
        "reason": chosen.reason,
    }
    if curve.unit == "nats":
        try:
            by_size = select_by_size(curve)
            record["t_star_by_size"] = {size: step(star) for size, star in by_size.items()}
        except TruncationError as error:
            record["t_star_by_size"] = str(error)
    return chosen, record


def main() -> None:
    """Draw all curves, write after each, print t*."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=8000, help="molecules judged")
    parser.add_argument("--certificate-n", type=int, default=1000, help="molecules certified")
    parser.add_argument("--references", nargs="*", default=["size", "shape"])
    parser.add_argument("--t", type=int, nargs="*", default=list(range(300, 825, 50)))
    args = parser.parse_args()
    stats, path = GAGAStats.from_pretrained("qm9"), named_path("edm/polynomial_2")
    x, mask = encode(load_qm9("test").subset(range(args.n)), stats.layout)
    log_snr = path.log_snr(torch.tensor(args.t, dtype=torch.float64) / 1000)
    denoiser = as_denoiser(MoleculePipeline.load().denoiser)
    criteria: list[Criterion] = [
        Cumulant(),
        TwoSample(n_samples=args.n),
        KSMI(),
        Certificate(denoiser, n_samples=args.certificate_n),
    ]
    found: dict[str, Any] = provenance() | {
        "n": args.n,
        "t": args.t,
        "published_t_star": PUBLISHED_T_STAR,
        "references": {},
    }
    for kind in args.references:
        curves, choices = {}, {}
        rows = found["references"].setdefault(kind, {})
        for judge in criteria:
            began = time.perf_counter()
            source = torch.Generator().manual_seed(0)
            curve = judge.curve(x, mask, stats.reference(kind), log_snr, generator=source)
            seconds = time.perf_counter() - began
            curves[judge.name] = curve
            chosen, record = judged(curve)
            if chosen is not None:
                choices[judge.name] = chosen
            rows[judge.name] = record | {"seconds": seconds, "n": curve.n_samples}
            RESULTS.mkdir(exist_ok=True)
            text = json.dumps(found, indent=1) + "\n"
            (RESULTS / "criteria_qm9.json").write_text(text, encoding="utf-8")
            values = " ".join(f"{v:.3g}" for v in curve.value)
            print(
                f"{kind:6} {judge.name:12} t* = {record['t_star']} "
                f"{record.get('t_star_interval', '')} {seconds:.0f} s: {values}",
                flush=True,
            )
        save_curves(
            RESULTS / f"criteria_qm9_{kind}.png",
            curves,
            choices,
            f"QM9 test split against the {kind} reference",
        )


if __name__ == "__main__":
    main()
