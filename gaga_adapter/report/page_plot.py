"""Plots as text: axes, lines, areas and dots of an inline SVG.

Nothing is coloured here: every mark carries a class, and the page's style sheet knows the colours
of light, dark and print. Numbers are rounded to a tenth of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A map from values to pixels, linear in the value or in its logarithm.

    Attributes:
        low: value at the pixel `start`; it may be the larger one.
        high: value at the pixel `end`.
        start: pixel.
        end: pixel.
        is_log: linear in the logarithm; values are positive then.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

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
            found = [
                float(f"{m}e{k}") for k in range(first - 1, last + 1, stride) for m in mantissas
            ]
            return [value for value in found if 0.999 * low <= value <= 1.001 * high]
        rough = (high - low) / max(about, 1)
        power = math.floor(math.log10(rough))
        step = next(m * 10.0**power for m in (1, 2, 5, 10) if m * 10.0**power >= rough * 0.999)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return [round(k * step, max(0, 1 - power)) for k in range(first, last + 1)]


class Plot:
    """A picture that grows mark by mark, from back to front.

    Args:
        width: of the canvas, pixels.
        height: of the canvas, pixels.
        label: what a screen reader says of it.
        css: class of the `svg` element.
    """

    def __init__(self, width: int, height: int, label: str, css: str = "plot") -> None:
        self.width = width
        self.height = height
        self._label = label
        self._css = css
        self._marks: list[str] = []

    def line(self, points: Iterable[Point], css: str) -> None:
        """A polyline."""
        path = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
        self._marks.append(f'<polyline class="{css}" points="{path}"/>')

    def area(self, points: Iterable[Point], css: str) -> None:
        """A filled polygon."""
        path = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
        self._marks.append(f'<polygon class="{css}" points="{path}"/>')

    def box(self, left: float, top: float, width: float, height: float, css: str) -> None:
        """A rectangle."""
        self._marks.append(
            f'<rect class="{css}" x="{_px(left)}" y="{_px(top)}" '
            f'width="{_px(max(width, 0))}" height="{_px(max(height, 0))}"/>'
        )

    def dot(self, x: float, y: float, radius: float, css: str, tip: str = "") -> None:
        """A disc, with a text that shows under the pointer."""
        told = f"<title>{escape(tip)}</title>" if tip else ""
        self._marks.append(
            f'<circle class="{css}" cx="{_px(x)}" cy="{_px(y)}" r="{_px(radius)}">{told}</circle>'
        )

    def text(self, x: float, y: float, text: str, css: str, anchor: str = "middle") -> None:
        """Letters; `anchor` is start, middle or end."""
        self._marks.append(
            f'<text class="{css}" x="{_px(x)}" y="{_px(y)}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def upright(self, x: float, y: float, text: str, css: str) -> None:
        """Letters that read from bottom to top, around their middle."""
        self._marks.append(
            f'<text class="{css}" transform="translate({_px(x)} {_px(y)}) rotate(-90)" '
            f'text-anchor="middle">{escape(text)}</text>'
        )

    def bottom_axis(self, axis: Axis, ticks: Sequence[float], at: float, title: str) -> None:
        """Tick labels and the title below the panel, whose lower edge is the pixel `at`."""
        self.line([(axis.start, at), (axis.end, at)], "axis")
        for tick in ticks:
            self.line([(axis(tick), at), (axis(tick), at + 4)], "axis")
            self.text(axis(tick), at + 17, number(tick), "tick")
        self.text((axis.start + axis.end) / 2, at + 36, title, "axis-title")

    def left_axis(
        self, axis: Axis, ticks: Sequence[float], left: float, right: float, title: str
    ) -> None:
        """Grid lines from `left` to `right`, their labels, and the title."""
        for tick in ticks:
            self.line([(left, axis(tick)), (right, axis(tick))], "grid")
            self.text(left - 7, axis(tick) + 4, number(tick), "tick", "end")
        self.upright(11, (axis.start + axis.end) / 2, title, "axis-title")

    def svg(self) -> str:
        """The `svg` element."""
        return (
            f'<svg class="{self._css}" role="img" aria-label="{escape(self._label)}" '
            f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}">{"".join(self._marks)}</svg>'
        )


def number(value: float) -> str:
    """A number as people write it: a true minus sign, no exponent for common sizes."""
    text = f"{value:g}" if value == 0 or 1e-4 <= abs(value) < 1e5 else f"{value:.2g}"
    return text.replace("-", "−")


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0").replace("-0", "0", value == 0)
