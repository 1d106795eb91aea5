"""How the pictures of the gallery are drawn: white ground, letters that are legible at 800 pixels.

The two colours that carry a meaning, blue for "alike" and orange for "told apart", differ for all
kinds of colour vision, and every one of them has its number beside it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from gallery_data import Cloud
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gaga_adapter.elements import atomic_numbers
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.draw import (
    BallAndStick,
    ball_and_stick,
    ball_colours,
    ball_radii,
    picture,
    viewing_rotation,
)
from gaga_adapter.selection import DEFAULT_TOLERANCE

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_Array = NDArray[np.float64]
_Sides = tuple[list[list[NDArray[np.uint8]]], list[list[NDArray[np.uint8]]]]

WIDTH, DPI, SMALL = 8.0, 170, 128  # inches, and dots in one; fewer for many shaded balls
ALIKE, APART, INK, FAINT = "#00509d", "#c8601b", "#212630", "#6b7280"
BAND = "#e8f0f9"  # behind columns where the two sides are alike
STYLE = {"font.size": 11.5, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT}
COLOURS = 88  # of a written picture
CELL = 200  # pixels that a molecule in a strip is wide
GAP = 0.03  # share of a column or row that is left free on either side


@dataclass(frozen=True)
class Nats:
    """A lower bound of a divergence, in nats per item."""

    value: float
    or_more: bool  # whether it is only known to be that much or more

    @property
    def text(self) -> str:
        """Such as `> 7.9`."""
        digits = 1 if self.value >= 1 or self.or_more else 2
        return f"{'> ' if self.or_more else ''}{self.value:.{digits}f}"


@dataclass(frozen=True)
class Strip:
    """Noised data above draws of the Gaussian, a column for each level.

    Attributes:
        levels: What is written above the columns.
        rows: Pictures of the data and of the draws: rows of one for each level.
        nats: What a classifier finds between the two at each level.
        item: What the nats are counted per.
        elements: Elements of the legend; none for other data.
        start: Name of what is drawn below the data.
    """

    levels: list[str]
    rows: _Sides
    nats: list[Nats]
    item: str
    elements: Sequence[str] = field(default=())
    start: str = "fitted Gaussian"

    def holds_from(self, column: int) -> bool:
        """Whether the two sides are alike from a column on, within the default tolerance."""
        return all(one.value <= DEFAULT_TOLERANCE for one in self.nats[column:])


# ---------------------------------------------------------------------------- what is in a column


def molecule_rows(cloud: Cloud, elements: Sequence[str], scale: float = 1.0) -> _Sides:
    """Balls for the atoms, coloured by the type that they show most, and sticks at the first level.

    Both sides are turned so that the first level shows most, and bonds follow EDM's rule on both.

    Args:
        cloud: The molecules.
        elements: Elements in the order of their channels.
        scale: Angstrom in a unit of the positions.
    """
    assert cloud.mask is not None
    known, sizes = np.array(atomic_numbers(elements), np.uint8), cloud.mask.sum(1).tolist()
    sides = []
    for side in zip(*cloud.at_levels(), strict=True):
        rows = []
        for index, n in enumerate(sizes):
            atoms = [x[index, :n].double().numpy() for x in side]
            turn = viewing_rotation(atoms[0][:, :3])
            models = [_model(scale * x[:, :3] @ turn.T, known[x[:, 3:].argmax(1)]) for x in atoms]
            rows.append([_with_bonds(models[0]), *(model for model, _ in models[1:])])
        sides.append(rows)
    size = (CELL, int(0.74 * CELL))
    fits = [_zoom(model, size) for side in sides for row in side for model in row]
    zoom = float(np.quantile(fits, 0.25))  # one scale; what does not fit shrinks alone
    data, drawn = (
        [[picture(model, size, min(zoom, _zoom(model, size))) for model in row] for row in side]
        for side in sides
    )
    return data, drawn


def _model(xyz: _Array, numbers: NDArray[np.uint8]) -> tuple[BallAndStick, NDArray[np.uint8]]:
    """Atoms as they lie, without bonds, and their atomic numbers."""
    none = np.zeros(len(xyz), np.bool_)
    return BallAndStick(xyz, ball_radii(numbers), ball_colours(numbers), [], none), numbers


def _with_bonds(made: tuple[BallAndStick, NDArray[np.uint8]]) -> BallAndStick:
    """The same atoms, bound by EDM's rule."""
    model, numbers = made
    (bound,) = ball_and_stick(MoleculeSet.from_list([(model.xyz, numbers)]))
    return replace(model, bonds=bound.bonds)


