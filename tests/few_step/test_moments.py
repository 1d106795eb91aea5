"""What a step does to the variance, against closed forms for Gaussian data.

The network is the exact posterior mean of Gaussian data, or one that is worse. Where the law of a
result is needed, it is computed and not sampled: everything is linear in the noise without matched
moments, so every row of the batch gets one unit of one noise variable, and squares add up.
"""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from toys import gaussian_molecules, generator, normal

from gaga_adapter import FewStepScheduler
from gaga_adapter.few_step import matching, scheduler
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.noise.conventions import Level, convention_of
from gaga_adapter.subspace import mask_from_sizes, project

V = 2.0  # variance of the data
EXACT = {"atol": 1e-10, "rtol": 1e-10}
KINDS = [DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler]


def few(kind=DDPMScheduler, **options):
    return FewStepScheduler.from_scheduler(kind(), **options)


def coefficients(few, t):
    """a and b of the sample at a timestep, from the tables and formulas of the papers."""
    if few.config.noise_class == "FlowMatchEulerDiscreteScheduler":
        return 1 - t / 1000, t / 1000
    abar = float(DDPMScheduler().alphas_cumprod[int(t)].double())
    if few.config.noise_class == "EulerDiscreteScheduler":
        return 1.0, math.sqrt((1 - abar) / abar)
    return math.sqrt(abar), math.sqrt(1 - abar)


def posterior(a, b, x, v=V, mean=0.0):
    return mean + a * v / (a**2 * v + b**2) * (x - a * mean)


def output(few, x, t, clean):
    """What a network says that predicts `clean`."""
    return convention_of(few).output(clean, few.scale_model_input(x, t), t)


class Units:
    """Stands for `randn_tensor`: the k-th draw is one unit in row k + 1, and only there."""

    def __init__(self):
        self.count = 0

    def __call__(self, shape, generator=None, device=None, dtype=None):
        noise = torch.zeros(shape, dtype=dtype)
        self.count += 1
        noise[self.count] = 1
        return noise


def variance_at_the_end(few, monkeypatch):
    """Of a run with the exact posterior mean, from exactly noised data."""
    monkeypatch.setattr(scheduler, "randn_tensor", Units())
    x = torch.zeros(len(few.timesteps) + 1, 1, dtype=torch.float64)
    a, b = coefficients(few, float(few.timesteps[0]))
    x[0] = math.sqrt(a**2 * V + b**2)
    for t in few.timesteps:
        a, b = coefficients(few, float(t))
        x = few.step(output(few, x, t, posterior(a, b, x)), t, x).prev_sample
    return float(x.square().sum())


# -- without matched moments -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_ancestral_steps_are_those_of_the_papers(kind, monkeypatch):
    """Equation 7 of Ho et al. 2020 for the mean and the variance of x_s given x_t and x_0."""
    one = few(kind, renoise_from=math.inf)
    one.set_timesteps(10)
    found = variance_at_the_end(one, monkeypatch)
    # As variance-preserving levels, which are the same but for the scale of the sample.
    levels = [coefficients(one, t) for t in one.timesteps.tolist()]
    abar = [a**2 / (a**2 + b**2) for a, b in levels]
    v = abar[0] * V + 1 - abar[0]
    for now, then in pairwise(abar):
        alpha = now / then
        of_clean = math.sqrt(then) * (1 - alpha) / (1 - now)
        of_sample = math.sqrt(alpha) * (1 - then) / (1 - now)
        gain = math.sqrt(now) * V / (now * V + 1 - now)
        v = (of_clean * gain + of_sample) ** 2 * v + (1 - alpha) * (1 - then) / (1 - now)
    gain = math.sqrt(abar[-1]) * V / (abar[-1] * V + 1 - abar[-1])
    assert found == pytest.approx(gain**2 * v, rel=1e-5)


