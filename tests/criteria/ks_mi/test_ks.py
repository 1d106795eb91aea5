"""KS statistic and p-value against scipy, one sample at a time.

The p-values of random samples are held to a false-alarm rate of 1e-6; the generators are fixed.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from toys import normal

from gaga_adapter.criteria.ks_mi.ks import EXACT, ks_critical, ks_p_value, ks_statistic
from gaga_adapter.errors import DataError


@pytest.mark.parametrize("n", [1, 2, 5, 54, 90, 140])
def test_statistic_and_p_value_are_those_of_scipy(n):
    values = torch.cat([normal(8, n), 3 * normal(4, n, seed=1), normal(4, n, seed=2) + 0.4])
    statistic = ks_statistic(values)
    p = ks_p_value(statistic, n)
    for row, d, q in zip(values, statistic, p, strict=True):
        oracle = stats.kstest(row.numpy(), "norm")
        assert float(d) == pytest.approx(oracle.statistic, abs=1e-15)
        assert float(q) == pytest.approx(oracle.pvalue, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 29, 100])
def test_p_value_is_exact_at_the_knots_of_the_law(n):
    """The law is a polynomial between multiples of 1/(2n): the matrix changes its size there."""
    d = np.arange(1, 2 * n + 1) / (2 * n)
    ours = ks_p_value(torch.from_numpy(d), n).numpy()
    np.testing.assert_allclose(ours, stats.kstwo(n).sf(d), atol=1e-12)


# Beyond 140 values scipy goes over to the expansion of Pelz and Good (1976), good to 3e-6.
@pytest.mark.parametrize(
    ("n", "error"), [(200, 3e-6), (EXACT, 3e-6), (EXACT + 1, 5e-5), (5000, 5e-6)]
)
def test_p_value_of_large_samples(n, error):
    d = np.linspace(0.01, 3, 300) / math.sqrt(n)
    ours = ks_p_value(torch.from_numpy(d), n).numpy()
    np.testing.assert_allclose(ours, stats.kstwo(n).sf(d), atol=error)
    assert (np.diff(ours) <= 1e-12).all()


@pytest.mark.parametrize("n", [12, 54, 90])
def test_verdicts_are_those_of_scipy(n):
    values = 1.1 * normal(300, n)
    ours = (ks_statistic(values) < ks_critical(n, 0.05)).tolist()
    theirs = [stats.kstest(row.numpy(), "norm").pvalue > 0.05 for row in values]
    assert ours == theirs
    assert 0 < sum(theirs) < len(theirs)


def test_critical_value_inverts_the_p_value():
    for n, alpha in [(4, 0.05), (90, 0.01), (2000, 0.2)]:
        d = torch.tensor([ks_critical(n, alpha)], dtype=torch.float64)
        assert float(ks_p_value(d, n)) == pytest.approx(alpha, abs=1e-9)


def test_p_values_of_normal_samples_are_uniform():
    p = ks_p_value(ks_statistic(normal(3000, 20)), 20)
    assert stats.kstest(p.numpy(), "uniform").pvalue > 1e-6


def test_extremes():
    p = ks_p_value(torch.tensor([0.0, 0.5 / 9, 0.999, 1.0], dtype=torch.float64), 9)
    assert p.tolist() == pytest.approx([1, 1, 0, 0], abs=1e-12)
    far = ks_statistic(torch.full((1, 9), 50.0))
    assert float(far) == 1.0


def test_what_is_not_finite_has_no_p_value_and_is_not_passed():
    values = normal(2, 9)
    values[1, 3] = math.nan
    statistic = ks_statistic(values)
    assert ks_p_value(statistic, 9).isnan().tolist() == [False, True]
    assert (statistic < ks_critical(9, 0.05)).tolist() == [True, False]


def test_single_precision_is_worked_out_in_double():
    values = normal(3, 2, 30).float()
    before = values.clone()
    statistic = ks_statistic(values)
    assert statistic.shape == (3, 2)
    assert statistic.dtype == torch.float64
    assert torch.equal(statistic, ks_statistic(values.double()))
    assert torch.equal(values, before)


def test_errors():
    with pytest.raises(DataError, match="at least 1 value"):
        ks_statistic(torch.zeros(3, 0))
    with pytest.raises(DataError, match="n=0"):
        ks_p_value(torch.zeros(3), 0)
    with pytest.raises(DataError, match=r"alpha=0 must lie between 0 and 1"):
        ks_critical(9, 0)
