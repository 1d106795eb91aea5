"""Tests by swapping pairs: exhaustive flips, other libraries, and uniform p-values under the null.

Kolmogorov-Smirnov tests of uniformity are at 1e-6; the generators are fixed.
"""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from gaga_adapter.criteria.two_sample.separation import rank_differences, swap_p_value

SEEN_BY_CHANCE = 1e-6


def test_rank_differences_add_up_to_the_area_under_the_roc_curve():
    rng = np.random.default_rng(1)
    p, q = rng.integers(0, 9, 40).astype(float), rng.integers(0, 7, 40).astype(float)
    area = roc_auc_score([1] * 40 + [0] * 40, [*p, *q])
    assert rank_differences(p, q).sum() == pytest.approx(2 * 40**2 * (area - 0.5))


def test_p_value_is_the_share_of_all_flips_that_reach_the_sum():
    """Of all 2^9 flips; the estimate of 20,000 random ones is within 4.9 of its own errors."""
    differences = np.random.default_rng(2).normal(0.3, 1, 9)
    flips = np.array(list(itertools.product([-1, 1], repeat=9)))
    exact = float((flips @ differences >= differences.sum() - 1e-12).mean())
    found = swap_p_value(differences, 20_000, np.random.default_rng(3))
    assert 0.05 < exact < 0.95
    assert abs(found - exact) < 4.9 * np.sqrt(exact * (1 - exact) / 20_000) + 1 / 20_000


def test_ties_count_as_reached_and_nothing_to_swap_is_no_evidence():
    assert swap_p_value(np.zeros(5), 99, np.random.default_rng(0)) == 1.0
    assert swap_p_value(np.zeros(0), 99, np.random.default_rng(0)) == 1.0
    # Tenths add up differently in another order; every flip of one pair here is a tie or less.
    halves = swap_p_value(np.full(1, 0.1), 1999, np.random.default_rng(0))
    assert halves == pytest.approx(0.5, abs=4.9 * np.sqrt(0.25 / 1999))


def test_least_p_value_is_one_of_all_permutations():
    assert swap_p_value(np.ones(100), 999, np.random.default_rng(0)) == 1e-3


def test_chunks_of_flips_are_all_counted():
    """50,000 pairs need several chunks; the sum is far in the lower tail, so all flips reach it."""
    differences = np.full(50_000, -1.0)
    assert swap_p_value(differences, 300, np.random.default_rng(0)) == 1.0


def test_p_values_are_uniform_under_the_null_whatever_the_shape():
    """Skewed scores with a size effect in common: only the difference within a pair counts."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(1500):
        size = rng.integers(0, 5, 60)
        p, q = rng.exponential(1 + size), rng.exponential(1 + size)
        found.append(swap_p_value(rank_differences(p, q), 199, rng) - rng.uniform(0, 1 / 200))
    assert stats.kstest(found, "uniform").pvalue > SEEN_BY_CHANCE


def test_folds_judged_by_earlier_folds_are_uniform_and_permuted_together_they_are_not():
    """Linear scores of 4 folds under the null; false alarms at 5 %, over 2000 repetitions.

    Cross-validated scores permuted together scatter by √2 as much as the flips say, so that one in
    eight is significant; in an order each fold knows the earlier alone, and one in twenty is.
    """
    rng, together, in_order = np.random.default_rng(5), [], []
    for _ in range(2000):
        p, q = rng.normal(size=(2, 4, 25, 8))
        shift = (p - q).mean(1)
        pairs = [
            (p[k] - q[k]) @ (shift.sum(0) - shift[k]) for k in range(4)
        ]  # taught by all other folds
        together.append(swap_p_value(np.concatenate(pairs), 199, rng))
        pairs = [(p[k] - q[k]) @ shift[:k].sum(0) for k in range(1, 4)]  # taught by earlier folds
        p_values = [swap_p_value(pair, 199, rng) for pair in pairs]
        in_order.append(stats.combine_pvalues(p_values, "fisher").pvalue)
    assert stats.binomtest(int((np.array(in_order) <= 0.05).sum()), 2000, 0.05).pvalue > 1e-6
    assert stats.kstest(in_order, "uniform").pvalue > SEEN_BY_CHANCE
    assert stats.binomtest(int((np.array(together) <= 0.05).sum()), 2000, 0.05).pvalue < 1e-6
    assert np.mean(np.array(together) <= 0.05) == pytest.approx(0.122, abs=4.9 * 0.0073)
