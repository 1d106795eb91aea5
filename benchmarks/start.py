"""What the `shape` start still misses, and what mixing weights by EM and a tilt take away.

    python benchmarks/start.py

At t = 400 and 300 of `edm/polynomial_2`, refinements are learnt on QM9's training split and judged
on its test split, which neither the table nor the refinement has seen. For each start:

- the lower bound of KL(noised QM9 || start) that the criterion `two_sample` finds;
- its mean log-density at noised test molecules; and what the tilt adds to that, the mean of
  `log q_K - log q`: the fall of the divergence itself, by no classifier and of all that there is;
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
from gaga_adapter.refining.learning import learn_tilt

RESULT = Path(__file__).parent / "results" / "start.json"
STARTS = ("older", "shape", "em", "tilt 16", "tilt 64", "em and tilt 16")
Molecules = tuple[Tensor, Tensor]


def generator(seed: int = 0) -> torch.Generator:
    """A fresh source of randomness."""
    return torch.Generator().manual_seed(seed)


def main() -> None:
    """Learn, judge, write after each start, print; rows that are not asked for stay."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=3000, help="test molecules that judge")
    parser.add_argument("--learn", type=int, default=8000, help="molecules to learn from")
    parser.add_argument("--density", type=int, default=300, help="test molecules for the density")
    parser.add_argument("--t", type=int, nargs="*", default=[400, 300])
    parser.add_argument("--starts", nargs="*", default=STARTS, choices=STARTS)
    args = parser.parse_args()
    train = load_qm9("train")
    chosen = np.random.default_rng(0).permutation(len(train))[: args.learn]
    learn = encode(train.subset(chosen), MoleculeLayout())
    judge = encode(load_qm9("test").subset(range(args.n)), MoleculeLayout())
    levels = json.loads(RESULT.read_text())["levels"] if RESULT.is_file() else {}
    for t in args.t:
        log_snr = float(named_path("edm/polynomial_2").log_snr(torch.tensor(t / 1000).double()))
        level = levels.setdefault(str(t), {"log_snr": log_snr, "starts": {}})
        for name in args.starts:
            begin = time.perf_counter()
            start = learnt(name, learn, log_snr)
            row = {"learn": args.learn, "seconds_to_learn": time.perf_counter() - begin}
            row |= measured(start, judge, log_snr, args.density)
            level["starts"][name] = row
            found: dict[str, Any] = provenance() | {"levels": levels}
            RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(
                f"t={t} {name:14}", {k: float(np.round(v, 4)) for k, v in row.items()}, flush=True
            )


def learnt(name: str, learn: Molecules, log_snr: float) -> ReferenceGaussian:
    """The start of this name."""
    moments = copy.deepcopy(GAGAStats.from_pretrained("qm9").moments)
    moments.keeps_tensors = name != "older"
    if name == "older":
        return make_reference(moments, "shape")
    plain = ShapeReference("shape", moments)
    weights = fit_weights(plain, *learn, log_snr, generator(1)) if "em" in name else None
    base = ShapeReference("shape", moments, weights)
    if "tilt" not in name:
        return base
    n_candidates = int(name.split()[-1])
    tilt = learn_tilt(base, *learn, log_snr, n_candidates, generator(2))
    return TiltedReference(moments, weights, tilt)


def measured(
    reference: ReferenceGaussian, judge: Molecules, log_snr: float, n_density: int
) -> dict[str, Any]:
    """The figures of one start at one level."""
    level = torch.tensor([log_snr], dtype=torch.float64)
    curve = TwoSample(n_samples=len(judge[0]), check_reference=False).curve(
        *judge, reference, level, generator=generator(3)
    )
    x, mask = (part[:n_density] for part in judge)
    here = reference.at(*coefficients(log_snr))
    noised = add_noise(x.double(), mask, here, generator(4))
    density = here.log_prob(noised, mask)
    begin = time.perf_counter()
    here.sample(mask.sum(1), generator=generator(5))
    seconds = (time.perf_counter() - begin) / len(x)
    row = {
        "n": len(judge[0]),
        "nats": curve.value[0],
        "nats_std_error": curve.std_error[0],
        "auc": curve.extra["auc"][0],
        "n_density": n_density,
        "log_density": float(density.mean()),
        "log_density_std_error": float(density.std()) / len(x) ** 0.5,
        "milliseconds_per_draw": 1000 * seconds,
    }
    if isinstance(here, TiltedReference):
        noised = add_noise(judge[0].double(), judge[1], here, generator(6))
        odds = here.tilt.log_odds(noised, judge[1])
        gain = here.tilt.log_ratio(odds, judge[1].sum(1))
        row |= {"gain": float(gain.mean()), "gain_std_error": float(gain.std()) / len(gain) ** 0.5}
    return row


if __name__ == "__main__":
    main()
