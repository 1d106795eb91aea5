"""Tables and sentences of `sampling.json`, for README.md and SAMPLING.md.

Every sentence that says whether something holds is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from verdicts import BEST, LEVEL

Estimate = dict[str, Any] | None

#: Rows of the README, where they were sampled.
SHORT = (
    "ddpm 1000, full",
    "ddpm 1000, shape at 525, suffix",
    "ddpm 1000, shape at 400, suffix",
    "ddpm 200, full",
    "ddpm 200, shape at 525, suffix",
    "ddpm 200, shape at 400, suffix",
    "ddpm 200, paper at 400, suffix",
    "ddpm 200, unit at 400, suffix",
    "sde-dpm++-karras 50, full",
    "sde-dpm++-karras 50, shape at 400, respace",
    "sde-dpm++-karras 20, shape at 400, respace",
)
_FEWER, _AS_STABLE = 20, 0.95  # the goal of fast solvers
_QUALITY = {
    "atoms stable %": ("figures", "atom_stability", 100, 1),
    "molecules stable %": ("figures", "molecule_stability", 100, 1),
    "valid %": ("figures", "validity", 100, 1),
    "unique %": ("figures", "uniqueness", 100, 1),
    "novel %": ("figures", "novelty", 100, 1),
    "connected %": ("figures", "connected", 100, 1),
}
FORM = {
    "v_x": ("figures", "v_x", 1, 3),
    "spread of v_x": ("figures", "v_x_spread", 1, 3),
    "anisotropy": ("figures", "anisotropy", 1, 3),
}
APART = {
    "W v_x": ("distances", "v_x", 1, 3),
    "W anisotropy": ("distances", "anisotropy", 1, 4),
    "W bonds, mÅ": ("distances", "bond_lengths", 1000, 1),
    "W angles, °": ("distances", "bond_angles", 1, 2),
    "W elements": ("distances", "elements", 1, 3),
    "W rings": ("distances", "rings", 1, 3),
    "W ring sizes": ("distances", "ring_sizes", 1, 3),
}
Columns = dict[str, tuple[str, str, int, int]]


def estimate(value: Estimate, scale: float = 1, digits: int = 1) -> str:
    """Value and standard error."""
    if value is None:
        return "–"
    text = f"{scale * value['value']:.{digits}f}"
    error = value["std_error"]
    return text if error is None else f"{text} ± {scale * error:.{digits}f}"


def short(found: dict[str, Any]) -> str:
    """The README's table."""
    columns = {k: _QUALITY[k] for k in list(_QUALITY)[:3]} | FORM
    lines = head(["sampler and start", "network calls", *columns])
    lines.append(row("QM9 test split", ["–"], found["held_out"], columns))
    for name in SHORT:
        if name in found["cells"]:
            cell = found["cells"][name]
            label = f"**{name}**" if cell["reference"] == "shape" else name
            lines.append(row(label, [str(cell["network_calls"])], cell, columns))
    lines += ["", _note(found)]
    return "\n".join(lines)


def quality(found: dict[str, Any]) -> str:
    """All cells: cost, what a chemist asks, and form."""
    columns = _QUALITY | FORM
    lines = head(["sampler and start", "network calls", "CPU s", *columns])
    lines.append(row("QM9 test split", ["–", "–"], found["held_out"], columns))
    for name, cell in found["cells"].items():
        cost = [str(cell["network_calls"]), f"{cell['cpu_seconds']:.0f}"]
        lines.append(row(name, cost, cell, columns))
    lines += ["", _note(found)]
    return "\n".join(lines)


