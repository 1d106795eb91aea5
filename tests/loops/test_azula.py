"""azula's samplers, unedited, from t*."""

import pytest
import torch
from loops.gaussian import (
    CHANCE,
    N_DRAWS,
    Counted,
    basis,
    clean,
    deterministic_error,
    sampled_error,
    stats,
)
from loops.loading import loaded

from gaga_adapter import TabulatedPath

denoise, noise, sample = (loaded(f"azula.{name}") for name in ("denoise", "noise", "sample"))

SCHEDULES = {
    "VP": noise.VPSchedule(),
    "cosine": noise.CosineSchedule(),
    "rectified": noise.RectifiedSchedule(),
    "VE": noise.VESchedule(sigma_max=1e2),
}


class Exact(denoise.Denoiser):
    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.network = schedule, Counted(clean)

    def forward(self, x_t, t, **kwargs):
        return denoise.DiracPosterior(self.network(*self.schedule(t), x_t))


def path_of(schedule):
    times = torch.linspace(0, 1, 1001, dtype=torch.float64)
    return TabulatedPath(*schedule(times))


def start_at(schedule, t_star, z):
    a, b = schedule(torch.tensor(t_star, dtype=torch.float64))
    return stats().reference().at(float(a), float(b)).transport(z)


def run(kind, schedule, start, steps, x):
    denoiser = Exact(schedule)
    kind = getattr(sample, f"{kind}Sampler")
    sampler = kind(denoiser, start=start, steps=steps, silent=True, dtype=torch.float64)
    return sampler(x), denoiser.network.calls


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("kind", ["DDIM", "Euler", "Heun", "zAB"])
def test_a_cut_run_ends_as_near_the_data_as_a_full_one(kind, schedule):
    t_star = stats().t_star(path_of(schedule))
    assert 0 < t_star < 1
    _, b = schedule(torch.tensor(1.0, dtype=torch.float64))
    full, n_full = run(kind, schedule, 1.0, 200, b * basis())
    steps = round(200 * t_star)
    cut, n_cut = run(kind, schedule, t_star, steps, start_at(schedule, t_star, basis()))
    assert n_cut < n_full
    assert deterministic_error(cut) <= deterministic_error(full) + 0.005
    assert deterministic_error(cut) <= 0.03
    _, b = schedule(torch.tensor(t_star, dtype=torch.float64))
    assert deterministic_error(run(kind, schedule, t_star, steps, b * basis())[0]) > 0.3


def test_an_ancestral_run():
    schedule, generator = noise.VPSchedule(), torch.Generator().manual_seed(0)
    z = torch.randn(N_DRAWS, 3, generator=generator, dtype=torch.float64)
    t_star = stats().t_star(path_of(schedule))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        full, n_full = run("DDPM", schedule, 1.0, 100, z)
        steps = round(100 * t_star)
        cut, n_cut = run("DDPM", schedule, t_star, steps, start_at(schedule, t_star, z))
    assert (n_full, n_cut) == (100, steps)
    assert sampled_error(cut) <= sampled_error(full) + CHANCE
    assert sampled_error(cut) <= 0.2


def test_the_same_seed_gives_the_same_picture():
    schedule = noise.VPSchedule()
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t_star = stats().t_star(path_of(schedule))
    full, _ = run("Heun", schedule, 1.0, 400, z)
    cut, _ = run("Heun", schedule, t_star, 400, start_at(schedule, t_star, z))
    torch.testing.assert_close(cut, full, rtol=0, atol=5e-3)
