"""Nearest-neighbour mutual information against scikit-learn, pair by pair, and closed forms.

Statistical bounds are at 4.9 standard errors; the generators are fixed.
"""

import math

import numpy as np
import pytest
import torch
from sklearn.feature_selection import mutual_info_regression
from sklearn.feature_selection._mutual_info import _compute_mi_cc
from toys import generator, normal

from gaga_adapter.criteria.ks_mi import mutual_information as module
from gaga_adapter.criteria.ks_mi.mutual_information import knn_mutual_information
from gaga_adapter.errors import DataError

SIGMAS = 4.9


def correlated(items, n, rho, seed=0):
    """Two columns of unit variance and correlation rho (B, 2, n)."""
    x = normal(items, 2, n, seed=seed)
    x[:, 1] = rho * x[:, 0] + math.sqrt(1 - rho**2) * x[:, 1]
    return x


@pytest.mark.parametrize(
    ("n", "k"), [(3, 2), (4, 3), (5, 3), (9, 1), (18, 2), (18, 3), (29, 3), (120, 5)]
)
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_estimates_are_those_of_scikit_learn(n, k, rho):
    x = correlated(6, n, rho) * torch.tensor([[3.0], [0.01]]) + torch.tensor([[-7.0], [0.2]])
    ours = knn_mutual_information(x, [(0, 1)], k, generator())
    theirs = [
        mutual_info_regression(one[0, :, None], one[1], n_neighbors=k, random_state=0)[0]
        for one in x.numpy()
    ]
    np.testing.assert_allclose(ours[:, 0], theirs, atol=1e-12)


def test_every_pair_of_several_columns():
    x, pairs = normal(4, 5, 14), [(0, 1), (3, 2), (4, 0), (0, 1)]
    ours = knn_mutual_information(x, pairs, 3, generator())
    assert ours.shape == (4, len(pairs))
    assert torch.equal(ours[:, 0], ours[:, 3])
    for item, row in zip(x.numpy(), ours, strict=True):
        for (i, j), value in zip(pairs, row, strict=True):
            oracle = mutual_info_regression(item[i, :, None], item[j], random_state=0)[0]
            assert float(value) == pytest.approx(oracle, abs=1e-12)


def test_ties_are_broken_by_the_noise_of_scikit_learn():
    """Points that coincide: the same noise, added in numpy, into scikit-learn's estimator."""
    x = torch.randint(3, (40, 2, 15), generator=generator()).double() + 5
    ours = knn_mutual_information(x, [(0, 1)], 3, generator(1))[:, 0]
    noise = normal(2, 15, 40, seed=1).permute(2, 0, 1).numpy()
    # Equal points are 1e-10 apart and near 8, where numbers are 2e-15 apart. A standard deviation
    # that numpy rounds otherwise would swap one pair of neighbours in 1e5, of some 1e4: so torch's.
    spread = x.permute(1, 2, 0).contiguous().std(1, correction=0)
    scaled = x.numpy() / spread.T.numpy()[..., None]
    scaled += 1e-10 * np.maximum(1, np.abs(scaled).mean(-1, keepdims=True)) * noise
    theirs = [_compute_mi_cc(one[0], one[1], 3) for one in scaled]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_estimate_of_a_correlated_gaussian():
    rho = 0.8
    found = knn_mutual_information(correlated(20, 1000, rho), [(0, 1)], 3, generator())
    error = float(found.std() / math.sqrt(len(found)))
    assert float(found.mean()) == pytest.approx(
        -0.5 * math.log(1 - rho**2), abs=SIGMAS * error + 0.005
    )


def test_without_clipping_independent_columns_average_zero():
    x = normal(8000, 2, 12)
    raw = knn_mutual_information(x, [(0, 1)], 3, generator(), clip=False)
    assert abs(float(raw.mean())) < SIGMAS * float(raw.std()) / math.sqrt(len(raw))
    clipped = knn_mutual_information(x, [(0, 1)], 3, generator())
    assert torch.equal(clipped, raw.clamp(min=0))
    assert float(clipped.mean()) > 0.03


def test_all_other_points_as_neighbours_say_nothing():
    """With k = n - 1 one column of each point counts n - 1 points and the other n: always 0."""
    x = correlated(50, 6, 1.0)
    assert knn_mutual_information(x, [(0, 1)], 5, generator(), clip=False).abs().max() < 1e-12


def test_order_shift_and_scale_do_not_matter():
    x = correlated(10, 20, 0.5)
    first = knn_mutual_information(x, [(0, 1)], 3, generator())
    moved = 100 * x[:, :, torch.randperm(20, generator=generator())] - 3
    torch.testing.assert_close(knn_mutual_information(moved, [(1, 0)], 3, generator()), first)


def test_chunks_do_not_matter(monkeypatch):
    x = normal(11, 3, 9)
    whole = knn_mutual_information(x, [(0, 1), (0, 2)], 3, generator())
    monkeypatch.setattr(module, "_CHUNK", 200)
    assert torch.equal(knn_mutual_information(x, [(0, 1), (0, 2)], 3, generator()), whole)


def test_constant_and_not_finite_columns_are_not_computable():
    x = normal(5, 3, 9)
    x[1, 0], x[2, 1, 4], x[3, 1, 0] = 0.1, math.nan, math.inf
    before = x.clone()
    found = knn_mutual_information(x, [(0, 1), (1, 2)], 3, generator())
    assert found.isnan().tolist() == [
        [False, False],
        [True, False],
        [True, True],
        [True, True],
        [False, False],
    ]
    assert torch.equal(x.nan_to_num(), before.nan_to_num())


def test_one_item_is_not_written_to():
    x = correlated(1, 9, 0.5)
    before = x.clone()
    knn_mutual_information(x, [(0, 1)], 3, generator())
    assert torch.equal(x, before)


def test_nothing_to_do():
    assert knn_mutual_information(normal(0, 2, 9), [(0, 1)]).shape == (0, 1)
    assert knn_mutual_information(normal(4, 2, 9), []).shape == (4, 0)


def test_errors():
    with pytest.raises(DataError, match="n_neighbors=3 of 3 samples"):
        knn_mutual_information(normal(1, 2, 3), [(0, 1)], 3)
    with pytest.raises(DataError, match="n_neighbors=0"):
        knn_mutual_information(normal(1, 2, 3), [(0, 1)], 0)
    for pair in ((0, 0), (0, 2), (-1, 0)):
        with pytest.raises(DataError, match="is no pair of 2 columns"):
            knn_mutual_information(normal(1, 2, 9), [pair])
    with pytest.raises(DataError, match="columns are floats"):
        knn_mutual_information(torch.zeros(2, 9), [(0, 1)])
