"""The gallery: what its columns hold, what its pictures show, and what its page says of them."""

import json
import re

import gallery
import gallery_pictures
import numpy as np
import pytest
import torch
from folders import DOCS, ROOT
from gallery_data import ROWS, Cloud, levels_of
from gallery_pictures import ALIKE, APART, BAND, Nats, Strip
from matplotlib.colors import to_rgb
from PIL import Image

from gaga_adapter import FewStepScheduler, GAGAStats, MoleculePipeline
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.moments import DenseMoments
from gaga_adapter.reference import make_reference

RESULTS = ROOT / "benchmarks" / "results"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")
NAMES = [*gallery.STRIPS, "samples", "form"]
WATER = ([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]], [8, 1, 1])
HYDROXYL = (WATER[0][:2], [8, 1])


def curve(values, saturated):
    return {"value": values, "extra": {"saturated": saturated}}


def share(pixels, colour):
    """Share of the pixels that have a colour, but for what a palette rounds."""
    return float((np.abs(pixels - 255 * np.array(to_rgb(colour))).max(-1) < 12).mean())


def pixels(file):
    with Image.open(file) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


# -- nats ------------------------------------------------------------------------------------------


def test_a_level_that_was_not_measured_has_the_bound_of_the_next_noisier_one():
    measured = curve([7.0, 2.0, -0.01], [1.0, 0.0, 0.0])
    found = gallery.nats_of(measured, [300, 500, 800], (0, 300, 400, 500, 800))
    assert found == [
        Nats(7.0, True),
        Nats(7.0, True),
        Nats(2.0, True),
        Nats(2.0, False),
        Nats(0.0, False),
    ]


def test_the_times_of_a_flow_run_the_other_way():
    measured = curve([2.0, 0.4], [0.0, 0.0])
    found = gallery.nats_of(measured, [0.75, 0.5], (1.0, 0.75, 0.6, 0.5))
    assert found == [Nats(2.0, True), Nats(2.0, False), Nats(0.4, True), Nats(0.4, False)]


def test_a_bound_is_written_with_the_digits_that_it_has():
    written = [Nats(7.93, True).text, Nats(1.26, False).text, Nats(0.434, False).text]
    assert written == ["> 7.9", "1.3", "0.43"]


def test_columns_are_alike_only_if_all_that_are_noisier_are():
    nats = [Nats(value, False) for value in (2.0, 0.4, 0.6, 0.5)]
    strip = Strip(["t"] * 4, ([], []), nats, "item")
    assert [strip.holds_from(k) for k in range(4)] == [False, False, False, True]


# -- columns ---------------------------------------------------------------------------------------


def test_levels_are_those_of_the_schedule():
    """EDM's polynomial_2: a = (1 - 2 s) (1 - t²) + s with s = 1e-5, squares of a and b add to 1."""
    for (a, b), t in zip(levels_of((0, 300, 800)), (0.0, 0.3, 0.8), strict=True):
        assert a == pytest.approx(((1 - 2e-5) * (1 - t**2) ** 2 + 1e-5) ** 0.5, abs=1e-6, rel=1e-6)
        assert a * a + b * b == pytest.approx(1, abs=1e-6)


def test_all_columns_share_one_noise_and_draws_have_the_moments_of_the_data():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    data = torch.randn(20_000, 2, generator=generator, dtype=torch.float64) @ mixing.T + 3
    moments = DenseMoments((2,), kind="full")
    moments.update(data)
    levels = [(1.0, 0.0), (0.8, 0.6), (0.2, 0.9)]
    shown = Cloud(data, None, make_reference(moments), levels).at_levels()
    torch.testing.assert_close(shown[0][0], data)
    noise = [
        (noised - a * data) / b for (noised, _), (a, b) in zip(shown[1:], levels[1:], strict=True)
    ]
    torch.testing.assert_close(noise[0], noise[1], rtol=1e-5, atol=1e-6)
    assert float(noise[0].var()) == pytest.approx(1, abs=0.05)
    for (_, drawn), (a, b) in zip(shown, levels, strict=True):
        # Five standard errors of moments of 20,000 draws: false alarms of about 1e-6 a number.
        wanted = a**2 * mixing @ mixing.T + b**2 * torch.eye(2, dtype=torch.float64)
        scale = float(wanted.diagonal().max())
        torch.testing.assert_close(torch.cov(drawn.T), wanted, rtol=0, atol=0.08 * scale)
        torch.testing.assert_close(
            drawn.mean(0), torch.full((2,), 3 * a).double(), rtol=0, atol=0.1
        )


def test_bonds_are_drawn_at_the_first_level_only():
    model, numbers = gallery_pictures._model(np.array(WATER[0]), np.array(WATER[1], np.uint8))
    assert model.bonds == []
    assert len(gallery_pictures._with_bonds((model, numbers)).bonds) == 4  # two, from either end


def test_a_mosaic_has_all_images_and_white_lines_between_them():
    tiles = torch.arange(4.0)[:, None, None].expand(4, 2, 2)
    (made,) = gallery_pictures.mosaic(tiles, 2)
    assert made.shape == (5, 5)
    assert [float(made[i, j]) for i in (0, 3) for j in (0, 3)] == [0, 1, 2, 3]
    assert float(made[2].min()) > 3
    assert float(made[:, 2].min()) > 3


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_are_sampled_by_what_their_titles_say(row):
    base, stats = MoleculePipeline.load("qm9").scheduler, GAGAStats.from_pretrained("qm9")
    scheduler = row.scheduler(base, stats)
    assert str(row.calls) in row.title
    if row.name == "full":
        assert scheduler is base
        return
    assert isinstance(scheduler, FewStepScheduler)
    assert scheduler.moments is not None  # the starts alone differ
    scheduler.set_timesteps(row.calls)
    levels = scheduler.timesteps[-row.calls :].tolist()  # before them the start may be carried over
    assert row.calls == 12
    if row.reference is not None:
        assert (scheduler.t_star, scheduler.reference) == (300, row.reference)
        assert ("N(0, I)" in row.title) == (row.reference == "unit")
        assert levels[0] == 300
    else:
        assert len(scheduler.timesteps) == 12
        assert levels[0] > 900


