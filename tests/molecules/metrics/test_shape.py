"""Shape figures against closed forms and plain loops, and the estimates with their errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.estimate import (
    Estimate,
    estimate_distinct,
    estimate_mean,
    estimate_ratio,
    estimate_spread,
)
from gaga_adapter.molecules.metrics.shape import gyration_eigenvalues, shape_figures


def _random_molecules(count, rng):
    sizes = rng.integers(2, 9, count)
    return [(rng.normal(size=(n, 3)) * 1.5 + 7, rng.choice([1, 6, 8], n)) for n in sizes]


def test_eigenvalues_of_known_bodies():
    line = [[-1.0, -1.0, 0.0], [1.0, 1.0, 0.0]]
    octahedron = [[1, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 3], [0, 0, -3]]
    bodies = MoleculeSet.from_list(
        [(line, [1, 1]), (np.add(octahedron, 5), [1] * 6), ([[1, 2, 3]], [1])]
    )
    found = gyration_eigenvalues(bodies)
    np.testing.assert_allclose(found[0], [0, 0, 4], atol=1e-12)
    np.testing.assert_allclose(found[1], np.array([2, 8, 18]) / 5, atol=1e-6)
    assert np.isnan(found[2]).all()


def test_figures_equal_a_plain_loop():
    rng = np.random.default_rng(1)
    pairs = _random_molecules(200, rng)
    v_x, anisotropy = [], []
    for x, _ in pairs:
        x = np.float32(x).astype(float)
        covariance = np.cov(x.T)  # divides by N - 1
        v_x.append(np.trace(covariance) / 3)
        anisotropy.append(np.linalg.eigvalsh(covariance)[-1] / np.trace(covariance))
    elements = np.concatenate([z for _, z in pairs])
    figures = shape_figures(MoleculeSet.from_list([*pairs, ([[0, 0, 0]], [8])]))
    assert figures.v_x.value == pytest.approx(np.mean(v_x))
    assert figures.v_x.std_error == pytest.approx(np.std(v_x, ddof=1) / math.sqrt(200))
    assert figures.v_x_spread.value == pytest.approx(np.std(v_x, ddof=1))
    assert figures.anisotropy.value == pytest.approx(np.mean(anisotropy))
    assert list(figures.element_shares) == ["H", "C", "O"]
    assert figures.element_shares["C"].value == np.mean(np.append(elements, 8) == 6)
    assert 0 < figures.connected.value < 1


def test_single_atoms_have_no_form():
    figures = shape_figures(MoleculeSet.from_list([([[1, 2, 3]], [8])]))
    assert figures.v_x is figures.v_x_spread is figures.anisotropy is None
    assert figures.connected == Estimate(1.0, None)


def test_ratio_error_is_the_spread_over_repetitions():
    # 5,000 repetitions know their own spread to 1 %; 5 % is five standard errors of that.
    rng = np.random.default_rng(2)
    n = rng.integers(5, 30, size=(5000, 400))
    k = rng.binomial(n, 0.9 - 0.01 * n)
    ratios = k.sum(axis=1) / n.sum(axis=1)
    found = [estimate_ratio(k[i], n[i]) for i in range(200)]
    assert [one.value for one in found] == pytest.approx(ratios[:200])
    assert np.mean([one.std_error for one in found]) == pytest.approx(ratios.std(), rel=0.05)


def test_spread_error_is_the_spread_over_repetitions():
    # The delta method is right to order 1 / M, within 2 % here; and 5 % as above.
    rng = np.random.default_rng(3)
    draws = rng.gamma(4.0, size=(5000, 2000))
    found = [estimate_spread(row) for row in draws[:300]]
    assert found[0].value == pytest.approx(np.std(draws[0], ddof=1))
    mean_error = np.mean([one.std_error for one in found])
    assert mean_error == pytest.approx(draws.std(axis=1).std(), rel=0.07)
    assert estimate_spread([1.0]) is None
    assert estimate_spread([2.0, 2.0]) == Estimate(0.0, 0.0)


def test_distinct_error_is_the_jackknife():
    draws = list("aabccccdefgg")
    counts = [draws.count(letter) for letter in sorted(set(draws))]
    left_out = [len(set(draws[:i] + draws[i + 1 :])) / (len(draws) - 1) for i in range(len(draws))]
    jackknife = math.sqrt((len(draws) - 1) * np.var(left_out))
    found = estimate_distinct(counts)
    assert found.value == 7 / 12
    assert found.std_error == pytest.approx(jackknife)
    assert estimate_distinct([]) is None
    assert estimate_distinct([1]) == Estimate(1.0, None)


def test_mean_of_nothing_and_of_one():
    assert estimate_mean([]) is None
    assert estimate_mean([2.0]) == Estimate(2.0, None)
    assert str(Estimate(0.51234, 0.00321)) == "0.5123 ± 0.0032"
