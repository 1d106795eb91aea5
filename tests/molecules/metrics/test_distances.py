"""Distances between sets of molecules: scipy's, known geometries, errors by Monte Carlo."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.distances import Geometry, _grouped, _per_molecule, distances
from gaga_adapter.molecules.metrics.shape import gyration_eigenvalues

WATER = ([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], [8, 1, 1])
METHANE = (
    (1.09 / math.sqrt(3) * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])),
    [6, 1, 1, 1, 1],
)
TURN = np.radians(np.arange(0, 360, 60))
RING = np.stack([np.cos(TURN), np.sin(TURN), 0 * TURN], 1)
BENZENE = (np.concatenate([1.39 * RING, 2.48 * RING]), [6] * 6 + [1] * 6)
HELIUM = ([[0, 0, 0]], [2])


def of(*molecules):
    pairs = [(np.asarray(x, np.float32), np.asarray(z, np.uint8)) for x, z in molecules]
    return MoleculeSet.from_list(pairs, "hand-made")


def generator():
    return torch.Generator().manual_seed(0)


def scattered(n, seed, scale=1.0):
    """Molecules of two carbons at a normal distance, so that every quantity has a known law."""
    rng = np.random.default_rng(seed)
    apart = 1.45 + 0.03 * scale * rng.standard_normal(n)
    return of(*(([[0, 0, 0], [d, 0, 0]], [6, 6]) for d in apart)), apart


def test_lengths_angles_and_rings_of_known_molecules():
    values = Geometry.of(of(METHANE, BENZENE)).values
    of_methane = values["bond_lengths"].molecule == 0
    assert of_methane.sum() == 4
    np.testing.assert_allclose(values["bond_lengths"].value[of_methane], 1.09, atol=1e-5)
    in_methane = values["bond_angles"].molecule == 0
    assert in_methane.sum() == 6
    tetrahedral = math.degrees(math.acos(-1 / 3))
    np.testing.assert_allclose(values["bond_angles"].value[in_methane], tetrahedral, atol=1e-3)
    np.testing.assert_allclose(values["bond_angles"].value[~in_methane], 120, atol=1e-3)
    assert values["rings"].value.tolist() == [0, 1]
    assert values["ring_sizes"].value.tolist() == [6]
    assert len(np.unique(values["bond_lengths"].group)) == 2  # C-H of both, and C-C


def test_one_quantity_is_scipys_distance():
    ours, theirs = scattered(60, 1)[0], scattered(90, 2, scale=0.3)[0]
    found = distances(ours, theirs, generator()).measured
    for name, quantity in (
        ("v_x", lambda m: gyration_eigenvalues(m).sum(1) / 3),
        ("bond_lengths", lambda m: np.linalg.norm(m.positions[:, 0] - m.positions[:, 1], axis=1)),
    ):
        expected = wasserstein_distance(quantity(ours), quantity(theirs))
        assert getattr(found, name).value == pytest.approx(expected, rel=1e-5)
    assert found.bond_angles is None  # nothing to compare
    assert found.ring_sizes is None


def test_groups_are_weighted_by_the_held_out_set():
    ours, theirs = of(WATER, BENZENE), of(METHANE, METHANE, WATER)
    found = distances(ours, theirs, generator()).measured.bond_lengths
    hydrogen = wasserstein_distance([2.48 - 1.39] * 6, [1.09] * 8)
    oxygen = wasserstein_distance([0.96, np.hypot(0.24, 0.93)], [0.96, np.hypot(0.24, 0.93)])
    assert found.value == pytest.approx(0.8 * hydrogen + 0.2 * oxygen, abs=1e-5)


def test_an_element_that_one_set_lacks_occurs_zero_times():
    found = distances(of(WATER), of(METHANE), generator()).measured.elements
    assert found.value == pytest.approx((abs(2 - 4) + 1 + 1) / 3)
    assert found.std_error is None


def test_neither_rotation_nor_order_matters():
    molecules = [WATER, METHANE, BENZENE]
    rng = np.random.default_rng(3)
    turned = []
    for x, z in molecules:
        rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        order = rng.permutation(len(z))
        turned.append(((np.asarray(x) @ rotation + 0.3)[order], np.asarray(z)[order]))
    held_out = of(BENZENE, WATER, WATER, METHANE)
    one = distances(of(*molecules), held_out, generator()).measured
    other = distances(of(*turned[::-1]), held_out, generator()).measured
    for name, value in vars(one).items():
        assert getattr(other, name).value == pytest.approx(value.value, abs=2e-4), name
        assert getattr(other, name).std_error == pytest.approx(value.std_error, abs=2e-4), name


def test_a_single_atom_has_no_form():
    found = distances(of(HELIUM), of(HELIUM, HELIUM), generator())
    assert found.measured.anisotropy is None
    assert found.measured.bond_lengths is None
    assert found.measured.elements.value == 0


def test_standard_errors_against_monte_carlo():
    """Far from zero, where the delta method holds: 400 repetitions, so the standard deviation of
    the estimate is known to 3.5 %; four of these are 14 % (false alarm 6e-5)."""
    rng = np.random.default_rng(5)
    held_out = _per_molecule(rng.normal(0, 1, 3000))
    estimates = [
        _grouped(_per_molecule(rng.normal(0.8, 1.5, 200)), held_out, 200, 3000) for _ in range(400)
    ]
    spread = np.std([one.value for one in estimates])
    from_ours = [math.sqrt(one.std_error**2 - 1 / 3000) for one in estimates]
    assert np.mean(from_ours) == pytest.approx(spread, rel=0.14)


def test_the_noise_floor_is_what_fresh_sets_give():
    """Against 60 fresh sets of the same law; means of 8 and 60 sets agree within five errors."""
    held_out = scattered(800, 7)[0]
    floor = distances(held_out.subset(slice(100)), held_out, generator()).noise_floor.bond_lengths
    fresh = [
        wasserstein_distance(scattered(100, seed)[1], scattered(800, 7)[1])
        for seed in range(100, 160)
    ]
    error = np.std(fresh) * math.sqrt(1 / 8 + 1 / 60)
    assert abs(floor.value - np.mean(fresh)) < 5 * error
    assert distances(held_out, held_out, generator()).noise_floor is None


def test_the_error_of_a_difference_of_two_distances_is_that_of_its_pairs():
    """Two sets that share most of what is random, from one held-out set: 300 repetitions, so the
    standard deviation is known to 4.1 %; four of these are 17 % (false alarm 6e-5). Taken as
    independent, the error would be more than twice as large."""
    rng = np.random.default_rng(11)
    differences, errors, independent = [], [], []
    for _ in range(300):
        data, common = rng.normal(0, 1, 400), rng.normal(0.8, 1.5, 200)
        sets = [common + 0.3 * rng.normal(0, 1, 200) + shift for shift in (0.0, 0.2)]
        one, other = (_grouped(_per_molecule(x), _per_molecule(data), 200, 400) for x in sets)
        differences.append(one.value - other.value)
        parts = (one.generated - other.generated, one.held_out - other.held_out)
        errors.append(math.sqrt(sum(float(d @ d) for d in parts)))
        independent.append(math.hypot(one.std_error, other.std_error))
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.17)
    assert np.mean(independent) > 2 * np.std(differences)