# -- pictures --------------------------------------------------------------------------------------


def test_a_strip_has_its_ground_and_its_bars_in_the_right_columns(tmp_path):
    blank = np.full((40, 40, 3), 255, np.uint8)
    nats = [Nats(6.0, True), Nats(1.0, False), Nats(0.4, False), Nats(0.1, False)]
    strip = Strip(["a", "b", "c", "d"], ([[blank] * 4], [[blank] * 4]), nats, "item", "HC")
    gallery_pictures.save_strip(strip, tmp_path / "strip.png")
    found = pixels(tmp_path / "strip.png")
    quarter = found.shape[1] // 4
    columns = [found[:, k * quarter : (k + 1) * quarter] for k in range(4)]
    for column, alike in zip(columns, (False, False, True, True), strict=True):
        assert (share(column, BAND) > 0.4) == alike
        assert (share(column, ALIKE) > 0.01) == alike
        assert (share(column, APART) > 0.01) == (not alike)
    bars = [share(column, APART) for column in columns[:2]]
    assert bars[0] > 1.2 * bars[1]


def test_verdicts_below_molecules_are_in_two_colours(tmp_path):
    for name, molecule in (("whole", WATER), ("broken", HYDROXYL)):
        sets = {"title": MoleculeSet.from_list([molecule])}
        gallery_pictures.sample_grid(sets, tmp_path / f"{name}.png")
    whole, broken = (pixels(tmp_path / f"{name}.png") for name in ("whole", "broken"))
    assert share(whole, ALIKE) > 1e-4 > share(whole, APART)
    assert share(broken, APART) > 1e-4 > share(broken, ALIKE)


def test_every_picture_is_small_and_on_the_page():
    files = sorted(RESULTS.glob("gallery_*.png"))
    assert [file.stem.removeprefix("gallery_") for file in files] == sorted(NAMES)
    assert max(file.stat().st_size for file in files) < 150_000
    assert sum(file.stat().st_size for file in files) < 800_000
    for file in files:
        with Image.open(file) as image:
            assert 1000 <= image.width <= 1400  # legible on a page that is 800 pixels wide
    shown = re.findall(r"!\[([^\]]{60,})\]\(\.\./benchmarks/results/gallery_(\w+)\.png\)", PAGE)
    assert [name for _, name in shown] == NAMES
    assert set(re.findall(r"`python benchmarks/gallery\.py (\w+)`", PAGE)) == set(NAMES)


# -- words -----------------------------------------------------------------------------------------


def test_nats_in_the_text_below_a_picture_are_those_in_it():
    strips = {
        "qm9": (gallery.QM9, gallery.of_qm9(gallery.QM9)),
        "drugs": (gallery.DRUGS, gallery.of_drugs(gallery.DRUGS)),
        "latents": (gallery.LATENTS, gallery.of_modality("latent", gallery.LATENTS)),
        "mixed": (gallery.MIXED, gallery.of_mixed(gallery.MIXED)),
    }
    seen = 0
    for name, (levels, nats) in strips.items():
        (text,) = re.findall(rf"!\[([^\]]+)\]\(\.\./benchmarks/results/gallery_{name}\.png\)", PAGE)
        texts = {
            level: one.text.removeprefix("> ") for level, one in zip(levels, nats, strict=True)
        }
        pairs = re.findall(r"([\d.]+)(?: nats between them)? at t = ([\d.]+\d|\d)", text)
        assert pairs, name
        for value, level in pairs:
            assert texts[float(level)] == value, (name, level)
            seen += 1
    assert seen >= 9


def test_shares_of_many_molecules_are_those_of_the_benchmark():
    results = json.loads((RESULTS / "few_calls.json").read_text(encoding="utf-8"))
    cells = results["weights"]["embedded"]["cells"]
    names = ("few-step 12, shape at 300, matched", "few-step 12, none, matched", "ddpm 1000, none")
    shares = [100 * cells[name]["figures"]["molecule_stability"]["value"] for name in names]
    one, two, three = (f"{value:.0f} %" for value in shares)
    assert f"{one}, {two} and {three}" in " ".join(PAGE.split())


def test_what_the_page_says_of_sizes_is_measured():
    """By four standard errors: right from the fitted start, wrong from N(0, I) at the same step."""
    form = json.loads((RESULTS / "gallery.json").read_text(encoding="utf-8"))["form"]

    def apart(name, figure):
        one, data = form[name][figure], form["data"][figure]
        return (one["value"] - data["value"]) / np.hypot(one["std_error"], data["std_error"])

    for figure in ("v_x", "v_x_spread", "anisotropy"):
        assert abs(apart("few", figure)) < 4
        assert abs(apart("noise", figure)) < 4
        assert apart("unit", figure) < -10
    stable = {name: one["molecule_stability"]["value"] for name, one in form.items()}
    assert stable["unit"] > stable["few"] > stable["noise"]
    assert stable["noise"] < 0.5
    assert all(one["outside"] <= 5 for one in form.values())
