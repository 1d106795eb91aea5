"""Tables and sentences of `few_calls.json`, for README.md and SAMPLING.md.

Every sentence that says whether something holds is computed.
"""

from __future__ import annotations

from typing import Any

from sampling_tables import APART, FORM, Columns, estimate, head, row

_QUALITY: Columns = {
    "atoms stable %": ("figures", "atom_stability", 100, 1),
    "molecules stable %": ("figures", "molecule_stability", 100, 1),
    "valid %": ("figures", "validity", 100, 1),
    "connected %": ("figures", "connected", 100, 1),
    "novel %": ("figures", "novelty", 100, 1),
    "stable and new %": ("figures", "stable_and_new", 100, 1),
    **FORM,
}
_APART: Columns = {
    **APART,
    "strain, kcal/mol an atom": ("figures", "strain", 1, 3),
    "PoseBusters %": ("figures", "plausible", 100, 1),
}
#: Rows of the README by name, and what they are called there.
SHORT = {
    "ddpm 1000, none": "DDPM, from noise",
    "few-step 20, shape at 300, matched": "**20 calls from t\\***",
    "few-step 12, shape at 300, matched": "**12 calls from t\\***",
    "few-step 12, none, matched": "the same 12 calls from noise",
    "sde-dpm++ 12, none": "SDE-DPM++ from noise",
}
_WEIGHTS = {"embedded": "embedded weights", "edm": "EDM checkpoint"}
_OWN = {"own, all calls": "EDM's own sampler"}
_NAMES = {
    "atom_stability": "stable atoms",
    "molecule_stability": "stable molecules",
    "stable_and_new": "stable and new",
    "v_x_spread": "spread of v_x",
    "plausible": "PoseBusters",
}


def short(found: dict[str, Any]) -> str:
    """The README's table: five rows and QM9 itself."""
    columns = {name: _QUALITY[name] for name in list(_QUALITY) if name not in _LEFT_OUT}
    columns |= {"W bonds, mÅ": _APART["W bonds, mÅ"]}
    embedded = found["weights"]["embedded"]
    lines = head(["sampler and start", "network calls", *columns])
    for name, label in SHORT.items():
        if name in embedded["cells"]:
            cell = embedded["cells"][name]
            lines.append(row(label, [str(cell["network_calls"])], cell, columns))
    lines.append(row("QM9 test split", ["–"], _data(embedded), columns))
    counts = sorted({embedded["cells"][name]["n"] for name in SHORT if name in embedded["cells"]})
    lines += [
        "",
        f"{_range(counts)} molecules a row from the same seeds, embedded model; ± is one standard "
        "error. v_x is the size of molecules, Å² per degree of freedom; *W bonds* is how far their "
        "bond lengths are from those of QM9. `python benchmarks/few_calls.py`",
    ]
    return "\n".join(lines)


_LEFT_OUT = ("atoms stable %", "connected %", "novel %", "anisotropy")


def asked(found: dict[str, Any]) -> str:
    """The claims with their verdicts."""
    lines = head(["claim", "weights", "pairs", "verdict", "what was found"])
    for weights, part in found["weights"].items():
        for claim in part["claims"]:
            lines.append(
                f"| {claim['said']} | {_WEIGHTS[weights]} | {claim['pairs']} "
                f"| {_verdict(claim)} | {_detail(claim)} |"
            )
    return "\n".join(lines)


def _verdict(claim: dict[str, Any]) -> str:
    shown = claim["verdict"] in ("shown", "no worse")
    return "**shown**" if shown else "not met" if claim.get("worse") else "not shown"


def _detail(claim: dict[str, Any]) -> str:
    """The numbers behind a verdict."""
    if claim["test"] == "non-inferior":
        n = len(claim["no_worse"])
        told = f"{n} of {n + len(claim['open']) + len(claim['worse'])} figures are no worse"
        for key in ("worse", "open"):
            if claim[key]:
                parts = (_one(name, claim["figures"][name]) for name in claim[key])
                told += f"; {key}: {', '.join(parts)}"
        return told
    if claim["test"] == "within":
        error = claim["std_error"] / claim["margin"]
        return f"{100 * claim['deviation']:+.1f} ± {error:.1f} % of QM9's"
    gain = {"value": claim["gain"], "std_error": claim["std_error"]}
    return f"{estimate(gain, 100)} points more" + (
        " than 95 % of them" if "95 %" in claim["said"] else ""
    )


