"""Pictures of molecules: rows of ball-and-stick models, each under its title.

A molecule is turned to its principal axes (the longest to the right, the shortest towards the
viewer) and tilted a little. One scale holds for the whole picture, so sizes can be compared. Balls
and sticks are painted from back to front and fade with depth. Bonds follow EDM's rule; an atom
whose bonds sum to a valence that its element does not allow wears an orange ring. Canvas and font
are rdkit's.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.errors import DataError, whole_number
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.bonds import Bonds, broken_atoms

_Array = NDArray[np.float64]

_CELL = np.array([330.0, 250.0])  # pixels: one molecule
_TITLE = 62  # pixels above each row
_LARGEST = 48.0  # pixels per angstrom
_MARGIN = 36  # pixels around everything
_TILT = np.radians([18.0, -14.0])  # about the horizontal, then the vertical axis
_LIGHT = np.array([-0.35, -0.45])  # from the middle of a ball to its highlight, in radii
_SHADES = np.linspace(0, 1, 12)  # layers of paint, from the rim to the highlight
_STICK = 0.11  # angstrom: half the width of a single bond

_WHITE = np.ones(3)
_INK = np.array([0.13, 0.15, 0.19])
_RING = np.array([0.98, 0.58, 0.12])
ELEMENT_COLOURS = {
    1: (0.90, 0.91, 0.93), 5: (0.95, 0.68, 0.60), 6: (0.38, 0.40, 0.45), 7: (0.24, 0.44, 0.90),
    8: (0.88, 0.23, 0.21), 9: (0.38, 0.76, 0.40), 14: (0.80, 0.66, 0.48), 15: (0.94, 0.52, 0.14),
    16: (0.93, 0.78, 0.22), 17: (0.22, 0.68, 0.30), 35: (0.60, 0.24, 0.16), 53: (0.50, 0.20, 0.62),
}  # fmt: skip
OTHER_COLOUR = (0.78, 0.45, 0.70)


def draw_grid(
    rows: Sequence[tuple[str, MoleculeSet]], path: str | os.PathLike[str], columns: int = 8
) -> None:
    """Write a PNG with the first molecules of several sets, one titled row each.

    Args:
        rows: Titles and molecules; the first `columns` of each set are drawn.
        path: The PNG file; it appears whole or not at all.
        columns: Number of molecules in a row.

    Raises:
        DataError: If there is nothing to draw, or `columns` is no whole number of 1 or more.
        WriteError: If the file cannot be written.
    """
    from rdkit.Chem.Draw import rdMolDraw2D

    if not rows:
        raise DataError("nothing to draw: no rows of molecules. Pass one or more.")
    columns = whole_number("columns", columns)
    shown = [ball_and_stick(molecules.subset(slice(columns))) for _, molecules in rows]
    # One scale for all that are not twice the usual size: a molecule that flew apart shrinks alone.
    fits = np.array([min(model.fit, _LARGEST) for row in shown for model in row])
    scale = float(fits[fits > np.median(fits) / 2].min())
    row_height = _TITLE + int(_CELL[1])
    width = 2 * _MARGIN + int(_CELL[0]) * max(len(row) for row in shown)
    pen = _Pen(rdMolDraw2D.MolDraw2DCairo(width, 2 * _MARGIN + row_height * len(rows)))
    for line, ((title, _), models) in enumerate(zip(rows, shown, strict=True)):
        top = _MARGIN + line * row_height
        pen.title(title, _MARGIN, top + _TITLE / 2, width - _MARGIN)
        for column, model in enumerate(models):
            middle = np.array([_MARGIN, top + _TITLE]) + _CELL * (column + 0.5, 0.5)
            model.paint(pen, middle, min(scale, model.fit))
    with replacing(path) as temporary:
        temporary.write_bytes(pen.png())


@dataclass(frozen=True, eq=False)
class BallAndStick:
    """One molecule of n atoms, turned to the viewer."""

    xyz: _Array  # (n, 3) angstrom; x to the right, y up, z towards the viewer
    radii: _Array  # (n,) of the balls, angstrom
    colours: _Array  # (n, 3)
    bonds: list[tuple[int, int, int]]  # two atoms and an order, from either end
    broken: NDArray[np.bool_]  # (n,) atoms to mark

    @property
    def fit(self) -> float:
        """Pixels per angstrom at which it fills its cell."""
        reach = self.radii[:, None]
        size = (self.xyz + reach).max(axis=0) - (self.xyz - reach).min(axis=0)
        return float((0.94 * _CELL / size[:2]).min())

    def paint(self, pen: _Pen, middle: _Array, scale: float) -> None:
        """Paint around a pixel, from back to front; the scale is in pixels per angstrom."""
        reach = self.radii[:, None]
        box = (self.xyz + reach).max(axis=0) + (self.xyz - reach).min(axis=0)
        place = (self.xyz - box / 2) * (scale, -scale, scale)  # pixels count downwards
        fade = np.interp(self.xyz[:, 2], [-3.0, 1.5], [0.55, 0.0])[:, None]
        colours = (1 - fade) * self.colours + fade * _WHITE
        jobs: list[tuple[float, Callable[[], None]]] = []
        for i, (point, colour) in enumerate(zip(place, colours, strict=True)):
            ball = partial(pen.ball, middle + point[:2], self.radii[i] * scale, colour)
            jobs.append((point[2], partial(ball, ring=bool(self.broken[i]))))
        for i, j, order in self.bonds:  # each bond twice: one half from either end
            axis = place[j] - place[i]
            length = max(float(np.linalg.norm(axis)), 1e-9)
            start = place[i] + axis * min(0.9 * self.radii[i] * scale / length, 0.5)
            end = (place[i] + place[j]) / 2
            stick = partial(pen.sticks, middle + start[:2], middle + end[:2], order)
            jobs.append(((start + end)[2] / 2, partial(stick, _STICK * scale, colours[i])))
        for _, job in sorted(jobs, key=itemgetter(0)):
            job()


def picture(model: BallAndStick, size: tuple[int, int], scale: float) -> NDArray[np.uint8]:
    """One molecule or cloud of atoms as a picture (height, width, 3), on white.

    Args:
        model: Atoms, and the sticks between them, as they lie before the viewer.
        size: Width and height in pixels.
        scale: Pixels per angstrom; what is larger than the picture is cut off.
    """
    from rdkit.Chem.Draw import rdMolDraw2D

    pen = _Pen(rdMolDraw2D.MolDraw2DCairo(*size))
    model.paint(pen, np.array(size) / 2, scale)
    return pen.pixels()


def ball_and_stick(molecules: MoleculeSet) -> list[BallAndStick]:
    """Turn every molecule of a set to the viewer."""
    bonds = Bonds.of(molecules)
    broken = broken_atoms(molecules.atomic_numbers, bonds)
    models, of_each = [], bonds.by_molecule()
    for index, n in enumerate(molecules.n_atoms):
        xyz, numbers = molecules.molecule(index)
        models.append(
            BallAndStick(
                xyz=_turn(xyz.astype(np.float64)),
                radii=ball_radii(numbers),
                colours=ball_colours(numbers),
                bonds=sorted(end for i, j, k in of_each[index] for end in ((i, j, k), (j, i, k))),
                broken=broken[index, :n],
            )
        )
    return models


def ball_radii(numbers: NDArray[np.uint8]) -> _Array:
    """Radii (n,) of the balls of atoms, in angstrom: less than half of what an atom takes up."""
    return np.where(numbers == 1, 0.27, np.where(numbers > 10, 0.52, 0.42))


def ball_colours(numbers: NDArray[np.uint8]) -> _Array:
    """Colours (n, 3) of atoms by their atomic numbers."""
    return np.array([ELEMENT_COLOURS.get(z, OTHER_COLOUR) for z in numbers.tolist()])


def _turn(xyz: _Array) -> _Array:
    """Rotate (n, 3) about the centre of the atoms as `viewing_rotation` says."""
    centred = xyz - xyz.mean(axis=0)
    turned: _Array = np.einsum("ij,nj->ni", viewing_rotation(centred), centred)
    return turned


def viewing_rotation(centred: _Array) -> _Array:
    """Rotation (3, 3), no reflection, of positions (n, 3) to their principal axes, then tilted."""
    _, _, axes = np.linalg.svd(centred, full_matrices=True)
    axes[2] *= np.linalg.det(axes)
    (cx, cy), (sx, sy) = np.cos(_TILT), np.sin(_TILT)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rotation: _Array = about_y @ about_x @ axes
    return rotation


class _Pen:
    """Balls, sticks and letters on a canvas of rdkit, in pixels from the upper left corner."""

    def __init__(self, canvas: Any) -> None:  # noqa: ANN401
        from rdkit.Geometry import Point2D

        self._canvas, self._point = canvas, Point2D
        self._titles: list[tuple[str, float, float]] = []
        canvas.ClearDrawing()
        canvas.SetFillPolys(True)

    def title(self, text: str, left: float, middle: float, right: float) -> None:
        """Write a title above a thin rule."""
        self._titles.append((text, left, middle))
        start, end = np.array([left, middle + 26.0]), np.array([right, middle + 26.0])
        self._band(start, end, np.array([0.0, 0.8]), 0.2 * _INK + 0.8 * _WHITE)

    def ball(self, middle: _Array, radius: float, colour: _Array, ring: bool) -> None:
        """Paint a shaded ball, perhaps with a ring around it."""
        if ring:
            self._disc(middle, 1.38 * radius, 0.1 * _WHITE + 0.9 * _RING)
            self._disc(middle, 1.20 * radius, _WHITE)
        self._disc(middle, radius + 1.2, 0.55 * colour)
        for shade in _SHADES:
            self._disc(middle + _LIGHT * shade * radius, radius * (1 - shade), _mix(colour, shade))

    def sticks(
        self, start: _Array, end: _Array, order: int, half_width: float, colour: _Array
    ) -> None:
        """Paint one, two or three shaded sticks side by side."""
        across = np.array([start[1] - end[1], end[0] - start[0]])
        across /= max(float(np.linalg.norm(across)), 1e-9)
        across *= np.sign(across @ _LIGHT) or 1.0  # towards the light
        thin = half_width * (1.0, 0.72, 0.6)[order - 1]
        for lane in np.arange(order) - (order - 1) / 2:
            shift = across * lane * 2.9 * thin
            self._band(start + shift, end + shift, across * (thin + 1.2), 0.55 * colour)
            for shade in _SHADES[::2]:
                off = shift + across * thin * 0.4 * shade
                self._band(start + off, end + off, across * thin * (1 - shade), _mix(colour, shade))

    def pixels(self) -> NDArray[np.uint8]:
        """What was painted (height, width, 3), without the titles."""
        from PIL import Image

        self._canvas.FinishDrawing()
        with Image.open(io.BytesIO(self._canvas.GetDrawingText())) as image:
            return np.asarray(image.convert("RGB"))

    def png(self) -> bytes:
        """The picture; Pillow sets the titles, for rdkit itself writes ASCII only."""
        from PIL import Image, ImageDraw, ImageFont
        from rdkit import RDConfig

        image = Image.fromarray(self.pixels())
        # Pillow takes a path that is no text from 10.1 on.
        file = str(Path(RDConfig.RDDataDir) / "Fonts" / "Telex-Regular.ttf")
        font = ImageFont.truetype(file, 30)
        for text, left, middle in self._titles:
            ink = tuple((255 * _INK).astype(int).tolist())
            ImageDraw.Draw(image).text((left, middle), text, fill=ink, font=font, anchor="lm")
        image.save(written := io.BytesIO(), "PNG")
        return written.getvalue()

    def _disc(self, middle: _Array, radius: float, colour: _Array) -> None:
        self._canvas.SetColour(tuple(colour))
        corners = self._point(*(middle - radius)), self._point(*(middle + radius))
        self._canvas.DrawEllipse(*corners, rawCoords=True)

    def _band(self, start: _Array, end: _Array, across: _Array, colour: _Array) -> None:
        self._canvas.SetColour(tuple(colour))
        corners = (start - across, start + across, end + across, end - across)
        self._canvas.DrawPolygon([self._point(*corner) for corner in corners], rawCoords=True)


def _mix(colour: _Array, shade: float) -> _Array:
    """The colour between the shadow at the rim (shade 0) and the highlight (shade 1)."""
    dark, bright = 0.72 * colour, 0.35 * colour + 0.65 * _WHITE
    gloss = shade**1.5
    lit: _Array = (1 - gloss) * (dark + (colour - dark) * shade) + gloss * bright
    return lit
