"""Fit and criteria on a device: how long they take, how much memory, and whether the CPU agrees.

    python benchmarks/gpu_fit.py --device cuda --out fit.json

One pass over QM9's training molecules, moved to the device batch by batch; then the curve of each
criterion that needs nothing but data, on the device and on the CPU, from the same generator; and
the references' transport and log-density at t*. Differences are the largest ones found.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaga_adapter import GAGAStats, fit
from gaga_adapter.criteria import criterion as criterion_named
from gaga_adapter.files.atomic import replacing
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.subspace import project

LEVELS = (1.5, 0.5, 0.0, -1.0)


def main() -> None:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=75.0)
    parser.add_argument("--molecules", type=int, default=100_000, help="of the fit")
    parser.add_argument("--items", type=int, default=2000, help="of each criterion")
    parser.add_argument("--densities", type=int, default=64, help="molecules of the log-densities")
    parser.add_argument("--criteria", nargs="*", default=["cumulant", "two_sample", "ks_mi"])
    args = parser.parse_args()
    until = time.perf_counter() + args.seconds
    device = torch.device(args.device)
    result: dict[str, Any] = {}
    warm = torch.ones(64, 64, device=device)
    (warm @ warm).cpu()  # starting a device takes seconds, which are nobody's here

    def write() -> None:
        if device.type == "cuda":
            result["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        with replacing(args.out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    molecules = load_qm9("train").subset(slice(args.molecules))
    x, mask = encode(molecules, MoleculeLayout())
    result["fit"] = fits(x, mask, device, args.items)
    write()
    stats = GAGAStats.from_pretrained("qm9")
    x, mask = x[: args.items], mask[: args.items]
    result["references"] = references(stats, x, mask, device, args.densities)
    write()
    result["criteria"] = {}
    for name in args.criteria:
        if time.perf_counter() > until:
            break
        result["criteria"][name] = curves(name, stats, x, mask, device)
        write()


def fits(x: Tensor, mask: Tensor, device: torch.device, n_items: int) -> dict[str, Any]:
    """One pass from the device and one from the CPU, with the same criterion."""
    found: dict[str, Any] = {"molecules": len(x)}
    stars = {}
    for name in dict.fromkeys(["cpu", device.type]):
        batches = zip(x.to(name).split(4096), mask.to(name).split(4096), strict=True)
        began = time.perf_counter()
        stats = fit(
            batches,
            MoleculeLayout(),
            criterion="cumulant",
            tolerance=1.0,
            n_criterion=n_items,
            n_bootstrap=0,
        )
        found[f"seconds_{name}"] = time.perf_counter() - began
        stars[name] = stats.log_snr_star
    return found | {"log_snr_star": stars, "apart": apart(*stars.values())}


def references(
    stats: GAGAStats, x: Tensor, mask: Tensor, device: torch.device, n_densities: int
) -> dict[str, dict[str, float]]:
    """Transport and log-density of each kind at t*, on the device and on the CPU."""
    a, b = coefficients(stats.log_snr_star)
    noise = project(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), mask)
    found = {}
    for kind in ("size", "shape"):
        law = stats.reference(kind).at(a, b)
        there, there_mask = noise.to(device), mask.to(device)
        law.transport(there, there_mask)
        began = time.perf_counter()
        moved = law.transport(there, there_mask).cpu()
        seconds = time.perf_counter() - began
        few = slice(n_densities)  # one of `shape` is a sum over a table of molecules
        density = law.log_prob(there[few], there_mask[few]).cpu()
        found[kind] = {
            "seconds_of_transport": seconds,
            "transport_apart": float((moved - law.transport(noise, mask)).abs().max()),
            "log_prob_apart": float((density - law.log_prob(noise[few], mask[few])).abs().max()),
        }
    return found


def curves(
    name: str, stats: GAGAStats, x: Tensor, mask: Tensor, device: torch.device
) -> dict[str, Any]:
    """The curve of one criterion on the device and on the CPU."""
    found: dict[str, Any] = {"items": len(x)}
    values = {}
    for home in dict.fromkeys(["cpu", device.type]):
        began = time.perf_counter()
        curve = criterion_named(name).curve(
            x.to(home),
            mask.to(home),
            stats.reference(),
            torch.tensor(LEVELS, dtype=torch.float64),
            generator=torch.Generator().manual_seed(0),
        )
        found[f"seconds_{home}"] = time.perf_counter() - began
        values[home] = [float(value) for value in curve.value]
    worst = max(map(apart, *values.values())) if len(values) > 1 else 0.0
    return found | {"values": values, "apart": worst}


def apart(one: float, *others: float) -> float:
    """The largest distance from the first number."""
    return max((abs(one - other) for other in others), default=0.0)


if __name__ == "__main__":
    main()
