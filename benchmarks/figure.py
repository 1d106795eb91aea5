"""The figures of the front pages, drawn from `sampling.json` and `references.json` of `results/`.

    python benchmarks/figure.py

`figure.png`, left: nats that a classifier finds between noised QM9 and each Gaussian start; right:
the size of the molecules that come out, the variance v_x per degree of freedom, beside QM9's own.
`sampling.png`: molecule stability, and how far v_x is from QM9's, against network calls.
`few_calls.png`: the same for a few calls, from `few_calls.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from verdicts import V_X_BINS

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
NAMES = {
    "unit": "N(0, I)",
    "paper": "one scalar (published)",
    "channel": "per channel",
    "size": "per size",
    "shape": "shape (default)",
}
COLOURS = {
    "unit": "#9aa0a6",
    "paper": "#d1495b",
    "channel": "#edae49",
    "size": "#66a182",
    "shape": "#00509d",
}


#: Markers of the samplers; every other one is a dot.
MARKERS = {"ddpm": "o", "sde-dpm++-karras": "D", "sde-dpm++": "^", "dpm++": "v", "heun": "s"}
CALLS = (10, 20, 50, 100, 200, 500, 1000)
CHOSEN, STEPS = 525, 200  # the fitted t*, and the DDPM steps of the histograms


def idea(references: dict[str, Any], sampling: dict[str, Any]) -> None:
    """How far each start is from the data, and what comes out of it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9), layout="constrained")
    for kind in (kind for kind in COLOURS if kind in references["curves"]):
        # the start of the histograms beside it, which were sampled before tensors were exact
        curve = references["curves"].get(f"{kind}, older artefacts", references["curves"][kind])
        t = sorted(references["t"])
        value, error = np.array(curve["value"]), np.array(curve["std_error"])
        left.plot(t, np.maximum(value, 5e-3), color=COLOURS[kind], label=NAMES[kind], lw=1.8)
        low, high = np.maximum(value - 2 * error, 5e-3), np.maximum(value + 2 * error, 5e-3)
        left.fill_between(t, low, high, color=COLOURS[kind], alpha=0.15, lw=0)
    left.axvline(CHOSEN, color="black", lw=1, ls=":")
    left.text(CHOSEN + 6, 0.009, f"fitted t* = {CHOSEN}", fontsize=9)
    most = max(value for curve in references["curves"].values() for value in curve["value"])
    left.text(min(references["t"]), most * 1.15, "the most that the test can show", fontsize=8)
    left.set(
        yscale="log", ylim=(4e-3, most * 1.6), xlabel="noise level t of 1000 (EDM polynomial_2)"
    )
    left.set_ylabel("KL(noised QM9 || start), nats per molecule")
    left.set_title("How far is each Gaussian start from the data?", fontsize=10.5, loc="left")
    left.legend(frameon=False, fontsize=8.5, loc="lower left")

    centres, width = (V_X_BINS[1:] + V_X_BINS[:-1]) / 2, V_X_BINS[1] - V_X_BINS[0]

    def density(row: dict[str, Any]) -> np.ndarray:
        counts = np.array(row["v_x_histogram"], float)
        return counts / counts.sum() / width

    held_out = density(sampling["held_out"])
    right.fill_between(centres, held_out, color="#dfe3e8", step="mid", label="QM9 itself")
    shown = [
        cell
        for kind in (None, "shape", "paper")
        for cell in sampling["cells"].values()
        if (cell["solver"], cell["steps"], cell["reference"]) == ("ddpm", STEPS, kind)
        and cell["t_star"] in (None, 400)
    ]
    for cell in shown:
        kind, calls = cell["reference"], cell["network_calls"]
        label = "full" if kind is None else f"{NAMES[kind]} at {cell['t_star']}"
        smooth = np.convolve(density(cell), [0.25, 0.5, 0.25], mode="same")
        colour = "black" if kind is None else COLOURS[kind]
        right.plot(centres, smooth, color=colour, label=f"{label}, {calls} calls", lw=1.8)
    right.set(xlabel="v_x of a molecule, Å² per degree of freedom", ylabel="density")
    right.set(xlim=(0.8, 4), ylim=(0, None))
    right.set_title("The molecules that come out", fontsize=10.5, loc="left")
    right.legend(frameon=False, fontsize=8.5)
    figure.savefig(RESULTS / "figure.png", dpi=150)


