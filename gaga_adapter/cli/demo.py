"""`gaga demo`: the full trajectory, a dozen calls from t* and a dozen from noise, side by side."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.table import Table

from gaga_adapter.cli import console
from gaga_adapter.cli.options import Device, Force, Seed, torch_device, writable_folder
from gaga_adapter.files.atomic import already_there, replacing
from gaga_adapter.sampling import DEFAULT_STEPS

if TYPE_CHECKING:
    from gaga_adapter.molecules.metrics.evaluate import MoleculeMetrics

_RECORD = "demo.json"  # the last file that it writes


def run(
    folder: Annotated[
        Path,
        typer.Option(
            "--out", help="Folder for SDF files, picture and json.", callback=writable_folder
        ),
    ],
    n: Annotated[int, typer.Option("-n", "--number", help="Molecules per column.", min=2)] = 384,
    steps: Annotated[
        int, typer.Option(help="Steps of the full trajectory.", min=2)
    ] = DEFAULT_STEPS,
    calls: Annotated[int, typer.Option(help="Network calls of the other two columns.", min=2)] = 12,
    t_star: Annotated[
        float | None,
        typer.Option(help="Start at this timestep of 1000 instead of at the fitted t*."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
    as_json: console.Json = False,
) -> None:
    """Sample QM9 in full and from t*: what it saves and costs.

    The small model that ships with the package samples the same seeds along
    the full trajectory, in a dozen network calls from t*, and in a dozen from
    noise. The table says what that does to stability, validity, size and
    shape of the molecules. Takes about three minutes on two cores.

      gaga demo --out demo/ -n 64 --steps 100
    """
    from gaga_adapter.molecules.draw import draw_grid
    from gaga_adapter.molecules.formats import write_sdf
    from gaga_adapter.molecules.metrics.evaluate import evaluate
    from gaga_adapter.molecules.pipeline import MoleculePipeline
    from gaga_adapter.molecules.qm9.data import load_qm9
    from gaga_adapter.sampling.solvers import scheduler_named
    from gaga_adapter.scheduler import GAGAScheduler
    from gaga_adapter.stats import GAGAStats

    if (folder / _RECORD).is_file() and not force:
        raise already_there(folder, _RECORD, "Choose another --out, or pass --force")
    console.say("reading QM9 for its own figures")
    # First of all, so that a missing package is not noticed only at the end.
    with console.progress_bar() as progress:
        data = load_qm9("test", progress=progress)
    console.quiet_loading()
    pipeline = MoleculePipeline.load("qm9")
    pipeline.to(torch_device(device))
    base, stats = pipeline.scheduler, GAGAStats.from_pretrained("qm9")
    few = scheduler_named("few-step", base)
    truncated = GAGAScheduler.from_pretrained(few, stats=stats, t_star=t_star)
    start = truncated.t_star
    rows: dict[str, tuple[Any, int]] = {
        "full": (base, steps),
        "from t*": (truncated, calls),
        "from noise": (few, calls),
    }
    record: dict[str, Any] = {
        "n": n, "steps": steps, "calls": calls, "t_star": start, "seed": seed, "rows": {},
    }  # fmt: skip
    pictures = []
    metrics: dict[str, MoleculeMetrics] = {}
    for name, (scheduler, n_steps) in rows.items():
        pipeline.scheduler = scheduler
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)
        with console.progress_bar(name) as progress:
            result = pipeline(
                n, num_inference_steps=n_steps, generator=generator, progress=progress
            )
        seconds = time.perf_counter() - began
        metrics[name] = evaluate(result.molecules)
        slug = name.replace(" ", "_").replace("*", "_star")
        write_sdf(result.molecules, folder / f"molecules_{slug}.sdf")
        record["rows"][name] = {
            "network_calls": result.network_calls,
            "seconds": round(seconds, 2),
            "metrics": metrics[name].to_dict(),
        }
        title = f"{name}: {result.network_calls} network calls, {seconds:.0f} s"
        pictures.append((title, result.molecules.subset(range(min(n, 8)))))
    metrics["QM9"] = evaluate(data)
    record["rows"]["QM9"] = {"metrics": metrics["QM9"].to_dict()}
    draw_grid(pictures, folder / "molecules.png")
    with replacing(folder / _RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if as_json:
        console.print_json(record)
    else:
        console.out.print(_table(record, metrics))
    console.say(f"wrote SDF files, {_RECORD} and molecules.png to {folder}")


def _table(record: dict[str, Any], metrics: dict[str, MoleculeMetrics]) -> Table:
    title = f"{record['n']} molecules a column, start at t = {record['t_star']:g} of 1000"
    grid = console.table(title, "figure ± s.e.", *metrics)
    sampled = [row for row in record["rows"].values() if "seconds" in row]
    full_seconds = sampled[0]["seconds"]
    grid.add_row("network calls", *(str(row["network_calls"]) for row in sampled))
    grid.add_row("seconds", *(f"{row['seconds']:.1f}" for row in sampled))
    grid.add_row("times faster", *(f"{full_seconds / row['seconds']:.2f}" for row in sampled))
    grid.add_section()
    columns = [console.metric_texts(one) for one in metrics.values()]
    for name in columns[-1]:  # QM9 has every element
        if name not in ("uniqueness %", "novelty %"):  # of QM9 itself they say nothing
            grid.add_row(name, *(column.get(name, "-") for column in columns))
    return grid
