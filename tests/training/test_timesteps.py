"""Timesteps of training: each law against scipy or a count, stratification, importance, shards."""

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from scipy import stats as scipy_stats

from gaga_adapter import GAGAScheduler, TruncatedTimesteps
from gaga_adapter.errors import DataError, TruncationError, UnsupportedSchedulerError
from gaga_adapter.noise.timesteps import timestep_log_snr

N = 4000
ALPHA = 1e-6  # false alarms of each test of a law


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


LAWS = {
    "uniform": (TruncatedTimesteps.uniform, (0.4,), scipy_stats.uniform(0, 0.4)),
    "log_normal": (
        TruncatedTimesteps.log_normal,
        (1.5, -1.2, 1.2),
        scipy_stats.truncnorm(-np.inf, (math.log(1.5) + 1.2) / 1.2, -1.2, 1.2),
    ),
    "log_normal, whole": (
        TruncatedTimesteps.log_normal,
        (math.inf, -1.2, 1.2),
        scipy_stats.norm(-1.2, 1.2),
    ),
    "logit_normal": (
        TruncatedTimesteps.logit_normal,
        (0.3, 0.2, 0.8),
        scipy_stats.truncnorm(-np.inf, (math.log(0.3 / 0.7) - 0.2) / 0.8, 0.2, 0.8),
    ),
}
TO_NORMAL = {
    "uniform": lambda t: t,
    "log_normal": np.log,
    "logit_normal": lambda t: np.log(t / (1 - t)),
}


@pytest.mark.parametrize("name", LAWS)
def test_independent_draws_follow_the_cut_law(name):
    make, arguments, law = LAWS[name]
    t = make(*arguments, stratified=False).sample(N, seeded()).double().numpy()
    assert scipy_stats.kstest(TO_NORMAL[name.split(",")[0]](t), law.cdf).pvalue > ALPHA
    assert 0 < t.min()
    assert t.max() <= arguments[0]


@pytest.mark.parametrize("name", LAWS)
def test_one_place_of_a_stratified_batch_follows_the_law_too(name):
    make, arguments, law = LAWS[name]
    timesteps, generator = make(*arguments), seeded()
    t = torch.stack([timesteps.sample(7, generator)[3] for _ in range(N)]).double().numpy()
    assert scipy_stats.kstest(TO_NORMAL[name.split(",")[0]](t), law.cdf).pvalue > ALPHA


@pytest.mark.parametrize("name", LAWS)
def test_a_stratified_batch_has_one_draw_in_every_share(name):
    make, arguments, _ = LAWS[name]
    timesteps = make(*arguments)
    share = (timesteps.density.cdf(timesteps.sample(64, seeded()).double()) * 64).floor()
    # float32 may put a draw on the border into the share beside it
    assert len(torch.unique(share)) >= 63


def test_stratification_takes_the_variance_out_of_the_mean_of_a_smooth_loss():
    def spread(stratified):
        timesteps, generator = TruncatedTimesteps.uniform(0.5, stratified), seeded()
        means = [timesteps.sample(32, generator).square().mean() for _ in range(400)]
        return float(torch.stack(means).std())

    independent = 0.25 * math.sqrt(1 / 5 - 1 / 9) / math.sqrt(32)
    assert spread(False) == pytest.approx(independent, rel=0.2)  # 5.6 standard errors
    # the systematic mean of a function is off by at most its total variation over B
    assert spread(True) < 0.25 / 32
    assert spread(True) < 0.3 * independent


def test_steps_are_equally_likely_integers_up_to_and_including_t_star():
    timesteps = TruncatedTimesteps.steps(9, stratified=False)
    t = timesteps.sample(20_000, seeded())
    counts = torch.bincount(t)
    assert t.dtype == torch.int64
    assert len(counts) == 10
    assert scipy_stats.chisquare(counts.numpy()).pvalue > ALPHA
    assert TruncatedTimesteps.steps(9).sample(30, seeded()).bincount().tolist() == [3] * 10
    first = TruncatedTimesteps.steps(5, first=1).sample(50, seeded())
    assert sorted(set(first.tolist())) == [1, 2, 3, 4, 5]