def test_ancestral_steps_without_end_are_exact(monkeypatch):
    """The variance that n steps lack falls as 1 / n."""
    lack = {}
    for n in (64, 256):
        one = few(FlowMatchEulerDiscreteScheduler, renoise_from=math.inf)
        shares = torch.sigmoid(-torch.linspace(-6, 16, n, dtype=torch.float64) / 2)
        one.set_timesteps(sigmas=shares)
        lack[n] = 1 - variance_at_the_end(one, monkeypatch) / V
    assert 0 < lack[256] < 0.05
    assert lack[64] / lack[256] == pytest.approx(4, rel=0.1)


def test_steps_noise_the_prediction_again_from_the_switch_on(monkeypatch):
    """`x' = A xhat + B eps'`: the sample itself is forgotten, and ancestral steps keep a share."""
    monkeypatch.setattr(scheduler, "randn_tensor", lambda shape, dtype, **rest: torch.zeros(shape))
    for limit, n_last in ((None, 99), (2, 2), (0, 0)):
        one = few(renoise_from=1.0, n_renoised=limit)
        one.set_timesteps(12)
        for place, t in enumerate(one.timesteps.tolist()):
            a, b = coefficients(one, t)
            forgets = place == 11 or (2 * math.log(a / b) >= 1 and 11 - place <= n_last)
            clean, results = normal(3, 2), []
            for x in (normal(3, 2, seed=1), normal(3, 2, seed=2)):
                one._step_index = place
                results.append(one.step(output(one, x, t, clean), t, x).prev_sample)
            assert torch.allclose(*results, atol=1e-6) == forgets
            if forgets:
                scale = 1.0 if place == 11 else coefficients(one, int(one.timesteps[place + 1]))[0]
                torch.testing.assert_close(results[0], scale * clean, atol=1e-6, rtol=1e-6)


# -- with matched moments --------------------------------------------------------------------------


def molecules():
    """Moments of molecules of two sizes whose variances differ, and a mask of both and of one."""
    moments = ExchangeableMoments(2)
    for n, v in ((4, 1.5), (9, 2.5)):
        x, mask = gaussian_molecules([n] * 400, variance=v, seed=n)
        moments.update(x, mask)
    return moments, mask_from_sizes(torch.tensor([4, 9, 9, 1, 4]))


def images():
    moments = DenseMoments((2, 4, 4))
    scale, shift = torch.tensor([0.5, 1.5]), torch.tensor([1.0, -2.0])
    moments.update(scale[:, None, None] * normal(300, 2, 4, 4) + shift[:, None, None])
    return moments


@pytest.mark.parametrize("weak", [1.0, 0.8])
@pytest.mark.parametrize("renoise_from", [math.inf, -math.inf])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", ["molecules", "images"])
def test_the_next_sample_has_the_second_moment_of_the_path(
    data, kind, renoise_from, weak, monkeypatch
):
    """Of a sample that has that of its own level; with a network that is exact, or worse."""
    monkeypatch.setattr(
        scheduler, "randn_tensor", lambda shape, dtype, **rest: torch.zeros(shape, dtype=dtype)
    )
    # further out a network that says next to nothing would be scaled by more than `MOST_SCALED`
    one = few(kind, renoise_from=renoise_from, match_below=math.inf, log_snr_min=0.0)
    if data == "molecules":
        moments, mask = molecules()
        part, mean = slice(3), 0.0
        sizes = mask.sum(1)
        dofs = [3 * (int(n) - 1) for n in sizes]
        v = sum(d * moments.at_size(int(n)).v_x for d, n in zip(dofs, sizes, strict=True) if d)
        v, dof = v / sum(dofs), sum(dofs)
        z = project(normal(5, 9, 5), mask)
    else:
        moments, part = images(), slice(None)
        mean = moments.mean[:, None, None]
        v, z = float(moments.var.mean()), normal(6, 2, 4, 4)
        dof = z.numel()
    one.moments = moments
    one.set_timesteps(7)
    timesteps = one.timesteps.tolist()
    for place in range(int(kind is FlowMatchEulerDiscreteScheduler), 6):  # whose first is noise
        (a, b), (a_next, b_next) = (coefficients(one, t) for t in timesteps[place : place + 2])
        x = z.clone()
        x[..., part] *= math.sqrt(dof * (a**2 * v + b**2) / float(z[..., part].square().sum()))
        x = x + a * mean
        clean = weak * posterior(a, b, x, v, mean) + (1 - weak) * mean
        one._step_index = place
        t = timesteps[place]
        found = one.step(output(one, x, t, clean), t, x).prev_sample - a_next * mean
        s2 = b_next**2
        if renoise_from > 0:
            s2 *= 1 - (a * b_next / (a_next * b)) ** 2
        expected = a_next**2 * v + b_next**2
        assert float(found[..., part].square().sum()) / dof + s2 == pytest.approx(
            expected, rel=1e-6
        )


