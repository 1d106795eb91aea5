"""What `sampling.py` says about a cell: figures, distances, and which of them are worse.

A figure of a cell is compared with the same figure of the full trajectory under the same solver,
and of the full trajectory of 1000 DDPM steps. *No worse* is a claim of its own, with a margin, and
is shown by a one-sided test at 5 % (`LEVEL`) that the cell is not worse by as much as the margin:

- shares, such as stability, are better the higher they are, margin 2 points; novelty is shown and
  not compared: broken molecules are new, too;
- means of the form of molecules (`v_x`, its spread, anisotropy) are better the closer they are to
  those of the held-out molecules, margin 1 % of these, of the spread 5 %;
- Wasserstein distances are better the lower they are, and the margin is what chance alone makes of
  as many held-out molecules.

Each figure is `no worse`, `worse` (shown to be, at the same level, and not within the margin), or
`open`: the molecules are too few to say. A cell is no worse if *all* its figures are. No correction
for several figures is owed then, since a cell that is worse in one of them passes with 5 % at most
(Berger 1982); for the same reason a single figure that is worse is found by chance in one of 20.

*Signs.* With o and r the deviations of cell and rival from the held-out mean, "no further away",
`|o| <= |r| + margin`, fails on one side only if `o - r` and `o + r` both exceed the margin there.
So either of them refutes that side, at half of the level. No absolute value is taken as normal.

*Dependence.* Cells start from the same seeds, but the results hold no figures of single molecules,
and so no pairs: errors of a difference are those of independent rows, which like seeds make too
large rather than too small. *Pooled* rows of one claim (one solver, start and spacing; other
numbers of steps) are averages of the differences, with the average of their errors: the largest
that it can be, however the rows depend on each other.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
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
LEVEL = 0.05  # of each one-sided test
SHARE_MARGIN = 0.02
FORM_MARGINS = {"v_x": 0.01, "v_x_spread": 0.05, "anisotropy": 0.01}  # of the held-out figure
CLEAR = 99.0  # stands for any more standard errors
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
    """The cells with their comparisons and certificates, and the pooled claims."""
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
    claims = _pooled(cells)
    for one in (*claims.values(), *(c["against"].get("full", {}) for c in cells.values())):
        for figure in one.get("figures", {}).values():
            del figure["sides"]  # all that pooling needed
    for cell in cells.values():
        cell["against"].get("best", {}).pop("figures", None)
    return {"cells": cells, "pooled": claims}


def _compared(cell: dict[str, Any], rival: dict[str, Any], held_out: dict[str, Any]) -> Any:  # noqa: ANN401
    """Ratio of calls and of stable molecules, and the comparison of each figure."""
    figures: dict[str, dict[str, Any]] = {}
    for name in SHARES:
        if name != "novelty":
            ours, theirs = cell["figures"][name], rival["figures"][name]
            figures[name] = _one_sided(ours, theirs, 1.0, SHARE_MARGIN)
    for name in FORMS:
        data = held_out["figures"][name]
        ours, theirs = cell["figures"][name], rival["figures"][name]
        figures[name] = _about(ours, theirs, data, FORM_MARGINS[name] * data["value"])
    for name in cell["distances"]:
        ours, theirs = cell["distances"][name], rival["distances"][name]
        floor = cell["noise_floor"][name]
        margin = 0.0 if floor is None else floor["value"]
        figures[f"W1 {name}"] = _one_sided(ours, theirs, -1.0, margin)
    ours, theirs = (one["figures"]["molecule_stability"] for one in (cell, rival))
    return {
        "fewer_calls": rival["network_calls"] / cell["network_calls"],
        "molecule_stability_ratio": _ratio(ours, theirs),
        **summary(figures),
    }


def summary(figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures with their names by verdict, and the verdict on all of them together."""
    named = {
        verdict: [name for name, one in figures.items() if one["verdict"] == verdict]
        for verdict in ("no worse", "open", "worse")
    }
    known = len(named["no worse"]) + len(named["open"]) + len(named["worse"])
    verdict = "worse" if named["worse"] else "open"
    if known and len(named["no worse"]) == known:
        verdict = "no worse"
    needs = [one["needs"] for one in figures.values() if one["needs"] is not None]
    return {
        "figures": figures,
        "no_worse": named["no worse"],
        "open": named["open"],
        "worse": named["worse"],
        "verdict": verdict,
        "needs": max(needs, default=None),
    }


def _pooled(cells: dict[str, Any]) -> dict[str, Any]:
    """Comparisons with the full trajectory, averaged over the rows of one claim."""
    rows: dict[str, list[str]] = {}
    for name, cell in cells.items():
        if "full" in cell["against"]:
            start = name.split(", ", 1)[1]
            rows.setdefault(f"{cell['solver']}, {start}", []).append(name)
    claims = {}
    for claim, names in rows.items():
        if len(names) < 2:
            continue
        parts = [cells[name]["against"]["full"]["figures"] for name in names]
        figures = {figure: pooled([part[figure] for part in parts]) for figure in parts[0]}
        claims[claim] = {"rows": names, **summary(figures)}
    return claims


