"""k-statistics against scipy, complete enumeration, and known cumulants.

Statistical bounds are at 4.9 standard errors, a one-sided false-alarm rate of 5e-7 per assertion.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from toys import generator

from gaga_adapter.criteria.cumulant.kstatistics import (
    k_statistic,
    norm_pseudo_values,
    set_partitions,
)
from gaga_adapter.criteria.cumulant.products import k_statistic_product
from gaga_adapter.errors import DataError


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_one_variable_is_scipy_s(order):
    x = torch.rand(23, 3, generator=generator(), dtype=torch.float64) ** 3
    expected = [scipy.stats.kstat(column, order) for column in x.T.numpy()]
    joint = k_statistic(x, order)
    np.testing.assert_allclose([joint[(i,) * order] for i in range(3)], expected, rtol=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4, 5, 6])
def test_the_average_over_all_samples_of_a_die_is_its_cumulant(order):
    """Every sample of 6 throws of a loaded three-sided die: unbiased to rounding."""
    values, chances = np.array([0.0, 1.0, 4.0]), np.array([0.5, 0.3, 0.2])
    raw = [float((chances * values**k).sum()) for k in range(order + 1)]
    cumulants = [0.0]
    for k in range(1, order + 1):
        lower = sum(math.comb(k - 1, j - 1) * cumulants[j] * raw[k - j] for j in range(1, k))
        cumulants.append(raw[k] - lower)
    total = 0.0
    for throws in itertools.combinations_with_replacement(range(3), 6):
        counts = np.bincount(throws, minlength=3)
        ways = math.factorial(6) / math.prod(map(math.factorial, counts.tolist()))
        sample = torch.tensor(values[list(throws)])[:, None]
        total += ways * math.prod(chances**counts) * float(k_statistic(sample, order))
    assert total == pytest.approx(cumulants[order], rel=1e-10)


@pytest.mark.parametrize("order", [5, 6])
def test_high_orders_of_an_exponential(order):
    """Its cumulants are (k - 1)!; the error is the spread over 400 batches."""
    x = torch.empty(400, 2000, dtype=torch.float64).exponential_(generator=generator())
    found = torch.stack([k_statistic(batch[:, None], order).flatten()[0] for batch in x])
    error = float(found.std()) / 20
    assert abs(float(found.mean()) - math.factorial(order - 1)) < 4.9 * error


@pytest.mark.parametrize("order", [2, 3, 4, 5, 6])
def test_joint_cumulants_turn_with_the_data(order):
    """Multilinear: the cumulants of a linear image are the image of the cumulants."""
    x = torch.rand(9, 3, generator=generator(1), dtype=torch.float64) ** 2
    mix = torch.randn(2, 3, generator=generator(2), dtype=torch.float64)
    expected = k_statistic(x, order)
    for axis in range(order):
        expected = torch.tensordot(mix, expected, dims=([1], [axis])).movedim(0, axis)
    torch.testing.assert_close(k_statistic(x @ mix.T + 5, order), expected)


@pytest.mark.parametrize("order", [2, 3, 4, 5, 6])
def test_inner_products_need_no_tensors(order):
    """Of batches of 7 and 11 items, from their inner products: equal to rounding."""
    y = torch.rand(7, 3, generator=generator(6), dtype=torch.float64) ** 2
    z = torch.randn(11, 3, generator=generator(7), dtype=torch.float64) ** 3
    expected = (k_statistic(y, order) * k_statistic(z, order)).sum()
    gram = (y - y.mean(0)) @ (z - z.mean(0)).T
    torch.testing.assert_close(k_statistic_product(gram, order), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(k_statistic_product(gram.T, order), expected, rtol=1e-9, atol=0)


def test_cumulants_of_independent_sums_add():
    """x + y of independent samples; unbiased estimates differ by noise of known scale."""
    x = torch.empty(200, 500, 2, dtype=torch.float64).exponential_(generator=generator(3))
    y = torch.randn(200, 500, 2, generator=generator(4), dtype=torch.float64) ** 2
    for order in (3, 4):
        terms = torch.stack(
            [
                k_statistic(a + b, order) - k_statistic(a, order) - k_statistic(b, order)
                for a, b in zip(x, y, strict=True)
            ]
        )
        worst = (terms.mean(0) / (terms.std(0) / math.sqrt(200))).abs().max()
        assert float(worst) < 4.9 + 0.6  # of 16 entries


def test_partitions_without_single_ones():
    counts = [len(set_partitions(k)) for k in range(2, 7)]
    assert counts == [1, 1, 4, 11, 41]
    assert set(set_partitions(4)) == {
        ((0, 1, 2, 3),),
        ((0, 1), (2, 3)),
        ((0, 2), (1, 3)),
        ((0, 3), (1, 2)),
    }


def test_cross_batch_norms_are_unbiased_and_their_jackknife_right():
    """Estimates c + noise: the naive norm is off by the noise, the cross norm is not."""
    truth = torch.tensor([0.3, -0.2, 0.0], dtype=torch.float64)
    noise = torch.randn(4000, 8, 3, generator=generator(5), dtype=torch.float64)
    estimates = truth + noise
    pseudo = norm_pseudo_values(estimates @ estimates.mT)
    assert pseudo.shape == (4000, 8)
    value = pseudo.mean(1)
    error = float(value.std()) / math.sqrt(4000)
    assert abs(float(value.mean()) - float(truth @ truth)) < 4.9 * error
    # each pseudo-value is G theta - (G - 1) theta without g, by brute force
    gram = estimates[0] @ estimates[0].T

    def cross(keep):
        part = gram[keep][:, keep]
        n = len(keep)
        return (part.sum() - part.diagonal().sum()) / (n * (n - 1))

    whole = cross(list(range(8)))
    brute = [8 * whole - 7 * cross([h for h in range(8) if h != g]) for g in range(8)]
    torch.testing.assert_close(pseudo[0], torch.stack(brute))


def test_what_cannot_be_estimated():
    x = torch.zeros(4, 1, dtype=torch.float64)
    with pytest.raises(DataError, match="found 4 samples, a cumulant of order 5 needs"):
        k_statistic(x, 5)
    with pytest.raises(DataError, match="found 3 samples, a cumulant of order 4 needs"):
        k_statistic_product(torch.zeros(9, 3), 4)
    with pytest.raises(DataError, match="known are 1 to 6"):
        k_statistic(x, 7)
    with pytest.raises(DataError, match="over 2 batches"):
        norm_pseudo_values(torch.eye(2))
