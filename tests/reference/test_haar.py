"""Averages over rotations, uniform rotations and uniform frames."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import erf
from scipy.stats import beta, binomtest, ks_2samp, kstest, norm

from gaga_adapter.reference.haar import MOST_NODES, frames, log_haar_average, n_nodes, rotations
from gaga_adapter.subspace import mask_from_sizes

FIVE_SIGMA = norm.isf(1e-6 / 2)  # 4.89


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def test_isotropic_matrices_need_no_average():
    s, p = f64([[3.0, 1.0, 0.2], [5.0, 0.0, 0.0]]), f64([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    expected = -0.5 * s.sum(1, keepdim=True) * p[:, 0]
    torch.testing.assert_close(log_haar_average(s, p), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(log_haar_average(p, s), expected.T, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("q", [0.01, 1.0, 30.0, 1e4, 1e8, 1e14, 1e26])
def test_rank_one_has_a_closed_form(q):
    """One point of extent sqrt(q) and an axially symmetric Gaussian: an error function."""
    k = math.sqrt(q * 0.75 / 2)
    expected = -0.5 * q * 0.25 + math.log(math.sqrt(math.pi) / 2 * erf(k) / k)
    got = float(log_haar_average(f64([[0.0, 0.0, q]]), f64([[0.25, 0.25, 1.0]])))
    assert got == pytest.approx(expected, abs=2e-6)


def test_it_is_the_monte_carlo_average():
    """200,000 rotations of scipy; 1e-6 false alarms for each pair."""
    s, p = f64([[4.0, 2.0, 0.5], [9.0, 8.0, 0.1]]), f64([[1.0, 1.5, 3.0], [0.2, 2.0, 2.1]])
    turns = torch.from_numpy(Rotation.random(200000, random_state=0).as_matrix())
    exponent = -0.5 * torch.einsum("bi,mij,kj->mbk", s, turns**2, p)
    density = exponent.exp()
    error = density.std(0) / math.sqrt(len(turns))
    gap = (density.mean(0) - log_haar_average(s, p).exp()).abs()
    assert bool((gap < FIVE_SIGMA * error).all())
    assert bool((error < 0.02 * density.mean(0)).all())


def test_sharp_exponents_follow_laplace():
    """For large gaps 4 equal peaks, Gaussian with curvature (s_i - s_j)(p_j - p_i)."""
    s, p = f64([[3000.0, 1800.0, 500.0]]), f64([[0.2, 9.0, 20.0]])
    pairs = [(0, 1), (0, 2), (1, 2)]
    curvature = [float((s[0, i] - s[0, j]) * (p[0, j] - p[0, i])) for i, j in pairs]
    top = -0.5 * float((s * p).sum())
    volume = (2 * math.pi) ** 1.5 / math.sqrt(math.prod(curvature)) / (8 * math.pi**2)
    expected = top + math.log(4 * volume)
    assert float(log_haar_average(s, p)) == pytest.approx(expected, abs=5 / min(curvature))


def bingham(q, p):
    """`log Z` of one point of squared extent q, by mpmath about the axis of the middle one."""
    import mpmath

    def f(u):
        c = q * (p[2] - p[0]) / 4 * (1 - u * u)
        decay = mpmath.exp(-q * (p[1] - p[0]) / 2 * u * u - c)
        return decay * mpmath.besseli(0, c)

    with mpmath.workdps(30):
        width = 1 / mpmath.sqrt(1 + q * (p[2] - p[0]))
        ends = [0] + [width * 4**k for k in range(40) if width * 4**k < 1] + [1]
        return float(mpmath.log(mpmath.quad(f, ends)) - mpmath.mpf(q) * p[0] / 2)


@pytest.mark.parametrize("q", [1.0, 1e3, 1e6, 1e10, 1e14])
def test_one_point_and_three_precisions_as_by_mpmath(q):
    """The same average about another axis, with other nodes and 30 digits."""
    p = (0.25, 0.625, 1.0)
    got = float(log_haar_average(f64([[0.0, 0.0, q]]), f64([p])))
    assert got == pytest.approx(bingham(q, p), abs=2e-6 + 4e-16 * q)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e4])
def test_form_of_any_kind_as_by_brute_force(scale):
    """Rods, discs, balls and all between, against plain Gauss-Legendre nodes without end."""
    share = [0.0, 1e-9, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0]
    s, p = (
        f64([[0.0, one, 1.0] for one in share]),
        scale * f64([[0.2, 0.2 + x, 1.2] for x in share]),
    )
    nodes, weights = np.polynomial.legendre.leggauss(240)
    unit, weights = (nodes + 1) / 2, weights / 2
    z2, angle = torch.from_numpy(unit[:, None] ** 2), torch.from_numpy(unit * math.pi / 2)
    r = torch.stack(
        [(1 - z2) * angle.cos() ** 2, (1 - z2) * angle.sin() ** 2, z2.expand(-1, 240)], -1
    ).reshape(-1, 3)
    along = s @ r.T
    plane = s.sum(1, keepdim=True) - along
    det = torch.stack([s[:, 1] * s[:, 2], s[:, 2] * s[:, 0], s[:, 0] * s[:, 1]], -1) @ r.T
    gap = (plane**2 - 4 * det).clamp(min=0).sqrt()
    got = log_haar_average(s, p)
    for k, row in enumerate(p):
        half = (row[1] - row[0]) / 2
        exponent = -0.5 * (row[2] * along + (row[0] + row[1]) / 2 * plane - half * gap)
        top = exponent.max(1, keepdim=True).values
        mean = (exponent - top).exp() * torch.special.i0e(half * gap / 2)
        mean = mean @ torch.from_numpy(np.outer(weights, weights).ravel())
        torch.testing.assert_close(got[:, k], mean.log() + top[:, 0], rtol=0, atol=1e-6)


def test_cost_has_an_end():
    """From noise to the last digit of float64: the nodes grow by the decade and then no more."""
    nodes = [n_nodes(10.0**k) for k in range(31)]
    assert nodes == sorted(nodes)
    assert nodes[3] <= 20
    assert nodes[12] <= 64
    assert nodes[-1] == MOST_NODES


def test_average_is_symmetric_and_never_positive():
    generator = torch.Generator().manual_seed(0)
    s = 20 * torch.rand(10, 3, generator=generator).double()
    p = 5 * torch.rand(8, 3, generator=generator).double()
    value = log_haar_average(s, p)
    torch.testing.assert_close(value, log_haar_average(p, s).T, rtol=0, atol=1e-6)
    torch.testing.assert_close(value, log_haar_average(s.flip(1), p), rtol=0, atol=1e-12)
    mean = -s.sum(1, keepdim=True) * p.sum(1) / 6
    assert bool((value >= mean).all()), "Jensen"
    assert bool((value < 0).all())


def test_rotations_are_haar():
    """Angle and axis have the laws of uniform rotations; 1e-6 false alarms each."""
    u = torch.rand(20000, 3, generator=torch.Generator().manual_seed(0)).double()
    turns = rotations(u)
    eye = torch.eye(3).double().expand(20000, 3, 3)
    torch.testing.assert_close(turns @ turns.mT, eye, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(20000).double())
    angle = torch.arccos(((turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1))
    assert kstest(angle, lambda x: (x - np.sin(x)) / math.pi).pvalue > 1e-6
    for i in range(3):
        for j in range(3):
            assert kstest(turns[:, i, j], "uniform", args=(-1, 2)).pvalue > 1e-6


def uniform_frames(n_atoms, seed=0):
    mask = mask_from_sizes(torch.as_tensor(n_atoms))
    u = torch.rand(*mask.shape, 3, generator=torch.Generator().manual_seed(seed)).double()
    return frames(u, mask), mask


def test_frames_are_orthonormal_and_mean_free():
    """Of n atoms n - 1 columns, at most three; the others and the padding are exactly zero."""
    turned, mask = uniform_frames([1, 2, 3, 4, 5, 29])
    products = turned.mT @ turned
    for product, columns in zip(products, [0, 1, 2, 3, 3, 3], strict=True):
        expected = torch.diag((torch.arange(3) < columns).double())
        torch.testing.assert_close(product, expected, rtol=0, atol=1e-13)
    assert float(turned.sum(1).abs().max()) < 1e-13
    assert not turned[~mask].any()


def test_frames_of_extreme_numbers_are_finite():
    """Uniform numbers at both ends of [0, 1) have a normal quantile."""
    u = torch.tensor([0.0, 1 - 2.0**-53, 0.5]).double()[:, None].expand(3, 3).clone()
    u[:, 1] = torch.tensor([0.5, 0.0, 1 - 2.0**-53])
    assert bool(torch.isfinite(frames(u[None], torch.ones(1, 3, dtype=torch.bool))).all())


@pytest.mark.parametrize("n_atoms", [2, 3, 4, 5, 9])
def test_frames_are_haar(n_atoms):
    """Coordinates in the mean-free space, and of any turned column: 1e-6 false alarms each.

    The square of a coordinate of a uniform unit vector in n dimensions is Beta(1/2, (n - 1)/2), and
    the law of a Haar frame does not change if its space or its columns are turned.
    """
    turned, _ = uniform_frames([n_atoms] * 6000)
    degrees, columns = n_atoms - 1, min(3, n_atoms - 1)
    centre = torch.eye(n_atoms).double() - 1 / n_atoms
    basis = torch.linalg.svd(centre).U[:, :degrees]
    coordinates = basis.T @ turned[..., :columns]  # (B, n, columns)
    mixing = torch.linalg.qr(torch.randn(columns, columns, generator=torch.Generator())).Q.double()
    for frame in (coordinates, coordinates @ mixing):
        for row in range(degrees):
            for column in range(columns):
                value = frame[:, row, column]
                assert binomtest(int((value > 0).sum()), len(value)).pvalue > 1e-6
                if degrees > 1:
                    law = beta(0.5, (degrees - 1) / 2)
                    assert kstest(value.square(), law.cdf).pvalue > 1e-6
    if degrees == columns:  # square frames: rotations and reflections at even odds
        determinant = torch.linalg.det(coordinates)
        assert binomtest(int((determinant > 0).sum()), len(determinant)).pvalue > 1e-6
    if degrees > 3:  # pairs of entries as in numpy's QR of Gaussian matrices
        rng = np.random.default_rng(0)
        q, r = np.linalg.qr(rng.standard_normal((6000, degrees, 3)))
        q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]
        for statistic in (lambda x: x[:, 0, 0] * x[:, 1, 1], lambda x: x[:, 0, 0] + x[:, 2, 2]):
            assert ks_2samp(statistic(coordinates.numpy()), statistic(q)).pvalue > 1e-6