def _one(name: str, figure: dict[str, Any]) -> str:
    known = _NAMES.get(name, name)
    if name.startswith("W1 "):
        known = "W " + name[3:].replace("_", " ").replace("v x", "v_x")
    if figure["gain"] is None:
        return known
    share = figure["gain"] / figure["margin"]
    return f"{known} ({share:+.1f} ± {figure['std_error'] / figure['margin']:.1f} margins)"


def traded(found: dict[str, Any]) -> str:
    """What re-noising costs, in figures."""
    cells = found["weights"]["embedded"]["cells"]
    few = {
        cell["calls"]: cell
        for cell in cells.values()
        if (cell["rule"], cell["start"], cell["t_star"], cell["matched"])
        == ("few-step", "shape", 300, True)
    }
    many = cells.get("ddpm 1000, none")
    if not few or many is None:
        return "Not sampled."

    def told(cell: dict[str, Any], figure: str) -> str:
        return f"{estimate(cell['figures'][figure], 100, 0)} %"

    novel = ", ".join(
        f"{told(cell, 'novelty')} after {calls} calls" for calls, cell in sorted(few.items())
    )
    new = ", ".join(
        f"{told(cell, 'stable_and_new')} after {calls}" for calls, cell in sorted(few.items())
    )
    return (
        "Re-noising repairs bonds by pulling molecules towards the most likely ones, and these are "
        f"more often known ones: {novel} of the distinct molecules are in no training set, "
        f"{told(many, 'novelty')} after DDPM's {many['network_calls']}. Many of the new ones are "
        "new because they are broken. Of all molecules, the share that is stable *and* new is "
        f"{new}, and {told(many, 'stable_and_new')} after DDPM's {many['network_calls']}."
    )


def quality(found: dict[str, Any]) -> str:
    """All rows: what a chemist asks, and form."""
    return _rows(found, _QUALITY)


def _relaxed(found: dict[str, Any]) -> str:
    """What was relaxed in rows that were judged before molecules without a hydrogen were not."""
    cells = [cell for one in found["weights"].values() for cell in one["cells"].values()]
    if all("strain_of" in cell for cell in cells):
        return ""
    return (
        "In these rows molecules count that lack a hydrogen, mostly since a bond is too long to be "
        "found; without them, as `gaga evaluate --strain` has it, strain is less. "
    )


def apart(found: dict[str, Any]) -> str:
    """All rows: distances from held-out molecules, strain and plausibility."""
    told = (
        "W is the Wasserstein distance from the test split, in the unit of the quantity; the first "
        "row, ± one standard deviation, is what chance alone makes of as many molecules. Strain is "
        f"the median energy that a relaxation in MMFF94 frees. {_relaxed(found)}{_plausible(found)}"
    )
    return f"{_rows(found, _APART)}\n\n{told}"


def _plausible(found: dict[str, Any]) -> str:
    counts = {
        cell["n_plausible"]
        for part in found["weights"].values()
        for cell in part["cells"].values()
        if cell.get("n_plausible")
    }
    if not counts:
        return "PoseBusters has not been asked yet (`--plausible 512`)."
    return f"PoseBusters looked at {_range(sorted(counts))} molecules of each row with a number."


def _rows(found: dict[str, Any], columns: Columns) -> str:
    lines = head(["rule, calls and start", "network calls", "molecules", *columns])
    for weights, part in found["weights"].items():
        if not part["cells"]:
            continue
        if weights == "embedded":
            lines.append(row("QM9 test split", ["–", "–"], _data(part), columns))
        for name, cell in part["cells"].items():
            label = name if weights == "embedded" else f"*EDM checkpoint:* {_OWN.get(name, name)}"
            lines.append(row(label, [str(cell["network_calls"]), str(cell["n"])], cell, columns))
    return "\n".join(lines)


def _data(part: dict[str, Any]) -> dict[str, Any]:
    held_out = part["held_out"]
    figures = held_out["figures"] | {"strain": held_out["strain"]}
    return {"figures": figures, "distances": held_out["noise_floor"] or {}}


def _range(counts: list[int]) -> str:
    return " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))
