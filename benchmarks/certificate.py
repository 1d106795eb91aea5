"""The certified divergence of noised QM9 from each reference, beside what a classifier finds.

    python benchmarks/certificate.py -n 2000

The denoiser shipped with the package, which learnt from the training split, is asked about
molecules of the test split at levels of `edm/polynomial_2`: the `certificate` criterion, a lower
bound of KL(noised QM9 || reference) in nats per molecule, for every kind of reference from the same
network calls; t* on its curve; and what a start at the t* of the packaged statistics discards. The
classifier's bounds are those of `benchmarks/results/references.json`. Writes
`benchmarks/results/certificate.json`, anew after each part of the molecules.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from gaga_adapter import GAGAStats, named_path
from gaga_adapter.criteria import Certificate, CriterionCurve, as_denoiser
from gaga_adapter.criteria.certificate.criterion import discarded_nats
from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.errors import TruncationError
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.pipeline import MoleculePipeline
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.noise.paths import GaussianPath
from gaga_adapter.selection import select

RESULTS = Path(__file__).parent / "results"
PART = 500  # molecules between two writes


def pooled(parts: Sequence[CriterionCurve]) -> CriterionCurve:
    """One curve of the molecules of several."""
    rows = [part.require_contributions() for part in parts]
    together = Contributions(
        torch.cat([row.values for row in rows]),
        torch.cat([row.weight for row in rows]),
        torch.cat([row.size for row in rows if row.size is not None]),
    )
    value, error = together.value_and_error(parts[0].unit)
    share = torch.tensor([part.n_samples / together.n_items for part in parts]).double()
    extra = {
        name: tuple((share @ torch.tensor([part.extra[name] for part in parts]).double()).tolist())
        for name in parts[0].extra
    }
    return replace(
        parts[0],
        value=tuple(value.tolist()),
        std_error=tuple(error.tolist()),
        n_samples=together.n_items,
        extra=extra,
        contributions=together,
    )


def judged(curve: CriterionCurve, stats: GAGAStats, path: GaussianPath) -> dict[str, Any]:
    """The curve, t* on it in steps of 1000, and what the packaged t* discards."""
    try:
        t_star = 1000 * float(path.time_at_log_snr(select(curve).log_snr_star))
    except TruncationError:
        t_star = None
    value, error = discarded_nats(curve, stats.log_snr_star)
    return curve.to_dict() | {
        "t_star": t_star,
        "discarded": {"log_snr_star": stats.log_snr_star, "value": value, "std_error": error},
    }


def table(found: dict[str, Any], classifier: dict[str, Any]) -> str:
    """Certificate and classifier side by side."""
    lines = [f"{'':22}" + "".join(f"      t={t:4}" for t in found["t"])]
    for name, curves in (("certificate", found["curves"]), ("classifier", classifier)):
        for kind, curve in curves.items():
            cells = zip(curve["value"], curve["std_error"], strict=True)
            row = "".join(f" {v:6.3f}±{e:.3f}" for v, e in cells)
            lines.append(f"{name:12}{kind:10}{row}")
    return "\n".join(lines)


def main() -> None:
    """Draw the curves part by part, write after each, print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=2000, help="molecules of the test split")
    parser.add_argument("--t", type=int, nargs="*", default=[300, 400, 500, 550, 600, 700, 800])
    parser.add_argument("--kinds", nargs="*", default=["size", "shape", "channel", "unit", "paper"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    denoiser = MoleculePipeline.load().denoiser
    certificate = Certificate(as_denoiser(denoiser), n_samples=PART)
    stats, path = GAGAStats.from_pretrained("qm9"), named_path("edm/polynomial_2")
    references = [stats.reference(kind) for kind in args.kinds]
    log_snr = path.log_snr(torch.tensor(args.t, dtype=torch.float64) / 1000)
    x, mask = encode(load_qm9("test").subset(range(args.n)), denoiser.layout)
    generator = torch.Generator().manual_seed(args.seed)

    at_same_levels: dict[str, Any] = {}
    if (RESULTS / "references.json").exists():
        known = json.loads((RESULTS / "references.json").read_text(encoding="utf-8"))
        at_same_levels = known["curves"] if known["t"] == args.t else {}
    found: dict[str, Any] = provenance() | {"seed": args.seed, "t": args.t}
    found["noisiest"], found["step"] = certificate.noisiest, certificate.step
    parts: list[list[CriterionCurve]] = []
    start = time.perf_counter()
    for rows in torch.arange(args.n).split(PART):
        parts.append(certificate.curves(x[rows], mask[rows], references, log_snr, generator))
        curves = [pooled(of_one) for of_one in zip(*parts, strict=True)]
        found["n"], found["seconds"] = curves[0].n_samples, time.perf_counter() - start
        found["curves"] = {curve.reference: judged(curve, stats, path) for curve in curves}
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(found, indent=1) + "\n"
        (RESULTS / "certificate.json").write_text(text, encoding="utf-8")
        print(
            f"n={found['n']}, {found['seconds']:.0f} s\n{table(found, at_same_levels)}", flush=True
        )


if __name__ == "__main__":
    main()