def image_rows(cloud: Cloud, gray: Callable[[Tensor], Tensor], rows: int) -> _Sides:
    """Gray pictures of images, or of mosaics of them; every level has its own range of gray.

    Args:
        cloud: The images.
        gray: Function that makes pictures (rows, H, W) of images (B, ...).
        rows: Number of rows.
    """
    sides: _Sides = ([[] for _ in range(rows)], [[] for _ in range(rows)])
    for pair in cloud.at_levels():
        low, high = np.quantile(torch.cat(pair).double().numpy(), [0.005, 0.995])
        for side, x in zip(sides, pair, strict=True):
            for row, image in zip(side, gray(x).double().numpy(), strict=True):
                row.append((255 * ((image - low) / (high - low)).clip(0, 1)).astype(np.uint8))
    return sides


def mosaic(images: Tensor, columns: int, gap: int = 1) -> Tensor:
    """One picture (1, H, W) of images (B, h, w), apart by white lines."""
    white = float(images.max()) + 9.0
    padded = torch.nn.functional.pad(images, (0, gap, 0, gap), value=white)
    lines = [torch.cat(list(line), 1) for line in padded.split(columns)]
    return torch.cat(lines, 0)[None, :-gap, :-gap]


def scatter_rows(cloud: Cloud) -> _Sides:
    """The two coordinates of vectors that are least Gaussian, as clouds of points."""
    kurtosis = ((cloud.data - cloud.data.mean(0)) / cloud.data.std(0)).pow(4).mean(0) - 3
    one, other = kurtosis.abs().argsort(descending=True)[:2].tolist()
    sides: _Sides = ([[]], [[]])
    for pair in cloud.at_levels():
        for side, x, colour in zip(sides, pair, (INK, ALIKE), strict=True):
            figure = Figure(figsize=(1, 1), dpi=2 * CELL)
            axes = figure.add_axes((0.03, 0.03, 0.94, 0.94))
            axes.scatter(x[:, one], x[:, other], s=0.5, color=colour, alpha=0.35, lw=0)
            axes.set(xlim=(-4, 4), ylim=(-4, 4), xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color="#d5d9df", linewidth=0.5)
            side[0].append(_pixels(figure))
    return sides


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    figure.savefig(written := io.BytesIO(), format="png")
    with Image.open(written) as image:
        return np.asarray(image.convert("RGB"))


# ---------------------------------------------------------------------------- a strip


