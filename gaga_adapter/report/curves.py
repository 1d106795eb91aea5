"""Criterion curves over log-SNR, from data (left) to noise (right), with t* and its interval.

`panels` says what a picture of curves shows: curves in nats share one panel, p-values another below
it, and a second axis on top counts timesteps of a named schedule. Bands are two standard errors,
the margin that the selection keeps. The page draws the panels as inline SVG (`report.figures`);
`save_curves` draws them into a picture file, through matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.errors import DataError, MissingExtraError, TruncationError
from gaga_adapter.files import visible
from gaga_adapter.files.atomic import replacing
from gaga_adapter.noise.paths import GaussianPath, named_path
from gaga_adapter.selection import DEFAULT_TOLERANCES, MARGIN, Selection, threshold

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Schedule whose timesteps the second axis counts, and how many it has.
DEFAULT_PATH, N_STEPS = "edm/polynomial_2", 1000
FORMATS = (".png", ".svg", ".pdf")
_COLOURS = {
    "two_sample": "#00509d",
    "cumulant": "#edae49",
    "certificate": "#66a182",
    "ks_mi": "#d1495b",
}
_FLOORS = {"nats": 1e-2, "p-value": 1e-4}
_TITLES = {"nats": "divergence, nats per item", "p-value": "p-value"}


@dataclass(frozen=True)
class LabelledCurve:
    """A curve and the choice of t* on it, if there is one."""

    name: str
    curve: CriterionCurve
    selection: Selection | None


@dataclass(frozen=True)
class Panel:
    """What a picture of the curves of one unit shows."""

    unit: str  # nats or p-value
    title: str  # of the vertical axis
    curves: tuple[LabelledCurve, ...]
    levels: tuple[float, float]  # log-SNR at the left (data) and the right (noise) end
    limits: tuple[float, float]  # lowest and highest value
    tolerances: Mapping[float, str]  # labels of the tolerance lines by their height


def panels(curves: Sequence[LabelledCurve]) -> list[Panel]:
    """One panel for each unit that the curves have."""
    levels = [level for one in curves for level in one.curve.log_snr]
    margin = 0.03 * (max(levels) - min(levels)) + 0.05 if levels else 0.0
    shown = []
    for unit, title in _TITLES.items():
        members = tuple(one for one in curves if one.curve.unit == unit)
        if members:
            ends = (max(levels) + margin, min(levels) - margin)
            tolerances = dict(map(_tolerance, members))
            limits = _limits(members, unit, tolerances)
            shown.append(Panel(unit, title, members, ends, limits, tolerances))
    return shown


def timestep_ticks(
    path: GaussianPath, levels: tuple[float, float], most: int
) -> list[tuple[float, str]]:
    """Log-SNR and label of round timesteps between two levels, at most `most` of them."""
    for parts in (10, 5, 2):
        steps = [N_STEPS * k / parts for k in range(1, parts)]
        places = [float(path.log_snr(torch.tensor(step / N_STEPS))) for step in steps]
        ticks = [
            (place, f"{step:.0f}")
            for place, step in zip(places, steps, strict=True)
            if min(levels) <= place <= max(levels)
        ]
        if len(ticks) <= most:
            break
    return ticks


def _tolerance(one: LabelledCurve) -> tuple[float, str]:
    """Height and label of a curve's tolerance."""
    unit = one.curve.unit
    tolerance = DEFAULT_TOLERANCES[unit] if one.selection is None else one.selection.tolerance
    scope = "nats" if unit == "nats" else f"over {len(one.curve.log_snr)} levels"
    return threshold(one.curve, tolerance), f"tolerance {tolerance:g} {scope}"


def _limits(
    curves: Sequence[LabelledCurve], unit: str, tolerances: Mapping[float, str]
) -> tuple[float, float]:
    floor = _FLOORS[unit]
    if unit == "p-value":
        return floor, 1.0
    tops = [
        value + MARGIN * error
        for one in curves
        for value, error in zip(one.curve.value, one.curve.std_error, strict=True)
        if not math.isnan(value + error)
    ]
    return floor, 1.25 * max([*tops, *tolerances, 10 * floor])


