"""The costs of single steps, against Gaussians whose chain of few steps is known in full."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from gaga_adapter.criteria import as_denoiser
from gaga_adapter.errors import TruncationError
from gaga_adapter.level_fitting.bound import ErrorCurve, cheapest_path, step_costs

LEVELS = [-2.0, -0.5, 0.3, 1.7, 4.0]
V = 0.7


def coefficients(log_snr):
    return math.sqrt(1 / (1 + math.exp(-log_snr))), math.sqrt(1 / (1 + math.exp(log_snr)))


def error(log_snr):
    """Squared error of the best denoiser of N(0, V)."""
    return V / (1 + V * math.exp(log_snr))


def path_law(levels):
    """Covariance (n, n) of one trajectory of the noising process, cleaner levels last."""
    pairs = [coefficients(level) for level in levels]
    covariance = torch.empty(len(levels), len(levels), dtype=torch.float64)
    for (i, (a, b)), (j, (c, d)) in itertools.product(enumerate(pairs), repeat=2):
        # x_noisy = (a / c) x_clean + fresh noise, so the noises share (a / c) d².
        shared = a / c * d**2 if i <= j else c / a * b**2
        covariance[i, j] = a * c * V + shared
    return covariance


def chain_law(levels, rule):
    """Covariance (n, n) of the sampler with the exact denoiser, from the exact first marginal.

    `rule` gives the weights of prediction, sample and noise of a step, from its two levels.
    """
    a, b = coefficients(levels[0])
    covariance = torch.zeros(len(levels), len(levels), dtype=torch.float64)
    covariance[0, 0] = a**2 * V + b**2
    for k in range(1, len(levels)):
        (a, b), there = coefficients(levels[k - 1]), coefficients(levels[k])
        of_clean, of_sample, noise = rule((a, b), there)
        factor = of_clean * a * V / (a**2 * V + b**2) + of_sample
        covariance[k, :k] = covariance[:k, k] = factor * covariance[k - 1, :k]
        covariance[k, k] = factor**2 * covariance[k - 1, k - 1] + noise**2
    return covariance


def ancestral(here, there):
    """Mean and variance of q(x_t | x_s, x_0) by conditioning, not by the formula of the package."""
    (a, b), (c, d) = here, there
    # x_s = (a / c) x_t + noise of variance b² - (a d / c)²
    extra = b**2 - (a * d / c) ** 2
    precision = 1 / d**2 + (a / c) ** 2 / extra
    return c / d**2 / precision, a / c / extra / precision, precision**-0.5


def test_the_bound_is_the_divergence_of_the_chains():
    """What the bound exceeds `1/2 ∫ mse d snr` by is the KL of the two laws of the trajectory."""
    costs = step_costs(np.array(LEVELS), np.array([error(level) for level in LEVELS]))
    bound = sum(costs[k, k + 1] for k in range(len(LEVELS) - 1))
    ends = [1 + V * math.exp(level) for level in (LEVELS[0], LEVELS[-1])]
    zero = torch.zeros(len(LEVELS), dtype=torch.float64)
    divergence = kl_divergence(
        MultivariateNormal(zero, path_law(LEVELS)),
        MultivariateNormal(zero, chain_law(LEVELS, ancestral)),
    )
    assert float(divergence) > 0.1
    assert bound - 0.5 * math.log(ends[1] / ends[0]) == pytest.approx(
        float(divergence), rel=1e-9, abs=1e-12
    )


def test_a_renoised_step_costs_what_its_forgotten_sample_would_tell():
    levels = np.array([0.5, 2.0])
    costs = step_costs(levels, np.array([error(0.5), error(2.0)]), renoise_from=0.5)
    there = coefficients(2.0)
    # KL of two Gaussians of one variance B², whose means differ by A (x_0 - xhat).
    assert costs[0, 1] == pytest.approx(0.5 * (there[0] / there[1]) ** 2 * error(0.5), rel=1e-12)
    assert costs[0, 1] > step_costs(levels, np.array([error(0.5), 1.0]))[0, 1]


@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_the_cheapest_path_is_that_of_all_paths(n):
    rng = np.random.default_rng(n)
    k = 9
    costs = np.where(np.triu(np.ones((k, k)), 1) > 0, rng.random((k, k)) ** 3, np.inf)

    def total(path):
        return sum(costs[i, j] for i, j in itertools.pairwise(path))

    inner = itertools.combinations(range(1, k - 1), n - 2)
    best = min(((0, *some, k - 1) for some in inner), key=total)
    assert cheapest_path(costs, n) == list(best)


def test_too_many_levels_are_refused():
    with pytest.raises(TruncationError, match="4 levels cannot be chosen among 3"):
        cheapest_path(np.zeros((3, 3)), 4)


def test_levels_of_a_gaussian_cost_no_more_than_even_ones():
    generator = torch.Generator().manual_seed(0)
    x = math.sqrt(V) * torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    denoiser = as_denoiser(lambda noisy, sigma, mask: V / (V + sigma**2) * noisy)
    curve = ErrorCurve.of(denoiser, x, None, -2.0, 5.0, seed=1)
    exact = np.array([3 * error(level) for level in curve.log_snrs])
    # Six standard errors of a mean of squares of 12,000 numbers.
    assert np.allclose(curve.errors, exact, rtol=6 * math.sqrt(2 / 12000), atol=0)
    levels = curve.best_levels(5.0, 6, math.inf)
    assert (levels[0], levels[-1]) == (-2.0, 5.0)

    def bound(some):
        errors = [3 * error(level) for level in some]
        return float(np.diagonal(step_costs(np.array(some), np.array(errors)), 1).sum())

    assert bound(levels) < bound(np.linspace(-2, 5, 6).tolist()) * (1 - 1e-3)
