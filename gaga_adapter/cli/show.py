"""`gaga show`: what an artefact holds, as tables or as json."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gaga_adapter.cli.console import Json, Quiet, out, print_json, say
from gaga_adapter.cli.options import STATISTICS, Plot, completed
from gaga_adapter.errors import ArtefactError, TruncationError
from gaga_adapter.noise.paths import NAMED_PATHS, named_path
from gaga_adapter.stats import GAGAStats


def run(
    stats: Annotated[
        str,
        typer.Argument(
            help="Folder that gaga fit wrote, hub id, or qm9 (ships with the package).",
            autocompletion=completed(STATISTICS),
        ),
    ] = "qm9",
    plot: Plot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show fitted statistics: the curve, t* under named schedules.

    The curve says how far the noised data are from the Gaussian start, per
    log-SNR and amplitude of the data (a²); t* is given in steps of 1000 under
    each named schedule, as sigma for Karras' and as time for flows.

      gaga show stats/ --plot curve.png
      gaga show qm9 --json | jq '.t_star["edm/polynomial_2"]'
    """
    fitted = GAGAStats.from_pretrained(stats)
    if plot is not None:
        save_plot(fitted, plot)
    if as_json:
        print_json(document(fitted))
    else:
        print_stats(fitted)
    if plot is not None:
        say(f"wrote {plot}")


def document(stats: GAGAStats) -> dict[str, Any]:
    """What an artefact holds, with t* under the named schedules, for `print_json`."""
    return stats.to_dict() | {"t_star": t_star_table(stats.log_snr_star)}


def t_star_table(log_snr_star: float, n_steps: int = 1000) -> dict[str, float | None]:
    """t* in steps of every named schedule; sigma* for the ones without steps; None if never."""
    table: dict[str, float | None] = {}
    for name in NAMED_PATHS:
        path = named_path(name, n_steps=n_steps)
        try:
            t = path.first_time(log_snr_star)
        except TruncationError:
            table[name] = None
            continue
        table[name] = round(t * path.n_steps) if path.n_steps else float(path.b(t))
    return table


def t_star_cell(name: str, value: float | None) -> str:
    """An entry of `t_star_table` as text."""
    if value is None:
        return "never that noisy"
    if name.startswith("karras"):
        return f"sigma {value:.3f}"
    return f"s = {value:.3f}" if name.startswith("flow") else f"t = {value:.0f}"


def save_plot(stats: GAGAStats, file: Path) -> None:
    """Draw the curve that t* was chosen on.

    Raises:
        ArtefactError: t* was not chosen on a curve.
    """
    from gaga_adapter.report.curves import save_curves

    chosen = stats.selection
    if chosen is None:
        raise ArtefactError("these statistics hold no curve; log-SNR* was given. Fit again.")
    name = chosen.curve.criterion
    title = f"{stats.provenance.get('data', 'unknown data')}, {chosen.curve.reference} reference"
    save_curves(file, {name: chosen.curve}, {name: chosen}, title)


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
    interval = chosen.interval if chosen is not None else None
    spread = "" if interval is None else f", 90 % interval {interval[0]:.3f} to {interval[1]:.3f}"
    out.print(f"[bold]log-SNR* = {stats.log_snr_star:.3f}[/bold]{spread}")
    if chosen is not None and chosen.by_size:
        stars = ", ".join(f"{size}: {star:.2f}" for size, star in chosen.by_size.items())
        out.print(f"per size: {stars}")
    table = Table(title="t* under the named schedules (1000 steps)")
    table.add_column("schedule")
    table.add_column("start at", justify="right")
    table.add_column("of the path", justify="right")
    for name, value in t_star_table(stats.log_snr_star).items():
        share = "-"
        if value is not None and not name.startswith("karras"):
            share = f"{value * (100 if name.startswith('flow') else 0.1):.0f}%"
        table.add_row(name, t_star_cell(name, value), share)
    out.print(table)
