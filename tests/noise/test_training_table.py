"""Schedules for training from scratch whose steps all lie in [0, t*]."""

import math
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from scheduler.test_exactness import MEAN, STD, Draws, error, gaussian_stats, network

from gaga_adapter import FewStepScheduler, GAGAScheduler
from gaga_adapter.errors import TruncationError, UnsupportedSchedulerError
from gaga_adapter.noise.conventions import convention_of
from gaga_adapter.noise.levels import TOLERANCE
from gaga_adapter.noise.paths import VPPath
from gaga_adapter.noise.training_table import _betas
from gaga_adapter.training import record_trained, trained_log_snr

BASES = [
    diffusers.DDPMScheduler(),
    diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
    diffusers.DDIMScheduler(beta_schedule="scaled_linear", num_train_timesteps=400),
    diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
    diffusers.EulerDiscreteScheduler(prediction_type="sample"),
    diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True),
    diffusers.CogVideoXDDIMScheduler(),
    FewStepScheduler.from_scheduler(diffusers.DDPMScheduler(beta_end=0.03)),
]


def names(value):
    return type(value).__name__


def log_snr(scheduler):
    abar = scheduler.alphas_cumprod.double().numpy()
    with np.errstate(divide="ignore"):
        return np.log(abar) - np.log1p(-abar)


def table(base):
    return log_snr(getattr(base, "like", base))


# -- the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES, ids=names)
def test_up_to_an_entry_it_is_the_beginning_of_the_base(base):
    own = table(base)
    last = int(np.argmax(own < 0.3))
    schedule = gaussian_stats(float(own[last])).training_scheduler(base, last + 1)
    plain = getattr(base, "like", base)
    # each level is off by what rounding 1 - beta to single precision leaves
    expected = plain.alphas_cumprod[: last + 1]
    torch.testing.assert_close(
        schedule.alphas_cumprod, expected, atol=1.3e-7, rtol=2e-6, check_dtype=False
    )
    assert schedule.config.prediction_type == plain.config.get("prediction_type", "epsilon")


@pytest.mark.parametrize("steps", [2, 37, 1000])
@pytest.mark.parametrize("star", [-4.0, 0.25, 5.0])
@pytest.mark.parametrize("base", BASES[:2], ids=names)
def test_levels_are_the_base_s_own_as_a_function_of_time(base, star, steps):
    """Against numpy: t* by inverse interpolation, then an even walk through [0, t*]."""
    schedule = gaussian_stats(star).training_scheduler(base, steps)
    own = table(base)
    t_star = np.interp(-star, -own, np.arange(len(own)))
    expected = np.interp(np.linspace(0, t_star, steps), np.arange(len(own)), own)
    abar = schedule.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(abar, 1 / (1 + np.exp(-expected)), atol=1.3e-7, rtol=1e-5)
    assert (np.diff(abar) < 0).all()
    assert star - 2 * TOLERANCE < log_snr(schedule)[-1] <= star + 1e-9


@pytest.mark.parametrize("star", np.linspace(-8, 7, 11))
def test_the_last_level_is_never_cleaner_than_t_star(star):
    for steps in (2, 64, 1000):
        schedule = gaussian_stats(star).training_scheduler(BASES[0], steps)
        # what one unit in the last place of the last factor 1 - beta makes of the log-SNR
        grain = 2**-23 / float(1 - schedule.betas[-1]) * (1 + math.exp(star))
        assert star - 2 * grain < log_snr(schedule)[-1] <= star + 1e-9


def test_times_are_even_where_the_base_leaps():
    """From 0.4 to -5.2 within one of its thousand steps: a time that is off by 1e-8 would show."""
    betas = [1e-3] * 500 + [0.99] + [1e-3] * 499
    base = diffusers.DDPMScheduler(trained_betas=betas)
    levels = log_snr(gaussian_stats(-5.0).training_scheduler(base, 5000))
    own = table(base)
    t_star = np.interp(5.0, -own, np.arange(len(own)))
    expected = np.interp(np.linspace(0, t_star, 5000), np.arange(len(own)), own)
    inside = expected < own[499] - 0.1
    assert inside.sum() > 5
    np.testing.assert_allclose(levels[inside], expected[inside], atol=2e-5, rtol=0)


@pytest.mark.parametrize("before", [0.9, 0.30000001, 0.999])
def test_the_last_step_noises_no_more_than_it_has_to(before):
    """One unit of 2^-24 less, which single precision has of `1 - beta`, would end before t*."""

    def level(first, last):
        kept = float(np.float32(1 - first)) * float(np.float32(1 - last))
        return float(np.float32(kept))

    for target in [before / 2, before / 4, *(np.linspace(0.01, 0.95, 40) * before).tolist()]:
        first, last = _betas(torch.tensor([before, target], dtype=torch.float64))
        assert np.float32(last) == last
        assert level(first, last) <= target < level(first, last - 2**-24)
    assert _betas(torch.tensor([0.5, 0.25], dtype=torch.float64)) == [0.5, 0.5]


