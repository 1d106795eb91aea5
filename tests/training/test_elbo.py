"""The bound of a truncated model, against closed forms of Gaussian data and its exact denoiser."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy import stats as scipy_stats

from gaga_adapter import FlowPath, GAGAStats, VEPath, VPPath, named_path, truncated_elbo
from gaga_adapter.errors import DataError, StatsMismatchError, TruncationError
from gaga_adapter.layout import DenseLayout, MoleculeLayout
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.training.decoders import Atoms, Continuous, Levels

VARIANCE = torch.tensor([3.0, 0.5, 1.0, 0.1])
SIGMAS = 5.0  # standard errors of each comparison: 6e-7 false alarms


@pytest.fixture(scope="module")
def gaussian():
    """Dense Gaussian data (M, 4), their statistics and exact denoiser."""
    generator = torch.Generator().manual_seed(0)
    moments = DenseMoments((4,), kind="channel")
    moments.update(torch.randn(200_000, 4, generator=generator) * VARIANCE.sqrt())
    x = torch.randn(3000, 4, generator=generator) * VARIANCE.sqrt()
    stats = GAGAStats(DenseLayout((4,)), moments, log_snr_star=0.0)

    def denoiser(noisy, sigma, mask):
        return noisy * VARIANCE / (VARIANCE + sigma**2)

    return x, stats, denoiser


def entropy():
    return float(0.5 * (2 * math.pi * math.e * VARIANCE.double()).log().sum())


def bound_of_steps(path, n_steps, variance):
    """Expected parts for Gaussian data: sums over the table, term by term."""
    v = variance.double().numpy()[:, None]
    t = np.arange(n_steps + 1) / path.n_steps
    snr = np.exp(path.log_snr(torch.from_numpy(t)).numpy())
    mmse = (v / (1 + v * snr)).sum(0)
    between = 0.5 * ((snr[:-1] - snr[1:]) * mmse[1:]).sum()
    a2, b2 = float(path.a(t[-1])) ** 2, float(path.b(t[-1])) ** 2
    ratio = (a2 * v + b2) / b2
    prior = 0.5 * np.log(ratio).sum()  # the mean of KL(q(z|x) || N(0, a²v + b²)) over the data
    sigma2 = 1 / snr[0]
    reconstruction = 0.5 * (len(v) * np.log(2 * np.pi * sigma2) + mmse[0] / sigma2)
    return prior, between, reconstruction


def close(found, part, exact, slack=0.0):
    value, error = found.mean(part)
    assert abs(value - exact) < SIGMAS * error + slack, (part, value, error, exact)


@pytest.mark.parametrize("t_star", [0.2, 0.55, 1.0])
def test_every_part_on_a_table_is_its_closed_form(gaussian, t_star):
    x, stats, denoiser = gaussian
    path = named_path("edm/polynomial_2", n_steps=100)
    generator = torch.Generator().manual_seed(1)
    found = truncated_elbo(
        denoiser, x, None, path, stats, t_star, n_levels=100, generator=generator
    )
    prior, between, reconstruction = bound_of_steps(path, round(100 * t_star), VARIANCE)
    close(found, "prior", prior, 2e-3)  # variances estimated from 200,000 items
    close(found, "between", between)
    close(found, "reconstruction", reconstruction)
    close(found, "nats", prior + between + reconstruction, 2e-3)


@pytest.mark.parametrize("t_star", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("path", [FlowPath(), VEPath(0.002, 80.0, 7.0)], ids=["flow", "ve"])
def test_in_continuous_time_the_bound_is_the_entropy_wherever_it_is_cut(gaussian, path, t_star):
    x, stats, denoiser = gaussian
    generator = torch.Generator().manual_seed(2)
    found = truncated_elbo(denoiser, x, None, path, stats, t_star, n_levels=16, generator=generator)
    # L_0 of real numbers adds half of mmse(0) / sigma_0² - d, which is next to nothing
    close(found, "nats", entropy(), 3e-3)
    bits, _ = found.mean("bits_per_dimension")
    assert bits == pytest.approx(found.mean()[0] / (4 * math.log(2)))


def test_few_levels_estimate_the_same_sum(gaussian):
    x, stats, denoiser = gaussian
    path = named_path("edm/polynomial_2", n_steps=1000)
    values = []
    for n_levels in (1, 3, 64):
        generator = torch.Generator().manual_seed(3)
        found = truncated_elbo(
            denoiser,
            x,
            None,
            path,
            stats,
            0.5,
            n_levels=n_levels,
            batch_size=20,
            generator=generator,
        )
        # items of a batch share their levels, so batches are the independent draws
        means = found.between.reshape(-1, 20).mean(1)
        values.append((float(means.mean()), float(means.std()) / math.sqrt(len(means))))
    _, between, _ = bound_of_steps(path, 500, VARIANCE)
    for value, error in values:
        assert abs(value - between) < SIGMAS * error
    assert values[0][1] > values[2][1]


def test_a_worse_denoiser_has_a_worse_bound(gaussian):
    x, stats, denoiser = gaussian
    worse = truncated_elbo(
        lambda y, s, m: 0.9 * denoiser(y, s, m),
        x,
        None,
        FlowPath(),
        stats,
        0.5,
        generator=torch.Generator().manual_seed(0),
    )
    exact = truncated_elbo(
        denoiser, x, None, FlowPath(), stats, 0.5, generator=torch.Generator().manual_seed(0)
    )
    assert worse.mean()[0] > exact.mean()[0] + 1
    assert torch.equal(worse.prior, exact.prior)


# -- molecules -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def molecules():
    """Molecules of Gaussian positions and two elements, with their statistics."""
    generator = torch.Generator().manual_seed(4)
    layout = MoleculeLayout(("H", "C"))
    sizes = torch.tensor([3, 5, 6]).repeat(400)
    mask = torch.arange(6)[None] < sizes[:, None]
    position = torch.randn(len(sizes), 6, 3, generator=generator) * 1.3
    element = torch.nn.functional.one_hot(
        (torch.rand(len(sizes), 6, generator=generator) < 0.3).long(), 2
    )
    x = torch.cat([position, element / 4], -1) * mask[..., None]
    x[..., :3] -= (x[..., :3].sum(1, keepdim=True) / sizes[:, None, None]) * mask[..., None]
    moments = ExchangeableMoments(2)
    moments.update(x, mask)
    return x, mask, GAGAStats(layout, moments, log_snr_star=0.0)


def exact_denoiser(noisy, sigma, mask):
    """The posterior mean of independent Gaussian positions and Bernoulli elements."""
    v = 1.3**2
    prior = torch.tensor([0.7, 0.3]).log()
    logits = prior + noisy[..., 3:] * 0.25 / sigma**2
    return torch.cat([noisy[..., :3] * v / (v + sigma**2), logits.softmax(-1) / 4], -1)


@pytest.mark.parametrize("kind", ["size", "shape"])
def test_the_bound_of_molecules_is_near_their_entropy(molecules, kind):
    x, mask, stats = molecules
    generator = torch.Generator().manual_seed(5)
    x, mask = x[:150], mask[:150]
    path = named_path("edm/polynomial_2", n_steps=4000)
    found = truncated_elbo(
        exact_denoiser, x, mask, path, stats, 0.7, kind, n_levels=64, generator=generator
    )
    n = mask.sum(1).double()
    entropy_x = 1.5 * (n - 1) * math.log(2 * math.pi * math.e * 1.69)
    entropy_h = -n * (0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    exact = float((entropy_x + entropy_h).mean())
    # Beyond t* the reference is not exact, and the steps are finite: the bound is above.
    value, error = found.mean()
    assert exact - SIGMAS * error < value < exact + SIGMAS * error + 1.0
    torch.testing.assert_close(found.dimensions, 3 * (n - 1) + 2 * n)


def test_the_prior_term_of_shape_is_unbiased_and_below_its_bound(molecules):
    x, mask, stats = molecules
    x, mask = x[:6], mask[:6]
    path = VPPath.from_betas(torch.linspace(1e-3, 0.2, 50))
    reference = stats.reference("shape").at(path.a(1.0), path.b(1.0))
    draws = [
        truncated_elbo(
            exact_denoiser,
            x,
            mask,
            path,
            stats,
            1.0,
            "shape",
            n_levels=1,
            generator=torch.Generator().manual_seed(seed),
        ).prior
        for seed in range(24)
    ]
    mean, error = torch.stack(draws).mean(0), torch.stack(draws).std(0) / math.sqrt(24)
    bound = reference.kl_from_posterior(x, mask)
    assert bool((mean < bound + SIGMAS * error).all())
    # the same divergence without the control variate
    generator = torch.Generator().manual_seed(99)
    noise = torch.randn(400, *x.shape, generator=generator) * mask[..., None]
    noise[..., :3] -= noise[..., :3].sum(2, keepdim=True) / mask.sum(1)[:, None, None]
    noise = noise * mask[..., None]
    d = 3 * (mask.sum(1) - 1) + 2 * mask.sum(1)
    plain = []
    for eps in noise:
        square = eps.double().square().sum((1, 2))
        own = -0.5 * (d * math.log(2 * math.pi * reference.b**2) + square)
        plain.append(own - reference.log_prob(reference.a * x + reference.b * eps, mask))
    plain = torch.stack(plain)
    both = (error**2 + (plain.std(0) / 20) ** 2).sqrt()
    assert bool(((mean - plain.mean(0)).abs() < SIGMAS * both).all())


def test_elements_are_read_off_by_their_posterior():
    layout = MoleculeLayout(("H", "C"), charge_scale=10.0)
    values = np.array([[0.25, 0.0, 0.1], [0.0, 0.25, 0.6]])
    sigma, generator = 0.3, torch.Generator().manual_seed(0)
    n = 40_000
    x = torch.zeros(n, 1, 6, dtype=torch.float64)
    x[..., 3:] = torch.from_numpy(values[0])
    noisy = x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    mask = torch.ones(n, 1, dtype=torch.bool)
    nats = Atoms(layout).nats(x, mask, noisy, x, sigma)
    # the log-odds of two points at distance D are N(D²/2s², D²/s²)
    gap = ((values[0] - values[1]) ** 2).sum() / sigma**2
    law = scipy_stats.norm(gap / 2, math.sqrt(gap))
    exact, _ = integrate.quad(lambda m: np.log1p(np.exp(-m)) * law.pdf(m), -40, 60)
    error = float(nats.std()) / math.sqrt(n)
    assert abs(float(nats.mean()) - exact) < SIGMAS * error


def test_pixels_are_read_off_by_their_posterior():
    sigma = 0.6
    x = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)
    noisy = torch.tensor([[-0.7, 0.3, 0.2]], dtype=torch.float64)
    grid = np.array([-1.0, 0.0, 1.0])
    table = scipy_stats.norm(0, sigma).pdf(noisy.numpy()[0][:, None] - grid)
    exact = -np.log(np.diag(table / table.sum(1, keepdims=True))).sum()
    found = Levels(3).nats(x, None, noisy, x, sigma)
    assert float(found) == pytest.approx(exact, rel=1e-12)
    with pytest.raises(DataError, match="not on 256 values"):
        Levels().nats(x + 0.001, None, noisy, x, sigma)


def test_density_of_real_numbers_is_scipys():
    x, predicted = torch.randn(2, 5, 3, dtype=torch.float64).unbind()
    found = Continuous().nats(x, None, x, predicted, 0.4)
    exact = -scipy_stats.norm(predicted.numpy(), 0.4).logpdf(x.numpy()).sum(1)
    torch.testing.assert_close(found, torch.from_numpy(exact))


# -- wrong inputs --------------------------------------------------------------------------------


def test_wrong_inputs_are_named(gaussian):
    x, stats, denoiser = gaussian
    path = named_path("edm/polynomial_2")
    with pytest.raises(TruncationError, match="no node of a table of 1000"):
        truncated_elbo(denoiser, x, None, path, stats, 0.5503)
    with pytest.raises(TruncationError, match="outside of"):
        truncated_elbo(denoiser, x, None, path, stats, 550)
    with pytest.raises(StatsMismatchError, match="channels"):
        truncated_elbo(denoiser, x[:, :3], None, path, stats)
    with pytest.raises(DataError, match="n_levels=0"):
        truncated_elbo(denoiser, x, None, path, stats, n_levels=0)
    with pytest.raises(TruncationError, match="needs to fall"):
        truncated_elbo(denoiser, x, None, FlowPath(), stats, 0.5, cleanest=-3.0)
    found = truncated_elbo(denoiser, x[:9], None, path, stats)
    with pytest.raises(DataError, match="part='bits'"):
        found.mean("bits")
    assert "bits per dimension" in str(found)


def test_statistics_by_name(gaussian, tmp_path):
    x, stats, denoiser = gaussian
    stats.save_pretrained(tmp_path)
    bounds = []
    for given in (stats, str(tmp_path)):
        options = {"generator": torch.Generator().manual_seed(0)}
        bounds.append(truncated_elbo(denoiser, x[:9], None, FlowPath(), given, 0.5, **options).nats)
    assert torch.equal(*bounds)
