"""KS statistic and critical value against scipy's test, one sample at a time."""

import math

import pytest
import torch
from scipy import stats
from toys import normal

from gaga_adapter.criteria.ks_mi.item_statistics import ks_statistic
from gaga_adapter.criteria.ks_mi.published import PublishedRecipe
from gaga_adapter.errors import DataError


@pytest.mark.parametrize("n", [1, 2, 5, 54, 90, 140])
def test_statistic_is_that_of_scipy(n):
    values = torch.cat([normal(8, n), 3 * normal(4, n, seed=1), normal(4, n, seed=2) + 0.4])
    for row, d in zip(values, ks_statistic(values), strict=True):
        assert float(d) == pytest.approx(stats.kstest(row.numpy(), "norm").statistic, abs=1e-15)
    assert float(ks_statistic(torch.full((1, 9), 50.0))) == 1.0


@pytest.mark.parametrize("n", [12, 54, 90])
def test_verdicts_are_those_of_scipy(n):
    values = 1.1 * normal(300, n)
    ours = (ks_statistic(values) < stats.kstwo.isf(0.05, n)).tolist()
    theirs = [stats.kstest(row.numpy(), "norm").pvalue > 0.05 for row in values]
    assert ours == theirs
    assert 0 < sum(theirs) < len(theirs)


def test_what_is_not_finite_does_not_pass():
    values = normal(2, 9)
    values[1, 3] = math.nan
    assert (ks_statistic(values) < stats.kstwo.isf(0.05, 9)).tolist() == [True, False]


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
    with pytest.raises(DataError, match=r"alpha=0 must lie between 0 and 1"):
        PublishedRecipe(alpha=0)
