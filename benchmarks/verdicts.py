"""What `sampling.py` says about a cell: figures, distances, and which of them are worse.

A figure of a cell is compared with the same figure of the full trajectory under the same solver,
and of the full trajectory of 1000 DDPM steps:

- shares, such as stability, are better the higher they are; novelty is shown and not compared:
  broken molecules are new, too;
- means of the form of molecules (`v_x`, its spread, anisotropy) are better the closer they are to
  those of the held-out molecules;
- Wasserstein distances are better the lower they are.

`z` is the difference over its standard error, positive where the cell is better; both cells are
taken as independent, though they start from the same seeds. A figure is *worse* if z < -2. A cell
that is as good as the full trajectory has `expected_by_chance` such figures; `surely_worse` are
those that survive Holm's correction (1979) over the figures of the cell, at 5 %.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.distances import Geometry, distances
from gaga_adapter.molecules.metrics.evaluate import evaluate
from gaga_adapter.molecules.metrics.shape import gyration_eigenvalues
from gaga_adapter.molecules.qm9.data import load_qm9, qm9_train_smiles

RESULTS = Path(__file__).parent / "results"
V_X_BINS = np.linspace(0.5, 4.5, 41)
SHARES = (
    "atom_stability",
    "molecule_stability",
    "validity",
    "uniqueness",
    "novelty",
    "connected",
)
FORMS = ("v_x", "v_x_spread", "anisotropy")
WORSE = -2.0  # standard errors
CLEAR = 99.0  # stands for any more of them
BEST = "ddpm 1000, full"


class HeldOut:
    """The test split of QM9, measured when it is first needed."""

    @cached_property
    def smiles(self) -> frozenset[str]:
        """Of the training split."""
        return qm9_train_smiles()

    @cached_property
    def molecules(self) -> MoleculeSet:
        """The split."""
        return load_qm9("test")

    @cached_property
    def geometry(self) -> Geometry:
        """All values of the split."""
        return Geometry.of(self.molecules)

    @cached_property
    def record(self) -> dict[str, Any]:
        """Figures of the split itself."""
        return figures(self.molecules, self.smiles)


def figures(molecules: MoleculeSet, smiles: frozenset[str]) -> dict[str, Any]:
    """Number of molecules, their figures with standard errors, and the histogram of v_x."""
    found = evaluate(molecules, smiles).to_dict()
    named = found | found["shape"]
    v_x = gyration_eigenvalues(molecules).sum(axis=1) / 3
    return {
        "n": len(molecules),
        "figures": {name: named[name] for name in (*SHARES, *FORMS)},
        "v_x_histogram": np.histogram(v_x, V_X_BINS)[0].tolist(),
    }


def judged(molecules: MoleculeSet, held_out: HeldOut) -> dict[str, Any]:
    """All that can be said of a cell without the other cells."""
    generator = torch.Generator().manual_seed(0)
    apart = distances(molecules, held_out.geometry, generator).to_dict()
    record = figures(molecules, held_out.smiles)
    return record | {"distances": apart["measured"], "noise_floor": apart["noise_floor"]}


# -- cells beside each other -----------------------------------------------------------------------


def compare(found: dict[str, Any]) -> dict[str, Any]:
    """The cells with their comparisons and certificates, anew from what is there now."""
    certificates = _certificates()
    cells = {}
    for name, cell in found["cells"].items():
        rivals = {"full": f"{cell['solver']} {cell['steps']}, full", "best": BEST}
        against = {
            key: _compared(cell, found["cells"][rival], found["held_out"])
            for key, rival in rivals.items()
            if rival in found["cells"] and rival != name
        }
        certificate = certificates.get((cell["reference"], cell["t_star"]))
        cells[name] = cell | {"certificate": certificate, "against": against}
    return {"cells": cells}


def _compared(cell: dict[str, Any], rival: dict[str, Any], held_out: dict[str, Any]) -> Any:  # noqa: ANN401
    """Ratio of calls and of stable molecules, z of each figure, and the worse ones."""
    z: dict[str, float | None] = {}
    for name in SHARES:
        if name != "novelty":
            z[name] = _z(cell["figures"][name], rival["figures"][name], 1.0)
    for name in FORMS:
        target = held_out["figures"][name]["value"]
        ours, theirs = (
            None if one is None else one | {"value": abs(one["value"] - target)}
            for one in (cell["figures"][name], rival["figures"][name])
        )
        z[name] = _z(ours, theirs, -1.0)
    for name in cell["distances"]:
        z[f"W1 {name}"] = _z(cell["distances"][name], rival["distances"][name], -1.0)
    ours, theirs = (one["figures"]["molecule_stability"] for one in (cell, rival))
    return {
        "fewer_calls": rival["network_calls"] / cell["network_calls"],
        "molecule_stability_ratio": _ratio(ours, theirs),
        "z": z,
        "worse": [name for name, value in z.items() if value is not None and value < WORSE],
        "surely_worse": surely_worse(z),
        "expected_by_chance": _tail(WORSE) * sum(value is not None for value in z.values()),
    }


def surely_worse(z: dict[str, float | None], level: float = 0.05) -> list[str]:
    """Names whose z is too low even as one of all (Holm 1979); one-sided, at `level` in all."""
    known = sorted((value, name) for name, value in z.items() if value is not None)
    found: list[str] = []
    for rank, (value, name) in enumerate(known):
        if _tail(value) > level / (len(known) - rank):
            break
        found.append(name)
    return found


def _tail(z: float) -> float:
    """Probability of a standard normal below z."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _z(ours: dict[str, Any] | None, theirs: dict[str, Any] | None, sign: float) -> float | None:
    """Signed difference over its standard error, at most `CLEAR`; None where nothing compares.

    A figure that only the rival has, because nothing of the cell is left to measure, is clearly
    worse.
    """
    if theirs is None or theirs["std_error"] is None:
        return None
    if ours is None:
        return -CLEAR
    if ours["std_error"] is None:
        return None
    error = math.hypot(ours["std_error"], theirs["std_error"])
    difference = sign * (ours["value"] - theirs["value"])
    if difference == 0:
        return 0.0
    return math.copysign(min(CLEAR, abs(difference) / error if error else CLEAR), difference)