def test_a_step_of_one_unit_in_the_last_place_is_one():
    """Below 1 single precision has `1 - 2^-24`, and next to it 1."""
    assert _betas(torch.tensor([1 - 2**-24, 0.5], dtype=torch.float64))[0] == 2**-24
    with pytest.raises(TruncationError, match=r"^2 steps in .* too close .* Pass fewer"):
        _betas(torch.tensor([1 - 2**-25, 0.5], dtype=torch.float64))


def test_a_few_step_scheduler_stands_for_the_one_it_was_made_like():
    base = diffusers.DDPMScheduler(
        variance_type="fixed_large", clip_sample_range=3.0, dynamic_thresholding_ratio=0.9
    )
    few = FewStepScheduler.from_scheduler(base)
    own, other = (gaussian_stats(0.25).training_scheduler(one, 40) for one in (base, few))
    assert dict(own.config) == dict(other.config)
    assert own.config.variance_type == "fixed_large"
    assert torch.equal(own.betas, other.betas)


def test_it_is_a_plain_scheduler_that_saves_and_loads(tmp_path):
    base = diffusers.DDIMScheduler(
        prediction_type="v_prediction", clip_sample_range=3.0, steps_offset=1
    )
    schedule = gaussian_stats(0.25).training_scheduler(base, 300)
    assert type(schedule) is diffusers.DDPMScheduler
    schedule.save_pretrained(tmp_path)
    again = diffusers.DDPMScheduler.from_pretrained(tmp_path)
    assert torch.equal(again.betas, schedule.betas)
    assert again.config.clip_sample_range == 3.0
    assert again.config.prediction_type == "v_prediction"
    for name in ("DDIM", "DPMSolverMultistep", "EulerDiscrete", "UniPCMultistep"):
        other = getattr(diffusers, f"{name}Scheduler").from_config(again.config)
        assert torch.equal(other.alphas_cumprod, schedule.alphas_cumprod)


def test_samples_are_clipped_where_the_base_clips_them():
    stats = gaussian_stats()
    assert stats.training_scheduler(diffusers.DDPMScheduler(), 10).config.clip_sample
    assert not stats.training_scheduler(diffusers.EulerDiscreteScheduler(), 10).config.clip_sample


def test_it_trains_in_an_ordinary_loop():
    """Least squares of the noise on the noised data: the slope that the Gaussian law has.

    The slope has a standard error below 1 / sqrt(40,000); at five of them, 3 times, a false alarm
    comes in 1e6 seeds.
    """
    schedule = gaussian_stats(0.25).training_scheduler(diffusers.DDPMScheduler(), 50)
    generator = torch.Generator().manual_seed(0)
    std = 1.7
    clean = std * torch.randn(40_000, generator=generator)
    noise = torch.randn(40_000, generator=generator)
    for t in (0, 20, 49):
        at = torch.full((len(clean),), t)
        noisy = schedule.add_noise(clean, noise, at)
        a2 = float(schedule.alphas_cumprod[t])
        slope = float((noisy * noise).mean() / noisy.square().mean())
        assert slope == pytest.approx((1 - a2) ** 0.5 / (a2 * std**2 + 1 - a2), abs=0.025)
        velocity = a2**0.5 * noise - (1 - a2) ** 0.5 * clean
        torch.testing.assert_close(schedule.get_velocity(clean, noise, at), velocity)


# -- sampling --------------------------------------------------------------------------------------


def test_a_run_starts_at_its_first_step():
    stats = gaussian_stats(0.25)
    schedule = stats.training_scheduler(diffusers.DDPMScheduler(), 250)
    wrapped = GAGAScheduler.from_pretrained(schedule, stats)
    assert wrapped.t_star == 249
    assert len(wrapped.training_timesteps()) == 250
    for calls in (250, 25, 7):
        wrapped.set_timesteps(calls, device="cpu")
        assert wrapped.n_calls == calls
        assert int(wrapped.timesteps[0]) == 249
    few = GAGAScheduler.from_pretrained(FewStepScheduler.from_scheduler(schedule), stats)
    few.set_timesteps(12, device="cpu")
    assert few.n_calls == 12
    assert int(few.timesteps[0]) == 249


