"""Pictures: their size, their colours, and the handedness of what they show."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from gaga_adapter.errors import DataError, WriteError
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.draw import _Pen, ball_and_stick, draw_grid, picture, viewing_rotation

Image = pytest.importorskip("PIL.Image")

WATER = ([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]], [8, 1, 1])
HYDROXYL = (WATER[0][:2], [8, 1])


def _pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def _share(pixels, test):
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return float(test(red, green, blue).mean())


def _is_red(red, green, blue):
    return (red > 150) & (green < 110) & (blue < 110)


def _is_orange(red, green, blue):
    return (red > 240) & (green > 150) & (green < 210) & (blue < 140)


def test_rows_and_columns_give_the_size(tmp_path):
    three = MoleculeSet.from_list([WATER] * 3)
    draw_grid([("a", three)], tmp_path / "a.png")
    draw_grid([("a", three), ("b", three)], tmp_path / "b.png")
    draw_grid([("a", three)], tmp_path / "c.png", columns=1)
    one, two, narrow = (_pixels(tmp_path / name).shape for name in ("a.png", "b.png", "c.png"))
    assert two[0] > 1.5 * one[0]
    assert two[1] == one[1] > 2 * narrow[1]


def test_broken_atoms_and_only_they_wear_a_ring(tmp_path):
    draw_grid([("whole", MoleculeSet.from_list([WATER]))], tmp_path / "whole.png")
    draw_grid([("broken", MoleculeSet.from_list([HYDROXYL]))], tmp_path / "broken.png")
    whole, broken = _pixels(tmp_path / "whole.png"), _pixels(tmp_path / "broken.png")
    assert _share(whole, _is_red) > 1e-3
    assert _share(broken, _is_red) > 1e-3
    assert _share(whole, _is_orange) == 0
    assert _share(broken, _is_orange) > 2e-4


def test_titles_may_have_any_letters(tmp_path):
    water = MoleculeSet.from_list([WATER])
    draw_grid([("", water)], tmp_path / "bare.png")
    draw_grid([("Å", water)], tmp_path / "letter.png")
    assert (_pixels(tmp_path / "bare.png") != _pixels(tmp_path / "letter.png")).sum() > 100


def test_one_molecule_is_painted_in_the_middle_and_at_its_scale():
    """Twice the scale is twice as wide and high, but for rims of a pixel, about the same middle."""
    (model,) = ball_and_stick(MoleculeSet.from_list([WATER]))
    small, large = (picture(model, (300, 200), scale) for scale in (25, 50))
    assert small.shape == large.shape == (200, 300, 3)
    covered = [(one < 250).any(-1) for one in (small, large)]
    sizes = [np.ptp(here.nonzero(), axis=1) for here in covered]
    np.testing.assert_allclose(sizes[1], 2 * sizes[0], rtol=0.02, atol=4)
    for here in covered:
        rows, columns = here.nonzero()
        assert (rows.min() + rows.max()) / 2 == pytest.approx(100, abs=3, rel=0)
        assert (columns.min() + columns.max()) / 2 == pytest.approx(150, abs=3, rel=0)


def test_a_view_is_a_rotation_that_shows_the_longest_axis_most():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(40, 3)) @ np.diag([0.2, 3.0, 1.0])
    cloud -= cloud.mean(0)
    turn = viewing_rotation(cloud)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), rtol=0, atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1, abs=1e-12)
    spread = (cloud @ turn.T).std(0)
    assert spread[0] > spread[1] > spread[2]


class _Recorder(_Pen):
    """Remembers where the balls were painted and in which order."""

    def __init__(self):
        self.balls = []

    def ball(self, middle, radius, colour, ring):
        self.balls.append((middle, radius))

    def sticks(self, *_):
        pass


def _signed_volume(points):
    a, b, c, d = points
    return float(np.linalg.det([b - a, c - a, d - a]))


def test_the_picture_is_no_mirror_image():
    # Radii name the atoms, pixels give x and -y, and the order of painting gives the depth.
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.normal(size=(4, 3)) * [4, 2, 1]
        model = ball_and_stick(MoleculeSet.from_list([(x, [1, 6, 17, 8])]))[0]
        distances = [np.linalg.norm(x[i] - x[j]) for i, j in combinations(range(4), 2)]
        turned = [np.linalg.norm(model.xyz[i] - model.xyz[j]) for i, j in combinations(range(4), 2)]
        np.testing.assert_allclose(turned, distances, rtol=1e-5)
        assert _signed_volume(model.xyz) == pytest.approx(_signed_volume(x), rel=1e-4)
        pen = _Recorder()
        model.paint(pen, np.zeros(2), 10.0)
        nearest_last = model.xyz[np.argsort(model.xyz[:, 2])]
        painted = np.array([middle for middle, _ in pen.balls]) * [0.1, -0.1]
        moved = painted - nearest_last[:, :2]
        np.testing.assert_allclose(moved - moved[0], 0, atol=1e-6)


def test_odd_molecules_can_be_drawn(tmp_path):
    odd = MoleculeSet.from_list(
        [
            ([[0, 0, 0]], [8]),
            ([[0, 0, 0], [0, 0, 0]], [6, 6]),
            ([[0, 0, 0], [0, 0, 500], [1, 0, 500]], [6, 11, 35]),
            ([[0, 0, 0], [0, 0, 0.74]], [1, 1]),
        ]
    )
    draw_grid([("odd", odd)], tmp_path / "odd.png")
    assert _share(_pixels(tmp_path / "odd.png"), _is_orange) > 0


def test_nothing_to_draw_and_nowhere_to_write(tmp_path):
    water = MoleculeSet.from_list([WATER])
    with pytest.raises(DataError, match="nothing to draw: no rows of molecules"):
        draw_grid([], tmp_path / "a.png")
    with pytest.raises(DataError, match="columns=0 is out of range"):
        draw_grid([("a", water)], tmp_path / "a.png", columns=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write .*file"):
        draw_grid([("a", water)], tmp_path / "file" / "a.png")
