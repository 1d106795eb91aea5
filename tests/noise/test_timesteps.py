"""Timesteps and log-SNRs of schedulers, against the formulas that their classes are made of."""

import math

import diffusers
import numpy as np
import pytest
import torch
from scheduler.loops import wrap

from gaga_adapter import FewStepScheduler
from gaga_adapter.errors import TruncationError, UnsupportedSchedulerError
from gaga_adapter.noise.levels import TOLERANCE
from gaga_adapter.noise.timesteps import (
    t_star,
    timestep_log_snr,
    timestep_range,
    training_timesteps,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # numpy 2 in diffusers


def share(star):
    """Of noise, in a flow: s / (1 - s) is the ratio of noise to signal."""
    return 1 / (1 + math.exp(star / 2))


#: Continuous path, its cleanest and noisiest timestep, and the timestep at a log-SNR.
FORMULAS = [
    (
        diffusers.EDMEulerScheduler(sigma_min=0.003, sigma_max=70.0),
        (math.log(0.003) / 4, math.log(70.0) / 4),
        lambda star: -star / 8,
    ),
    (
        diffusers.CMStochasticIterativeScheduler(sigma_min=0.002, sigma_max=80.0),
        (250 * math.log(0.002), 250 * math.log(80.0)),
        lambda star: -125 * star,
    ),
    (
        diffusers.CosineDPMSolverMultistepScheduler(sigma_min=0.3, sigma_max=500.0),
        (math.atan(0.3) * 2 / math.pi, math.atan(500.0) * 2 / math.pi),
        lambda star: math.atan(math.exp(-star / 2)) * 2 / math.pi,
    ),
    (
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        (0.0, 1000.0),
        lambda star: 1000 * share(star),
    ),
    (
        diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        (1000.0, 0.0),
        lambda star: 1000 * (1 - share(star)),
    ),
    (
        diffusers.IPNDMScheduler(),
        (0.0, 1.0),
        lambda star: math.atan(math.exp(-star / 2)) * 2 / math.pi,
    ),
]
each_formula = pytest.mark.parametrize(
    ("scheduler", "ends", "at"), FORMULAS, ids=lambda x: getattr(type(x), "__name__", "")
)


@each_formula
@pytest.mark.parametrize("star", [-4.1, -0.3, 0.0, 1.7])
def test_a_level_of_a_continuous_path_has_its_own_timestep(scheduler, ends, at, star):
    assert t_star(scheduler, star) == pytest.approx(at(star), rel=1e-12, abs=1e-12)
    assert timestep_log_snr(scheduler, at(star)) == pytest.approx(star, rel=1e-9, abs=1e-9)


@each_formula
def test_the_range_is_that_of_the_training_path(scheduler, ends, at):
    """And the timesteps at its ends belong to it, where one rounding more would lead out of it."""
    clean, noisy = timestep_range(scheduler)
    assert (clean, noisy) == pytest.approx(ends, rel=1e-12, abs=1e-12)
    for end in (clean, noisy):
        assert t_star(scheduler, timestep_log_snr(scheduler, end)) == end
    for outside in (min(clean, noisy) - 1e-3, max(clean, noisy) + 1e-3):
        with pytest.raises(TruncationError, match="is outside") as found:
            timestep_log_snr(scheduler, outside)
        count = scheduler.config.num_train_timesteps
        assert f"{type(scheduler).__name__}(num_train_timesteps={count}). Pass an" in str(
            found.value
        )


def test_t_star_lies_in_the_range_for_any_ends():
    """Of 60 paths, some have ends whose logarithm and its exponential do not round back."""
    for k in range(1, 61):
        scheduler = diffusers.EDMEulerScheduler(sigma_min=0.3 + k / 200, sigma_max=1.1 + k / 7)
        clean, noisy = timestep_range(scheduler)
        first, end = (timestep_log_snr(scheduler, t) for t in (clean, noisy))
        assert (t_star(scheduler, first), t_star(scheduler, end)) == (clean, noisy)
        assert t_star(scheduler, end - (1 - 1e-3) * TOLERANCE) == noisy  # in double precision
        with pytest.raises(TruncationError, match="is never reached by EDMEulerScheduler"):
            t_star(scheduler, end - (1 + 1e-3) * TOLERANCE)


def test_tables_go_from_their_first_entry_to_their_last():
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=50)
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 50))
    assert timestep_range(scheduler) == (0.0, 49.0)
    for t in (0, 30, 49):
        expected = math.log(abar[t] / (1 - abar[t]))
        assert timestep_log_snr(scheduler, t) == pytest.approx(expected, abs=1e-3)
        assert t_star(scheduler, expected + 1e-2) == t
        assert training_timesteps(scheduler, expected + 1e-2).tolist() == list(range(t + 1))
    with pytest.raises(TruncationError, match=r"^t_star=50 is outside \[0, 49\] for DDPM"):
        timestep_log_snr(scheduler, 50)


def test_what_is_no_timestep():
    with pytest.raises(TruncationError) as found:
        timestep_log_snr(diffusers.DDPMScheduler(), math.nan)
    said = "t_star=nan is no finite number. Pass an entry of scheduler.timesteps."
    assert str(found.value) == said
    with pytest.raises(TruncationError, match=r"\[0, 1\] for DDPMWuerstchenScheduler\. Pass an"):
        timestep_log_snr(diffusers.DDPMWuerstchenScheduler(), 2.0)  # it counts no timesteps


# -- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dress", [lambda x: x, FewStepScheduler.from_scheduler, wrap])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FlowMatchEulerDiscrete", {"shift": 3.0}),
        ("FlowMatchEulerDiscrete", {"invert_sigmas": True}),
        ("FlowMatchHeunDiscrete", {}),
        ("DDPM", {}),
    ],
)
def test_training_timesteps_go_from_data_to_t_star_whatever_grid_is_there(name, options, dress):
    """One entry after another, of `shift k / (N + (shift - 1) k)` for flows, and one is beyond."""
    scheduler, star = dress(getattr(diffusers, f"{name}Scheduler")(**options)), 0.45
    scheduler.set_timesteps(5)
    t = training_timesteps(scheduler, star)
    levels = [timestep_log_snr(scheduler, float(x)) for x in t]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] <= star < levels[-2]
    k, shift = np.arange(1, len(t) + 1), options.get("shift", 1.0)
    shares = shift * k / (1000 + (shift - 1) * k)
    if name == "DDPM":
        shares = (k - 1) / 1000
    if options.get("invert_sigmas"):
        shares = 1 - shares
    torch.testing.assert_close(t.double(), torch.from_numpy(1000 * shares), rtol=1e-5, atol=1e-5)


def test_the_entry_of_a_flow_that_counts_as_reached_is_told_in_double_precision():
    """Where a log-SNR is large, one of single precision would be off by more than 1e-8 here."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    for k in range(1, 20):
        s = float(scheduler.timesteps[-k]) / 1000
        level = 2 * math.log((1 - s) / s)
        for nearly, n in ((1 - 1e-3, k), (1 + 1e-3, k + 1)):
            assert len(training_timesteps(scheduler, level - nearly * TOLERANCE)) == n


@pytest.mark.parametrize("scheduler", [row[0] for row in FORMULAS if "Flow" not in str(row[0])])
def test_continuous_levels_have_no_table_to_train_on(scheduler):
    with pytest.raises(UnsupportedSchedulerError, match="trains on continuous noise levels"):
        training_timesteps(scheduler, 0.0)
