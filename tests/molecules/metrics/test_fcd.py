"""FCD: the Fréchet distance against its closed form, ChemNet against the package, and its bias."""

from __future__ import annotations

import math
import sys
import warnings
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest
import torch

import gaga_adapter.molecules.metrics.fcd as fcd_module
from gaga_adapter.distributed import Processes
from gaga_adapter.errors import MissingExtraError
from gaga_adapter.molecules.metrics.fcd import (
    _jackknife,
    _Sums,
    activations,
    fcd,
    frechet_distance,
    has_fcd,
    plain_smiles,
)

SMILES = ["C" * n + end for n in range(1, 12) for end in ("O", "N", "F", "C#N", "C=O", "S")]


def generator():
    return torch.Generator().manual_seed(0)


def test_the_distance_of_gaussians_that_commute_is_a_sum_over_axes():
    """For covariances R diag(a) R' and R diag(b) R' it is |m - m'|² + sum (√a - √b)²."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    a, b = np.array([4.0, 1.0, 0.25, 0.0]), np.array([1.0, 9.0, 0.25, 0.04])
    mean = np.array([1.0, -2.0, 0.0, 0.5])
    # Sets with exactly these covariances: plus and minus each axis.
    both = np.concatenate([np.eye(4), -np.eye(4)]) * math.sqrt(7 / 2)
    x, y = (both * np.sqrt(a)) @ turn.T, (both * np.sqrt(b)) @ turn.T + mean
    expected = mean @ mean + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(y, y) == pytest.approx(0, abs=1e-6)


def test_the_distance_is_that_of_a_matrix_square_root():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6))
    y = rng.standard_normal((300, 6)) + 0.3
    c, d = np.cov(x.T), np.cov(y.T)
    gap = x.mean(0) - y.mean(0)
    expected = gap @ gap + np.trace(c + d - 2 * np.real(sqrtm(c @ d)))
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)


def test_the_jackknife_has_the_spread_of_repeated_draws():
    """With 8 parts its error is known to a quarter: the mean over 60 draws to a thirtieth."""
    rng = np.random.default_rng(2)
    y = rng.standard_normal((4000, 3))
    distances, errors = [], []
    for _ in range(60):
        x = rng.standard_normal((200, 3)) * 1.5 + 0.5
        distances.append(frechet_distance(x, y))
        errors.append(math.sqrt(_jackknife(x, _Sums.of(x), _Sums.of(y), generator())))
    # The spread of 60 values is known to 9 %, so five errors of the ratio are 50 %.
    assert np.mean(errors) == pytest.approx(np.std(distances, ddof=1), rel=0.5)


def test_chemnet_is_that_of_the_package():
    """`fcd.get_fcd` itself, on the SMILES that it is meant for."""
    import fcd as package

    few, others = SMILES[::2], SMILES[1::2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy and scipy about their own names
        network = package.load_ref_model()
        seen = package.get_predictions(network, few, n_jobs=0, device="cpu")
        moments = []
        for some in (few, others):
            rows = package.get_predictions(network, some, n_jobs=0, device="cpu").astype(float)
            moments += [rows.mean(axis=0), np.cov(rows.T)]
        expected = package.calculate_frechet_distance(*moments)
    # Float32 through a recurrent network of 350 steps, in batches of other sizes.
    np.testing.assert_allclose(activations(few), seen, rtol=1e-3, atol=1e-5)
    state = torch.random.get_rng_state()
    found = fcd(few, others, generator())
    assert torch.equal(torch.random.get_rng_state(), state)
    # Of 512 dimensions 33 molecules span 32: the package adds 1e-6 to the others.
    assert found.measured.value == pytest.approx(expected, rel=1e-2, abs=1e-2)
    assert (found.n_molecules, found.n_held_out) == (33, 33)
    assert found.by_chance is None  # the held-out set is no larger
    assert found.measured.std_error > 0


def test_a_set_is_at_no_distance_from_itself_and_chance_is_not_zero():
    few = fcd(SMILES[:12], SMILES[:12], generator())
    assert few.measured.value == pytest.approx(0, abs=1e-4)
    assert few.measured.std_error is None  # too few for the jackknife
    found = fcd(SMILES[:12], SMILES, generator())
    assert found.by_chance.value > 0.5
    assert found.by_chance.std_error > 0
    assert found.to_dict()["measured"]["value"] == found.measured.value


def test_chance_is_what_real_draws_are_at(monkeypatch):
    """Of rows in place of ChemNet's: the means of 40 real draws and of chance agree within 10 %.

    A draw varies by about 4 % here, so the two means by less than 2 % together.
    """
    rows = torch.randn(100_000, 40, generator=torch.Generator().manual_seed(0)).double().numpy()

    def activations(smiles, processes=None, progress=None):
        return rows[[int(one) for one in smiles]]

    monkeypatch.setattr(fcd_module, "activations", activations)
    monkeypatch.setattr(fcd_module, "plain_smiles", list)
    measured, chance = [], []
    for k in range(40):
        names = [str(row) for row in range(2500 * k, 2500 * k + 360)]
        found = fcd(names[:60], names[60:], generator())
        measured.append(found.measured.value)
        chance.append(found.by_chance.value)
        assert fcd(names[:61], names[61:], generator()).by_chance is None
    assert sum(chance) == pytest.approx(sum(measured), rel=0.1)


def test_of_very_many_held_out_molecules_some_are_drawn(monkeypatch):
    monkeypatch.setattr(fcd_module, "_MOST_HELD_OUT", 20)
    found = fcd(SMILES[:4], [*SMILES, None], generator())
    assert (found.n_held_out, found.n_held_out_left_out) == (20, 1)
    assert found.by_chance is not None


def test_smiles_lose_their_hydrogens_and_what_cannot_be_read_is_counted():
    given = ["[H]OC([H])([H])[H]", None, "C(C)(C)(C)(C)C", "", "C" * 400, "c1ccccc1"]
    assert plain_smiles(given) == ["CO", "c1ccccc1"]
    found = fcd(given, [None, "C"], generator())
    assert (found.n_molecules, found.n_left_out) == (2, 4)
    assert (found.n_held_out, found.n_held_out_left_out) == (1, 1)
    assert found.measured is found.by_chance is None


class OneOfTwo(Processes):
    """A process whose neighbour is thought of: it keeps its share and gives it out twice."""

    shares: ClassVar[dict] = {}

    @contextmanager
    def in_step(self, report=None):
        yield lambda done: None

    def everyones(self, value):
        self.shares[self.index] = value
        return [value, value]


def test_processes_share_the_work():
    """Each sees every other molecule, and the rows are dealt back in the same way."""
    alone = activations(SMILES[:6])
    for rank in range(2):
        whole = activations(SMILES[:6], OneOfTwo(rank, 2))
        np.testing.assert_allclose(whole[rank::2], alone[rank::2], rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(whole[rank::2], OneOfTwo.shares[rank])


def test_without_the_package(monkeypatch):
    assert has_fcd()
    monkeypatch.setitem(sys.modules, "fcd", None)
    with pytest.raises(MissingExtraError, match=r'needs fcd: pip install "gaga-adapter\[fcd\]"'):
        activations(["C"])
