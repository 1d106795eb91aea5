"""The distance of samples from held-out items, against scipy and against repeated draws."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from gaga_adapter.criteria import as_denoiser
from gaga_adapter.level_fitting.distance import Apart, Yardstick, energy_distance, relative
from gaga_adapter.moments import DenseMoments
from gaga_adapter.reference import make_reference


def draws(n, scale=1.0, seed=0, shape=(2, 6)):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, *shape, generator=generator, dtype=torch.float64)


def yardstick(x):
    moments = DenseMoments(x.shape[1:])
    moments.update(x)
    denoiser = as_denoiser(lambda noisy, sigma, mask: noisy / (1 + sigma**2))
    return Yardstick(x, None, denoiser, make_reference(moments, "channel"), (1.0, 3.0), 0)


def test_the_energy_distance_is_scipys():
    """Which returns the square root, of one-dimensional numbers."""
    a, b = draws(300, shape=(1,)), 0.3 + draws(200, 1.4, seed=1, shape=(1,))
    value, influence = energy_distance(a, b)
    expected = scipy.stats.energy_distance(a[:, 0].numpy(), b[:, 0].numpy()) ** 2
    assert float(value) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert float(influence.mean()) == pytest.approx(0, abs=1e-12)
    assert float(energy_distance(b, b)[0]) == pytest.approx(0, abs=1e-12)


def test_the_influences_tell_the_scatter():
    """100 draws have a standard deviation within 35 % of its value (5 errors of 7 %)."""
    held_out = 0.8 + draws(400, shape=(1,))
    values, errors = [], []
    for seed in range(1, 101):
        value, influence = energy_distance(draws(200, seed=seed, shape=(1,)), held_out)
        values.append(float(value))
        errors.append(float(influence.std()) / math.sqrt(200))
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.35)


def test_samples_of_another_law_are_further_away():
    ruler = yardstick(draws(300))
    same, wide = (ruler.compare(draws(300, scale, seed=3), None) for scale in (1.0, 1.3))
    # Features and residuals both see it; each is many standard errors above chance.
    assert bool((wide.values > 3 * same.values).all())


def test_a_distance_is_in_units_of_the_even_one_and_knows_pairs():
    ruler = yardstick(draws(300))
    found = ruler.compare(draws(300, 1.2, seed=3), None)
    assert relative(found, found) == (1.0, 0.0)
    twice = Apart(2 * found.values, 2 * found.influences)
    value, error = relative(twice, found)
    assert value == pytest.approx(2, rel=1e-12)
    assert error == pytest.approx(0, abs=1e-12)
