"""Writes the measured tables into README.md, between their markers, from the results.

python benchmarks/readme.py            write
python benchmarks/readme.py --check    exit 1 if the README is older than the results
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def cell(estimate: dict[str, float] | None, scale: float = 1.0, digits: int = 1) -> str:
    """Value and standard error."""
    if estimate is None:
        return "–"
    error = estimate["std_error"]
    text = f"{scale * estimate['value']:.{digits}f}"
    return text if error is None else f"{text} ± {scale * error:.{digits}f}"


def quality_table(found: dict[str, Any]) -> str:
    """Rows of `quality.json`."""
    rows = found["rows"]
    lines = [
        "| start | network calls | atoms stable % | molecules stable % | valid % "
        "| v_x | spread of v_x | anisotropy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: "seconds" in item[1]):
        metrics, shape = row["metrics"], row["metrics"]["shape"]
        label = f"**{name}**" if name.startswith("shape") else name
        calls = str(row.get("network_calls", "–"))
        cells = [
            cell(metrics["atom_stability"], 100),
            cell(metrics["molecule_stability"], 100),
            cell(metrics["validity"], 100),
            cell(shape["v_x"], digits=3),
            cell(shape["v_x_spread"], digits=3),
            cell(shape["anisotropy"], digits=3),
        ]
        lines.append(f"| {label} | {calls} | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        f"{found['setting']['n']} molecules a row from the same seeds, DDPM, "
        f"{found['setting']['steps']} steps of the full path, embedded model; "
        "± is one standard error. `python benchmarks/quality.py`"
    )
    return "\n".join(lines)


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


TABLES = {
    "quality": quality_table,
    "references": references_table,
    "scheduler_overhead": overhead_table,
}


def main() -> None:
    """Replace what stands between the markers."""
    file = ROOT / "README.md"
    old = text = file.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        block = f"<!-- {name}:begin -->\n{table(found)}\n<!-- {name}:end -->"
        text, count = re.subn(
            rf"<!-- {name}:begin -->.*?<!-- {name}:end -->",
            lambda _, block=block: block,
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            sys.exit(f"README.md has {count} places for the table {name!r}, need 1")
    if "--check" in sys.argv:
        sys.exit(text != old)
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
