"""NVIDIA's bionemo-moco: its interpolants and inference schedules, unedited, from t*."""

import pytest
import torch
from loops.gaussian import (
    CHANCE,
    N_DRAWS,
    basis,
    clean,
    deterministic_error,
    sampled_error,
    stats,
    velocity,
)
from loops.loading import loaded

from gaga_adapter import FlowPath, TabulatedPath, VPPath

moco = loaded("bionemo.moco.interpolants", "ot")
prior = loaded("bionemo.moco.distributions.prior").GaussianPrior
uniform = loaded("bionemo.moco.distributions.time").UniformTimeDistribution
grids = loaded("bionemo.moco.schedules.inference_time_schedules")
snrs = loaded("bionemo.moco.schedules.noise.continuous_snr_transforms")
betas = loaded("bionemo.moco.schedules.noise.discrete_noise_schedules")


def flow(t_star, x, n=100):
    matcher = moco.ContinuousFlowMatcher(uniform(), prior(), "velocity")
    schedule = grids.LinearInferenceSchedule(nsteps=n, min_t=t_star)
    times, steps = schedule.generate_schedule(), schedule.discretize()
    for t, dt in zip(times, steps, strict=True):
        t, dt = (torch.full((len(x),), float(value)) for value in (t, dt))
        x = matcher.step(velocity(t, x), x, dt, t)
    return x, len(times)


def test_a_flow_from_t_star():
    s_star = stats().t_star(FlowPath())
    start = stats().reference().at(1 - s_star, s_star).transport(basis())
    full, n_full = flow(0.0, basis())
    cut, n_cut = flow(1 - s_star, start, round(100 * s_star))
    assert (n_full, n_cut) == (100, round(100 * s_star))
    assert deterministic_error(cut) <= deterministic_error(full) + 0.005
    assert deterministic_error(cut) <= 0.03


@pytest.fixture
def ddpm():
    noises = betas.DiscreteCosineNoiseSchedule(nsteps=100)
    return moco.DDPM(uniform(discrete_time=True, nsteps=100), prior(), noises)


def test_an_ancestral_chain_from_t_star(ddpm):
    path = VPPath.from_alphas_cumprod(ddpm.alpha_bar.double())
    t_star = path.index_at_log_snr(stats().log_snr_star)
    a, b = ddpm.forward_data_schedule[t_star], ddpm.forward_noise_schedule[t_star]

    def run(n, x):
        times = grids.DiscreteLinearInferenceSchedule(
            nsteps=n, direction="diffusion"
        ).generate_schedule()
        for t in times:
            at = torch.full((len(x),), int(t))
            noised = (ddpm.forward_data_schedule[t], ddpm.forward_noise_schedule[t])
            x = ddpm.step(clean(*noised, x), at, x)
        return x, len(times)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = torch.randn(N_DRAWS, 3, dtype=torch.float64)
        full, n_full = run(100, z)
        start = stats().reference().at(float(a), float(b)).transport(z)
        cut, n_cut = run(t_star + 1, start)
    assert (n_full, n_cut) == (100, t_star + 1)
    assert sampled_error(cut) <= sampled_error(full) + CHANCE
    assert sampled_error(cut) <= 0.1


def test_continuous_diffusion_from_t_star():
    noises = snrs.CosineSNRTransform()
    vdm = moco.VDM(uniform(), prior(), noises)

    def levels(t):
        return noises.log_snr_to_alphas_sigmas(noises.calculate_log_snr(t))

    times = torch.linspace(1e-3, 1, 1000, dtype=torch.float64)
    a, b = levels(times)
    grid = torch.linspace(0, 1, 1000, dtype=torch.float64)
    t_star = float(torch.lerp(times[0], times[-1], stats().t_star(TabulatedPath(a, b, grid))))
    assert 0 < t_star < 1

    def run(t_star, n, x):
        schedule = grids.LinearInferenceSchedule(n, min_t=1 - t_star, direction="diffusion")
        times, steps = schedule.generate_schedule(), schedule.discretize()
        for t, dt in zip(times, steps, strict=True):
            at, by = (torch.full((len(x),), float(value)) for value in (t, dt))
            x = vdm.step_ddim(clean(*levels(at), x), at, x, by)
        return x, len(times)

    a, b = (float(value) for value in levels(torch.tensor(t_star)))
    full, n_full = run(1.0, 200, basis())
    start = stats().reference().at(a, b).transport(basis())
    cut, n_cut = run(t_star, round(200 * t_star), start)
    assert n_cut < n_full
    assert deterministic_error(cut) <= deterministic_error(full) + 0.01
    assert deterministic_error(cut) <= 0.03