def _ratio(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float] | None:
    """Quotient of two shares with its standard error."""
    if min(ours["value"], theirs["value"]) == 0 or None in (ours["std_error"], theirs["std_error"]):
        return None
    value = ours["value"] / theirs["value"]
    relative = (one["std_error"] / one["value"] for one in (ours, theirs))
    return {"value": value, "std_error": value * math.hypot(*relative)}


def _certificates() -> dict[tuple[str | None, int | None], dict[str, Any]]:
    """Certified nats by reference and t*, where `certificate.json` brackets it.

    Between two measured t the logarithm of the nats is linear.
    """
    file = RESULTS / "certificate.json"
    if not file.exists():
        return {}
    measured = json.loads(file.read_text(encoding="utf-8"))
    t: list[int] = measured["t"]
    found: dict[tuple[str | None, int | None], dict[str, Any]] = {}
    for reference, curve in measured["curves"].items():
        for k, t_star in enumerate(t):
            found[reference, t_star] = {
                "value": curve["value"][k],
                "std_error": curve["std_error"][k],
                "interpolated": False,
            }
        for k in range(len(t) - 1):
            (low, high), errors = curve["value"][k : k + 2], curve["std_error"][k : k + 2]
            if min(low, high) <= 0:
                continue
            for t_star in range(t[k] + 1, t[k + 1]):
                share = (t_star - t[k]) / (t[k + 1] - t[k])
                found[reference, t_star] = {
                    "value": low ** (1 - share) * high**share,
                    "std_error": max(errors),
                    "interpolated": True,
                }
    return found


# -- the table on a terminal -----------------------------------------------------------------------


def table(found: dict[str, Any]) -> str:
    """All cells, one a line, and below them the held-out molecules."""
    head = f"{'':34}{'calls':>6}{'cpu s':>8}"
    columns = {
        "atom %": ("figures", "atom_stability", 100, 1),
        "mol %": ("figures", "molecule_stability", 100, 1),
        "valid %": ("figures", "validity", 100, 1),
        "uniq %": ("figures", "uniqueness", 100, 1),
        "novel %": ("figures", "novelty", 100, 1),
        "whole %": ("figures", "connected", 100, 1),
        "v_x": ("figures", "v_x", 1, 2),
        "spread": ("figures", "v_x_spread", 1, 3),
        "anisotr": ("figures", "anisotropy", 1, 3),
        "W v_x": ("distances", "v_x", 1, 3),
        "W bond": ("distances", "bond_lengths", 1, 4),
        "W angle": ("distances", "bond_angles", 1, 2),
        "W elem": ("distances", "elements", 1, 3),
        "W rings": ("distances", "rings", 1, 3),
    }
    lines = [head + "".join(f"{name:>14}" for name in columns) + "  worse than full"]
    rows = dict(found["cells"])
    if "held_out" in found:
        rows["QM9 test split"] = found["held_out"]
    for name, row in rows.items():
        cells = []
        for part, figure, scale, digits in columns.values():
            estimate = row.get(part, {}).get(figure)
            text = "-"
            if estimate is not None:
                error = estimate["std_error"]
                text = f"{scale * estimate['value']:.{digits}f}"
                text += "" if error is None else f"±{scale * error:.{digits}f}"
            cells.append(f"{text:>14}")
        worse = row.get("against", {}).get("full", {}).get("worse")
        note = "" if worse is None else ", ".join(worse) or "none"
        calls, seconds = row.get("network_calls", ""), row.get("cpu_seconds")
        cost = f"{calls:>6}{'' if seconds is None else f'{seconds:.0f}':>8}"
        lines.append(f"{name:34}{cost}{''.join(cells)}  {note}")
    return "\n".join(lines)