def save_strip(strip: Strip, file: Path) -> None:
    """Write a strip: the data, the draws, and the nats as bars below."""
    n, cell, left = len(strip.levels), (WIDTH - 0.1) / len(strip.levels), 0.05
    head, top, bars = 0.32, 0.3, 1.0
    foot = 0.34 if strip.elements else 0.08
    high, wide = strip.rows[0][0][0].shape[:2]
    tall = cell * high / wide  # inches of a row
    below = top + sum(head + len(side) * tall for side in strip.rows)
    height = below + head + bars + foot
    with plt.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI)
        first = next((k for k in range(n) if strip.holds_from(k)), n)
        if first < n:  # a band behind all columns where the two are alike
            band = figure.add_axes(
                (
                    (left + first * cell) / WIDTH,
                    foot / height,
                    (n - first) * cell / WIDTH,
                    1 - foot / height,
                )
            )
            band.set_axis_off()
            band.add_patch(Rectangle((0, 0), 1, 1, color=BAND, lw=0))
        for k, level in enumerate(strip.levels):
            figure.text(
                (left + (k + 0.5) * cell) / WIDTH,
                1 - 0.16 / height,
                level,
                ha="center",
                va="center",
                color=FAINT,
            )
        down = top
        for side, label in zip(strip.rows, ("noised data", strip.start), strict=True):
            figure.text(left / WIDTH, 1 - (down + 0.15) / height, label, va="center", weight="bold")
            down += head
            for row in side:
                for k, image in enumerate(row):
                    box = (left + (k + GAP) * cell, height - down - (1 - GAP) * tall)
                    extent = ((1 - 2 * GAP) * cell / WIDTH, (1 - 2 * GAP) * tall / height)
                    axes = figure.add_axes((box[0] / WIDTH, box[1] / height, *extent))
                    _show(axes, image, BAND if k >= first else "white")
                down += tall
        figure.text(
            left / WIDTH,
            1 - (below + 0.15) / height,
            f"told apart by a classifier, nats per {strip.item}",
            va="center",
            weight="bold",
        )
        axes = figure.add_axes((left / WIDTH, foot / height, n * cell / WIDTH, bars / height))
        _bars(axes, strip.nats)
        if strip.elements:
            _legend(figure, strip.elements, height)
        save(figure, file)


def _show(axes: Axes, image: NDArray[np.uint8], ground: str) -> None:
    """A picture whose white takes the colour of what is behind it."""
    axes.set_axis_off()
    if image.ndim == 3:  # white ground: multiply, as ink on coloured paper
        tint = np.array(mpl.colors.to_rgb(ground))
        image = (image * tint).astype(np.uint8)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="antialiased", aspect="equal")


def _bars(axes: Axes, nats: Sequence[Nats]) -> None:
    """Bars on a scale of logarithms, each with its number, and the tolerance as a line."""
    low, high = math.log10(0.01), math.log10(45)
    for k, one in enumerate(nats):
        height = max(math.log10(max(one.value, 1e-9)), low + 0.04) - low
        colour = ALIKE if one.value <= DEFAULT_TOLERANCE else APART
        axes.bar(k, height, width=0.56, color=colour, lw=0)
        axes.text(k, high - low, one.text, ha="center", va="top", color=colour, weight="bold")
    line = math.log10(DEFAULT_TOLERANCE) - low
    axes.axhline(line, color=INK, lw=0.9, ls=(0, (4, 3)))
    axes.set(xlim=(-0.5, len(nats) - 0.5), ylim=(0, high - low))
    label = f"tolerance {DEFAULT_TOLERANCE:g}"
    axes.text(len(nats) - 0.52, line + 0.1, label, ha="right", fontsize=10, color=INK)
    axes.set_axis_off()
    axes.axhline(0, color=FAINT, lw=1.2)


def _legend(figure: Figure, elements: Sequence[str], height: float) -> None:
    """Discs in the colours of the elements, with their symbols."""
    axes = figure.add_axes((0, 0, 1, 0.3 / height))
    axes.set(xlim=(0, WIDTH), ylim=(0, 0.3))
    axes.set_axis_off()
    colours = ball_colours(np.array(atomic_numbers(elements), np.uint8))
    begin = WIDTH / 2 - 0.5 * len(elements) / 2
    for k, (symbol, colour) in enumerate(zip(elements, colours, strict=True)):
        x = begin + 0.5 * k
        axes.plot(x, 0.13, "o", color=colour, mec=0.55 * colour, mew=0.8, ms=9)
        axes.text(x + 0.11, 0.13, symbol, va="center_baseline", fontsize=11)


# ---------------------------------------------------------------------------- sampled molecules