def check_picture(file: Path) -> None:
    """Refuse a name that is not of `FORMATS`, or a missing matplotlib, before the work is done."""
    if file.suffix.lower() not in FORMATS:
        raise DataError(f"cannot draw into {file.name}. Name a file {', '.join(FORMATS)}.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error


def save_curves(
    file: str | Path,
    curves: Mapping[str, CriterionCurve],
    selections: Mapping[str, Selection],
    title: str = "",
    path_name: str = DEFAULT_PATH,
) -> None:
    """Draw curves into a picture file, .png, .svg or .pdf, as `draw_curves` does."""
    file = Path(file)
    check_picture(file)
    figure = draw_curves(curves, selections, title, path_name)
    with replacing(file) as temporary:
        figure.savefig(temporary, format=file.suffix[1:].lower(), dpi=150)


def draw_curves(
    curves: Mapping[str, CriterionCurve],
    selections: Mapping[str, Selection],
    title: str = "",
    path_name: str = DEFAULT_PATH,
) -> Figure:
    """The picture of one curve or more by label, and of the choices of t* on some of them.

    A second axis counts the timesteps of the named schedule.
    """
    from matplotlib.figure import Figure

    if not curves:
        raise DataError("no curve to draw. Pass at least one.")
    path = named_path(path_name, N_STEPS)
    shown = panels([LabelledCurve(name, c, selections.get(name)) for name, c in curves.items()])
    heights = [3.4 if panel.unit == "nats" else 1.7 for panel in shown]
    figure = Figure(figsize=(7.6, sum(heights) + 1.2), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for ax, panel in zip(axes, shown, strict=True):
        _draw_panel(ax, panel, path)
    axes[-1].set_xlim(*shown[0].levels)
    axes[-1].set_xlabel("log-SNR, from data to noise")
    top: Any = axes[0].secondary_xaxis("top")
    ticks = timestep_ticks(path, shown[0].levels, 10)
    top.set_xticks([place for place, _ in ticks], [label for _, label in ticks])
    top.set_xlabel(f"timestep of {N_STEPS} ({path_name})", fontsize=9)
    top.tick_params(labelsize=8)
    if title:
        figure.suptitle(_literal(title), fontsize=11, x=0.01, ha="left")
    return figure


def _draw_panel(ax: Axes, panel: Panel, path: GaussianPath) -> None:
    floor, ceiling = panel.limits
    for height, label in panel.tolerances.items():
        ax.axhline(height, color="#444444", lw=0.9, ls="--", zorder=1)
        style: dict[str, Any] = {"fontsize": 8, "color": "#444444", "textcoords": "offset points"}
        ax.annotate(label, (0.005, height), (0, 2), ("axes fraction", "data"), **style)
    for one in panel.curves:
        curve, chosen = one.curve, one.selection
        colour = _COLOURS.get(curve.criterion, "#6c757d")
        level, value, error = map(np.asarray, (curve.log_snr, curve.value, curve.std_error))
        label = _literal(f"{one.name}: {_star_text(chosen, path)}")
        ax.plot(level, value.clip(floor), color=colour, lw=1.8, marker="o", ms=3, label=label)
        if panel.unit == "nats":
            low, high = ((value + sign * MARGIN * error).clip(floor) for sign in (-1, 1))
            ax.fill_between(level, low, high, color=colour, alpha=0.18)
        if chosen is not None:
            ax.axvline(chosen.log_snr_star, color=colour, lw=1, ls=":")
            if chosen.interval is not None:
                ax.axvspan(*chosen.interval, color=colour, alpha=0.08, lw=0)
    ax.set_yscale("log")
    ax.set_ylim(floor * 0.8, ceiling * (1 if panel.unit == "nats" else 2))
    ax.set_ylabel(panel.title)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 0.02))


def _literal(text: str) -> str:
    """Text as matplotlib shows it: a dollar is no formula, and nothing steers."""
    return visible(text).replace("$", r"\$")


def _star_text(selection: Selection | None, path: GaussianPath) -> str:
    if selection is None:
        return "no t*"
    # The noise side of the interval, which comes first, is the later timestep.
    levels = (selection.log_snr_star, *reversed(selection.interval or ()))
    star, *ends = (_timestep(path, level) for level in levels)
    return f"t* = {star} ({' to '.join(ends)})" if ends else f"t* = {star}"


def _timestep(path: GaussianPath, log_snr: float) -> str:
    try:
        return f"{path.first_time(log_snr) * (path.n_steps or N_STEPS):.0f}"
    except TruncationError:
        return "never"
