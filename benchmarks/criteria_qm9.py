"""The t* that each criterion gives on QM9, with intervals, beside the published 550.

    python benchmarks/criteria_qm9.py -n 8000
    python benchmarks/criteria_qm9.py --criteria ks_mi    one again, beside the others

Every criterion judges the same molecules of the test split, which are neither in the table of the
`shape` reference nor in the training set of the model that the certificate asks. Writes
`benchmarks/results/criteria_qm9.json` and, for each reference, a picture of the curves.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from gaga_adapter import GAGAStats, named_path
from gaga_adapter.criteria import (
    KSMI,
    Certificate,
    Criterion,
    CriterionCurve,
    Cumulant,
    TwoSample,
    as_denoiser,
)
from gaga_adapter.errors import TruncationError
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.pipeline import MoleculePipeline
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.report.curves import save_curves
from gaga_adapter.selection import Selection, bootstrap, select, select_by_size

RESULTS = Path(__file__).parent / "results"
PUBLISHED_T_STAR = 550


def judged(curve: CriterionCurve) -> dict[str, Any]:
    """The choice on a curve, as it is recorded."""
    path = named_path("edm/polynomial_2")
    step = path.index_at_log_snr
    record: dict[str, Any] = {"curve": curve.to_dict(), "selection": None, "t_star": None}
    try:
        chosen = select(curve)
    except TruncationError as error:
        return record | {"reason": str(error)}
    low, high = bootstrap(curve, generator=torch.Generator().manual_seed(0))
    record |= {
        "selection": replace(chosen, interval=(low, high)).to_dict(),
        "t_star": step(chosen.log_snr_star),
        "t_star_interval": [step(high), step(low)],
    }
    if curve.unit == "nats":
        try:
            by_size = select_by_size(curve)
            record["t_star_by_size"] = {size: step(star) for size, star in by_size.items()}
        except TruncationError as error:
            record["t_star_by_size"] = str(error)
    return record


def draw(kind: str, rows: dict[str, Any]) -> None:
    """The picture of all curves against one reference."""
    curves = {name: CriterionCurve.from_dict(row["curve"]) for name, row in rows.items()}
    choices = {
        name: Selection.from_dict(row["selection"])
        for name, row in rows.items()
        if row["selection"] is not None
    }
    title = f"QM9 test split against the {kind} reference"
    save_curves(RESULTS / f"criteria_qm9_{kind}.png", curves, choices, title)


def main() -> None:
    """Draw all curves, write after each, print t*."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=8000, help="molecules judged")
    parser.add_argument("--certificate-n", type=int, default=1000, help="molecules certified")
    parser.add_argument("--references", nargs="*", default=["size", "shape"])
    parser.add_argument("--t", type=int, nargs="*", default=list(range(300, 825, 50)))
    parser.add_argument("--criteria", nargs="*", help="all, if not given")
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
    file = RESULTS / "criteria_qm9.json"
    setting = {"n": args.n, "t": args.t, "published_t_star": PUBLISHED_T_STAR}
    found: dict[str, Any] = provenance() | setting | {"references": {}}
    if args.criteria and file.exists():
        old = json.loads(file.read_text(encoding="utf-8"))
        if {key: old[key] for key in setting} == setting:
            found["references"] = old["references"]
    for kind in args.references:
        rows = found["references"].setdefault(kind, {})
        for judge in criteria:
            if args.criteria and judge.name not in args.criteria:
                continue
            began = time.perf_counter()
            source = torch.Generator().manual_seed(0)
            curve = judge.curve(x, mask, stats.reference(kind), log_snr, generator=source)
            seconds = time.perf_counter() - began
            rows[judge.name] = judged(curve) | {"seconds": seconds, "n": curve.n_samples}
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            values = " ".join(f"{v:.3g}" for v in curve.value)
            print(
                f"{kind:6} {judge.name:12} t* = {rows[judge.name]['t_star']} "
                f"{rows[judge.name].get('t_star_interval', '')} {seconds:.0f} s: {values}",
                flush=True,
            )
        draw(kind, rows)


if __name__ == "__main__":
    main()
