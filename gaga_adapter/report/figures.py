"""The figures of the page: Gaussianity curves, histograms at t*, t* by size, and meters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import torch

from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.noise.paths import named_path
from gaga_adapter.report.facts import Histogram
from gaga_adapter.report.page_plot import Axis, Plot, number
from gaga_adapter.selection import MARGIN, Selection, threshold

_FLOORS = {"nats": 1e-2, "p-value": 1e-4}
_TITLES = {"nats": "divergence, nats per item", "p-value": "p-value"}


@dataclass(frozen=True)
class Judged:
    """A curve and what was chosen on it.

    Attributes:
        name: label.
        curve: of the criterion.
        selection: t* on it, if there is one.
    """

    name: str
    curve: CriterionCurve
    selection: Selection | None


def curve_plot(
    judged: Sequence[Judged], unit: str, schedule: str, width: int, styles: Mapping[str, int]
) -> str:
    """Curves of one unit over the log-SNR, from data (left) to noise (right).

    Args:
        judged: all of this unit.
        unit: nats or p-value.
        schedule: named schedule whose timesteps are counted above.
        width: pixels; phones get a narrow picture of their own, with letters of the same size.
        styles: number of the colour by label.
    """
    height = 340 if unit == "nats" else 230
    levels = [level for one in judged for level in one.curve.log_snr]
    names = ", ".join(one.name for one in judged)
    plot = Plot(width, height, f"{_TITLES[unit]} over log-SNR, from data to noise: {names}")
    margin = 0.03 * (max(levels) - min(levels)) + 0.05
    x = Axis(max(levels) + margin, min(levels) - margin, 62, width - 10)
    limits = _limits(judged, unit)
    y = Axis(limits[0], limits[1], height - 48, 40, is_log=True)
    top, bottom = 40.0, height - 48.0
    first = next((one for one in judged if one.selection is not None), None)
    if first is not None and first.selection is not None:
        star = x(first.selection.log_snr_star)
        plot.box(star, top, x.end - star, bottom - top, "gauss")
    plot.left_axis(y, y.ticks(6), x.start, x.end, _TITLES[unit])
    plot.bottom_axis(x, x.ticks(8 if width > 500 else 5), bottom, "log-SNR: data left, noise right")
    _timesteps(plot, x, top, schedule, 8 if width > 500 else 4)
    for one in judged:
        css = f"c{styles[one.name]}"
        if one.selection is not None:
            if one.selection.interval is not None:
                noise, data = map(x, one.selection.interval)
                plot.box(data, top, noise - data, bottom - top, f"interval {css}")
            star = x(one.selection.log_snr_star)
            plot.line([(star, top), (star, bottom)], f"star {css}")
    _tolerances(plot, judged, x, y)
    for one in judged:
        _one_curve(plot, one, x, y, styles[one.name])
    if first is not None and first.selection is not None:
        star = x(first.selection.log_snr_star)
        near_end = star > x.end - 30
        plot.text(
            star + (-5 if near_end else 5),
            top + 15,
            "t*",
            "mark-text",
            "end" if near_end else "start",
        )
    return plot.svg()


def legend(judged: Sequence[Judged], styles: Mapping[str, int]) -> str:
    """What line is what, with the t* of each."""
    entries = []
    for one in judged:
        k = styles[one.name]
        star = "no t*"
        if one.selection is not None:
            star = f"log-SNR* {one.selection.log_snr_star:.2f}".replace(" -", " −")
        entries.append(
            f'<li><svg class="c{k}" viewBox="0 0 26 12" aria-hidden="true">'
            f'<line class="curve d{k}" x1="0" y1="6" x2="26" y2="6"/></svg>'
            f"{escape(one.name)} "
            f'<span class="note">{star}, {one.curve.n_samples:,} items</span></li>'
        )
    return f'<ul class="legend">{"".join(entries)}</ul>'


def histogram_plot(histogram: Histogram) -> str:
    """One channel: data filled, the fitted start as a line, N(0, I) dashed."""
    parts = ["fitted start", "N(0, I)" if histogram.unfitted else "", "data"]
    shown = ", ".join(p for p in (parts if histogram.data else parts[:2]) if p)
    plot = Plot(300, 190, f"density of {histogram.name} at t* in {histogram.unit}: {shown}")
    edges = histogram.edges
    heights = [h for h in (histogram.reference, histogram.data, histogram.unfitted) if h]
    x = Axis(edges[0], edges[-1], 54, 294)
    y = Axis(0.0, 1.06 * max(map(max, heights)), 142, 10)
    plot.left_axis(y, y.ticks(3), x.start, x.end, "density")
    ticks = [t for t in x.ticks(6) if x.start + 4 <= x(t) <= x.end - 4]
    plot.bottom_axis(x, ticks, 142, histogram.unit)
    if histogram.data is not None:
        steps = _steps(x, y, edges, histogram.data)
        plot.area([(x.start, y.start), *steps, (x.end, y.start)], "data")
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    if histogram.unfitted is not None:
        bell = zip(middles, histogram.unfitted, strict=True)
        plot.line([(x(m), y(h)) for m, h in bell], "noise")
    plot.line(_steps(x, y, edges, histogram.reference), "reference")
    return plot.svg()


def histogram_legend(has_data: bool) -> str:
    """What the marks of `histogram_plot` are."""
    data = (
        '<li><svg viewBox="0 0 26 12" aria-hidden="true">'
        '<rect class="data" width="26" height="12"/></svg>noised data</li>'
    )
    return (
        f'<ul class="legend">{data if has_data else ""}'
        '<li><svg viewBox="0 0 26 12" aria-hidden="true"><line class="reference" x1="0" y1="6" '
        'x2="26" y2="6"/></svg>fitted start</li>'
        '<li><svg viewBox="0 0 26 12" aria-hidden="true"><line class="noise" x1="0" y1="6" '
        'x2="26" y2="6"/></svg>N(0, I), a start without a fit</li></ul>'
    )


def size_plot(by_size: Mapping[int, float], overall: float, width: int) -> str:
    """t* of molecules of each size, beside the one of all."""
    plot = Plot(width, 240, "log-SNR at t* by number of atoms")
    sizes, stars = list(by_size), list(by_size.values())
    x = Axis(min(sizes) - 0.5, max(sizes) + 0.5, 56, width - 10)
    margin = 0.08 * (max(*stars, overall) - min(*stars, overall)) + 0.02
    y = Axis(min(*stars, overall) - margin, max(*stars, overall) + margin, 192, 10)
    plot.left_axis(y, y.ticks(5), x.start, x.end, "log-SNR*")
    ticks = [t for t in x.ticks(8 if width > 500 else 5) if t == int(t)]
    plot.bottom_axis(x, ticks, 192, "atoms per molecule")
    plot.line([(x.start, y(overall)), (x.end, y(overall))], "tolerance")
    plot.text(x.end - 4, y(overall) - 5, "all sizes", "tick", "end")
    points = [(x(size), y(star)) for size, star in by_size.items()]
    plot.line(points, "curve c0")
    for (left, top), (size, star) in zip(points, by_size.items(), strict=True):
        plot.dot(left, top, 3, "knot c0", f"{size} atoms: log-SNR* {star:.2f}")
    return plot.svg()


def meter(
    value: tuple[float, float | None], data: tuple[float, float | None] | None, high: float
) -> str:
    """A dot with two standard errors on a scale from 0, and the data's own figure as a bar."""
    marks = _rule("grid", 0, 100)
    if data is not None:
        at = _percent(data[0] / high)
        marks += f'<line class="of-data" x1="{at}" y1="1" x2="{at}" y2="17"/>'
    if value[1]:
        ends = [100 * (value[0] + sign * MARGIN * value[1]) / high for sign in (-1, 1)]
        marks += _rule("whisker", max(ends[0], 0), min(ends[1], 100))
    marks += f'<circle class="knot c0" cx="{_percent(value[0] / high)}" cy="9" r="4.5"/>'
    return _meter(marks)