def test_chance_is_left_as_it_is(monkeypatch):
    """Where the data alone say the variance, a sample that is larger by chance stays so."""
    monkeypatch.setattr(matching, "_SPREAD", 0.0)
    moments = images()
    mean = moments.mean[:, None, None]
    step = matching.Step(Level(0.6, 0.8), Level(0.8, 0.6), 0.5, 0.5, 0.1)
    x = normal(1, 2, 4, 4)
    one, larger = (
        matching.matched(mean + 0.3 * k * x, 0.6 * mean + k * x, step, moments) - mean
        for k in (1.0, 1.7)
    )
    torch.testing.assert_close(larger, 1.7 * one, **EXACT)


def test_the_noise_of_what_a_sample_says_of_its_own_variance():
    """Monte Carlo of 40,000 samples of data with a fixed square; a false alarm in 1e6 runs."""
    d, n = 12, 40_000
    for a, b, v in ((0.5, 0.8, 2.0), (0.9, 0.3, 0.5)):
        x_0 = normal(d, seed=1)
        x_0 *= math.sqrt(d * v) / x_0.norm()
        x = a * x_0 + b * normal(n, d, seed=2)
        own = (x.square().mean(1) - b**2) / a**2
        assert float(own.mean()) == pytest.approx(v, abs=4.9 * float(own.std()) / math.sqrt(n))
        squares = (own - own.mean()).square()
        expected = matching.own_uncertainty(Level(a, b), v, d)
        error = 4.9 * float(squares.std()) / math.sqrt(n)
        assert float(squares.mean()) == pytest.approx(expected, abs=error)


def test_a_batch_of_one_keeps_the_spread_of_sizes():
    """Molecules that differ in their own variance, made one by one in twelve calls.

    The network is the exact posterior mean over Gaussians whose variance has a gamma law. A formula
    that also takes back what chance has made larger leaves 40 % of the spread; of 120 molecules,
    chance makes 7 %.
    """
    spread, n_atoms, n = 0.2, 17, 120
    d = 3 * (n_atoms - 1)
    shape = 1 / spread**2
    draws = torch.distributions.Chi2(torch.tensor(2 * shape, dtype=torch.float64))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        v = V * draws.sample((n,)) / (2 * shape)
    mask = mask_from_sizes(torch.full((n,), n_atoms))
    x_0 = project(normal(n, n_atoms, 3), mask) * v.sqrt()[:, None, None]
    moments = ExchangeableMoments(0)
    moments.update(x_0, mask)
    grid = torch.linspace(0.6, 4.4, 96, dtype=torch.float64)
    prior = (shape - 1) * grid.log() - grid * shape / V

    def exact(x, a, b):
        total, own = a**2 * grid + b**2, x.square().sum()
        weights = torch.softmax(prior - d / 2 * total.log() - own / 2 / total, 0)
        return x * (weights * a * grid / total).sum()

    one = few(log_snr_min=-1.0)
    one.moments = moments
    draw, ends = generator(1), []
    one.set_timesteps(12)
    levels = {t: coefficients(one, t) for t in one.timesteps.tolist()}
    for row in x_0[:, None]:
        one.set_timesteps(12)
        a, b = next(iter(levels.values()))
        z = torch.randn(row.shape, generator=draw, dtype=torch.float64)
        x = a * row + b * project(z, mask[:1])
        for t, level in levels.items():
            said = output(one, x, t, exact(x, *level))
            x = project(one.step(said, t, x, generator=draw).prev_sample, mask[:1])
        ends.append(float(x.square().sum()) / d)
    ends, of_data = torch.tensor(ends), x_0.square().sum((1, 2)) / d
    assert float(ends.mean()) == pytest.approx(float(of_data.mean()), rel=0.15)
    assert float(ends.std()) == pytest.approx(float(of_data.std()), rel=0.3)


