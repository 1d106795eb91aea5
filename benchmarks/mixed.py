"""Starts of a flow with discrete types on QM9, judged by the two-sample criterion.

    python benchmarks/mixed.py              some ten minutes on one core; writes the page, too
    python benchmarks/mixed.py -n 1000      a look, which is printed and not written
    python benchmarks/mixed.py --missing    only judge what the report lacks
    python benchmarks/mixed.py --likelihood what positions given types gain in Gaussian likelihood
    python benchmarks/mixed.py --page       only write the tables of docs/how-to/discrete-types.md

TABASCO's path: positions are angstrom / 2, noise has variance 1, and at time t an atom shows its
type with probability t, else a uniform one. Two sets: all atoms, judged by features that are blind
to the order of the atoms; and heavy atoms alone in the order of QM9's files, which is that of the
SMILES they were made from, judged by features of the order as well, as a network with positional
encodings sees it. Every row meets the same noised molecules, which no moments have seen.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from torch import Generator, Tensor
from torch.nn import functional as F

from gaga_adapter.criteria.levels import draw_like
from gaga_adapter.criteria.two_sample.criterion import TwoSample
from gaga_adapter.criteria.two_sample.features_order import order_features
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.moments.mixed import MixedMoments
from gaga_adapter.reference.base import ReferenceGaussian
from gaga_adapter.reference.invariants import molecule_features, unit_of
from gaga_adapter.reference.mixed import MixedReference
from gaga_adapter.selection import DEFAULT_TOLERANCE, MARGIN
from gaga_adapter.subspace import remove_mean

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "mixed.json"
PAGE = ROOT / "docs" / "how-to" / "discrete-types.md"
MARKS = "<!-- mixed:begin -->", "<!-- mixed:end -->"
NUMBERS = (1, 6, 7, 8, 9)
#: Times of the curve, by set: one grid for all rows, as t* is the last of its times that holds.
TIMES = {
    "all atoms": (0.75, 0.7, 0.65, 0.6, 0.55, 0.45, 0.3),
    "heavy atoms in order": (0.85, 0.8, 0.75, 0.7, 0.65, 0.55, 0.45, 0.4, 0.3),
}
#: Times that the page shows; more of unit noise, which is far from the data at all of them.
FEW_TIMES = (0.65, 0.55, 0.45, 0.3)
N, N_MOMENTS, SEED = 4000, 60_000, 0


class IndependentTypes(MixedReference):
    """The law of `mixed` but for the types: each atom draws its own from all atoms of the data."""

    def _draw(self, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        positions, types, show = super()._draw(z, mask)
        shares = self.moments.pooled_feature_mean
        generator = Generator().manual_seed(int(types.sum()) + 1)
        drawn = torch.multinomial(shares, types.numel(), True, generator=generator)
        return positions, drawn.view_as(types), show


class UnitNoise(MixedReference):
    """What the codebase starts from: unit normal positions, uniform types."""

    def _draw(self, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kinds = z[..., 3:].argmax(-1)
        return remove_mean(z[..., :3].double(), mask), kinds, torch.ones_like(mask)


def encoded(heavy: bool, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Molecules of the training split as TABASCO has them, and their mask."""
    molecules = load_qm9("train").subset(slice(start, stop))
    numbers = torch.from_numpy(molecules.atomic_numbers.astype(np.int64))
    keep = numbers > (1 if heavy else 0)
    order = keep.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    width = int(keep.sum(1).max())
    order = order[:, :width]
    mask, numbers = keep.gather(1, order), numbers.gather(1, order)
    x = torch.from_numpy(molecules.positions).gather(1, order[..., None].expand(-1, -1, 3)) / 2
    x = x - (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    kept = NUMBERS[1:] if heavy else NUMBERS
    place = torch.zeros(10, dtype=torch.int64)
    place[list(kept)] = torch.arange(len(kept))
    one_hot = F.one_hot(place[numbers], len(kept))
    return torch.cat([x, one_hot], -1) * mask[..., None], mask


def starts(moments: MixedMoments) -> dict[str, ReferenceGaussian]:
    """The rows of the table."""
    own = ("type_squares", "place_covariances", "row_types")
    state = {name: tensor for name, tensor in moments.state_dict().items() if name not in own}
    about = {**moments.metadata(), "moments": "exchangeable"}
    plain = ExchangeableMoments.from_state_dict(state, about)
    return {
        "mixed_order": MixedReference("mixed_order", moments),
        "mixed": MixedReference("mixed", moments),
        "mixed_size": MixedReference("mixed_size", moments),
        "composition": MixedReference("mixed", plain),
        "independent types": IndependentTypes("mixed", plain),
        "unit noise": UnitNoise("mixed", plain),
    }


def judged(
    reference: ReferenceGaussian, x: Tensor, mask: Tensor, t: float, ordered: bool
) -> dict[str, float]:
    """What the two-sample criterion says of one start at one time."""
    generator = Generator().manual_seed(SEED)
    here = reference.at(t, 1 - t)
    both = here.noised(x, mask, generator), draw_like(x, mask, here, generator)
    length = unit_of(torch.cat([y[mask][:, :3] for y in both]))
    amplitude = unit_of(torch.cat([y[mask][:, 3:] for y in both]))
    one, other = (molecule_features(y, mask, length, amplitude) for y in both)
    if ordered:
        rows = [order_features(y, mask, length) for y in both]
        one, other = (torch.cat(pair, 1) for pair in zip((one, other), rows, strict=True))
    found = TwoSample().separate(one, other, SEED)
    names = ("kl", "kl_std_error", "auc", "auc_std_error", "saturated")
    return {"t": t, **{name: float(getattr(found, name)) for name in names}}


def t_star(rows: list[dict[str, float]]) -> float:
    """The largest time from which on towards noise the bound holds, by the rule of `select`."""
    held = 0.0
    for row in sorted(rows, key=lambda row: row["t"]):
        if row["kl"] + MARGIN * row["kl_std_error"] > DEFAULT_TOLERANCE:
            break
        held = row["t"]
    return held


def likelihood(n_atoms: int, times: tuple[float, ...]) -> dict[str, Any]:
    """Held-out gains in nats per molecule, over one variance, of covariances of the positions.

    `types`: a variance by type; `types and centres`: beside it a free covariance of the centres of
    types, fitted to the likelihood; `places`: by the place in QM9's files, hydrogens last.
    """
    x, mask = encoded(False, 0, N_MOMENTS)
    here = mask.sum(1) == n_atoms
    positions, one_hot = x[here, :n_atoms, :3].double(), x[here, :n_atoms, 3:].double()
    half = len(positions) // 2
    moments = MixedMoments(5)
    moments.update(x[here][:half], mask[here][:half])
    size = moments.at_size(n_atoms)
    variances = size.v_x * moments.variance_ratios(size)
    kinds, generator = one_hot.argmax(-1), Generator().manual_seed(SEED)
    p = torch.eye(n_atoms, dtype=torch.float64) - 1 / n_atoms

    def log_density(covariance: Tensor, y: Tensor, b: float) -> Tensor:
        whole = p @ covariance @ p + b**2 * p + 1 / n_atoms
        root = torch.linalg.cholesky(whole)
        white = torch.linalg.solve_triangular(root, y, upper=False)
        return -0.5 * white.square().sum((1, 2)) - 3 * root.diagonal(dim1=1, dim2=2).log().sum(1)

    found = {}
    for t in times:
        b = (1 - t) / t
        noise = torch.randn(positions.shape, generator=generator, dtype=torch.float64)
        y = positions + b * (noise - noise.mean(1, keepdim=True))
        logs = variances.log().requires_grad_()
        root = (0.01 * torch.randn(5, 5, generator=generator).double()).requires_grad_()
        optimizer = torch.optim.Adam([logs, root], 0.03)

        def centres(rows: Tensor, logs: Tensor = logs, root: Tensor = root) -> Tensor:
            by_type = torch.diag_embed(logs.exp()[kinds[rows]])
            return by_type + one_hot[rows] @ root @ root.T @ one_hot[rows].mT

        for _ in range(200):
            rows = torch.randint(half, (256,), generator=generator)
            loss = -log_density(centres(rows), y[rows], b).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        rest = torch.arange(half, len(y))
        place = size.v_x * moments.place_covariance(size)
        laws = {
            "types": torch.diag_embed(variances[kinds[rest]]),
            "types and centres": centres(rest).detach(),
            "places": place[None].expand(len(rest), -1, -1),
        }
        plain = log_density((size.v_x * p)[None].expand(len(rest), -1, -1), y[rest], b)
        gains = {name: log_density(law, y[rest], b) - plain for name, law in laws.items()}
        found[f"{t:g}"] = {
            name: [float(gain.mean()), float(gain.std() / len(gain) ** 0.5)]
            for name, gain in gains.items()
        }
    return {"n_held_out": len(positions) - half, "gain_std_error": found}


def tables(report: dict[str, Any]) -> str:
    """A table for each set: bounds in nats and the AUC by start and time, and t*."""
    lines = []
    for name, rows in report["sets"].items():
        times = FEW_TIMES
        heads = [f"t = {t:g}" for t in times]
        lines += ["", f"**{name.capitalize()}**", "", f"| start | {' | '.join(heads)} | t\\* |"]
        lines.append("|---" * (len(heads) + 2) + "|")
        for row, found in rows.items():
            by_time = {point["t"]: point for point in found["curve"]}
            cells = []
            for t in times:
                point = by_time[t]
                more = "> " if point["saturated"] else ""
                value = f"{more}{max(point['kl'], 0):.2f} ± {point['kl_std_error']:.2f}"
                cells.append(f"{value} ({point['auc']:.2f})")
            star = t_star(found["curve"])
            lines.append(f"| {row} | {' | '.join(cells)} | {f'{star:g}' if star else 'below'} |")
    return "\n".join(lines[1:])


def write_page(report: dict[str, Any]) -> None:
    """Put the tables between their marks on the page."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = (text.index(mark) for mark in MARKS)
    new = f"{text[: begin + len(MARKS[0])]}\n{tables(report)}\n{text[end:]}"
    PAGE.write_text(new, encoding="utf-8")


def judge_all(report: dict[str, Any], known: dict[str, Any]) -> None:
    """Judge all rows of both sets into the report; points of the known sets are taken as they are.

    Every point starts from the seed, so it is the same whatever was judged before it.
    """
    for name, heavy in (("all atoms", False), ("heavy atoms in order", True)):
        moments = MixedMoments(4 if heavy else 5)
        moments.update(*encoded(heavy, 0, N_MOMENTS))
        x, mask = encoded(heavy, N_MOMENTS, N_MOMENTS + report["n"])
        rows = report["sets"][name] = {}
        for row, reference in starts(moments).items():
            old = {point["t"]: point for point in known.get(name, {}).get(row, {}).get("curve", ())}
            times = FEW_TIMES if row == "unit noise" else TIMES[name]
            curve = [old.get(t) or judged(reference, x, mask, t, ordered=heavy) for t in times]
            rows[row] = {"curve": curve}
            print(name, row, t_star(curve), [round(c["kl"], 3) for c in curve], flush=True)


def main() -> None:
    """Judge all rows of both sets, write the report, and its tables on the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("-n", type=int, default=N, help="molecules that are judged")
    parser.add_argument("--missing", action="store_true", help="only judge what is not there")
    parser.add_argument("--likelihood", action="store_true", help="only add the likelihoods")
    parser.add_argument("--page", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    if arguments.page:
        write_page(known)
        return
    torch.set_num_threads(1)
    if arguments.likelihood:
        sizes = {n: likelihood(n, (0.6, 0.67, 0.75)) for n in (15, 18, 20)}
        write({**known, "likelihood": {**provenance(), "seed": SEED, "by_size": sizes}})
        return
    origin = provenance()  # of the code as it is now
    report: dict[str, Any] = {
        **origin, "n": arguments.n, "n_moments": N_MOMENTS, "seed": SEED,
        "tolerance": DEFAULT_TOLERANCE,
        "path": "TABASCO: angstrom / 2, unit noise, types shown with probability t",
        "sets": {},
    }  # fmt: skip
    same = all(known.get(name) == report[name] for name in ("n", "n_moments", "seed", "path"))
    if arguments.missing and not same:
        parser.error("the report is of other molecules. Leave --missing out.")
    began = time.process_time()
    judge_all(report, known["sets"] if arguments.missing else {})
    report["cpu_seconds"] = time.process_time() - began
    if arguments.missing:
        added = {**origin, "cpu_seconds": report["cpu_seconds"]}
        report = {**known, "sets": report["sets"], "completed": added}
    elif "likelihood" in known:
        report["likelihood"] = known["likelihood"]
    if arguments.n == N:
        write(report)
        write_page(report)


def write(report: dict[str, Any]) -> None:
    """Write the report."""
    with replacing(RESULT) as draft:
        draft.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
