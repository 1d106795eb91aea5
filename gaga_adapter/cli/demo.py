"""`gaga demo`: the same molecules along the full trajectory and from t*, side by side."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from gaga_adapter.cli.console import err, figure, out, percent, quiet_loading


def run(
    folder: Annotated[Path, typer.Option("--out", help="Folder for SDF files, picture and json.")],
    n: Annotated[int, typer.Option("-n", "--number", help="Molecules per row.", min=2)] = 256,
    steps: Annotated[int, typer.Option(help="Steps of the full trajectory.", min=2)] = 200,
    t_star: Annotated[
        float | None, typer.Option(help="Start here instead of at the fitted t*, of 1000.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Sample QM9 molecules in full and with GAGA, and say what it saved and what it cost."""
    from gaga_adapter.molecules.draw import draw_grid
    from gaga_adapter.molecules.formats import write_sdf
    from gaga_adapter.molecules.metrics import MoleculeMetrics, evaluate
    from gaga_adapter.molecules.pipeline import MoleculePipeline
    from gaga_adapter.molecules.qm9 import load_qm9
    from gaga_adapter.scheduler import GAGAScheduler
    from gaga_adapter.stats import GAGAStats

    quiet_loading()
    pipeline = MoleculePipeline.load("embedded")
    base, stats = pipeline.scheduler, GAGAStats.from_pretrained("qm9")
    start = stats.t_star(base) if t_star is None else t_star
    rows: dict[str, Any] = {"full, N(0, I)": base}
    for kind in ("shape", "paper"):
        rows[f"GAGA, {kind}"] = GAGAScheduler.from_pretrained(
            base, stats=stats, t_star=start, reference=kind
        )
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"n": n, "steps": steps, "t_star": start, "seed": seed, "rows": {}}
    pictures, metrics = [], dict[str, MoleculeMetrics]()
    for name, scheduler in rows.items():
        pipeline.scheduler = scheduler
        pipeline.set_progress_bar_config(desc=f"{name:14}", leave=False)
        began = time.perf_counter()
        result = pipeline(
            n, num_inference_steps=steps, generator=torch.Generator().manual_seed(seed)
        )
        seconds = time.perf_counter() - began
        metrics[name] = evaluate(result.molecules)
        slug = name.split(", ")[-1] if name.startswith("GAGA") else "full"
        write_sdf(result.molecules, folder / f"molecules_{slug}.sdf")
        record["rows"][name] = {
            "network_calls": result.network_calls,
            "seconds": round(seconds, 2),
            "metrics": metrics[name].to_dict(),
        }
        if slug != "paper":
            title = f"{name}: {result.network_calls} network calls, {seconds:.0f} s"
            pictures.append((title, result.molecules.subset(range(min(n, 16)))))
    err.print("reading QM9 for its own figures")
    metrics["QM9 itself"] = evaluate(load_qm9("test"))
    record["rows"]["QM9 itself"] = {"metrics": metrics["QM9 itself"].to_dict()}
    draw_grid(pictures, folder / "molecules.png")
    (folder / "demo.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    table = Table(title=f"{n} molecules a row, start at t = {start:g} of 1000")
    table.add_column("start")
    headings = ["calls", "seconds", "ratio", "atom stab. %", "mol. stab. %", "valid %", "v_x"]
    headings += ["spread of v_x", "anisotropy", "connected %", "H C N O F %"]
    for heading in headings:
        table.add_column(heading, justify="right")
    full_seconds = record["rows"]["full, N(0, I)"]["seconds"]
    for name, found in metrics.items():
        row, form = record["rows"][name], found.shape
        shares = (form.element_shares.get(e) for e in "HCNOF")
        table.add_row(
            name,
            str(row.get("network_calls", "")),
            f"{row['seconds']:.1f}" if "seconds" in row else "",
            f"{full_seconds / row['seconds']:.2f}x" if "seconds" in row else "",
            percent(found.atom_stability),
            percent(found.molecule_stability),
            percent(found.validity),
            figure(form.v_x),
            figure(form.v_x_spread),
            figure(form.anisotropy),
            percent(form.connected),
            " ".join("-" if s is None else f"{100 * s.value:.0f}" for s in shares),
        )
    out.print(table)
    out.print(f"wrote {folder}/molecules_full.sdf, molecules_shape.sdf, molecules_paper.sdf,")
    out.print(f"      {folder}/molecules.png (the first 16 of both) and {folder}/demo.json")
