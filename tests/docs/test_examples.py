"""The examples run as they stand, and what they sample is what they say."""

import runpy

import diffusers
import pytest
import torch
from folders import DOCS

from gaga_adapter import GAGAStats
from gaga_adapter.molecules.formats import read_molecules
from gaga_adapter.molecules.metrics.evaluate import evaluate

EXAMPLES = DOCS / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example in an empty folder: (its names, what it printed)."""
    monkeypatch.chdir(tmp_path)

    def example(name):
        with torch.random.fork_rng():
            names = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return names, capsys.readouterr().out

    return example


def test_they_are_short():
    files = sorted(EXAMPLES.glob("*.py"))
    assert [f.name for f in files] == [
        "diffusers_images.py",
        "digits.py",
        "karras_edm_loop.py",
        "molecules.py",
    ]
    for file in files:
        assert len(file.read_text(encoding="utf-8").splitlines()) < 60, file.name


def test_diffusers_images(run, tmp_path, monkeypatch):
    forward, seen = diffusers.UNet2DModel.forward, []

    def counted(self, *args, **kwargs):
        seen.append(torch.is_grad_enabled())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(diffusers.UNet2DModel, "forward", counted)
    names, printed = run("diffusers_images")
    calls = names["calls"]
    assert calls < 25
    assert f"{calls} network calls instead of 50" in printed
    assert seen.count(False) == 50 + calls
    stats = GAGAStats.from_pretrained(tmp_path / "digits-stats")
    assert stats.log_snr_star == names["stats"].log_snr_star

    def distance(sample):
        """Of the nearest digit, root mean square of a pixel."""
        digits = names["images"].flatten(1) / 2 + 0.5
        return float(torch.cdist(sample.flatten(1), digits).amin(1).mean()) / 8

    full, short = (torch.tensor(names[which]) for which in ("full", "short"))
    assert bool(torch.isfinite(short).all())
    # Independent pixels with the digits' own means and variances, which are no digits.
    pixels = names["images"][:, 0] / 2 + 0.5
    noise = torch.randn((32, 8, 8), generator=torch.Generator().manual_seed(0))
    alike = (pixels.mean(0) + pixels.std(0) * noise).clamp(0, 1)
    assert distance(short) < 1.1 * distance(full)
    assert distance(short) < 0.9 * distance(alike)


def test_digits(run, tmp_path, monkeypatch):
    """With a network of a few steps: the starts are what they are said to be, whatever it makes."""
    monkeypatch.setattr("sys.argv", ["digits.py", "3"])
    names, printed = run("digits")
    images, fitted, plain = (names[name] for name in ("images", "fitted", "plain"))
    lines = printed.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == list(names["samples"])
    assert f"digits: brightness {float(images.mean()):.3f}" in lines[0]
    # Pure noise and its opposite show the mean of the start: 0, or that of the noised digits.
    noise = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    noise = torch.cat([noise, -noise])
    for scheduler, expected in ((plain, 0.0), (fitted, None)):
        scheduler.set_timesteps(10)
        t = int(scheduler.timesteps[0])
        a = float(scheduler.alphas_cumprod[t]) ** 0.5
        assert len(scheduler.timesteps) == 10
        assert (t == 999) == (scheduler is plain)
        expected = a * images.mean(0) if expected is None else torch.zeros(4, 16, 16)
        start = (noise * scheduler.init_noise_sigma).mean(0)
        torch.testing.assert_close(start, expected, rtol=1e-3, atol=1e-4)
    assert float(plain.alphas_cumprod[-1]) == pytest.approx(0.00466, rel=1e-3)
    # The network is kept: a second run trains nothing and says the same.
    before = (tmp_path / "digits-unet" / "config.json").stat().st_mtime_ns
    assert run("digits")[1] == printed
    assert (tmp_path / "digits-unet" / "config.json").stat().st_mtime_ns == before


def test_molecules(run, tmp_path):
    names, printed = run("molecules")
    full, short = names["full"], names["short"]
    assert full.network_calls == 100
    assert short.network_calls <= 42
    assert "from t* = 400" in printed
    written = read_molecules(tmp_path / "molecules.sdf")
    assert len(written) == 16
    assert torch.equal(short.mask.sum(1), full.mask.sum(1))  # the same seed: the same sizes
    # 95.9 % over many molecules (README); 16 molecules have a standard error of about 2 %.
    assert evaluate(written).atom_stability.value > 0.85


def test_karras_edm_loop(run):
    names, printed = run("karras_edm_loop")
    assert names["full_calls"] == 2 * 40 - 1
    assert names["calls"] == 2 * (len(names["t_steps"]) - 1) - 1 < 40
    assert f"{names['calls']} network calls instead of 79" in printed
    short, modes = names["short"], names["modes"]
    away = (short[:, None] - modes).flatten(2)
    near = away.square().mean(2).min(1)
    # Half of 2000 samples at each mode, 5 standard errors of 1.1 %; the width within a tenth.
    assert float(near.indices.double().mean()) == pytest.approx(0.5, abs=0.056)
    assert float(near.values.mean().sqrt()) == pytest.approx(names["WIDTH"], rel=0.1)
    # The same noise leads both ways to the same mode, nearly always.
    full = (names["full"][:, None] - modes).flatten(2).square().mean(2).argmin(1)
    assert float((full == near.indices).double().mean()) > 0.9
