"""The published per-molecule test as it is meant to be called, against the vectorised one.

    python benchmarks/criteria_speed.py

Both decide, with the published constants, on the same noised molecules of QM9 and the same pairs,
in one run: a loop over molecules with `scipy.stats.kstest` and scikit-learn's
`mutual_info_regression` pair by pair, against `PublishedRecipe.tests` on all molecules of a size at
once. The loop is timed on a part of the molecules, with one thread, its fastest. In turns,
repeated, medians, of wall time and of CPU time: on a machine that others use (see `load_average`)
the second is the steadier one, and two threads need OMP_WAIT_POLICY=PASSIVE. Then the published T*
on QM9 and on pure Gaussian noise, on three grids. Writes `benchmarks/results/criteria_speed.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from provenance import provenance
from scipy.stats import kstest
from sklearn.feature_selection import mutual_info_regression
from threadpoolctl import threadpool_limits
from torch import Tensor

from gaga_adapter import named_path
from gaga_adapter.criteria.ks_mi.published import (
    PAPER,
    Pairs,
    PublishedResult,
    published_first_pass,
)
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.subspace import remove_mean

RESULT = Path(__file__).parent / "results" / "criteria_speed.json"
PATH = named_path("edm/polynomial_2")
#: Noised molecules of one size: timestep, rows, positions and types, and their pairs.
Case = tuple[int, Tensor, Tensor, list[tuple[Pairs, Pairs]]]


def main() -> None:
    """Time both, compare their verdicts, measure T*, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=8000, help="molecules of the vectorised test")
    parser.add_argument("--loop", type=int, default=100, help="of these, molecules of the loop")
    parser.add_argument("--t", type=int, nargs="*", default=[300, 550, 800])
    parser.add_argument("--t-star", type=int, default=4000, help="molecules of the published T*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(args.seed)
    x, mask = encode(load_qm9("train").subset(range(args.n)), MoleculeLayout())
    cases = noised_cases(x, mask, args.t, generator)
    few = [(t, rows[rows < args.loop], z[rows < args.loop], pairs) for t, rows, z, pairs in cases]
    shape = (len(args.t), args.n, 2, 3)
    loop, vectorised = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
    clocks = {"loop": Clock(), "vectorised": Clock(), "vectorised_two_threads": Clock()}
    for _ in range(args.repeats):
        with threadpool_limits(1), clocks["loop"].timed(len(args.t) * args.loop):
            for t, rows, z, pairs in few:
                for row, molecule in zip(rows.tolist(), z.double().numpy(), strict=True):
                    loop[args.t.index(t), row] = loop_tests(molecule, t, pairs)
        for name, threads in (("vectorised", 1), ("vectorised_two_threads", 2)):
            torch.set_num_threads(threads)
            with clocks[name].timed(len(args.t) * args.n):
                for t, rows, z, pairs in cases:
                    vectorised[args.t.index(t), rows] = vectorised_tests(z, t, pairs, generator)
        torch.set_num_threads(1)
    loop, vectorised = loop[:, : args.loop], vectorised[:, : args.loop]
    rates = {name: clock.summary() for name, clock in clocks.items()}
    found: dict[str, Any] = provenance() | {
        "load_average": os.getloadavg(),
        "seed": args.seed,
        "t": args.t,
        "molecules": {"loop": args.loop, "vectorised": args.n},
        "molecules_per_second": rates,
        "ratio": {
            f"{name}, {kind}": rates[name][kind]["median"] / rates["loop"][kind]["median"]
            for name in ("vectorised", "vectorised_two_threads")
            for kind in ("wall", "cpu")
        },
        "verdicts": len(args.t) * args.loop,
        "same_verdict": same(loop.flatten(2).all(2), vectorised.flatten(2).all(2)),
        "same_single_tests": same(loop, vectorised),
        "t_star": t_stars(x[: args.t_star], mask[: args.t_star], generator),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in found.items() if k != "t_star"}, indent=1))
    for data, grids in found["t_star"].items():
        for grid, row in grids.items():
            print(f"T* of {data} on {grid}: {row['mean']:.1f} ± {row['std_error']:.1f}")