# -- tests of one figure ---------------------------------------------------------------------------


def quantile(level: float) -> float:
    """Of the standard normal distribution, from above."""
    return NormalDist().inv_cdf(1 - level)


def _one_sided(
    ours: dict[str, Any] | None, theirs: dict[str, Any] | None, sign: float, margin: float
) -> dict[str, Any]:
    """A figure that is better the larger `sign * value` is."""
    missing = _missing(ours, theirs, margin)
    if missing is not None:
        return missing
    assert ours is not None
    assert theirs is not None
    gain = sign * (ours["value"] - theirs["value"])
    return judged_sides([[gain]], [[math.hypot(ours["std_error"], theirs["std_error"])]], margin)


def _about(
    ours: dict[str, Any] | None,
    theirs: dict[str, Any] | None,
    data: dict[str, Any],
    margin: float,
) -> dict[str, Any]:
    """A figure that is better the nearer it is to that of the data, see *Signs*."""
    missing = _missing(ours, theirs, margin)
    if missing is not None:
        return missing
    assert ours is not None
    assert theirs is not None
    apart = ours["value"] - theirs["value"]
    around = ours["value"] + theirs["value"] - 2 * data["value"]
    near = math.hypot(ours["std_error"], theirs["std_error"])
    far = math.hypot(near, 2 * (data["std_error"] or 0.0))
    return judged_sides([[-apart, -around], [apart, around]], [[near, far]] * 2, margin)


def _missing(
    ours: dict[str, Any] | None, theirs: dict[str, Any] | None, margin: float
) -> dict[str, Any] | None:
    """The comparison where one of two figures is not known; `None` where both are.

    A figure that only the rival has, because nothing of the cell is left to measure, is worse.
    """
    known = [one is not None and one["std_error"] is not None for one in (ours, theirs)]
    if all(known):
        return None
    verdict = "worse" if known[1] and ours is None else "not compared"
    empty = dict.fromkeys(("gain", "std_error", "z", "needs"))
    return {"sides": None, "margin": margin, "verdict": verdict, **empty}


def judged_sides(
    gains: list[list[float]], errors: list[list[float]], margin: float
) -> dict[str, Any]:
    """The comparison of a figure by its sides.

    Args:
        gains: Gains on each side, positive where the cell is better. On a side with several, the
            cell is worse only where all of them are negative.
        errors: Their standard errors.
        margin: Loss that does not count.
    """
    sides = []
    for side, its_errors in zip(gains, errors, strict=True):
        pairs = list(zip(side, its_errors, strict=True))
        no_worse = max(_ratio_of(gain + margin, error) for gain, error in pairs)
        worse = max(_ratio_of(gain, error) for gain, error in pairs)
        sides.append((no_worse, worse, max(pairs)))
    enough, level = quantile(LEVEL / len(gains[0])), quantile(LEVEL / len(gains))
    passed = all(no_worse > enough for no_worse, _, _ in sides)
    lost = any(worse < -level for _, worse, _ in sides)
    _, z, (gain, error) = min(sides, key=lambda side: side[0])
    # How many times as many molecules show it with 80 % power, if the two are equal in truth.
    needs = None if margin <= 0 else ((enough + quantile(0.2)) * error / margin) ** 2
    return {
        "sides": [gains, errors],
        "gain": gain,
        "std_error": error,
        "margin": margin,
        "z": z,
        "needs": needs,
        "verdict": "no worse" if passed else "worse" if lost else "open",
    }


def pooled(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The average of several comparisons of one figure, see *Dependence*."""
    known = [part for part in parts if part["sides"] is not None]
    if len(known) < len(parts):
        return next(part for part in parts if part["sides"] is None)
    gains, errors = (np.mean([part["sides"][k] for part in parts], axis=0).tolist() for k in (0, 1))
    return judged_sides(gains, errors, sum(part["margin"] for part in parts) / len(parts))


def _ratio_of(gain: float, error: float) -> float:
    """Gain over its standard error, at most `CLEAR`."""
    if gain == 0:
        return 0.0
    return math.copysign(min(CLEAR, abs(gain) / error if error else CLEAR), gain)


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
        said = row.get("against", {}).get("full")
        note = "" if said is None else ", ".join(said["worse"]) or said["verdict"]
        calls, seconds = row.get("network_calls", ""), row.get("cpu_seconds")
        cost = f"{calls:>6}{'' if seconds is None else f'{seconds:.0f}':>8}"
        lines.append(f"{name:34}{cost}{''.join(cells)}  {note}")
    return "\n".join(lines)