def sample_grid(sets: dict[str, MoleculeSet], file: Path, columns: int = 6) -> None:
    """All molecules of some sets, `columns` in a row, with a verdict below each."""
    width, high, head, word = WIDTH / columns, 1.02, 0.38, 0.22
    pixels = (int(width * 2 * SMALL), int(high * 2 * SMALL))
    models = {title: ball_and_stick(molecules) for title, molecules in sets.items()}
    every = [model for row in models.values() for model in row]
    zoom = min(float(np.quantile([_zoom(model, pixels) for model in every], 0.15)), 50.0)
    lines = {title: -(-len(row) // columns) for title, row in models.items()}
    height = sum(head + count * (high + word) for count in lines.values()) + 0.05
    with plt.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=SMALL)
        down = 0.0
        for title, row in models.items():
            stable = sum(not model.broken.any() for model in row)
            y = 1 - (down + 0.2) / height
            figure.text(0.006, y, title, va="center", weight="bold", fontsize=12)
            figure.text(
                0.994, y, f"{stable} of {len(row)} stable", va="center", ha="right", color=FAINT
            )
            down += head
            for k, model in enumerate(row):
                line, column = divmod(k, columns)
                base = height - down - (line + 1) * (high + word)
                box = (column * width / WIDTH, (base + word) / height, width / WIDTH, high / height)
                axes = figure.add_axes(box)
                axes.set_axis_off()
                axes.imshow(picture(model, pixels, min(zoom, _zoom(model, pixels))))
                broken = int(model.broken.sum())
                text = "stable" if not broken else f"{broken} of {len(model.xyz)} wrong"
                figure.text(
                    (column + 0.5) * width / WIDTH,
                    (base + 0.13) / height,
                    text,
                    ha="center",
                    va="center",
                    fontsize=10,
                    color=APART if broken else ALIKE,
                )
            down += lines[title] * (high + word)
        save(figure, file, colours=56)


def _zoom(model: BallAndStick, pixels: tuple[int, int]) -> float:
    """Pixels per angstrom at which a model fills its picture."""
    reach = model.radii[:, None]
    size = (model.xyz + reach).max(axis=0) - (model.xyz - reach).min(axis=0)
    return float((0.94 * np.array(pixels) / size[:2]).min())


# ---------------------------------------------------------------------------- sizes and forms


def form_panels(
    clouds: dict[str, _Array], stable: dict[str, float], v_x: tuple[float, float], file: Path
) -> None:
    """Size and form of molecules, a panel for each set; the first one lies behind all others.

    Args:
        clouds: Size and anisotropy (M, 2) by the title of the set.
        stable: Share of stable molecules by the same titles.
        v_x: Range of the sizes that are shown.
        file: PNG file to write.
    """
    first, data = next(iter(clouds.items()))
    colours = dict(zip(clouds, (INK, ALIKE, APART, "#00766c"), strict=True))
    with plt.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 5.7), dpi=DPI, layout="constrained")
        panels = figure.subplots(2, 2, sharex=True, sharey=True).flatten()
        for axes, (title, cloud) in zip(panels, clouds.items(), strict=True):
            if title != first:
                axes.scatter(*data.T, s=7, color="#c3c8d0", lw=0, alpha=0.55)
            axes.scatter(*cloud.T, s=7, color=colours[title], lw=0, alpha=0.5)
            axes.axvline(data[:, 0].mean(), color=INK, lw=0.9, ls=(0, (4, 3)))
            axes.plot(*cloud.mean(0), "+", color="white", ms=15, mew=5)
            axes.plot(*cloud.mean(0), "+", color=colours[title], ms=13, mew=2.4)
            axes.set_title(title, fontsize=10, loc="left", color=colours[title], weight="bold")
            mean, spread = cloud[:, 0].mean(), cloud[:, 0].std(ddof=1)
            text = f"{100 * stable[title]:.0f} % stable\n{mean:.2f} ± {spread:.2f} Å²"
            axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=11)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set(xlim=v_x, ylim=(0.32, 1.0))
        figure.supxlabel("size: v_x of a molecule, Å² per degree of freedom", fontsize=11)
        figure.supylabel("form: anisotropy (1/3 a ball, 1 a line)", fontsize=11)
        save(figure, file)


def save(figure: Figure, file: Path, colours: int = COLOURS) -> None:
    """Write a picture with a palette of its own colours, which takes a third of the space."""
    figure.savefig(written := io.BytesIO(), format="png", facecolor="white")
    with Image.open(written) as image:
        small = image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    with replacing(file) as temporary:
        small.save(temporary, "PNG", optimize=True)
