"""Criterion curves over log-SNR, from data (left) to noise (right), with t* and its interval.

Curves in nats share one panel, p-values another below it. The second axis on top counts timesteps
of a named schedule. Bands are two standard errors, the margin that the selection keeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.errors import DataError, MissingExtraError, TruncationError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.noise.paths import GaussianPath, named_path
from gaga_adapter.selection import DEFAULT_TOLERANCES, MARGIN, Selection, threshold

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Schedule whose timesteps the second axis counts.
DEFAULT_PATH = "edm/polynomial_2"
FORMATS = (".png", ".svg", ".pdf")
_COLOURS = {
    "two_sample": "#00509d",
    "cumulant": "#edae49",
    "certificate": "#66a182",
    "ks_mi": "#d1495b",
}
_FLOORS = {"nats": 1e-2, "p-value": 1e-4}
_LABELS = {"nats": "divergence, nats per item", "p-value": "p-value"}


def check_picture(file: Path) -> None:
    """Refuse what `save_curves` would refuse, before the work is done.

    Raises:
        DataError: a file of another kind.
        MissingExtraError: matplotlib is not installed.
    """
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
    n_steps: int = 1000,
) -> None:
    """Draw curves into a picture file.

    Args:
        file: ends with .png, .svg or .pdf.
        curves: by label.
        selections: t* of some of them, under the same labels.
        title: what data.
        path_name: named schedule of the second axis.
        n_steps: its number of timesteps.

    Raises:
        DataError: no curves, or another kind of file.
        MissingExtraError: matplotlib is not installed.
        TruncationError: an unknown schedule.
        WriteError: the file cannot be written.
    """
    file = Path(file)
    check_picture(file)
    figure = draw_curves(curves, selections, title, path_name, n_steps)
    with replacing(file) as temporary:
        figure.savefig(temporary, format=file.suffix[1:].lower(), dpi=150)


def draw_curves(
    curves: Mapping[str, CriterionCurve],
    selections: Mapping[str, Selection],
    title: str = "",
    path_name: str = DEFAULT_PATH,
    n_steps: int = 1000,
) -> Figure:
    """The figure of `save_curves`, which says what it takes and raises."""
    from matplotlib.figure import Figure

    if not curves:
        raise DataError("no curve to draw. Pass at least one.")
    path = named_path(path_name, n_steps)
    units = [unit for unit in _FLOORS if any(c.unit == unit for c in curves.values())]
    heights = [3.4 if unit == "nats" else 1.7 for unit in units]
    figure = Figure(figsize=(7.6, sum(heights) + 1.2), layout="constrained")
    panels = figure.subplots(len(units), 1, sharex=True, squeeze=False, height_ratios=heights)
    for panel, unit in zip(panels[:, 0], units, strict=True):
        chosen = {name: c for name, c in curves.items() if c.unit == unit}
        _draw_panel(panel, unit, chosen, selections, path, n_steps)
    levels = [level for curve in curves.values() for level in curve.log_snr]
    margin = 0.02 * (max(levels) - min(levels)) + 1e-3
    bottom, top = panels[-1, 0], panels[0, 0]
    bottom.set_xlim(max(levels) + margin, min(levels) - margin)
    bottom.set_xlabel("log-SNR, from data to noise")
    _add_timesteps(top, path, path_name, n_steps)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _draw_panel(
    panel: Axes,
    unit: str,
    curves: Mapping[str, CriterionCurve],
    selections: Mapping[str, Selection],
    path: GaussianPath,
    n_steps: int,
) -> None:
    floor = _FLOORS[unit]
    for height, text in _tolerances(unit, curves, selections).items():
        panel.axhline(height, color="#444444", lw=0.9, ls="--", zorder=1)
        panel.annotate(
            text,
            (0.005, height),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=8,
            color="#444444",
        )
    for name, curve in curves.items():
        colour = _COLOURS.get(curve.criterion, "#6c757d")
        level, value, error = map(np.asarray, (curve.log_snr, curve.value, curve.std_error))
        label = f"{name}: {_star_text(selections.get(name), path, n_steps)}"
        panel.plot(
            level, np.maximum(value, floor), color=colour, lw=1.8, marker="o", ms=3, label=label
        )
        if unit == "nats":
            low, high = value - MARGIN * error, value + MARGIN * error
            panel.fill_between(
                level, np.maximum(low, floor), np.maximum(high, floor), color=colour, alpha=0.18
            )
        chosen = selections.get(name)
        if chosen is not None:
            panel.axvline(chosen.log_snr_star, color=colour, lw=1, ls=":")
            if chosen.interval is not None:
                panel.axvspan(*chosen.interval, color=colour, alpha=0.08, lw=0)
    panel.set_yscale("log")
    panel.set_ylim(bottom=floor * 0.8)
    if unit == "p-value":
        panel.set_ylim(top=2)
    panel.set_ylabel(_LABELS[unit])
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 0.02))


def _tolerances(
    unit: str, curves: Mapping[str, CriterionCurve], selections: Mapping[str, Selection]
) -> dict[float, str]:
    """Lines to draw: height and label."""
    lines = {}
    for name, curve in curves.items():
        chosen = selections.get(name)
        tolerance = DEFAULT_TOLERANCES[unit] if chosen is None else chosen.tolerance
        label = f"tolerance {tolerance:g} nats"
        if unit == "p-value":
            label = f"tolerance {tolerance:g} over {len(curve.log_snr)} levels"
        lines[threshold(curve, tolerance)] = label
    return lines


def _star_text(selection: Selection | None, path: GaussianPath, n_steps: int) -> str:
    if selection is None:
        return "no t*"
    star = _timestep(path, selection.log_snr_star, n_steps)
    if selection.interval is None:
        return f"t* = {star}"
    # The noise side of the interval is the later timestep.
    late, early = (_timestep(path, level, n_steps) for level in selection.interval)
    return f"t* = {star} ({early} to {late})"


def _timestep(path: GaussianPath, log_snr: float, n_steps: int) -> str:
    try:
        return f"{path.first_time(log_snr) * n_steps:.0f}"
    except TruncationError:
        return "never"


def _add_timesteps(panel: Axes, path: GaussianPath, name: str, n_steps: int) -> None:
    """A second axis on top: timesteps of a schedule."""
    left, right = panel.get_xlim()
    times = torch.linspace(0.001, 0.999, 4000, dtype=torch.float64)
    levels = path.log_snr(times).numpy()
    inside = (levels <= left) & (levels >= right)
    top: Any = panel.secondary_xaxis("top")
    steps = times.numpy() * n_steps
    ticks = [
        tick
        for tick in np.arange(0, n_steps + 1, n_steps / 10)
        if inside.any() and steps[inside].min() <= tick <= steps[inside].max()
    ]
    places = [float(path.log_snr(torch.tensor(tick / n_steps))) for tick in ticks]
    kept = [k for k, place in enumerate(places) if math.isfinite(place)]
    top.set_xticks([places[k] for k in kept], [f"{ticks[k]:.0f}" for k in kept])
    top.set_xlabel(f"timestep of {n_steps} ({name})", fontsize=9)
    top.tick_params(labelsize=8)