def test_the_cdf_inverts_the_quantile():
    u = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    for make, arguments, _ in LAWS.values():
        density = make(*arguments).density
        torch.testing.assert_close(density.cdf(density.quantile(u)), u, rtol=1e-9, atol=1e-9)
    table = TruncatedTimesteps.steps(6).density
    assert (table.cdf(torch.arange(7)) * 7).tolist() == pytest.approx([i + 0.5 for i in range(7)])


# -- importance ----------------------------------------------------------------------------------


def loss_at(t):
    return torch.exp(-6 * t)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TruncatedTimesteps.uniform(0.8, importance=True),
        lambda: TruncatedTimesteps.steps(100, importance=True),
    ],
)
def test_weighted_losses_keep_their_mean_and_lose_variance(make):
    timesteps, generator = make(), seeded(3)
    scale = 0.01 if timesteps.density.n_atoms else 1.0
    for _ in range(200):
        t = timesteps.sample(64, generator)
        timesteps.update(t, loss_at(scale * t))
    frozen = [timesteps.sample(64, generator) for _ in range(800)]
    estimates = torch.stack([(timesteps.weights(t) * loss_at(scale * t)).mean() for t in frozen])
    if timesteps.density.n_atoms:
        exact = float(loss_at(scale * torch.arange(101.0).double()).mean())
    else:
        exact = (1 - math.exp(-4.8)) / 4.8
    error = float(estimates.std() / math.sqrt(len(estimates)))
    assert abs(float(estimates.mean()) - exact) < 5 * error + 1e-6  # 6e-7

    def independent_spread(importance):
        own = make() if not importance else timesteps
        own.stratified = False
        t = own.sample(20_000, generator)
        return float((own.weights(t) * loss_at(scale * t)).std())

    assert independent_spread(True) < 0.4 * independent_spread(False)


def test_probabilities_are_nichol_and_dhariwals_with_a_floor():
    timesteps = TruncatedTimesteps.steps(3, importance=True)
    history = timesteps.history
    t = torch.arange(4).repeat_interleave(50)
    squares = torch.tensor([16.0, 4.0, 1.0, 0.0])
    timesteps.update(t, squares.sqrt()[t])
    learned = torch.tensor([4.0, 2.0, 1.0, 0.0], dtype=torch.float64) / 7
    expected = 0.1 * 0.25 + 0.9 * learned
    torch.testing.assert_close(history.probabilities, expected)
    torch.testing.assert_close(
        timesteps.weights(torch.arange(4)).double(), 0.25 / expected, rtol=1e-6, atol=0
    )
    assert float(timesteps.weights(torch.arange(4)).max()) <= 10 + 1e-4


def test_nothing_is_preferred_before_every_bin_is_known():
    timesteps = TruncatedTimesteps.uniform(1.0, importance=True)
    timesteps.update(torch.full((1000,), 0.1), torch.full((1000,), 5.0))
    assert bool((timesteps.weights(torch.rand(50)) == 1).all())


def test_history_survives_a_checkpoint_and_refuses_that_of_another_t_star():
    one, two = (TruncatedTimesteps.steps(20, importance=True) for _ in range(2))
    for seed in range(30):
        t = one.sample(64, seeded(seed))
        one.update(t, loss_at(t / 20))
    two.load_state_dict(one.state_dict())
    assert torch.equal(two.history.probabilities, one.history.probabilities)
    assert torch.equal(two.sample(9, seeded()), one.sample(9, seeded()))
    with pytest.raises(DataError, match="another t"):
        TruncatedTimesteps.steps(9, importance=True).load_state_dict(one.state_dict())


def test_without_importance_weights_are_one_and_nothing_is_kept():
    timesteps = TruncatedTimesteps.uniform(0.5)
    t = timesteps.sample(8)
    timesteps.update(t, t)
    assert bool((timesteps.weights(t) == 1).all())
    assert timesteps.state_dict() == {}


