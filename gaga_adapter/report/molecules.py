"""Molecules as inline pictures: the ball-and-stick models of `molecules.draw`, as SVG.

Balls are discs with one gradient per element; depth is a haze of the card's own colour, so the
pictures work on light, dark and paper. One scale holds for all, so sizes can be compared.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.molecules.draw import ELEMENT_COLOURS, OTHER_COLOUR, BallAndStick, ball_and_stick

if TYPE_CHECKING:
    from gaga_adapter.molecules.data import MoleculeSet

_Array = NDArray[np.float64]

SIZE = (190, 150)  # pixels of one picture
_PAD = 4.0
_LARGEST = 26.0  # pixels per angstrom
_STICK = 0.22  # angstrom: width of a single bond


@dataclass(frozen=True)
class Picture:
    """One molecule."""

    formula: list[tuple[str, int]]  # elements with their counts, in the order of Hill (1900)
    verdict: str  # whether its bonds have allowed valences
    marks: Markup  # content of an svg element of SIZE; it refers to the gradients of the page


def pictures(molecules: MoleculeSet, most: int = 16) -> list[Picture]:
    """Pictures of the first molecules, all on one scale."""
    models = ball_and_stick(molecules.subset(slice(most)))
    fits = np.array([min(_fit(model), _LARGEST) for model in models])
    scale = float(fits[fits > np.median(fits) / 2].min())  # a molecule in pieces shrinks alone
    shown = []
    for index, model in enumerate(models):
        _, numbers = molecules.molecule(index)
        formula = _hill_formula([SYMBOLS[z] for z in numbers.tolist()])
        broken = int(model.broken.sum())
        verdict = "stable" if not broken else f"{broken} of {len(numbers)} atoms not stable"
        shown.append(Picture(formula, verdict, _marks(model, numbers, min(scale, _fit(model)))))
    return shown


def gradients(molecules: MoleculeSet) -> list[tuple[int, list[tuple[int, str]]]]:
    """Atomic number, and per cent and colour of the stops, of the gradients of the balls."""
    elements = np.unique(molecules.atomic_numbers[molecules.atomic_numbers > 0]).tolist()
    colours = {z: np.array(ELEMENT_COLOURS.get(z, OTHER_COLOUR)) for z in elements}
    return [
        (z, [(0, _hex(0.35 * c + 0.65)), (45, _hex(c)), (100, _hex(0.68 * c))])
        for z, c in colours.items()
    ]


def _hill_formula(symbols: list[str]) -> list[tuple[str, int]]:
    """Elements with their counts: carbon, hydrogen, then the others by name (Hill 1900)."""
    counts = Counter(symbols)
    first = ("C", "H") if "C" in counts else ()
    return sorted(counts.items(), key=lambda item: (item[0] not in first, item[0]))


def _fit(model: BallAndStick) -> float:
    """Pixels per angstrom at which a model fills its picture."""
    reach = model.radii[:, None]
    size = (model.xyz + reach).max(axis=0) - (model.xyz - reach).min(axis=0)
    return float(((np.array(SIZE) - 2 * _PAD) / size[:2]).min())


def _marks(model: BallAndStick, numbers: NDArray[np.uint8], scale: float) -> Markup:
    reach = model.radii[:, None]
    box = (model.xyz + reach).max(axis=0) + (model.xyz - reach).min(axis=0)
    place = (model.xyz - box / 2) * (scale, -scale, scale) + (SIZE[0] / 2, SIZE[1] / 2, 0)
    haze = np.interp(model.xyz[:, 2], [-3.0, 1.5], [0.5, 0.0])
    jobs: list[tuple[float, str]] = []
    for i, (x, y, z) in enumerate(place):
        ball = _ball(x, y, model.radii[i] * scale, int(numbers[i]), haze[i], bool(model.broken[i]))
        jobs.append((z, ball))
    for i, j, order in model.bonds:  # each bond twice: one half from either end
        middle = (place[i] + place[j]) / 2
        stick = _stick(place[i], middle, model, i, order, scale, haze[i])
        jobs.append(((place[i] + middle)[2] / 2, stick))
    return Markup("".join(job for _, job in sorted(jobs, key=itemgetter(0))))


def _ball(x: float, y: float, radius: float, number: int, haze: float, broken: bool) -> str:
    at = f'cx="{x:.1f}" cy="{y:.1f}"'
    disc = f'<circle {at} r="{radius:.1f}" fill="url(#z{number})"/>'
    if haze >= 0.05:
        disc += f'<circle class="haze" {at} r="{radius + 0.3:.1f}" opacity="{haze:.2f}"/>'
    if broken:
        disc += f'<circle class="ring" {at} r="{radius + 2.5:.1f}"/>'
    return disc


def _stick(
    start: _Array, end: _Array, model: BallAndStick, i: int, order: int, scale: float, haze: float
) -> str:
    across = np.array([start[1] - end[1], end[0] - start[0]])
    across /= max(float(np.linalg.norm(across)), 1e-9)
    width = _STICK * scale * (1.0, 0.62, 0.5)[order - 1]
    lines = ""
    for lane in np.arange(order) - (order - 1) / 2:
        (x1, y1), (x2, y2) = (point[:2] + across * lane * 1.75 * width for point in (start, end))
        at = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        colour = _hex(0.85 * model.colours[i])
        lines += f'<line {at} stroke="{colour}" stroke-width="{width:.1f}"/>'
        if haze >= 0.05:
            lines += (
                f'<line class="haze-line" {at} stroke-width="{width + 0.4:.1f}" '
                f'opacity="{haze:.2f}"/>'
            )
    return lines


def _hex(colour: _Array) -> str:
    return "#" + "".join(f"{round(255 * min(max(c, 0.0), 1.0)):02x}" for c in colour.tolist())
