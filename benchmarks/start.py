"""What the `shape` start still misses, and what mixing weights by EM and a tilt take away.

    python benchmarks/start.py -n 4000

At t = 400 and 300 of `edm/polynomial_2`, refinements are learnt on QM9's training split and judged
on its test split, which neither the table nor the refinement has seen. For each start:

- the lower bound of KL(noised QM9 || start) that the criterion `two_sample` finds;
- what its density gains on the plain one, the mean of `log q_refined - log q_plain` over noised
  test molecules: the fall of the divergence itself, by no classifier and of all that there is;
- what a draw costs.

The certificate bounds the divergence of the plain `shape` with a trained network, of which this
gain can be subtracted: `certificate.json` has it for the start of older artefacts (`older`). Writes
`benchmarks/results/start.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from torch import Tensor

from gaga_adapter import GAGAStats, named_path
from gaga_adapter.criteria import TwoSample
from gaga_adapter.criteria.levels import add_noise
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference import ReferenceGaussian, ShapeReference, make_reference
from gaga_adapter.reference.refined.tilted import TiltedReference
from gaga_adapter.reference.refined.weights import fit_weights
from gaga_adapter.refining import learn_tilt

RESULT = Path(__file__).parent / "results" / "start.json"
Molecules = tuple[Tensor, Tensor]


def generator(seed: int = 0) -> torch.Generator:
    """A fresh source of randomness."""
    return torch.Generator().manual_seed(seed)


def main() -> None:
    """Learn, judge, write after each level, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=4000, help="test molecules that judge")
    parser.add_argument("--learn", type=int, default=8000, help="molecules to learn from")
    parser.add_argument("--density", type=int, default=1000, help="test molecules for the density")
    parser.add_argument("--t", type=int, nargs="*", default=[400, 300])
    parser.add_argument("--candidates", type=int, nargs="*", default=[4, 16, 64])
    args = parser.parse_args()
    train = load_qm9("train")
    chosen = np.random.default_rng(0).permutation(len(train))[: args.learn]
    learn = encode(train.subset(chosen), MoleculeLayout())
    judge = encode(load_qm9("test").subset(range(args.n)), MoleculeLayout())
    found: dict[str, Any] = provenance() | {
        "n": args.n,
        "learn": args.learn,
        "density": args.density,
        "t": args.t,
        "levels": [],
    }
    for t in args.t:
        log_snr = float(named_path("edm/polynomial_2").log_snr(torch.tensor(t / 1000).double()))
        found["levels"].append({"t": t, "log_snr": log_snr, "starts": {}})
        for name, start, seconds in starts(learn, log_snr, args.candidates):
            row = {"seconds_to_learn": seconds} | measured(start, judge, log_snr, args)
            found["levels"][-1]["starts"][name] = row
            RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"t={t} {name:14}", {k: np.round(v, 4) for k, v in row.items()}, flush=True)


def starts(
    learn: Molecules, log_snr: float, candidates: list[int]
) -> list[tuple[str, ReferenceGaussian, float]]:
    """Names, references and seconds of learning, lazily in this order."""
    moments = GAGAStats.from_pretrained("qm9").moments
    older, moments = copy.deepcopy(moments), copy.deepcopy(moments)
    older.keeps_tensors, moments.keeps_tensors = False, True
    plain = ShapeReference("shape", moments)
    rows: list[tuple[str, ReferenceGaussian, float]] = [
        ("older", make_reference(older, "shape"), 0.0),
        ("shape", plain, 0.0),
    ]
    begin = time.perf_counter()
    weights = fit_weights(plain, *learn, log_snr, generator(1))
    seconds_em = time.perf_counter() - begin
    by_em = ShapeReference("shape", moments, weights)
    rows.append(("em", by_em, seconds_em))
    for k in candidates:
        begin = time.perf_counter()
        tilt = learn_tilt(plain, *learn, log_snr, k, generator(2))
        seconds = time.perf_counter() - begin
        rows.append((f"tilt {k}", TiltedReference(moments, None, tilt), seconds))
    begin = time.perf_counter()
    tilt = learn_tilt(by_em, *learn, log_snr, generator=generator(2))
    seconds = time.perf_counter() - begin + seconds_em
    rows.append(("em and tilt 16", TiltedReference(moments, weights, tilt), seconds))
    return rows


def measured(
    reference: ReferenceGaussian, judge: Molecules, log_snr: float, args: argparse.Namespace
) -> dict[str, Any]:
    """The figures of one start at one level."""
    level = torch.tensor([log_snr], dtype=torch.float64)
    curve = TwoSample(n_samples=args.n, check_reference=False).curve(
        *judge, reference, level, generator=generator(3)
    )
    x, mask = (part[: args.density] for part in judge)
    here = reference.at(*coefficients(log_snr))
    noised = add_noise(x.double(), mask, here, generator(4))
    density = here.log_prob(noised, mask)
    begin = time.perf_counter()
    here.sample(mask.sum(1), generator=generator(5))
    seconds = (time.perf_counter() - begin) / len(x)
    return {
        "nats": curve.value[0],
        "nats_std_error": curve.std_error[0],
        "auc": curve.extra["auc"][0],
        "log_density": float(density.mean()),
        "log_density_std_error": float(density.std()) / len(x) ** 0.5,
        "prior": float(here.kl_from_posterior(x, mask).mean()),
        "milliseconds_per_draw": 1000 * seconds,
    }


if __name__ == "__main__":
    main()
