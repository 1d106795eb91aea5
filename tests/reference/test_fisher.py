"""The normaliser of the matrix Fisher distribution: drawn rotations and closed forms."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, special
from scipy.spatial.transform import Rotation

from gaga_adapter.reference.fisher import log_fisher_normaliser


def diagonal(*values):
    return torch.tensor(values, dtype=torch.float64).diag()


def test_small_matrices_against_drawn_rotations():
    """Seven matrices: a false alarm with probability 1e-6 or less, by six standard errors."""
    rotations = torch.from_numpy(Rotation.random(200_000, random_state=1).as_matrix())
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(7, 3, 3, generator=generator, dtype=torch.float64)
    weights = torch.einsum("nij,bij->bn", rotations, matrices).exp()
    error = weights.std(1) / weights.mean(1) / math.sqrt(len(rotations))
    difference = log_fisher_normaliser(matrices) - weights.mean(1).log()
    assert bool((difference.abs() < 6 * error).all())
    assert float(error.max()) < 0.01


def test_a_mirror_image_is_another_matrix():
    """The third order is det F / 6; only proper rotations are averaged."""
    matrix = diagonal(0.1, 0.1, 0.1)
    plus, minus = log_fisher_normaliser(torch.stack([matrix, -matrix])).tolist()
    assert (plus - minus) / 2 == pytest.approx(1e-3 / 6, rel=0.01)
    assert (plus + minus) / 2 == pytest.approx(0.03 / 6, rel=0.01)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 600.0])
def test_rank_one_is_a_hyperbolic_sine(size):
    """A rotated vector is uniform on the sphere: log(sinh s / s)."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    matrix = size * torch.outer(left / left.norm(), right / right.norm())
    expected = math.log(math.sinh(size) / size)
    assert float(log_fisher_normaliser(matrix)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("size", [0.1, 2.0, 50.0, 1e4])
def test_round_matrices_by_the_angle_of_rotation(size):
    """Uniform rotations turn by an angle of density (1 - cos w) / pi, and tr R = 1 + 2 cos w."""

    def density(angle):
        return math.exp(2 * size * (math.cos(angle) - 1)) * (1 - math.cos(angle)) / math.pi

    peak = min(math.pi, 20 / math.sqrt(size))
    expected = math.log(integrate.quad(density, 0, peak, epsabs=0, epsrel=1e-10)[0]) + 3 * size
    assert float(log_fisher_normaliser(diagonal(size, size, size))) == pytest.approx(
        expected, rel=1e-9, abs=1e-6
    )


def test_hard_matrices_against_adaptive_quadrature():
    """Singular values from 1e-3 to 1e7, equal ones and zeros among them, of both signs."""
    rng = np.random.default_rng(0)
    ends = [0.0, *(10.0**k for k in range(-9, 1)), *(2 - 10.0**k for k in range(-1, -10, -1)), 2.0]

    def expected(one, two, three):
        def integrand(w):
            bessel = special.i0e((one - two) * w / 2) * special.i0e((one + two) * (2 - w) / 2)
            return bessel / 2 * math.exp(-(two + three) * w)

        pieces = (
            integrate.quad(integrand, a, b, epsabs=0, epsrel=1e-10, limit=200)[0]
            for a, b in pairwise(ends)
        )
        return math.log(sum(pieces)) + one + two + three

    for k in range(24):
        s = np.sort(10 ** rng.uniform(-3, 7, 3))[::-1].copy()
        s[1] = s[0] if k % 3 == 0 else s[1]
        s[2] = s[1] if k % 4 == 0 else s[2]
        s[1:] = 0 if k % 5 == 0 else s[1:]
        s[2] *= rng.choice([-1, 1])
        value = float(log_fisher_normaliser(diagonal(*s)))
        assert value == pytest.approx(expected(*s), rel=1e-14, abs=1e-6)


def test_shapes():
    assert log_fisher_normaliser(torch.zeros(2, 5, 3, 3, dtype=torch.float64)).shape == (2, 5)
    assert log_fisher_normaliser(torch.zeros(0, 3, 3, dtype=torch.float64)).shape == (0,)
    assert float(log_fisher_normaliser(diagonal(0, 0, 0))) == pytest.approx(0, abs=1e-9)
