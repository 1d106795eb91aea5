"""The data of these tests, and what they take the same noise to."""

import itertools

import pytest
import torch
from loops.gaussian import COVARIANCE, MEAN, basis, clean, map_of, root, stats, velocity


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (0.8, 0.6), (0.3, 0.7), (1.0, 4.0)])
def test_the_start_is_the_law_of_noised_data(a, b):
    mean, matrix = map_of(stats().reference().at(a, b).transport(basis()))
    expected = a**2 * COVARIANCE + b**2 * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(mean, a * MEAN, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(matrix @ matrix.T, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(matrix, root(expected), rtol=1e-8, atol=1e-10)


def test_the_network_is_the_posterior_mean():
    """By regression on draws: the error is orthogonal to the input, within 4.9 standard errors."""
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    noise = torch.randn(2, n, 3, generator=generator, dtype=torch.float64)
    data = MEAN + noise[0] @ root(COVARIANCE)
    t = 0.4
    x = t * data + (1 - t) * noise[1]
    for wrong in (data - clean(t, 1 - t, x), data - noise[1] - velocity(t, x)):
        products = wrong[:, :, None] * x[:, None, :]
        spread = products.std(0) / n**0.5
        assert bool((products.mean(0).abs() <= 4.9 * spread).all())
        assert bool((wrong.mean(0).abs() <= 4.9 * wrong.std(0) / n**0.5).all())


def slope(s, x):
    """The probability flow of `(1 - s) x_0 + s eps`, from data at 0 to noise at 1."""
    return -velocity(1 - s, x)


def follow(x, grid):
    """Heun's steps along a grid of times."""
    for s, below in itertools.pairwise(grid):
        first = slope(s, x)
        second = slope(below, x + (below - s) * first)
        x = x + (below - s) * (first + second) / 2
    return x


@pytest.mark.parametrize("s_star", [0.2, 0.5, 0.8])
def test_the_same_noise_gives_the_same_sample_from_anywhere(s_star):
    """The start is where the probability flow would have taken the noise.

    For data of covariance C the flow takes noise z at s = 1 to `(1 - s) mu + K_s^(1/2) z` with
    `K_s = (1 - s)² C + s² I`: all K_s have the eigenvectors of C, and along each of them the flow
    keeps the standardised coordinate. The start takes the same root. So samples of one seed agree
    to within the error of the solver, whatever t* is, and at t* = 1 the start is the noise itself.
    """
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    full = follow(z, torch.linspace(1, 0, 401, dtype=torch.float64))
    exact = MEAN + z @ root(COVARIANCE)
    torch.testing.assert_close(full, exact, rtol=0, atol=1e-4)
    start = stats().reference().at(1 - s_star, s_star).transport(z)
    on_the_way = follow(z, torch.linspace(1, s_star, 401, dtype=torch.float64))
    torch.testing.assert_close(start, on_the_way, rtol=0, atol=1e-4)
    cut = follow(start, torch.linspace(s_star, 0, 401, dtype=torch.float64))
    torch.testing.assert_close(cut, full, rtol=0, atol=1e-4)


def test_the_start_is_the_noise_itself_at_the_end():
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(stats().reference().at(0.0, 1.0).transport(z), z)
