"""`gaga show`: what an artefact holds, as tables or as json."""

from __future__ import annotations

import json
import math
from typing import Annotated

import typer
from rich.table import Table

from gaga_adapter.cli.console import out
from gaga_adapter.errors import TruncationError
from gaga_adapter.paths import NAMED_PATHS, named_path
from gaga_adapter.stats import GAGAStats


def run(
    stats: Annotated[str, typer.Argument(help="Artefact folder, hub id, or qm9.")] = "qm9",
    as_json: Annotated[bool, typer.Option("--json", help="Print json.")] = False,
) -> None:
    """Show fitted statistics: moments, the Gaussianity curve, t* under the named schedules."""
    fitted = GAGAStats.from_pretrained(stats)
    if as_json:
        print(json.dumps(fitted.to_dict() | {"t_star": t_star_table(fitted)}, indent=2))
    else:
        print_stats(fitted)


def t_star_table(stats: GAGAStats, n_steps: int = 1000) -> dict[str, float | None]:
    """t* in steps of every named schedule; sigma* for the ones without steps; None if never."""
    table: dict[str, float | None] = {}
    for name in NAMED_PATHS:
        path = named_path(name, n_steps=n_steps)
        try:
            t = stats.t_star(path)
        except TruncationError:
            table[name] = None
            continue
        table[name] = round(t * path.n_steps) if path.n_steps else float(path.b(t))
    return table


def print_stats(stats: GAGAStats) -> None:
    """Print layout, curve and t*."""
    source = stats.provenance.get("data", "unknown data")
    out.print(
        f"[bold]{source}[/bold], {stats.moments.count:,} items, {stats.layout.describe()}",
        soft_wrap=True,
    )
    chosen = stats.selection
    if chosen is not None:
        curve = chosen.curve
        table = Table(title=f"{curve.criterion} against the {curve.reference} reference")
        shown = [name for name in curve.extra if name == "auc"]
        for heading in ("log-SNR", "a²", curve.unit, "± s.e.", *shown, ""):
            table.add_column(heading, justify="right")
        for k, log_snr in enumerate(curve.log_snr):
            inside = log_snr <= stats.log_snr_star + 1e-9
            table.add_row(
                f"{log_snr:.2f}",
                f"{1 / (1 + math.exp(-log_snr)):.3f}",
                f"{curve.value[k]:.3f}",
                f"{curve.std_error[k]:.3f}",
                *(f"{curve.extra[name][k]:.3f}" for name in shown),
                "Gaussian" if inside else "",
            )
        out.print(table)
        out.print(f"tolerance {chosen.tolerance:g} {curve.unit}: {chosen.reason}")
    out.print(f"[bold]log-SNR* = {stats.log_snr_star:.3f}[/bold]")
    table = Table(title="t* under the named schedules (1000 steps)")
    table.add_column("schedule")
    table.add_column("start at", justify="right")
    table.add_column("of the path", justify="right")
    for name, value in t_star_table(stats).items():
        if value is None:
            table.add_row(name, "never that noisy", "-")
        elif name.startswith("karras"):
            table.add_row(name, f"sigma {value:.3f}", "-")
        elif name.startswith("flow"):
            table.add_row(name, f"s = {value:.3f}", f"{100 * value:.0f}%")
        else:
            table.add_row(name, f"t = {value:.0f}", f"{value / 10:.0f}%")
    out.print(table)