def calls_bar(full: int, kept: int | None) -> str:
    """Network calls of the full trajectory, and of those that are left."""
    marks = '<rect class="bar-full" x="0" y="4" width="100%" height="10" rx="1.5"/>'
    if kept is not None:
        width = _percent(kept / full)
        marks += f'<rect class="bar-kept" x="0" y="4" width="{width}" height="10" rx="1.5"/>'
    return _meter(marks)


def _meter(marks: str) -> str:
    """A picture as wide as its cell; screen readers read the numbers beside it instead."""
    return f'<svg class="meter" aria-hidden="true">{marks}</svg>'


def _rule(css: str, low: float, high: float) -> str:
    return f'<line class="{css}" x1="{low:.1f}%" y1="9" x2="{high:.1f}%" y2="9"/>'


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"


def _limits(judged: Sequence[Judged], unit: str) -> tuple[float, float]:
    floor = _FLOORS[unit]
    if unit == "p-value":
        return floor, 1.0
    tops = [
        value + MARGIN * error
        for one in judged
        for value, error in zip(one.curve.value, one.curve.std_error, strict=True)
        if not math.isnan(value + error)
    ]
    tops += [one.selection.tolerance for one in judged if one.selection is not None]
    return floor, 1.25 * max([*tops, 10 * floor])


def _tolerances(plot: Plot, judged: Sequence[Judged], x: Axis, y: Axis) -> None:
    drawn: set[float] = set()
    for one in judged:
        if one.selection is None:
            continue
        height = threshold(one.curve, one.selection.tolerance)
        if height in drawn:
            continue
        drawn.add(height)
        plot.line([(x.start, y(height)), (x.end, y(height))], "tolerance")
        unit = " nats" if one.curve.unit == "nats" else ""
        plot.text(x.end - 4, y(height) - 6, f"tolerance {number(float(f'{height:.2g}'))}{unit}",
                  "tick", "end")  # fmt: skip


def _one_curve(plot: Plot, one: Judged, x: Axis, y: Axis, style: int) -> None:
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
            below = value < min(y.low, y.high)
            plot.dot(x(level), y(value), 3.2, f"{'open' if below else 'knot'} c{style}", tip)


def _timesteps(plot: Plot, x: Axis, top: float, schedule: str, about: int) -> None:
    """A second axis on top: timesteps of a named schedule of 1000."""
    path = named_path(schedule)
    high, low = x.low, x.high
    stride = next(
        s
        for s in (100, 200, 500, 1000)
        if sum(low <= float(path.log_snr(torch.tensor(k / 1000))) <= high
               for k in range(s, 1000, s)) <= about
    )  # fmt: skip
    plot.line([(x.start, top), (x.end, top)], "grid")
    for step in range(stride, 1000, stride):
        level = float(path.log_snr(torch.tensor(step / 1000)))
        if low <= level <= high and x.start + 8 < x(level) < x.end - 8:
            plot.line([(x(level), top - 4), (x(level), top)], "axis")
            plot.text(x(level), top - 8, str(step), "tick")
    plot.text(x.end, 12, f"timestep of 1000, {schedule}", "axis-title", "end")


def _steps(
    x: Axis, y: Axis, edges: Sequence[float], heights: Sequence[float]
) -> list[tuple[float, float]]:
    points = []
    for low, high, height in zip(edges, edges[1:], heights, strict=False):
        points += [(x(low), y(height)), (x(high), y(height))]
    return points
