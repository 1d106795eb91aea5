"""The first step at or beyond a log-SNR: one answer of paths, tables, lists, grids and models."""

import math

import diffusers
import numpy as np
import pytest
import torch
from fakes.cases import make_edm
from gaga_adapter.integrations.karras import truncate_sigmas
from gaga_adapter.integrations.patching.patch import first_step
from gaga_adapter.integrations.protocol import adapter_for

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.errors import GAGAWarning, TruncationError
from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments import DenseMoments
from gaga_adapter.noise.conventions import convention_of
from gaga_adapter.noise.levels import TOLERANCE, check_log_snr, first_beyond
from gaga_adapter.noise.paths import named_path
from gaga_adapter.noise.timesteps import t_star, training_timesteps

T = 100
CONTINUOUS = {"prediction_type": "v_prediction", "timestep_type": "continuous"}
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # numpy 2 in diffusers


def stats(log_snr_star):
    moments = DenseMoments((2, 1, 1), kind="channel")
    moments.update(torch.randn(8, 2, 1, 1, generator=torch.Generator().manual_seed(0)))
    return GAGAStats(DenseLayout((2, 1, 1)), moments, log_snr_star)


def path():
    """A table of time: its node."""
    known = named_path("ddpm/linear", T)
    return known.log_snr(torch.arange(T) / (T - 1)), lambda star: round(
        known.first_time(star) * (T - 1)
    )


def ddpm():
    return diffusers.DDPMScheduler(num_train_timesteps=T, timestep_spacing="trailing")


def float32_levels():
    abar = ddpm().alphas_cumprod
    assert abar.dtype == torch.float32
    return (abar.double() / (1 - abar.double())).log()


def table():
    """A scheduler's timestep."""
    return float32_levels(), lambda star: t_star(ddpm(), star)


def training():
    """The last timestep to train on."""
    return float32_levels(), lambda star: int(training_timesteps(ddpm(), star)[-1])


def grid():
    """The first entry of a sampling grid of all timesteps."""

    def first(star):
        scheduler = GAGAScheduler.from_pretrained(ddpm(), stats=stats(star))
        scheduler.set_timesteps(T, device="cpu")
        return int(scheduler.timesteps[0])

    return float32_levels(), first


def sigmas():
    """The first entry of a list in float32, counted from the data."""
    rising = torch.tensor(np.geomspace(0.01, 100, T), dtype=torch.float32)

    def first(star):
        return len(truncate_sigmas(rising.flip(0), stats(star))[0]) - 1

    return -2 * rising.double().log(), first


def model():
    """A patched model's step, of those where a sample can start."""
    edm = make_edm(T)
    adapter = adapter_for(edm)
    levels = -adapter.schedule(edm)(torch.arange(T + 1)[:, None] / T).flatten().double()
    return levels[1:], lambda star: first_step(adapter, edm, star) - 1


EVERY = pytest.mark.parametrize("make", [path, table, training, grid, sigmas, model])