# -- several processes ---------------------------------------------------------------------------


@pytest.mark.parametrize("stratified", [True, False])
def test_processes_with_one_seed_share_one_global_batch(as_process, stratified):
    timesteps = TruncatedTimesteps.uniform(0.7, stratified)
    parts = []
    for rank in range(4):
        as_process(rank, 4)
        parts.append(timesteps.sample(8, seeded(5)))
    together = torch.cat(parts)
    assert len(torch.unique(together)) == 32
    as_process(0, 1)
    whole = timesteps.sample(32, seeded(5))
    torch.testing.assert_close(together.sort().values, whole.sort().values)


def test_processes_with_one_seed_never_draw_the_same_noise_level(as_process):
    drawn = []
    for rank in range(2):
        as_process(rank, 2)
        drawn.append(TruncatedTimesteps.log_normal(1.0).sample(1, seeded()))
    assert drawn[0] != drawn[1]
    alone = TruncatedTimesteps.log_normal(1.0, sharded=False)
    assert torch.equal(alone.sample(3, seeded()), alone.sample(3, seeded()))


# -- schedulers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base",
    [
        DDPMScheduler(),
        EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        DPMSolverMultistepScheduler(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
    ],
    ids=lambda base: type(base).__name__,
)
def test_a_scheduler_trains_up_to_its_own_t_star(base, qm9):
    scheduler = GAGAScheduler.from_pretrained(base, stats=qm9)
    table = scheduler.training_timesteps()
    t = scheduler.sample_timesteps(5000, seeded())
    assert set(t.tolist()) == set(table.tolist())
    levels = [timestep_log_snr(scheduler, float(step)) for step in table]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] <= qm9.log_snr_star + 1e-5
    assert levels[-2] > qm9.log_snr_star
    fresh = type(base).from_config(base.config)
    assert bool(torch.isin(t.double(), fresh.timesteps.double()).all())


def test_noise_in_training_is_plain_noise(qm9):
    base = DDPMScheduler()
    scheduler = GAGAScheduler.from_pretrained(base, stats=qm9)
    t = scheduler.sample_timesteps(16, seeded())
    x, noise = torch.randn(2, 16, 4, generator=seeded())
    assert torch.equal(scheduler.add_noise(x, noise, t), base.add_noise(x, noise, t))


def test_continuous_noise_levels_are_named_instead(qm9):
    scheduler = GAGAScheduler.from_pretrained(EDMEulerScheduler(), stats=qm9)
    with pytest.raises(UnsupportedSchedulerError, match="log_normal"):
        scheduler.sample_timesteps(4)
    assert qm9.sigma_star == pytest.approx(math.exp(-qm9.log_snr_star / 2))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: TruncatedTimesteps.uniform(0.0), "t_star"),
        (lambda: TruncatedTimesteps.uniform(550), "in \\(0, 1\\]"),
        (lambda: TruncatedTimesteps.steps(0.5), "integer"),
        (lambda: TruncatedTimesteps.steps(0, first=1), "integer step from 1"),
        (lambda: TruncatedTimesteps.log_normal(-1.0), "sigma_star"),
        (lambda: TruncatedTimesteps.log_normal(1.0, 0.0, 0.0), "std"),
        (lambda: TruncatedTimesteps.logit_normal(2.0), "t_star"),
        (lambda: TruncatedTimesteps.table(torch.zeros(0)), "table"),
    ],
)
def test_bad_ends_are_refused(call, match):
    with pytest.raises(TruncationError, match=match):
        call()


def test_bad_batches_and_losses_are_refused():
    timesteps = TruncatedTimesteps.uniform(0.5, importance=True)
    with pytest.raises(DataError, match="batch_size=0"):
        timesteps.sample(0)
    with pytest.raises(DataError, match="one loss per example"):
        timesteps.update(torch.rand(4), torch.tensor(1.0))
    with pytest.raises(DataError, match="finite"):
        timesteps.update(torch.rand(2), torch.tensor([1.0, math.nan]))