def law(scheduler, steps, monkeypatch):
    """Mean and standard deviation of a run with the exact network: it is linear in its noise."""
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", Draws())
    x = torch.zeros(2 + steps, 3, 1, 1)
    x[1] = 1
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        kind = ("table", scheduler.config.prediction_type)
        x = scheduler.step(network(scheduler, kind, x, t).float(), t, x).prev_sample
    ends = x.double().reshape(len(x), 3)
    return ends[0], (ends[1:] - ends[0]).square().sum(0).sqrt(), steps


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_gaussian_data_come_back(kind, monkeypatch):
    """The start is exact, so what is left is the solver's error, which falls as 1 / steps."""
    stats = gaussian_stats(0.25)
    base = diffusers.DDPMScheduler(clip_sample=False, prediction_type=kind)
    errors = {}
    for steps in (50, 400):
        schedule = stats.training_scheduler(base, steps)
        wrapped = GAGAScheduler.from_pretrained(schedule, stats, handover="init")
        errors[steps] = error(law(wrapped, steps, monkeypatch))
    assert errors[400] < 0.015
    assert errors[50] / errors[400] == pytest.approx(8, rel=0.3)
    assert error(law(schedule, 400, monkeypatch)) > 0.5  # N(0, I) is not the law at t*


@pytest.mark.parametrize("options", [{}, {"handover": "step"}, {"spacing": "respace"}])
def test_a_loop_without_a_device_gets_the_start_too(options, monkeypatch):
    """Of a path that ends in noise nobody needs it there; of this one everybody does."""
    stats = gaussian_stats(0.25)
    base = diffusers.DDPMScheduler(clip_sample=False)
    schedule = stats.training_scheduler(base, 100)
    wrapped = GAGAScheduler.from_pretrained(schedule, stats, **options)
    assert error(law(wrapped, 100, monkeypatch)) < 0.06


def test_a_network_trained_with_it_says_so():
    stats = gaussian_stats(0.25)
    schedule = stats.training_scheduler(diffusers.DDPMScheduler(), 100)
    net = torch.nn.Linear(3, 3)
    record_trained(net, stats.log_snr_star)
    wrapped = GAGAScheduler.from_pretrained(schedule, stats)
    wrapped.sample_timesteps(16)  # whose own record is that of the last step
    assert wrapped.trained_log_snr == pytest.approx(trained_log_snr(net), abs=TOLERANCE)
    with pytest.raises(TruncationError, match="is never reached by GAGADDPMScheduler"):
        GAGAScheduler.from_pretrained(schedule, replace(stats, log_snr_star=-1.0)).t_star  # noqa: B018


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base",
    [diffusers.FlowMatchEulerDiscreteScheduler(), diffusers.EDMEulerScheduler()],
    ids=names,
)
def test_continuous_levels_are_refused(base):
    with pytest.raises(UnsupportedSchedulerError, match='spacing="respace"'):
        gaussian_stats().training_scheduler(base, 100)


@pytest.mark.parametrize("steps", [1, 0, -5, 10.5, "1000", None, True, math.inf])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(TruncationError, match="steps="):
        gaussian_stats().training_scheduler(BASES[0], steps)


def test_a_base_that_ends_before_t_star_is_refused():
    for base in (BASES[0], FewStepScheduler.from_scheduler(BASES[0])):
        with pytest.raises(TruncationError, match=r"of DDPMScheduler\. .* reaches beyond t"):
            gaussian_stats(-20.0).training_scheduler(base, 100)


def test_t_star_may_be_the_end_of_the_base():
    base = diffusers.DDPMScheduler()
    end = float(log_snr(base)[-1])
    for star in (end, end - TOLERANCE / 2):  # as a table in single precision gives it
        schedule = gaussian_stats(star).training_scheduler(base, 1000)
        torch.testing.assert_close(
            schedule.alphas_cumprod, base.alphas_cumprod, atol=1.3e-7, rtol=2e-5
        )


def test_both_ends_of_the_base_are_told_apart():
    """The noisy one may be t*, with its tolerance, and the clean one leaves no room for a step."""
    base = diffusers.DDPMScheduler()
    path = VPPath.from_alphas_cumprod(1 / (1 + convention_of(base).table.square()))
    low, high = path.log_snr_range
    assert len(gaussian_stats(low - TOLERANCE).training_scheduler(base, 10).betas) == 10
    with pytest.raises(TruncationError, match="is not between the ends"):
        gaussian_stats(high).training_scheduler(base, 2)


def test_too_many_steps_are_refused():
    with pytest.raises(TruncationError, match="Pass fewer"):
        gaussian_stats(8.9).training_scheduler(BASES[0], 10_000)


def test_the_moments_at_its_end_are_those_of_the_noised_data():
    stats = gaussian_stats(0.25)
    schedule = stats.training_scheduler(diffusers.DDPMScheduler(), 100)
    wrapped = GAGAScheduler.from_pretrained(schedule, stats, handover="init")
    wrapped.set_timesteps(10)
    a2 = float(schedule.alphas_cumprod[-1])
    start = torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)]) * wrapped.init_noise_sigma
    torch.testing.assert_close(start[0].double(), a2**0.5 * MEAN, atol=1e-6, rtol=1e-6)
    spread = (a2 * STD**2 + 1 - a2).sqrt()
    torch.testing.assert_close((start[1] - start[0]).double(), spread, atol=1e-6, rtol=1e-6)