def test_a_molecule_depends_on_its_batch_through_one_number():
    moments, mask = molecules()
    x = project(normal(5, 9, 5), mask)
    clean = project(0.5 * x + 0.1 * normal(5, 9, 5, seed=1), mask)
    step = matching.Step(Level(0.7, 0.7), Level(0.8, 0.6), 0.5, 0.4, 0.1)
    together = matching.matched(clean, x, step, moments)
    ratio = together[..., :3] / clean[..., :3]
    ratio = ratio[mask][torch.isfinite(ratio[mask])]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), **EXACT)
    assert torch.equal(together[..., 3:], clean[..., 3:])  # features are left alone
    assert not together[~mask].any()
    # neither more padding nor what a network says in it counts
    wide = [torch.cat([y, torch.zeros(5, 3, 5, dtype=y.dtype)], 1) for y in (clean, x)]
    wide[0][:, 9:] = 5.0
    found = matching.matched(*wide, step, moments)
    torch.testing.assert_close(found[:, :9], together, **EXACT)
    alone = matching.matched(clean[:1], x[:1], step, moments)[..., :3]
    torch.testing.assert_close(
        alone / alone.norm(), together[:1, :, :3] / together[:1, :, :3].norm(), **EXACT
    )


def test_where_there_is_nothing_to_scale():
    moments, mask = molecules()
    step = matching.Step(Level(0.7, 0.7), Level(0.8, 0.6), 0.5, 0.4, 0.1)
    x = project(normal(5, 9, 5), mask)
    for clean, sample, one, of in (
        (x, x, step._replace(here=Level(0.0, 1.0)), moments),
        (x[3:4], x[3:4], step, moments),  # one atom
        (torch.zeros_like(x), x, step, moments),
        (x, x * math.nan, step, moments),
        (normal(2, 16, 8), normal(2, 16, 8), step, images()),  # packed into tokens
        (x, x, step, ExchangeableMoments(5, n_positions=0)),  # no positions
    ):
        assert matching.matched(clean, sample, one, of) is clean


@pytest.mark.parametrize("matches", [-math.inf, 3.0])
def test_all_paths_make_the_same_data(matches):
    """Variance preserving, exploding and flow: one noise, one set of levels, one result."""
    moments, mask = molecules()
    ends = []
    for kind in KINDS:
        one = few(kind, match_below=matches)
        one.moments = moments
        table = few()
        table.set_timesteps(9)
        if kind is FlowMatchEulerDiscreteScheduler:
            one.set_timesteps(sigmas=table.sigmas[:-1] / (1 + table.sigmas[:-1]))
        else:
            one.set_timesteps(timesteps=table.timesteps)
        draw = generator(3)
        a, b = coefficients(one, float(one.timesteps[0]))
        noise = project(torch.randn(5, 9, 5, generator=draw, dtype=torch.float64), mask)
        x = math.sqrt(a**2 * V + b**2) * noise
        for t in one.timesteps:
            a, b = coefficients(one, float(t))
            clean = 0.9 * posterior(a, b, x)
            x = project(one.step(output(one, x, t, clean), t, x, draw).prev_sample, mask)
        ends.append(x)
    torch.testing.assert_close(ends[1], ends[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ends[2], ends[0], atol=1e-4, rtol=1e-4)
