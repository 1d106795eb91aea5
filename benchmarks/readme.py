"""Writes measured tables into README.md, the pages beside this file and those of the manual.

python benchmarks/readme.py            write
python benchmarks/readme.py --check    exit 1 if a page is older than the results

Single numbers in the text of the manual are brought up to date as well: `docs/tools/figures.py`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import codebases
import drugs
import edm_launcher
import few_calls_tables
import items
import levels
import related
import sampling_tables
import scaling
import train_speed
import training

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs" / "tools"))
from figures import filled  # noqa: E402 - docs/tools is no package

RESULTS = Path(__file__).parent / "results"


def references_table(found: dict[str, Any]) -> str:
    """Rows of `references.json`."""
    lines = ["| start | " + " | ".join(f"t = {t}" for t in found["t"]) + " |"]
    lines.append("|---" * (len(found["t"]) + 1) + "|")
    for kind, curve in found["curves"].items():
        columns = zip(curve["value"], curve["std_error"], curve["extra"]["saturated"], strict=True)
        cells = (f"> {v:.1f}" if full else f"{v:.2f} ± {e:.2f}" for v, e, full in columns)
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        "Held-out lower bound of KL(noised QM9 \\|\\| start) in nats per molecule, "
        f"{found['n']} against {found['n']} molecules. `python benchmarks/references.py`"
    )
    return "\n".join(lines)


def overhead_table(found: dict[str, Any]) -> str:
    """Rows of `scheduler_overhead.json`."""
    lines = ["| scheduler | bare, µs a step | added, µs a step | ratio |", "|---|---|---|---|"]
    for row in found["rows"]:
        lines.append(
            f"| {row['scheduler']} | {row['bare_us']:.0f} "
            f"| {row['overhead_us']:.1f} ± {row['overhead_std_error_us']:.1f} "
            f"| {row['ratio']:.3f} |"
        )
    lines.append("")
    lines.append(
        "Batch (64, 29, 9), one thread, bare and wrapped in turns; "
        "`python benchmarks/scheduler_overhead.py`"
    )
    return "\n".join(lines)


def criteria_table(found: dict[str, Any]) -> str:
    """Rows of `criteria_qm9.json`."""
    kinds = list(found["references"])
    at = [found["t"].index(t) for t in (400, 550, 700)]
    lines = [
        "| criterion | "
        + " | ".join(f"t* ({kind}) | at t = 400, 550, 700 ({kind})" for kind in kinds)
        + " |"
    ]
    lines.append("|---" * (2 * len(kinds) + 1) + "|")
    for name in found["references"][kinds[0]]:
        cells = []
        for kind in kinds:
            row = found["references"][kind][name]
            curve, digits = row["curve"], 2
            star = "–"
            if row["t_star"] is not None:
                low, high = row["t_star_interval"]
                star = f"**{row['t_star']}** ({low} to {high})"
            values = ", ".join(f"{curve['value'][k]:.{digits}f}" for k in at)
            unit = "nats" if curve["unit"] == "nats" else "(p)"
            cells += [star, f"{values} {unit}"]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    counts = sorted({row["n"] for rows in found["references"].values() for row in rows.values()})
    lines.append("")
    lines.append(
        f"QM9, {counts[0]} to {counts[-1]} molecules of the test split, steps of "
        "`edm/polynomial_2`; t* at 0.5 nats, or 5 % false alarms on a whole curve of p-values, "
        f"with the 90 % bootstrap interval. The paper uses {found['published_t_star']}. "
        "`python benchmarks/criteria_qm9.py`"
    )
    return "\n".join(lines)


def power_table(found: dict[str, Any]) -> str:
    """Rows of `criteria_power.json`."""
    names = list(dict.fromkeys(name for row in found["laws"].values() for name in row["criteria"]))
    lines = ["| data | sets | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for law, row in found["laws"].items():
        cells = []
        for name in names:
            known = row["criteria"].get(name)
            error = 0 if known is None else 100 * known["rate_std_error"]
            spread = f" ± {error:.0f}" if error else ""
            cells.append("–" if known is None else f"{100 * known['rate']:.0f}{spread} %")
        detail = row["strength"].removeprefix("none: ")
        lines.append(f"| {law}: {detail} | {row['repetitions']} | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        f"How often a criterion says *not Gaussian* of sets of {found['n']} items at log-SNR "
        f"{found['log_snr']:g}; on the Gaussian rows that is a false alarm, of stated rate "
        f"{100 * found['alpha']:g} % for p-values and at most 2.3 % for nats (value - 2 s.e. > 0). "
        "The certificate has the analytic denoiser where there is one. "
        "`python benchmarks/criteria_power.py`"
    )
    return "\n".join(lines)


def modalities_table(found: dict[str, Any]) -> str:
    """Rows of `modalities.json`."""
    lines = [
        "| data | numbers | t* at "
        f"{found['tolerance']:g} nats | t* at "
        f"{found['tolerance_per_dimension']:g} nats per number |",
        "|---|---|---|---|",
    ]
    for row in found["rows"].values():
        first = min(found["t"])
        stars = (row["t_star"], row["t_star_per_dimension"])
        cells = " | ".join(
            "–" if star is None else f"≤ {first}" if star <= first else f"{star:.0f}"
            for star in stars
        )
        lines.append(f"| {row['label']} | {row['dimension']:.0f} | {cells} |")
    lines.append("")
    lines.append(
        f"{found['n']} items each, of unit variance where no scales are named, on "
        f"`{found['path']}`: two-sample bound against the Gaussian of their full covariance, of "
        "molecules `size` where no reference is named. `python benchmarks/modalities.py`"
    )
    return "\n".join(lines)


def published_table(found: dict[str, Any]) -> str:
    """T* of the published recipe, of `criteria_speed.json`."""
    grids = list(found["t_star"]["qm9"])
    names = {"qm9": "QM9", "gaussian_noise": "pure Gaussian noise"}
    lines = ["| data | " + " | ".join(f"grid {grid}" for grid in grids) + " |"]
    lines.append("|---" * (len(grids) + 1) + "|")
    for source, name in names.items():
        rows = [found["t_star"][source][grid] for grid in grids]
        cells = (
            f"{row['mean']:.0f} ± {row['std_error']:.0f} ({row['dropped']} of "
            f"{row['molecules']} dropped)"
            for row in rows
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    speed, ratio = found["molecules_per_second"], found["ratio"]
    lines.append("")
    lines.append(
        "The published recipe on the same noised molecules, in a loop over scipy and "
        f"scikit-learn: {speed['loop']['cpu']['median']:.1f} molecules a second and core; here: "
        f"{speed['vectorised']['cpu']['median']:,.0f}, {ratio['vectorised, cpu']:,.0f} times as "
        f"many, with the same verdict on {100 * found['same_verdict']:.0f} % of "
        f"{found['verdicts']}. `python benchmarks/criteria_speed.py`"
    )
    return "\n".join(lines)


def read_table(found: dict[str, Any]) -> str:
    """Molecules per second of every format, and of rdkit and ase on the same files."""
    lines = ["| read with | molecules/s |", "|---|---|"]
    rows = {f"gaga-adapter: {name}": row["read_per_s"] for name, row in found["formats"].items()}
    for name, value in {**rows, **found["others_per_s"]}.items():
        lines.append(f"| {name} | {value:,.0f} |")
    lines.append("")
    lines.append(
        f"{next(iter(found['formats'].values()))['n']:,} molecules of QM9 (SMILES: fewer), one "
        "process, by processor time. `arrays`: with positions and atomic numbers, which is what "
        "the rows above hold; the other rows of rdkit only make its objects. "
        "`python benchmarks/read.py`"
    )
    return "\n".join(lines)


def images_table(found: dict[str, Any]) -> str:
    """Rows of `images.json`, but for those of the picture alone."""
    lines = [
        "| start | solver | calls | brightness: bias | distance | contrast: bias | distance "
        "| energy distance |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def line(name: str, row: dict[str, Any]) -> str:
        cells = []
        for figure, one in row["figures"].items():
            form = "+.2f" if figure.endswith("bias") else ".3f" if figure == "energy" else ".2f"
            cells.append(f"{one['value']:{form}} ± {one['std_error']:{form.strip('+')}}")
        return f"| {name} | {' | '.join(cells)} |"

    for row in found["rows"].values():
        if row["calls"] >= 10:
            lines.append(line(f"{row['label']} | {row['solver']} | {row['calls']}", row))
    lines.append(line("*the digits that were trained on* | |", found["trained_on"]))
    lines.append("")
    lines.append(
        f"{found['n']} images a row ({found['n_full']} of the row of 1000 calls) against "
        f"{found['n_held_out']} held-out digits, unclipped. Bias of the mean and Wasserstein "
        "distance of the distribution are in standard deviations of the held-out digits; the "
        "energy distance, of all pixels together, is zero only if both have the same law. t* is "
        f"{found['t_star']:.0f} of 1000, chosen for the `full` reference, which is the fitted "
        "Gaussian where none is named. `python benchmarks/images.py`"
    )
    return "\n".join(lines)


README, CRITERIA = ROOT / "README.md", RESULTS.parent / "CRITERIA.md"
SAMPLING, SCALING = RESULTS.parent / "SAMPLING.md", RESULTS.parent / "SCALING.md"
IMAGES, TRAINING = RESULTS.parent / "IMAGES.md", RESULTS.parent / "TRAINING.md"
ADAPTERS = ROOT / "integrations" / "README.md"
#: Marker -> page, results, and what is written between the markers.
TABLES = {
    "references": (CRITERIA, "references", references_table),
    "criteria_qm9": (CRITERIA, "criteria_qm9", criteria_table),
    "scheduler_overhead": (SAMPLING, "scheduler_overhead", overhead_table),
    "criteria_power": (CRITERIA, "criteria_power", power_table),
    "criteria_speed": (CRITERIA, "criteria_speed", published_table),
    "modalities": (CRITERIA, "modalities", modalities_table),
    "few_calls": (README, "few_calls", few_calls_tables.short),
    "few_calls_asked": (SAMPLING, "few_calls", few_calls_tables.asked),
    "few_calls_traded": (SAMPLING, "few_calls", few_calls_tables.traded),
    "few_calls_quality": (SAMPLING, "few_calls", few_calls_tables.quality),
    "few_calls_apart": (SAMPLING, "few_calls", few_calls_tables.apart),
    "sampling": (SAMPLING, "sampling", sampling_tables.short),
    "sampling_goals": (SAMPLING, "sampling", sampling_tables.goals),
    "sampling_quality": (SAMPLING, "sampling", sampling_tables.quality),
    "sampling_apart": (SAMPLING, "sampling", sampling_tables.apart),
    "levels": (SAMPLING, "levels", levels.table),
    "train_speed": (TRAINING, "train_speed", train_speed.markdown),
    "training": (TRAINING, "training", training.markdown),
    "continued": (TRAINING, "continued", training.markdown),
    "read": (SCALING, "read", read_table),
    "items": (CRITERIA, "items", items.markdown),
    "scaling": (SCALING, "scaling", scaling.markdown),
    "images": (IMAGES, "images", images_table),
    "codebases": (ADAPTERS, "codebases", codebases.table),
    "edm_launcher": (ADAPTERS, "edm_launcher", edm_launcher.table),
    "drugs": (RESULTS.parent / "DRUGS.md", "drugs", drugs.markdown),
    "related": (ROOT / "docs" / "related-work.md", "related", related.markdown),
}


def main() -> None:
    """Replace what stands between the markers; the manual repeats some of the tables."""
    old = {file: file.read_text(encoding="utf-8") for file, _, _ in TABLES.values()}
    new = dict(old)
    for name, (file, results, table) in TABLES.items():
        found = json.loads((RESULTS / f"{results}.json").read_text(encoding="utf-8"))
        block = f"<!-- {name}:begin -->\n{table(found)}\n<!-- {name}:end -->"
        new[file], count = re.subn(
            rf"<!-- {name}:begin -->.*?<!-- {name}:end -->",
            lambda _, block=block: block,
            new[file],
            flags=re.DOTALL,
        )
        if count != 1:
            sys.exit(f"{file.name} has {count} places for the table {name!r}, need 1")
    if "--check" not in sys.argv:
        for file, text in new.items():
            file.write_text(text, encoding="utf-8")
    manual = [page for page in (ROOT / "docs").rglob("*.md") if "tools" not in page.parts]
    old |= {page: page.read_text(encoding="utf-8") for page in manual}
    new |= {page: filled(old[page]) for page in manual}
    if "--check" in sys.argv:
        sys.exit(new != old)
    for page in manual:
        page.write_text(new[page], encoding="utf-8")


if __name__ == "__main__":
    main()
