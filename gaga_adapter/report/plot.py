"""Plots as text: axes, lines, areas and dots of an inline SVG.

Nothing is coloured here: every mark carries a class, and the page's style sheet knows the colours
of light, dark and print. Numbers are rounded to a tenth of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from gaga_adapter.report.templates import number

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A map from values to pixels, linear in the value or in its logarithm."""

    low: float  # value at the pixel `start`; it may be the larger one
    high: float  # value at the pixel `end`
    start: float
    end: float
    is_log: bool = False  # values are positive then

    def __call__(self, value: float) -> float:
        """Pixel of a value; values beyond the ends stay at the ends."""
        low, high = self.low, self.high
        if self.is_log:
            low, high = math.log(low), math.log(high)
            value = math.log(max(value, min(self.low, self.high)))
        share = (value - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Round values within the ends, about so many."""
        low, high = sorted((self.low, self.high))
        if self.is_log:
            first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
            stride = max(1, math.ceil((last - first + 1) / about))
            mantissas = (1, 2, 5) if last - first < 4 else (1,)
            decades = range(first - 1, last + 1, stride)
            values = [float(f"{m}e{k}") for k in decades for m in mantissas]
            return [value for value in values if 0.999 * low <= value <= 1.001 * high]
        rough = (high - low) / max(about, 1)
        power = math.floor(math.log10(rough))
        step = next(m * 10.0**power for m in (1, 2, 5, 10) if m * 10.0**power >= rough * 0.999)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return [round(k * step, max(0, 1 - power)) for k in range(first, last + 1)]


class Plot:
    """A picture that grows mark by mark, from back to front.

    Args:
        width: Width of the canvas in pixels.
        height: Height of the canvas in pixels.
        label: Sentence for screen readers.
    """

    def __init__(self, width: int, height: int, label: str) -> None:
        self._size = (width, height)
        self._label = label
        self._marks: list[Markup] = []

    def add(self, tag: str, css: str, content: str = "", **attributes: float | str) -> None:
        """An element; numbers are pixels, and content that is not `Markup` is escaped."""
        written = "".join(
            f' {name.replace("_", "-")}="{escape(value if isinstance(value, str) else _px(value))}"'
            for name, value in attributes.items()
        )
        self._marks.append(Markup(f'<{tag} class="{css}"{written}>{escape(content)}</{tag}>'))

    def line(self, points: Iterable[Point], css: str) -> None:
        """A polyline."""
        self.add("polyline", css, points=_path(points))

    def area(self, points: Iterable[Point], css: str) -> None:
        """A filled polygon."""
        self.add("polygon", css, points=_path(points))

    def box(self, left: float, top: float, width: float, height: float, css: str) -> None:
        """A rectangle."""
        self.add("rect", css, x=left, y=top, width=max(width, 0), height=max(height, 0))

    def dot(self, x: float, y: float, radius: float, css: str, tip: str) -> None:
        """A disc, with a text that shows under the pointer."""
        title = Markup("<title>{}</title>").format(tip)
        self.add("circle", css, title, cx=x, cy=y, r=radius)

    def text(self, x: float, y: float, text: str, css: str, anchor: str = "middle") -> None:
        """Letters; `anchor` is start, middle or end."""
        self.add("text", css, text, x=x, y=y, text_anchor=anchor)

    def left_axis(self, x: Axis, y: Axis, ticks: Sequence[float], title: str) -> None:
        """Grid lines at the ticks of y, their labels, and the title."""
        for tick in ticks:
            self.line([(x.start, y(tick)), (x.end, y(tick))], "grid")
            self.text(x.start - 7, y(tick) + 4, number(tick), "tick", "end")
        place = f"translate(11 {_px((y.start + y.end) / 2)}) rotate(-90)"
        self.add("text", "axis-title", title, transform=place, text_anchor="middle")

    def bottom_axis(self, x: Axis, y: Axis, ticks: Sequence[float], title: str) -> None:
        """Line below the panel with the ticks of x, their labels, and the title."""
        self.line([(x.start, y.start), (x.end, y.start)], "axis")
        for tick in ticks:
            self.line([(x(tick), y.start), (x(tick), y.start + 4)], "axis")
            self.text(x(tick), y.start + 17, number(tick), "tick")
        self.text((x.start + x.end) / 2, y.start + 36, title, "axis-title")

    def svg(self) -> Markup:
        """The `svg` element."""
        width, height = self._size
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        label = f'role="img" aria-label="{escape(self._label)}"'
        return Markup(f'<svg class="plot" {label} {size}>{"".join(self._marks)}</svg>')


def _path(points: Iterable[Point]) -> str:
    return " ".join(f"{_px(x)},{_px(y)}" for x, y in points)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0").replace("-0", "0", value == 0)
