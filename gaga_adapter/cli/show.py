"""`gaga show`: what an artefact holds, as tables or as json."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gaga_adapter.cli.console import Json, bold, out, print_json, say, table
from gaga_adapter.cli.options import Plot, Statistics
from gaga_adapter.errors import ArtefactError
from gaga_adapter.noise.paths import starts
from gaga_adapter.selection import curve_rows
from gaga_adapter.stats import GAGAStats, holds_states


def run(
    stats: Statistics = "qm9",
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Show fitted statistics: the curve, t* under named schedules.

    The curve says how far the noised data are from the Gaussian start, per
    log-SNR and amplitude of the data (a²); t* is given in steps of 1000 under
    each named schedule, as sigma for Karras' and as time for flows.

      gaga show stats/ --plot curve.png
      gaga show qm9 --json | jq '.t_star["edm/polynomial_2"]'
    """
    if holds_states(stats):
        print_states(stats, plot, as_json)
        return
    fitted = GAGAStats.from_pretrained(stats)
    if plot is not None:
        save_plot(fitted, plot)
    if as_json:
        print_json(document(fitted))
    else:
        print_stats(fitted)
        say(f"In plain words: gaga explain {stats}")
    if plot is not None:
        say(f"wrote {plot}")


def print_states(folder: str, plot: Path | None, as_json: bool) -> None:
    """Print what `fit_states` measured, level by level."""
    from gaga_adapter.noised_states import FittedStates

    states = FittedStates.from_pretrained(folder)
    if plot is not None:
        raise ArtefactError(
            f"{folder} holds statistics of noised states, by the time of their codebase; only a "
            "curve against log-SNR can be drawn. Leave --plot out."
        )
    if as_json:
        print_json(states.to_dict())
        return
    source = states.provenance.get("data", "noised states")
    out.print(bold(source) + f", {states.layout.describe()}", soft_wrap=True)
    title = f"two_sample against the {states.reference} reference"
    levels = table(title, "level", "nats", "± s.e.", "auc", "items", "")
    for one in states.measured:
        levels.add_row(
            f"{one.level:.4g}",
            f"{one.value:.3f}",
            f"{one.std_error:.3f}",
            f"{one.auc:.3f}",
            f"{one.moments.count + one.n_held_out:,}",
            "start" if one.level == states.level_star else "",
        )
    out.print(levels)
    out.print(f"time rises towards {states.towards}; {states.reason}")


def document(stats: GAGAStats) -> dict[str, Any]:
    """What an artefact holds, with t* under the named schedules, for `print_json`."""
    table = t_star_table(stats.log_snr_star, stats.has_discrete_types)
    return stats.to_dict() | {"t_star": table}


def t_star_table(log_snr_star: float, discrete_types: bool = False) -> dict[str, float | None]:
    """t* under every named schedule, for `print_json`; None if it is never that noisy."""
    places = starts(log_snr_star, discrete_types=discrete_types)
    return {start.schedule: start.value for start in places}


def save_plot(stats: GAGAStats, file: Path) -> None:
    """Draw the curve that t* was chosen on."""
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
    rest = f", {stats.moments.count:,} items, {stats.layout.describe()}"
    out.print(bold(source) + rest, soft_wrap=True)
    chosen = stats.selection
    spread = ""
    if chosen is not None:
        curve = chosen.curve
        shown = [name for name in curve.extra if name == "auc"]
        title = f"{curve.criterion} against the {curve.reference} reference"
        levels = table(title, "log-SNR", "a²", curve.unit, "± s.e.", *shown, "")
        for k, row in enumerate(curve_rows(curve, stats.log_snr_star)):
            levels.add_row(
                f"{row.log_snr:>7.2f}",
                f"{1 / (1 + math.exp(-row.log_snr)):.3f}",
                f"{row.value:.3f}",
                f"{row.std_error:.3f}",
                *(f"{curve.extra[name][k]:.3f}" for name in shown),
                "Gaussian" if row.is_gaussian else "",
            )
        out.print(levels)
        out.print(f"tolerance {chosen.tolerance:g} {curve.unit}: {chosen.reason}")
        out.print(chosen.meaning)
        if chosen.interval is not None:
            spread = ", 90 % interval {:.3f} to {:.3f}".format(*chosen.interval)
    out.print(bold(f"log-SNR* = {stats.log_snr_star:.3f}") + spread)
    if stats.refinement is not None:
        out.print(f"the start is refined: {stats.refinement.describe()}.")
    if chosen is not None and chosen.by_size:
        stars = ", ".join(f"{size}: {star:.2f}" for size, star in chosen.by_size.items())
        out.print(f"per size: {stars}")
    places = table(
        "t* under the named schedules (1000 steps)", "schedule", "start at", "of the path"
    )
    for start in starts(stats.log_snr_star, discrete_types=stats.has_discrete_types):
        places.add_row(start.schedule, start.text, start.share_text)
    out.print(places)
