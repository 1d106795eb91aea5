"""One rigid structure in random orientation: drawn rotations, closed forms, scaling laws."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.spatial.transform import Rotation

from gaga_adapter import RigidTarget
from gaga_adapter.errors import DataError
from gaga_adapter.reference.fisher import log_fisher_normaliser

GENERATOR = np.random.default_rng(0)
HELIX = np.stack([np.arange(12) * 1.5, *(2.3 * f(np.arange(12) * 1.75) for f in (np.cos, np.sin))])
HELIX = (HELIX - HELIX.mean(1, keepdims=True)).T


def centred_noise(rng, n, structure, sigma):
    """Draws (n, N, 3) of R r + sigma P eps, with R drawn by scipy."""
    turned = structure @ Rotation.random(n, random_state=rng).as_matrix()
    noise = rng.normal(size=turned.shape)
    return turned + sigma * (noise - noise.mean(1, keepdims=True))


def log_ratio(x, structures, weights, sigma, rotations):
    """log p(x) / q(x), p by an average over drawn rotations: nothing of the package."""
    total = 0
    for structure, weight in zip(structures, weights, strict=True):
        overlap = np.einsum("bai,ad->bid", x, structure) / sigma**2
        exponent = np.einsum("bid,ndi->bn", overlap, rotations)
        total = total + weight * np.exp(exponent - (structure**2).sum() / (2 * sigma**2)).mean(1)
    return np.log(total)


# -- the value -----------------------------------------------------------------------------------


@pytest.mark.parametrize("nats", [0.1, 0.5])
def test_the_divergence_is_that_of_drawn_structures(nats):
    """Six standard errors of 20,000 draws, and 2 % for the finite average over rotations."""
    target = RigidTarget.from_structure(torch.from_numpy(HELIX))
    sigma = target.sigma_star(nats)
    rng = np.random.default_rng(1)
    rotations = Rotation.random(3000, random_state=2).as_matrix()
    draws = [
        log_ratio(centred_noise(rng, 2000, HELIX, sigma), [HELIX], [1.0], sigma, rotations)
        for _ in range(10)
    ]
    values = np.concatenate(draws)
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - target.divergence(sigma)) < 6 * error + 0.02 * nats
    assert target.divergence(sigma) == pytest.approx(nats, rel=1e-4)
    assert target.bound(sigma) > nats


@pytest.mark.parametrize("length", [0.5, 1.5, 4.0, 12.0])
def test_two_atoms_have_a_closed_form(length):
    """The pair is a vector: its posterior is a hyperbolic sine, and |x| is known up to an integral.

    With s = |d e + sqrt(d) z|, KL = E log(sinh s / s) - d / 2, and s / sqrt(d) is non-central chi
    of three degrees of freedom: sinh(s) s / d^(3/2) times a Gaussian.
    """
    sigma = 1.3
    d = (length / sigma) ** 2 / 2

    def log_sinh(s):
        return s + math.log1p(-math.exp(-2 * s)) - math.log(2)

    def density(s):
        return math.exp(log_sinh(s) - s * s / (2 * d) - d / 2) * s * math.sqrt(2 / math.pi / d**3)

    low, high = max(1e-9, d - 9 * math.sqrt(d)), d + 9 * math.sqrt(d) + 1
    mass = integrate.quad(density, low, high)[0]
    mean = integrate.quad(lambda s: density(s) * (log_sinh(s) - math.log(s)), low, high)[0]
    assert mass == pytest.approx(1, abs=1e-6)
    pair = RigidTarget.from_structure(torch.tensor([[0.0, 0, 0], [length, 0, 0]]))
    assert pair.divergence(sigma) == pytest.approx(mean - d / 2, rel=0.003, abs=1e-7)
    expected = math.log(math.sinh(d) / d)  # of cos(angle) uniform in [-1, 1]
    assert pair.bound(sigma) == pytest.approx(min(expected, d / 2), rel=1e-6)


@pytest.mark.parametrize("form", [(1, 1, 1), (3, 2, 1), (1, 1, 0)])
@pytest.mark.parametrize("trace", [0.3, 3.0, 30.0])
def test_the_quadrature_over_noise_is_as_exact_as_it_says(form, trace):
    """1 %, against plain sampling whose every value is centred by what it has to first order.

    log c = |F|²/6 + det F / 6 + a rest: of the first two the means are known for small D, and of
    large D the noise is small beside the value. Six standard errors of 65,536 draws.
    """
    d = trace * torch.tensor(form, dtype=torch.float64) / sum(form)
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(2**16, 3, 3, generator=generator, dtype=torch.float64)
    matrices = d.diag() + d.sqrt()[:, None] * z
    values = log_fisher_normaliser(matrices) - d.sum() / 2
    if trace < 10:
        values -= (matrices.square().sum((1, 2)) - d.square().sum() - 3 * d.sum()) / 6
        values -= (torch.linalg.det(matrices) - d.prod()) / 6
    error = float(values.std()) / math.sqrt(len(values))
    target = RigidTarget((float(d[0]), float(d[1]), float(d[2])), 5)
    value = target.divergence(1.0)
    assert abs(value - float(values.mean())) < 0.01 * value + 6 * error
    assert error < 0.01 * value


@pytest.mark.parametrize("form", [(1, 1, 1), (3, 2, 1), (1, 1, 0), (1, 0, 0)])
def test_the_leading_term(form):
    """N² Rg⁴ / (36 sigma⁴) for a round structure, thrice that for a rod; the bound is twice."""
    target = RigidTarget.from_size(500, 11.0, form)
    ratio = 3 * sum(f**2 for f in form) / sum(form) ** 2
    for sigma in (2000.0, 700.0):
        expected = ratio * 500**2 * 11.0**4 / 36 / sigma**4
        assert target.leading(sigma) == pytest.approx(expected, rel=1e-9)
        assert target.divergence(sigma) == pytest.approx(expected, rel=0.03)
        assert target.bound(sigma) == pytest.approx(2 * expected, rel=0.06)
    stars = [RigidTarget.from_size(500, 11.0, f).sigma_star(1e-3) for f in (form, (1, 1, 1))]
    assert stars[0] / stars[1] == pytest.approx(ratio**0.25, rel=0.01)


@pytest.mark.parametrize("form", [(1, 1, 1), (3, 2, 1), (1, 0, 0)])
def test_it_falls_with_sigma_below_its_bounds(form):
    target = RigidTarget.from_size(200, 8.0, form)
    sigmas = np.geomspace(0.5, 2000, 20)
    values = [target.divergence(sigma) for sigma in sigmas]
    assert all(late < early for early, late in pairwise(values))
    for sigma, value in zip(sigmas, values, strict=True):
        assert 0 < value <= target.bound(sigma)
        assert target.bound(sigma) <= sum(target.scatter) / sigma**2 / 2 * (1 + 1e-9)


def test_only_scaled_tensors_count():
    one, two = RigidTarget.from_size(100, 10.0), RigidTarget.from_size(400, 10.0)
    assert one.divergence(50.0) == pytest.approx(two.divergence(100.0), rel=1e-9)
    structure = torch.from_numpy(HELIX)
    target = RigidTarget.from_structure(structure)
    turned = structure @ torch.from_numpy(Rotation.random(random_state=3).as_matrix()) + 7.0
    other = RigidTarget.from_structure(turned)
    assert other.scatter == pytest.approx(target.scatter, rel=1e-9, abs=1e-9)
    assert target.n_atoms == 12
    assert target.radius_of_gyration**2 == pytest.approx((HELIX**2).sum() / 12)
    far = RigidTarget.from_structure(turned, centred=False)
    assert sum(far.scatter) == pytest.approx(float((turned**2).sum()))
    assert far.radius_of_gyration == pytest.approx(target.radius_of_gyration, rel=1e-6)


def test_a_large_structure_at_small_noise():
    """Far inside: tr D / 2 less what is known of the rotation, which grows like a logarithm."""
    target = RigidTarget.from_size(8000, 30.0)
    half = sum(target.scatter) / 2
    assert 0 < half - target.divergence(1.0) < 30


def test_a_mixture_is_at_most_the_average():
    """Convexity, by draws of two conformers; nothing of the package in the value."""
    open_, closed = HELIX * [1.4, 1.0, 1.0], HELIX * [0.5, 1.0, 1.0]
    targets = [RigidTarget.from_structure(torch.from_numpy(s)) for s in (open_, closed)]
    sigma, weights = targets[0].sigma_star(0.5), (0.4, 0.6)
    rng = np.random.default_rng(4)
    rotations = Rotation.random(3000, random_state=5).as_matrix()
    kinds = rng.random(8000) < weights[0]
    x = np.where(
        kinds[:, None, None],
        centred_noise(rng, 8000, open_, sigma),
        centred_noise(rng, 8000, closed, sigma),
    )
    parts = [log_ratio(p, (open_, closed), weights, sigma, rotations) for p in np.split(x, 4)]
    value, error = np.mean(parts), np.std(np.concatenate(parts)) / math.sqrt(8000)
    each = [target.divergence(sigma) for target in targets]
    assert 6 * error < value < np.dot(weights, each) + 6 * error


# -- translations ----------------------------------------------------------------------------------


def test_a_random_translation_adds_the_divergence_of_the_centre():
    """Three Gaussian coordinates of variance sigma² + N tau² against sigma², by torch."""
    target = RigidTarget.from_size(300, 9.0)
    sigma, tau = 40.0, 2.5
    centre, noise = (
        torch.distributions.Normal(0.0, torch.tensor(scale, dtype=torch.float64))
        for scale in (math.sqrt(sigma**2 + 300 * tau**2), sigma)
    )
    expected = 3 * float(torch.distributions.kl_divergence(centre, noise))
    for measure in (target.divergence, target.bound):
        assert measure(sigma, tau) - measure(sigma) == pytest.approx(expected, rel=1e-9)
    moved = target.sigma_star(0.5, translation=tau)
    assert moved > target.sigma_star(0.5)
    assert target.divergence(moved, tau) == pytest.approx(0.5, rel=1e-4)


def moved_ratio(x, structure, sigma, tau, rotations):
    """log p(x) / q(x) of turned and moved structures, from the covariance of their atoms."""
    n = len(structure)
    within = sigma**2 * np.eye(n) + tau**2 * np.ones((n, n))
    inverse, log_det = np.linalg.inv(within), np.linalg.slogdet(within)[1]
    overlap = np.einsum("bia,ij,jd->bad", x, inverse, structure)
    exponent = np.einsum("bad,nda->bn", overlap, rotations)
    own = np.einsum("ia,ij,ja->", structure, inverse, structure) / 2
    log_p = np.log(np.exp(exponent - own).mean(1)) - 1.5 * log_det
    log_p -= np.einsum("bia,ij,bja->b", x, inverse, x) / 2
    return log_p - (-1.5 * n * math.log(sigma**2) - (x**2).sum((1, 2)) / (2 * sigma**2))


AWAY = np.array([[4.0, 0, 0], [5.0, 1, 0], [4.0, 0, 1.5]])


@pytest.mark.parametrize(("structure", "sigma", "tau"), [(AWAY, 6.0, 2.0), (AWAY[:1], 4.0, 3.0)])
def test_a_structure_that_turns_about_another_point_and_moves(structure, sigma, tau):
    """Six standard errors of 10,000 draws, and 2 % for the finite average over rotations."""
    rng = np.random.default_rng(6)
    rotations = Rotation.random(3000, random_state=7).as_matrix()
    values = []
    for _ in range(5):
        x = structure @ Rotation.random(2000, random_state=rng).as_matrix()
        x = x + tau * rng.normal(size=(2000, 1, 3)) + sigma * rng.normal(size=x.shape)
        values.append(moved_ratio(x, structure, sigma, tau, rotations))
    values = np.concatenate(values)
    error = values.std() / math.sqrt(len(values))
    target = RigidTarget.from_structure(torch.from_numpy(structure), centred=False)
    exact = target.divergence(sigma, tau)
    assert abs(values.mean() - exact) < 6 * error + 0.02 * exact
    assert 6 * error < 0.25 * exact
    assert exact < target.bound(sigma, tau)


def test_one_atom_off_the_origin_that_moves():
    """A vector of length d under noise of variance s² = sigma² + tau², against noise of sigma².

    The first part is the closed form of two atoms, at d² / s²; the rest is that of Gaussians with
    the second moments of the law.
    """
    d, sigma, tau = 3.0, 6.0, 3.0
    target = RigidTarget.from_structure(torch.tensor([[0.0, d, 0]]), centred=False)
    s2, rho = sigma**2 + tau**2, tau**2 / sigma**2
    own = RigidTarget.from_structure(torch.tensor([[0.0, 0, 0], [d * math.sqrt(2), 0, 0]]))
    expected = (
        own.divergence(math.sqrt(s2))
        + (3 * rho - 3 * math.log1p(rho) + d**2 / sigma**2 - d**2 / s2) / 2
    )
    assert target.divergence(sigma, tau) == pytest.approx(expected, rel=1e-6)
    assert target.divergence(sigma, tau) == pytest.approx(0.0685, abs=5e-5)
    assert target.bound(sigma, tau) > 0.0685
    star = target.sigma_star(0.05, translation=tau)
    assert target.divergence(star, tau) == pytest.approx(0.05, rel=1e-4)


# -- the inverse -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [1e-4, 0.5, 50.0])
def test_sigma_star_is_the_inverse(tolerance):
    target = RigidTarget.from_size(640, 12.0, (4, 2, 1))
    assert target.divergence(target.sigma_star(tolerance)) == pytest.approx(tolerance, rel=1e-3)
    rigorous = target.sigma_star(tolerance, rigorous=True)
    assert target.bound(rigorous) == pytest.approx(tolerance, rel=1e-3)
    assert rigorous > target.sigma_star(tolerance)


@pytest.mark.parametrize("translation", [0.0, 2.0])
def test_the_bound_is_one_where_float64_rounds(translation):
    """From the series of `log c`, whose rest is below `1e-6` of it here."""
    target = RigidTarget.from_size(1560, 16.5, (3, 2, 1))
    for sigma in (8000.0, 11000.0, 1e5, 1e8):
        d = torch.tensor(target.scatter, dtype=torch.float64) / sigma**2
        moved = 3 * (1560 * translation**2 / sigma**2) ** 2 / 4
        series = float(d.square().sum() / 6 + d.prod() / 6) + moved
        assert target.bound(sigma, translation) == pytest.approx(series, rel=1e-4, abs=0)
        assert target.bound(sigma, translation) > 1.9 * target.leading(sigma)
    for rigorous in (True, False):
        stars = [target.sigma_star(nats, rigorous, translation) for nats in (1e-13, 1e-17)]
        assert stars[1] / stars[0] == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize("wrong", ["3", None, math.nan, math.inf, -1.0, 1e-300, True, (1.0, 2.0)])
def test_a_number_that_is_none_is_named(wrong):
    target = RigidTarget.from_size(10, 3.0)
    asked = {
        "sigma": (target.divergence, target.bound, target.leading),
        "translation": (
            lambda value: target.divergence(3.0, value),
            lambda value: target.bound(3.0, value),
            lambda value: target.sigma_star(translation=value),
            lambda value: target.sigma_star(rigorous=True, translation=value),
        ),
        "tolerance": (target.sigma_star,),
        "radius_of_gyration": (lambda value: RigidTarget.from_size(10, value),),
    }
    for name, functions in asked.items():
        for function in functions:
            with pytest.raises(DataError, match=rf"^{name}=.* Pass a number of \w+ from 1e-20"):
                function(wrong)


def test_what_is_no_target_is_refused():
    good = RigidTarget.from_size(10, 3.0)
    with pytest.raises(DataError, match="n_atoms=0"):
        RigidTarget.from_size(0, 3.0)
    for radius in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(DataError, match="radius_of_gyration"):
            RigidTarget.from_size(10, radius)
    for form in ((1, 1), (0, 0, 0), (1, -1, 1), (1, math.nan, 1), None, "rod", (1, "1", 1)):
        with pytest.raises(DataError, match=r"form=.* Pass the ratio of three"):
            RigidTarget.from_size(10, 3.0, form)
    for positions, message in (
        (torch.zeros(3), r"shape \(N, 3\)"),
        (torch.zeros(0, 3), r"shape \(N, 3\)"),
        (torch.full((4, 3), math.nan), "not finite"),
        ("model.pdb", "a structure is a str that holds no numbers"),
        ([[0.0, 1.0, 2.0], [1.0]], "a structure is a list that holds no numbers"),
    ):
        with pytest.raises(DataError, match=message):
            RigidTarget.from_structure(positions)
    with pytest.raises(DataError, match="from_size"):
        RigidTarget((1.0, -2.0, 0.0), 4)
    for scatter in ((1.0, 2.0), ("1", 1.0, 1.0), None):
        with pytest.raises(DataError, match=r"scatter=.*from_size"):
            RigidTarget(scatter, 4)
    with pytest.raises(DataError, match="offset"):
        RigidTarget((1.0, 1.0, 1.0), 4, (2.0, 0.0, 0.0))
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(DataError, match="sigma="):
            good.divergence(sigma)
    with pytest.raises(DataError, match="translation=-1"):
        good.bound(3.0, -1.0)
    for tolerance in (0.0, -1.0, math.inf):
        with pytest.raises(DataError, match="tolerance="):
            good.sigma_star(tolerance)
    with pytest.raises(DataError, match="one place"):
        RigidTarget.from_structure(torch.ones(4, 3)).sigma_star()
