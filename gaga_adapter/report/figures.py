"""The figures of the page: curves of criteria, histograms at t*, and t* by size.

Wide screens and paper get one picture, phones a narrow one with letters of the same size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from gaga_adapter.noise.paths import named_path
from gaga_adapter.report.curves import N_STEPS, LabelledCurve, Panel, timestep_ticks
from gaga_adapter.report.histograms import Histogram
from gaga_adapter.report.plot import Axis, Plot
from gaga_adapter.selection import MARGIN

WIDE, NARROW = 880, 340  # pixels


def curve_plot(panel: Panel, schedule: str, width: int, styles: Mapping[str, int]) -> Markup:
    """The picture of a panel; a second axis counts timesteps, `styles` numbers the colours."""
    bottom, top, height = (292.0, 40.0, 340) if panel.unit == "nats" else (182.0, 40.0, 230)
    names = ", ".join(one.name for one in panel.curves)
    plot = Plot(width, height, f"{panel.title} over log-SNR, from data to noise: {names}")
    x = Axis(*panel.levels, 62, width - 10)
    y = Axis(*panel.limits, bottom, top, is_log=True)
    first = next((one.selection for one in panel.curves if one.selection is not None), None)
    if first is not None:
        star = x(first.log_snr_star)
        plot.box(star, top, x.end - star, bottom - top, "gauss")
    is_wide = width > 500
    plot.left_axis(x, y, y.ticks(6), panel.title)
    plot.bottom_axis(x, y, x.ticks(8 if is_wide else 5), "log-SNR: data left, noise right")
    plot.line([(x.start, top), (x.end, top)], "grid")
    for level, label in timestep_ticks(named_path(schedule), panel.levels, 8 if is_wide else 4):
        if x.start + 8 < x(level) < x.end - 8:
            plot.line([(x(level), top - 4), (x(level), top)], "axis")
            plot.text(x(level), top - 8, label, "tick")
    plot.text(x.end, 12, f"timestep of {N_STEPS}, {schedule}", "axis-title", "end")
    for one in panel.curves:
        css, chosen = f"c{styles[one.name]}", one.selection
        if chosen is not None:
            if chosen.interval is not None:
                noise, data = map(x, chosen.interval)
                plot.box(data, top, noise - data, bottom - top, f"interval {css}")
            at = x(chosen.log_snr_star)
            plot.line([(at, top), (at, bottom)], f"star {css}")
    for value, label in panel.tolerances.items():
        plot.line([(x.start, y(value)), (x.end, y(value))], "tolerance")
        plot.text(x.end - 4, y(value) - 6, label, "tick", "end")
    for one in panel.curves:
        _draw_curve(plot, one, x, y, styles[one.name])
    if first is not None:
        shift, anchor = (-5, "end") if star > x.end - 30 else (5, "start")
        plot.text(star + shift, top + 15, "t*", "mark-text", anchor)
    return plot.svg()


def _draw_curve(plot: Plot, one: LabelledCurve, x: Axis, y: Axis, style: int) -> None:
    curve = one.curve
    runs: list[list[tuple[float, float, float]]] = [[]]
    for level, value, error in zip(curve.log_snr, curve.value, curve.std_error, strict=True):
        if math.isnan(value):  # not computable: the line is broken there
            runs.append([])
        else:
            runs[-1].append((level, value, 0.0 if math.isnan(error) else error))
    for run in filter(None, runs):
        if curve.unit == "nats":
            upper = [(x(level), y(v + MARGIN * e)) for level, v, e in run]
            lower = [(x(level), y(v - MARGIN * e)) for level, v, e in reversed(run)]
            plot.area([*upper, *lower], f"band c{style}")
        plot.line([(x(level), y(v)) for level, v, _ in run], f"curve c{style} d{style}")
        for level, value, error in run:
            tip = f"{one.name}, log-SNR {level:g}: {value:.3g}"
            tip += f" ± {error:.2g} nats" if curve.unit == "nats" else ""
            mark = "open" if value < y.low else "knot"
            plot.dot(x(level), y(value), 3.2, f"{mark} c{style}", tip)


def histogram_plot(histogram: Histogram) -> Markup:
    """One channel: data filled, the fitted start as a line, N(0, I) dashed."""
    parts = ["fitted start"]
    parts += ["N(0, I)"] if histogram.unfitted else []
    parts += ["data"] if histogram.data else []
    label = f"density of {histogram.name} at t* in {histogram.unit}: {', '.join(parts)}"
    plot = Plot(300, 190, label)
    edges = histogram.edges
    heights = [h for h in (histogram.reference, histogram.data, histogram.unfitted) if h]
    x = Axis(edges[0], edges[-1], 54, 294)
    y = Axis(0.0, 1.06 * max(map(max, heights)), 142, 10)
    plot.left_axis(x, y, y.ticks(3), "density")
    ticks = [t for t in x.ticks(6) if x.start + 4 <= x(t) <= x.end - 4]
    plot.bottom_axis(x, y, ticks, histogram.unit)
    if histogram.data is not None:
        steps = _steps(x, y, edges, histogram.data)
        plot.area([(x.start, y.start), *steps, (x.end, y.start)], "data")
    if histogram.unfitted is not None:
        middles = [(low + high) / 2 for low, high in pairwise(edges)]
        bell = zip(middles, histogram.unfitted, strict=True)
        plot.line([(x(m), y(h)) for m, h in bell], "noise")
    plot.line(_steps(x, y, edges, histogram.reference), "reference")
    return plot.svg()


def _steps(
    x: Axis, y: Axis, edges: Sequence[float], heights: Sequence[float]
) -> list[tuple[float, float]]:
    bins = zip(pairwise(edges), heights, strict=True)
    return [(x(edge), y(height)) for ends, height in bins for edge in ends]


def size_plot(by_size: Mapping[int, float], overall: float, width: int) -> Markup:
    """t* of molecules of each size, beside the one of all."""
    plot = Plot(width, 240, "log-SNR at t* by number of atoms")
    sizes, stars = list(by_size), [*by_size.values(), overall]
    x = Axis(min(sizes) - 0.5, max(sizes) + 0.5, 56, width - 10)
    margin = 0.08 * (max(stars) - min(stars)) + 0.02
    y = Axis(min(stars) - margin, max(stars) + margin, 192, 10)
    plot.left_axis(x, y, y.ticks(5), "log-SNR*")
    ticks = [t for t in x.ticks(8 if width > 500 else 5) if t == int(t)]
    plot.bottom_axis(x, y, ticks, "atoms per molecule")
    plot.line([(x.start, y(overall)), (x.end, y(overall))], "tolerance")
    plot.text(x.end - 4, y(overall) - 5, "all sizes", "tick", "end")
    plot.line([(x(size), y(star)) for size, star in by_size.items()], "curve c0")
    for size, star in by_size.items():
        plot.dot(x(size), y(star), 3, "knot c0", f"{size} atoms: log-SNR* {star:.2f}")
    return plot.svg()


def meter(row: Mapping[str, Any]) -> dict[str, Any]:
    """Places of a metric on a scale from 0: its value, two standard errors, and the data's own."""
    pairs = [pair for pair in (row["samples"], row["data"]) if pair is not None]
    ends = [value + MARGIN * (error or 0) for value, error in pairs]
    high = 100.0 if row["unit"] == "%" else 1.15 * max(1e-9, *ends)

    def place(value: float) -> str:
        return f"{100 * min(max(value / high, 0.0), 1.0):.1f}%"

    value, error = row["samples"]
    return {
        "value": place(value),
        "whisker": [place(value + sign * MARGIN * error) for sign in (-1, 1)] if error else None,
        "data": None if row["data"] is None else place(row["data"][0]),
    }