class Clock:
    """Rates of repeated work, by wall time and by the CPU time of all threads."""

    def __init__(self) -> None:
        self._rates: dict[str, list[float]] = {"wall": [], "cpu": []}

    @contextmanager
    def timed(self, count: int) -> Iterator[None]:
        """Time what handles so many molecules."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._rates["wall"].append(count / (time.perf_counter() - wall))
        self._rates["cpu"].append(count / (time.process_time() - cpu))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Median and all rates, in molecules per second."""
        return {k: {"median": statistics.median(v), "all": v} for k, v in self._rates.items()}


def noised_cases(x: Tensor, mask: Tensor, t: list[int], generator: torch.Generator) -> list[Case]:
    """All molecules large enough, at every timestep, by size."""
    cases: list[Case] = []
    sizes = mask.sum(1)
    clean = remove_mean(x, mask)
    for timestep in t:
        a, b = float(PATH.a(timestep / 1000)), float(PATH.b(timestep / 1000))
        noise = remove_mean(torch.randn(x.shape, generator=generator), mask)
        for size in torch.unique(sizes).tolist():
            if size >= 4:
                rows = (sizes == size).nonzero().flatten()
                z = (a * clean + b * noise)[rows][mask[rows]].reshape(len(rows), size, -1)
                pairs = [PAPER.pairs(size, m.of(z).shape[-1], generator) for m in PAPER.modalities]
                cases.append((timestep, rows, z, pairs))
    return cases


def loop_tests(z: NDArray[np.float64], t: int, pairs: list[tuple[Pairs, Pairs]]) -> Tensor:
    """Verdicts (modalities, 3) on one molecule (N, 3 + F), call by call."""
    verdicts = []
    for modality, (channels, atoms) in zip(PAPER.modalities, pairs, strict=True):
        standard = z[:, slice(*modality.channels)] / math.sqrt(variance(modality.constant, t))
        verdicts.append([kstest(standard.ravel(), "norm").pvalue > PAPER.alpha])
        for columns, drawn in ((standard, channels), (standard.T, atoms)):
            information = [
                mutual_info_regression(
                    columns[:, [i]], columns[:, j], n_neighbors=modality.n_neighbors
                )[0]
                for i, j in drawn
            ]
            verdicts[-1].append(np.mean(information) < PAPER.threshold)
    return torch.tensor(verdicts)


def vectorised_tests(
    z: Tensor, t: int, pairs: list[tuple[Pairs, Pairs]], generator: torch.Generator
) -> Tensor:
    """Verdicts (B, modalities, 3) on molecules (B, N, 3 + F)."""
    return torch.stack(
        [
            PAPER.tests(m.of(z), variance(m.constant, t), m.n_neighbors, drawn, generator)
            for m, drawn in zip(PAPER.modalities, pairs, strict=True)
        ],
        dim=1,
    )


def variance(constant: float, t: int) -> float:
    """What the published test takes for the variance at a timestep."""
    return float(PATH.a(t / 1000)) ** 2 * constant + float(PATH.b(t / 1000)) ** 2


def same(one: Tensor, other: Tensor) -> float:
    """Share of equal entries."""
    return float((one == other).double().mean())


def t_stars(x: Tensor, mask: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """The published T* of QM9 and of Gaussian data with the published constants, on three grids."""
    deviation = torch.tensor(
        [PAPER.modalities[0].constant] * 3 + [PAPER.modalities[1].constant] * 5
    )
    noise = remove_mean(deviation.sqrt() * torch.randn(x.shape, generator=generator), mask)
    found: dict[str, Any] = {}
    for name, data in (("qm9", x), ("gaussian_noise", noise)):
        for first in (0, 300, 500):
            grid = range(first, first + 501, 50)
            result = published_first_pass(data, mask, PATH, grid, generator)
            found.setdefault(name, {})[f"{grid[0]}..{grid[-1]}"] = summary(result)
    return found


def summary(result: PublishedResult) -> dict[str, Any]:
    """JSON form of one outcome."""
    return {
        "mean": result.mean,
        "std_error": result.std_error,
        "molecules": len(result.skipped) - int(result.skipped.sum()),
        "dropped": result.dropped,
        "pass_rate": dict(zip(result.timesteps, result.pass_rate.tolist(), strict=True)),
        "test_rates": dict(zip(result.timesteps, result.test_rates.tolist(), strict=True)),
    }


if __name__ == "__main__":
    main()
