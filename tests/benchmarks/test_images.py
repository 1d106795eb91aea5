"""The table of images: figures known in closed form, and a run that goes on when it was killed."""

import json
import math
import sys

import digits_training
import images
import pytest
import torch
from diffusers import DDIMScheduler
from toys import normal

# -- figures ---------------------------------------------------------------------------------------


def gray(*values):
    """Images (n, 4, 2, 2) of one gray value each."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 4, 2, 2)


def test_brightness_and_contrast_are_those_of_a_checkerboard():
    x = torch.tensor([1.0, -1.0]).repeat(8).reshape(1, 4, 2, 2)
    assert float(images.brightness(x + 0.5)) == pytest.approx(0.5)
    assert float(images.contrast(3 * x + 0.5)) == pytest.approx(3.0)
    assert float(images.contrast(gray(0.7))) == pytest.approx(0.0, abs=1e-7)


def test_a_shift_of_a_spread_is_one():
    y = normal(400)
    shifted = y + y.std()
    assert images.bias(shifted, y)[0] == pytest.approx(1.0)
    assert images.bias(shifted, y)[1] == pytest.approx(math.sqrt(2 / 400))
    assert images.wasserstein(shifted, y, 20)[0] == pytest.approx(1.0)
    assert images.bias(y.flip(0), y)[0] == pytest.approx(0.0, abs=1e-12)
    assert images.wasserstein(y.flip(0), y, 20)[0] == pytest.approx(0.0, abs=1e-12)


def test_the_distance_sees_a_spread_that_the_bias_does_not():
    """Of N(0, 4) from N(0, 1): `E|z|` of the difference of the quantiles, sqrt(2 / pi)."""
    y = normal(4000)
    assert images.bias(2 * y - y.mean(), y)[0] == pytest.approx(0.0, abs=1e-9)
    # the sample has a standard deviation of about 1 % in that
    expected = float(y.abs().mean() / y.std())
    assert images.wasserstein(2 * y, y, 2)[0] == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(math.sqrt(2 / math.pi), rel=0.06)


def test_the_energy_distance_is_the_sum_over_pairs():
    x, y = gray(0.0, 1.0, 3.0), gray(2.0, 5.0)
    pixels = 4.0  # an image of 16 equal pixels: four times the gray value
    across = (2 + 5 + 1 + 4 + 1 + 2) / 6
    in_x, in_y = (1 + 3 + 2) / 3, 3.0
    expected = pixels * (2 * across - in_x - in_y)
    assert images.energy(x, y)[0] == pytest.approx(expected)


def test_the_energy_distance_of_one_law_is_unbiased():
    """The mean of 200 values, within 5 of their own standard errors: a false alarm in 1e6."""
    pairs = normal(200, 2, 15, 4, 1, 1)
    values = torch.tensor([images.energy(x, y)[0] for x, y in pairs])
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean())) < 5 * error


def test_the_divergence_of_the_last_step_is_that_of_one_pixel():
    """Gaussian grays: `0.5 (v - 1 - log v + abar m²)` along the gray direction, 0 elsewhere."""
    grays = 0.3 * normal(500) - 0.4
    x = gray(*grays.tolist())
    abar = 0.004660  # of Stable Diffusion, to four digits
    v = 1 - abar + abar * 16 * float(grays.var())
    shift = 16 * abar * float(grays.mean()) ** 2
    rest = 15 * (-abar - math.log1p(-abar))
    expected = 0.5 * (v - 1 - math.log(v) + shift + rest)
    assert images.nats_at_the_end(x) == pytest.approx(expected, rel=2e-3)


def test_the_gaussian_bias_is_where_the_sampler_takes_a_gray_of_zero():
    """A step is affine, so the mean of N(0, I) goes where the mean of its samples is."""
    grays = 0.3 * normal(500) - 0.4
    mean, variance = float(grays.mean()), 16 * float(grays.var())  # along the gray direction
    solver = DDIMScheduler(**digits_training.SCHEDULE, timestep_spacing="trailing")
    solver.set_timesteps(10)
    x = torch.zeros(1, dtype=torch.float64)
    for t in solver.timesteps:
        abar = float(solver.alphas_cumprod[t])
        a, total = abar**0.5, abar * variance + 1 - abar
        noise = (1 - abar) ** 0.5 * (x - a * mean) / total  # its mean, given x
        x = solver.step(noise, t, x).prev_sample
    expected = (float(x) - mean) / float(grays.std())
    assert images.gaussian_bias(gray(*grays.tolist()), 10) == pytest.approx(expected, rel=1e-3)
    assert expected > 0.01


# -- data and training -----------------------------------------------------------------------------


def test_packing_loses_nothing():
    from torch.nn.functional import pixel_shuffle

    trained_on, held_out = digits_training.digits(8)
    assert len(trained_on) + len(held_out) == 1797
    x = pixel_shuffle(torch.cat([trained_on, held_out]), 2)
    from sklearn.datasets import load_digits

    original = torch.tensor(load_digits().images) / 8 - 1
    assert x.shape == (1797, 1, 8, 8)
    assert sorted(x.sum((1, 2, 3)).tolist()) == pytest.approx(sorted(original.sum((1, 2)).tolist()))
    torch.testing.assert_close(x[:, 0].mean(0).double(), original.mean(0), rtol=1e-5, atol=1e-6)


def test_interrupted_training_gives_the_same_network(tmp_path, capsys):
    trained_on, _ = digits_training.digits(8)
    whole = digits_training.trained_unet(trained_on, tmp_path / "whole", 6, save_every=2)
    with pytest.MonkeyPatch.context() as patch:
        clip = torch.nn.utils.clip_grad_norm_
        steps = []

        def killed(*arguments):
            steps.append(1)
            if len(steps) == 6:
                raise KeyboardInterrupt
            return clip(*arguments)

        patch.setattr(torch.nn.utils, "clip_grad_norm_", killed)
        with pytest.raises(KeyboardInterrupt):
            digits_training.trained_unet(trained_on, tmp_path / "killed", 6, save_every=2)
        again = digits_training.trained_unet(trained_on, tmp_path / "killed", 6, save_every=2)
    assert len(steps) == 6 + 2  # five steps and the killed one; the two behind the last state
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# -- the run ---------------------------------------------------------------------------------------


def test_a_tiny_run_samples_every_start_once(tmp_path, monkeypatch, capsys):
    """Every start and every solver, with the numbers of calls that it says."""
    argv = ["images.py", "-n", "3", "--n-full", "2", "--size", "8", "--steps", "2"]
    argv += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(images, "FULL_CALLS", 30)
    monkeypatch.setattr(images, "CALLS", (10,))
    cells = [cell for cell in images.CELLS if cell.calls == 10]
    cells.append(images.Cell("ddpm", 30, "noise"))
    monkeypatch.setattr(images, "CELLS", cells)
    images.main()
    found = json.loads((tmp_path / "images.json").read_text(encoding="utf-8"))
    assert list(found["rows"]) == [cell.name for cell in cells]
    assert {row["n"] for row in found["rows"].values()} == {3, 2}
    assert 0 < found["t_star"] < 999
    values = [one["value"] for row in found["rows"].values() for one in row["figures"].values()]
    assert all(map(math.isfinite, values))
    rows = found["rows"]
    # The same noise: another start at the last step is another sample, and so is another grid.
    of_start = [rows[f"dpm++ 10, {name}"]["figures"] for name in images.MAIN]
    assert len({str(figures) for figures in of_start}) == len(of_start)
    assert (tmp_path / "images.png").stat().st_size > 10_000

    def refuse(*arguments):
        raise AssertionError("this row was sampled already")

    monkeypatch.setattr(images.Sampler, "sample", refuse)
    images.main()
    assert json.loads((tmp_path / "images.json").read_text())["rows"] == rows