def apart(found: dict[str, Any]) -> str:
    """All cells: distances from held-out molecules, certificates, and what is worse than full."""
    columns = ["sampler and start", *APART, "certified nats at t*", "against the full trajectory"]
    lines = head(columns)
    floors = [cell["noise_floor"] for cell in found["cells"].values() if cell["noise_floor"]]
    if floors:
        floor = {"distances": floors[0]}
        lines.append(row("as many QM9 molecules", [], floor, APART) + " – | – |")
    for name, cell in found["cells"].items():
        nats = cell["certificate"]
        told = "–" if nats is None else estimate(nats, 1, 2)
        told += "*" if nats is not None and nats["interpolated"] else ""
        lines.append(row(name, [], cell, APART) + f" {told} | {_worse(cell)} |")
    lines += [
        "",
        "W is the Wasserstein distance from the test split in the unit of the quantity; the first "
        "row, ± one standard deviation, is what chance alone makes of it. The last column compares "
        "with the full trajectory of the same solver and steps: *no worse* if each figure is shown "
        "to be within its margin, one-sided at 5 %; the figures that are *worse*, at the same "
        "level; *open* where the molecules are too few to say, with the number of figures that "
        "are. * between two measured levels. `python benchmarks/sampling.py`",
    ]
    return "\n".join(lines)


def goals(found: dict[str, Any]) -> str:
    """What was asked of the starts, and whether it holds."""
    told = [_as_good(found), _collapse(found), _further(found), _few_calls(found)]
    return "\n".join(f"- {sentence}" for sentence in told)


# -- sentences -------------------------------------------------------------------------------------


def _as_good(found: dict[str, Any]) -> str:
    asked = "**From `shape` at t = 400, no worse than the full trajectory?**"
    name, claim = "ddpm 1000, shape at 400, suffix", "ddpm, shape at 400, suffix"
    cell = found["cells"].get(name)
    if cell is None or "full" not in cell["against"]:
        return f"{asked} Not sampled."
    against = cell["against"]["full"]
    saved = 100 * (1 - 1 / against["fewer_calls"])
    told = f"{asked} With {saved:.0f} % fewer calls: {_verdict(against, cell['n'])}"
    if claim in found["pooled"]:
        both = found["pooled"][claim]
        told += f" With {' and '.join(both['rows'])} pooled: {_verdict(both, cell['n'])}"
    return told


def _verdict(against: dict[str, Any], n: int) -> str:
    """What is shown of a comparison, in sentences."""
    figures = against["figures"]
    counted = len(against["no_worse"]) + len(against["open"]) + len(against["worse"])
    if against["verdict"] == "no worse":
        return f"all {counted} figures are within their margins. Shown."
    told = f"{len(against['no_worse'])} of {counted} figures are shown to be within their margins"
    if against["worse"]:
        told += ", and shown to be worse are " + ", ".join(
            name if figures[name]["gain"] is None else f"{name} (z = {figures[name]['z']:.1f})"
            for name in against["worse"]
        )
        return f"{told}. Not met."
    told += f"; the other {len(against['open'])} are open. Not shown"
    if against["needs"] is not None:
        needed = 1000 * math.ceil(against["needs"] * n / 1000)
        told += f": {n} molecules are too few for it, some {needed:,} would do if both are equal"
    return f"{told}."


def _collapse(found: dict[str, Any]) -> str:
    asked = "**Do the scalar starts collapse at t = 400?**"
    data = found["held_out"]["figures"]["v_x_spread"]["value"]
    told = []
    for kind in ("paper", "unit", "shape"):
        names = [f"ddpm {steps}, {kind} at 400, suffix" for steps in (200, 1000)]
        cell = next((found["cells"][name] for name in names if name in found["cells"]), None)
        if cell is not None:
            share = cell["figures"]["v_x_spread"]["value"] / data
            stable = estimate(cell["figures"]["molecule_stability"], 100)
            told.append(f"`{kind}` {100 * share:.0f} % ({stable} % of its molecules are stable)")
    if not told:
        return f"{asked} Not sampled."
    return (
        f"{asked} The spread of v_x over molecules, in per cent of QM9's: {', '.join(told)}. "
        "Compact, alike molecules are easy to keep stable."
    )