@EVERY
@pytest.mark.parametrize("place", [1, T // 2, T - 2])
def test_at_an_entry_and_beside_it(make, place):
    levels, first = make()
    level = float(levels[place])
    assert first(level) == place
    for towards in (-math.inf, math.inf):  # what float32 does to the level itself
        assert first(float(np.nextafter(np.float32(level), np.float32(towards)))) == place
    assert first(level + 10 * TOLERANCE) == place
    assert first(level - 10 * TOLERANCE) == place + 1


@EVERY
def test_at_the_clean_end(make):
    levels, first = make()
    assert first(float(levels[0])) == 0
    assert first(float(levels[0]) + 5) == 0


@EVERY
@pytest.mark.filterwarnings("ignore:the grid of:gaga_adapter.errors.GAGAWarning")
def test_at_the_noisy_end_and_beyond_it(make):
    levels, first = make()
    end = float(levels[-1])
    assert first(end) == first(end - TOLERANCE / 2) == len(levels) - 1
    if make in (grid, sigmas):  # these warn, and start where they are
        with pytest.warns(GAGAWarning, match="closer to the data than"):
            assert first(end - 10 * TOLERANCE) == len(levels) - 1
    else:
        with pytest.raises(TruncationError, match="log-SNR"):
            first(end - 10 * TOLERANCE)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.EDMEulerScheduler(),
        diffusers.CMStochasticIterativeScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        diffusers.DDPMWuerstchenScheduler(),
        diffusers.SCMScheduler(),
        diffusers.EulerDiscreteScheduler(**CONTINUOUS),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_the_ends_of_continuous_paths(scheduler):
    """A formula stops at the ends of its own path."""
    clean, noisy = convention_of(scheduler).ends
    most = convention_of(scheduler).seen_level(noisy).log_snr
    assert t_star(scheduler, 1e9) == clean
    if math.isfinite(most):
        assert t_star(scheduler, most) == t_star(scheduler, most - TOLERANCE / 2) == noisy
        with pytest.raises(TruncationError, match="is never reached"):
            t_star(scheduler, most - 10 * TOLERANCE)
    else:
        assert t_star(scheduler, -math.inf) == noisy


def test_a_path_of_quarter_logarithms_ends_where_its_betas_do():
    """sigma² = 1 / (product of 1 - beta) - 1, in float64 from the options of the class."""
    scheduler = diffusers.EulerDiscreteScheduler(beta_start=0.001, beta_end=0.02, **CONTINUOUS)
    kept = np.cumprod(1 - np.linspace(0.001, 0.02, 1000))
    ends = [math.log(1 / kept[k] - 1) / 2 / 4 for k in (0, -1)]  # ln(sigma) / 4
    assert convention_of(scheduler).ends == pytest.approx(ends, abs=1e-4, rel=0)
    scheduler.set_timesteps(7)
    assert float(scheduler.timesteps[0]) == pytest.approx(ends[1], abs=1e-4)


def test_entries_beyond_a_table_are_pure_noise():
    """`steps_offset` can push the first timestep out of the table, as of 4 steps of 100 here."""
    scheduler = diffusers.DDIMScheduler(T, timestep_spacing="leading", steps_offset=25)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [100, 75, 50, 25]
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, T))
    inside = [math.sqrt(1 / kept[t] - 1) for t in (75, 50, 25)]
    assert convention_of(scheduler).grid().tolist() == pytest.approx(
        [math.inf, *inside], rel=1e-4, abs=0
    )
    scheduler.timesteps = torch.tensor([T + 2, T + 1, T, T - 1, 0])
    assert torch.isinf(convention_of(scheduler).grid()).tolist() == [True] * 3 + [False] * 2


def test_the_training_timesteps_of_a_flow_end_at_its_first_entry_beyond():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=T)
    at_entry = 2 * math.log((1 - 0.4) / 0.4)  # its table has s = 0.40 in float32
    for star, last in ((at_entry, 40), (at_entry - 0.01, 41), (at_entry + 0.01, 40)):
        assert float(training_timesteps(scheduler, star)[-1]) == pytest.approx(last)


def test_none_is_beyond():
    assert first_beyond(torch.tensor([2.0, 1.0]), 0.0) == 2
    assert first_beyond(torch.tensor([math.inf, -math.inf]), -math.inf) == 1


def test_log_snrs_from_minus_to_plus_60_are_plausible():
    for number in (-60, 60.0, 0, np.float32(0.5), torch.tensor(-3.0)):
        got = check_log_snr("the level", number)
        assert (type(got) in (int, float), got) == (True, float(number))
    advice = r"\. Pass a log-SNR from -60 to 60, such as 0\.0 where signal and noise are equal\.$"
    for number in (60.001, -61, 1e200):
        with pytest.raises(TruncationError, match=f"^the level=.* is not a plausible .*{advice}"):
            check_log_snr("the level", number)
    for wrong in (math.nan, math.inf, "3", None, True, [1.0, 2.0]):
        with pytest.raises(TruncationError, match=f"^the level=.* is no finite number{advice}"):
            check_log_snr("the level", wrong)