def cost(sampling: dict[str, Any]) -> None:
    """Quality against network calls, a mark for each cell."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.1), layout="constrained")
    panels = (
        (left, "figures", "molecule_stability", 100, "molecules stable, %"),
        (right, "distances", "v_x", 1, "Wasserstein distance of v_x from QM9, Å²"),
    )
    starts: dict[str, str] = {}
    for cell in sampling["cells"].values():
        kind = cell["reference"]
        colour = "black" if kind is None else COLOURS[kind]
        starts["full trajectory" if kind is None else NAMES[kind]] = colour
        for axis, part, name, scale, _ in panels:
            one = cell[part][name]
            axis.errorbar(
                cell["network_calls"],
                scale * one["value"],
                scale * one["std_error"],
                color=colour,
                marker=MARKERS.get(cell["solver"], "."),
                markersize=5,
                elinewidth=0.8,
                alpha=0.85,
            )
    best = sampling["cells"]["ddpm 1000, full"]
    for axis, part, name, scale, label in panels:
        axis.axhline(scale * best[part][name]["value"], color="black", lw=0.8, ls=":")
        axis.set(xscale="log", xlabel="network calls per molecule", ylabel=label)
        axis.set_xticks(CALLS, [str(calls) for calls in CALLS])
        axis.minorticks_off()
    floor = best["noise_floor"]["v_x"]["value"]
    right.axhspan(0, floor, color="#dfe3e8", lw=0)
    right.text(19, floor * 0.35, "QM9 against itself", fontsize=8)
    right.set(ylim=(0, None))
    left.set_title("Stability alone does not see a wrong start …", fontsize=10.5, loc="left")
    right.set_title("… which their size shows", fontsize=10.5, loc="left")
    solvers = dict.fromkeys(cell["solver"] for cell in sampling["cells"].values())
    for name, colour in starts.items():
        right.plot([], [], "o", color=colour, label=name)
    for name in (one for one in solvers if one in MARKERS):
        left.plot([], [], MARKERS[name], color="#5f6368", label=name)
    left.plot([], [], ".", color="#5f6368", label="other samplers")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(RESULTS / "sampling.png", dpi=150)


#: Lines of the picture of few calls: which rows, name, colour, marker.
LINES = (
    ("few-step", "shape", True, "from t*, moments matched", "#00509d", "o"),
    ("few-step", "none", True, "from noise, moments matched", "#edae49", "s"),
    ("few-step", "none", False, "from noise", "#d1495b", "^"),
    ("sde-dpm++", "none", False, "SDE-DPM++ from noise", "#66a182", "v"),
)
FEW = (4, 6, 8, 12, 20, 40, 1000)


def few_calls(found: dict[str, Any]) -> None:
    """Stable molecules and the distance of v_x against a few network calls, and a thousand."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.1), layout="constrained")
    embedded = found["weights"]["embedded"]
    panels = (
        (left, "figures", "molecule_stability", 100, "molecules stable, %"),
        (right, "distances", "v_x", 1, "Wasserstein distance of v_x from QM9, Å²"),
    )
    many = embedded["cells"]["ddpm 1000, none"]
    for axis, part, name, scale, label in panels:
        axis.axhline(scale * many[part][name]["value"], color="black", lw=0.8, ls=":")
        rows = [([many], "DDPM from noise", "black", "D")]
        for rule, start, matched, told, colour, marker in LINES:
            cells = [
                cell
                for cell in embedded["cells"].values()
                if (cell["rule"], cell["start"], cell["matched"]) == (rule, start, matched)
            ]
            rows.append((sorted(cells, key=lambda cell: cell["calls"]), told, colour, marker))
        for cells, told, colour, marker in rows:
            estimates = [cell[part][name] for cell in cells]
            axis.errorbar(
                [cell["network_calls"] for cell in cells],
                [scale * one["value"] for one in estimates],
                [scale * one["std_error"] for one in estimates],
                color=colour,
                marker=marker,
                markersize=5,
                lw=1.6,
                elinewidth=0.8,
                label=told,
            )
        axis.set(xscale="log", xlabel="network calls per molecule", ylabel=label)
        axis.set_xticks(FEW, [str(calls) for calls in FEW])
        axis.minorticks_off()
    right.axhspan(0, embedded["held_out"]["noise_floor"]["v_x"]["value"], color="#dfe3e8", lw=0)
    left.set(ylim=(0, 100))
    right.set(ylim=(0, None))
    left.set_title(
        "Stable molecules: twelve calls from t* pass a thousand …", fontsize=10.5, loc="left"
    )
    right.set_title("… and the size of molecules stays that of QM9", fontsize=10.5, loc="left")
    left.legend(frameon=False, fontsize=8.5, loc="lower right")
    figure.savefig(RESULTS / "few_calls.png", dpi=150)


def main() -> None:
    """Draw and write all of them."""
    references = json.loads((RESULTS / "references.json").read_text(encoding="utf-8"))
    sampling = json.loads((RESULTS / "sampling.json").read_text(encoding="utf-8"))
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    idea(references, sampling)
    cost(sampling)
    few_calls(json.loads((RESULTS / "few_calls.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