def _further(found: dict[str, Any]) -> str:
    asked = "**Further than 400?**"
    told = []
    for t_star in (525, 400, 300, 200):
        cell = found["cells"].get(f"ddpm 200, shape at {t_star}, suffix")
        if cell is not None and "full" in cell["against"]:
            stable = estimate(cell["figures"]["molecule_stability"], 100)
            nats = cell["certificate"]
            price = "" if nats is None else f", {nats['value']:.1f} nats certified"
            against = cell["against"]["full"]
            told.append(
                f"t = {t_star}: {stable} % stable, {len(against['worse'])} figures shown to be "
                f"worse than the full trajectory and {len(against['open'])} open{price}"
            )
    if not told:
        return f"{asked} Not sampled."
    return f"{asked} `shape` under DDPM in 200 steps, from {'; from '.join(told)}."


def _few_calls(found: dict[str, Any]) -> str:
    asked = (
        f"**{_FEWER} times fewer calls than DDPM in 1000 steps, at {100 * _AS_STABLE:.0f} % of its "
        "stable molecules?**"
    )
    rated = [
        (cell["against"]["best"]["molecule_stability_ratio"], cell, name)
        for name, cell in found["cells"].items()
        if cell["reference"] in (None, "shape")
        and cell["against"].get("best", {}).get("molecule_stability_ratio") is not None
        and cell["against"]["best"]["fewer_calls"] >= _FEWER * 0.999
    ]
    if not rated or BEST not in found["cells"]:
        return f"{asked} Not sampled."
    # The best of several is chosen on these figures, so each is tested at its share of the level.
    quantile = NormalDist().inv_cdf(1 - LEVEL / len(rated))

    def lowest(ratio: dict[str, float]) -> float:
        return ratio["value"] - quantile * ratio["std_error"]

    ratio, cell, name = max(rated, key=lambda one: lowest(one[0]))
    met = lowest(ratio) >= _AS_STABLE
    told = (
        f"{asked} {'Shown' if met else 'Not shown'}: {name} has {estimate(ratio, 100, 0)} % with "
        f"{cell['against']['best']['fewer_calls']:.0f} times fewer calls, and not less than "
        f"{100 * lowest(ratio):.0f} % at 5 %, as the best of {len(rated)} rows"
    )
    full = [one for one in rated if one[1]["t_star"] is None]
    if full:
        ratio, _, name = max(full, key=lambda one: one[0]["value"])
        told += f". Without a start at t*, the best is {name}: {estimate(ratio, 100, 0)} %"
    return told + "."


def _worse(cell: dict[str, Any]) -> str:
    against = cell["against"].get("full")
    if against is None:
        return "–"
    if against["verdict"] == "no worse":
        return "no worse"
    left = f"open: {len(against['open'])}" if against["open"] else ""
    worse = f"worse: {', '.join(against['worse'])}" if against["worse"] else ""
    return "; ".join(part for part in (worse, left) if part)


# -- markdown --------------------------------------------------------------------------------------


def head(columns: Sequence[str]) -> list[str]:
    """The two lines above the rows of a table."""
    return ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]


def row(label: str, cost: Sequence[str], record: dict[str, Any], columns: Columns) -> str:
    """One row: its label, what it cost, and its figures."""
    cells = [
        estimate((record.get(part) or {}).get(name), scale, digits)
        for part, name, scale, digits in columns.values()
    ]
    return "| " + " | ".join([label, *cost, *cells]) + " |"


def _note(found: dict[str, Any]) -> str:
    counts = sorted({cell["n"] for cell in found["cells"].values()})
    several = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
    return (
        f"{several} molecules a row from the same seeds, embedded model, steps of "
        "`edm/polynomial_2`; ± is one standard error. *suffix*: the solver's own grid, cut at t*; "
        "*respace*: all its steps inside of [0, t*]. `python benchmarks/sampling.py`"
    )
