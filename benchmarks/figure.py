"""The README's figure, drawn from `benchmarks/results/references.json` and `quality.json`.

    python benchmarks/figure.py

Left: nats that a classifier finds between noised QM9 and each Gaussian start. Right: the size of
the molecules that come out, the variance v_x per degree of freedom, beside QM9's own.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from quality import V_X_BINS

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


def main() -> None:
    """Draw and write `benchmarks/results/figure.png`."""
    references = json.loads((RESULTS / "references.json").read_text(encoding="utf-8"))
    quality = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9), layout="constrained")

    for kind, curve in references["curves"].items():
        t = sorted(references["t"])
        value, error = np.array(curve["value"]), np.array(curve["std_error"])
        left.plot(t, np.maximum(value, 5e-3), color=COLOURS[kind], label=NAMES[kind], lw=1.8)
        low, high = np.maximum(value - 2 * error, 5e-3), np.maximum(value + 2 * error, 5e-3)
        left.fill_between(t, low, high, color=COLOURS[kind], alpha=0.15, lw=0)
    starts = {row["t_star"] for row in quality["rows"].values() if row.get("t_star")}
    chosen = max(starts)  # the fitted one; the others push further
    left.axvline(chosen, color="black", lw=1, ls=":")
    left.text(chosen + 6, 0.009, f"fitted t* = {chosen:.0f}", fontsize=9)
    most = max(value for curve in references["curves"].values() for value in curve["value"])
    left.text(min(references["t"]), most * 1.15, "the most that the test can show", fontsize=8)
    left.set(
        yscale="log", ylim=(4e-3, most * 1.6), xlabel="noise level t of 1000 (EDM polynomial_2)"
    )
    left.set_ylabel("KL(noised QM9 || start), nats per molecule")
    left.set_title("How far is each Gaussian start from the data?", fontsize=10.5, loc="left")
    left.legend(frameon=False, fontsize=8.5, loc="lower left")

    centres, width = (V_X_BINS[1:] + V_X_BINS[:-1]) / 2, V_X_BINS[1] - V_X_BINS[0]

    def density(name: str) -> np.ndarray:
        counts = np.array(quality["rows"][name]["v_x_histogram"], float)
        return counts / counts.sum() / width

    right.fill_between(
        centres, density("QM9 test split"), color="#dfe3e8", step="mid", label="QM9 itself"
    )
    full = quality["rows"]["full"]
    shown = {"full": ("black", f"full, {full['network_calls']} calls")}
    for kind in ("shape", "paper"):
        name = f"{kind} at {chosen:.0f}"
        calls = quality["rows"][name]["network_calls"]
        shown[name] = (COLOURS[kind], f"{NAMES[kind]}, {calls} calls")
    for name, (colour, label) in shown.items():
        smooth = np.convolve(density(name), [0.25, 0.5, 0.25], mode="same")
        right.plot(centres, smooth, color=colour, label=label, lw=1.8)
    right.set(xlabel="v_x of a molecule, Å² per degree of freedom", ylabel="density")
    right.set(xlim=(0.8, 4), ylim=(0, None))
    right.set_title("The molecules that come out", fontsize=10.5, loc="left")
    right.legend(frameon=False, fontsize=8.5)
    figure.savefig(RESULTS / "figure.png", dpi=150)


if __name__ == "__main__":
    main()
