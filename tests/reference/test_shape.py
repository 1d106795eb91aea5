"""The shape mixture: rotation averages, the latent read off the noise, density and bound."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import dawsn, erf
from scipy.stats import ks_2samp, kstest, norm
from torch.distributions import MultivariateNormal

from gaga_adapter.errors import DataError
from gaga_adapter.hashing import uniforms
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference import ShapeReference, make_reference
from gaga_adapter.reference.haar import MOST_NODES, log_haar_average, n_nodes, rotations
from gaga_adapter.reference.shape import noise_hash
from gaga_adapter.subspace import mask_from_sizes, project

F = 2
LEVEL = (0.8, 0.6)
FIVE_SIGMA = norm.isf(1e-6 / 2)  # 4.89


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def toy_molecules(n_molecules, n, seed=0):
    """Rods, discs and balls of different extent and composition."""
    generator = torch.Generator().manual_seed(seed)
    stretch = 0.3 + 2 * torch.rand(n_molecules, 1, 3, generator=generator).double() ** 2
    positions = torch.randn(n_molecules, n, 3, generator=generator).double() * stretch
    features = torch.rand(n_molecules, n, F, generator=generator).double()
    features = features + torch.randn(n_molecules, 1, F, generator=generator).double() / 2
    mask = torch.ones(n_molecules, n, dtype=torch.bool)
    return project(torch.cat([positions, features], -1), mask), mask


@pytest.fixture(scope="module")
def moments():
    fitted = ExchangeableMoments(F, table_size=64)
    for n in (4, 5, 6):
        fitted.update(*toy_molecules(400, n, seed=n))
    return fitted


def unit_noise(n_atoms, seed=0, dtype=torch.float64):
    mask = mask_from_sizes(torch.as_tensor(n_atoms))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(*mask.shape, 3 + F, generator=generator, dtype=torch.float64)
    return project(noise, mask).to(dtype), mask


# ------------------------------------------------------------------ averages over rotations


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


# ------------------------------------------------------------------ the latent


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_latents_are_uniform_and_independent_of_the_noise(dtype):
    """1e-6 false alarms each: the law of each latent, and that of the noise given the latent."""
    z, mask = unit_noise([4] * 6000, dtype=dtype)
    u = uniforms(noise_hash(z, mask), 4)
    square = z.double().square().sum((1, 2))
    for latent in u.T:
        assert kstest(latent, "uniform").pvalue > 1e-6
        for statistic in (square, z[:, 0, 0].double(), z[:, 3, 4].double()):
            assert ks_2samp(statistic[latent < 0.5], statistic[latent >= 0.5]).pvalue > 1e-6


def test_transport_depends_on_nothing_but_the_molecule(moments):
    reference = make_reference(moments, "shape").at(*LEVEL)
    z, mask = unit_noise([5, 4, 6, 4], dtype=torch.float32)
    together = reference.transport(z, mask)
    order = torch.tensor([2, 0, 3, 1])

    def same(found, expected):
        # float32 roundings of numbers near 1, since products of other shapes may take another
        # kernel; another latent would be off by more than 1e-3, as below
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)

    same(reference.transport(z[order], mask[order]), together[order])
    wide = reference.transport(torch.nn.functional.pad(z, (0, 0, 0, 3)))
    same(wide[:, :6], together)
    for i, n in enumerate([5, 4, 6, 4]):
        same(reference.transport(z[i : i + 1, :n])[0], together[i, :n])
    gaps = torch.zeros(4, 12, 3 + F)
    gaps[:, ::2] = z
    same(reference.transport(gaps)[:, ::2], together)


def test_latent_is_the_same_at_every_level(moments):
    """Between levels only the scale changes: the extent grows smoothly with the signal."""
    reference = make_reference(moments, "shape")
    z, mask = unit_noise([5] * 50)
    near, nearer = (reference.at(a, 0.6).transport(z, mask) for a in (0.8, 0.8001))
    assert float((near - nearer).abs().max()) < 0.01


def test_last_bit_of_the_noise_draws_another_molecule(moments):
    reference = make_reference(moments, "shape").at(*LEVEL)
    z, _ = unit_noise([5], dtype=torch.float32)
    nudged = z.clone()
    nudged[0, 0, 4] = torch.nextafter(z[0, 0, 4], torch.tensor(9.0))
    assert float((reference.transport(nudged) - reference.transport(z)).abs().max()) > 1e-3


def simulated(moments, n, count, a, b):
    """Draws of the mixture by numpy and scipy's rotations alone."""
    rng = np.random.default_rng(1)
    size = moments.at_size(n)
    rows = rng.choice(len(size.gyration), count, p=size.sample_weight.numpy())
    turn = Rotation.random(count, random_state=2).as_matrix()
    noise = rng.standard_normal((count, n, 3))
    noise -= noise.mean(1, keepdims=True)
    scale = np.sqrt(a**2 * size.gyration.numpy()[rows] + b**2)
    positions = (noise * scale[:, None]) @ turn.transpose(0, 2, 1)
    features = rng.standard_normal((count, n, F))
    mean = features.mean(1, keepdims=True)
    roots = np.linalg.cholesky(a**2 * size.sample_within.numpy()[rows] + b**2 * np.eye(F))
    features = (features - mean) @ roots.transpose(0, 2, 1) + b * mean
    return positions, features + a * size.sample_mean.numpy()[rows][:, None]


def summaries(positions, features):
    eigenvalues = np.linalg.eigvalsh(positions.transpose(0, 2, 1) @ positions)
    return {
        "largest eigenvalue": eigenvalues[:, 2],
        "smallest eigenvalue": eigenvalues[:, 0],
        "anisotropy": eigenvalues[:, 2] / eigenvalues.sum(1),
        "one coordinate": positions[:, 0, 1],
        "mean feature": features[:, :, 0].mean(1),
        "feature spread": features[:, :, 1].std(1),
        "feature product": (features[:, :, 0] * features[:, :, 1]).mean(1),
    }


def test_samples_follow_the_mixture_and_not_its_gaussian(moments):
    """Two-sample KS against a simulation, 1e-6 false alarms each; `size` fails the same test."""
    n, count = 5, 20000
    expected = summaries(*simulated(moments, n, count, *LEVEL))
    passed = {}
    for kind in ("shape", "size"):
        reference = make_reference(moments, kind).at(*LEVEL)
        generator = torch.Generator().manual_seed(3)
        x = reference.sample([n] * count, generator, dtype=torch.float64).numpy()
        got = summaries(x[..., :3], x[..., 3:])
        passed[kind] = {k: ks_2samp(got[k], v).pvalue > 1e-6 for k, v in expected.items()}
    assert all(passed["shape"].values()), passed["shape"]
    assert not passed["size"]["anisotropy"]


# ------------------------------------------------------------------ density and bound


def one_row(gyration_scale):
    """Moments of a single tetrahedral molecule: isotropic gyration, one composition."""
    corners = f64([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * gyration_scale
    features = f64([[0.1, 0.9], [0.4, 0.2], [0.7, 0.3], [0.2, 0.5]])
    x = torch.cat([corners, features], 1)[None]
    fitted = ExchangeableMoments(F)
    fitted.update(x)
    return fitted, x


def test_one_isotropic_row_is_one_gaussian():
    """Density and divergence against torch.distributions, in coordinates of the subspace."""
    a, b = LEVEL
    fitted, molecule = one_row(1.3)
    reference = make_reference(fitted, "shape").at(a, b)
    x, mask = toy_molecules(5, 4, seed=1)
    basis = torch.linalg.svd(torch.eye(4).double() - 0.25).U[:, :3]
    features = molecule[0, :, 3:]
    around = features - features.mean(0)
    within = around.T @ around / 3
    # The table stores float32, so v_x and W are those to 1e-7.
    positions = MultivariateNormal(
        torch.zeros(9).double(), (a**2 * 4 * 1.3**2 / 3 + b**2) * torch.eye(9).double()
    )
    shared = torch.full((4, 4), 0.25).double()
    covariance = torch.kron(
        torch.eye(4).double() - shared, a**2 * within + b**2 * torch.eye(F).double()
    ) + torch.kron(shared, b**2 * torch.eye(F).double())
    target = MultivariateNormal(a * features.mean(0).repeat(4), covariance)
    for i in range(5):
        point, feature = (basis.T @ x[i, :, :3]).flatten(), x[i, :, 3:].flatten()
        expected = positions.log_prob(point) + target.log_prob(feature)
        assert float(reference.log_prob(x, mask)[i]) == pytest.approx(float(expected), rel=1e-6)
        divergence = sum(
            float(
                torch.distributions.kl_divergence(
                    MultivariateNormal(a * value, b**2 * torch.eye(len(value)).double()), law
                )
            )
            for value, law in ((point, positions), (feature, target))
        )
        got = float(reference.kl_from_posterior(x, mask)[i])
        assert got == pytest.approx(divergence, rel=1e-6)


@pytest.mark.parametrize("log_snr", [-4.0, 8.0, 30.0, 55.0])
def test_two_atoms_at_any_noise(log_snr):
    """One bond: the average of a Gaussian with one long axis is a Dawson function."""
    features = f64([[0.1, 0.9], [0.4, 0.2]])
    bond = torch.cat([f64([[0.6, 0, 0], [-0.6, 0, 0]]), features], 1)[None]
    fitted = ExchangeableMoments(F)
    fitted.update(bond)
    a, b = (math.sqrt(1 / (1 + math.exp(sign * log_snr))) for sign in (-1, 1))
    reference = make_reference(fitted, "shape").at(a, b)
    x = a * bond.clone()
    x[..., :3] *= 1.1
    size = fitted.at_size(2)
    x[..., 3:] = a * size.sample_mean[0]  # the table holds float32
    size_within = a**2 * size.sample_within[0] + b**2 * torch.eye(F).double()
    q, long, short = 2 * (0.66 * a) ** 2, a**2 * float(size.gyration[0, 2]) + b**2, b**2
    c = q * (1 / short - 1 / long) / 2
    turned = math.log(dawsn(math.sqrt(c)) / math.sqrt(c))
    positions = turned - q / long / 2 - 0.5 * (math.log(long) + 2 * math.log(short))
    around = -0.5 * float(torch.logdet(size_within)) - F / 2 * math.log(b**2)
    expected = positions + around - (3 + 2 * F) / 2 * math.log(2 * math.pi)
    got = float(reference.log_prob(x))
    assert got == pytest.approx(expected, abs=1e-5, rel=1e-6)
    assert math.isfinite(float(reference.kl_from_posterior(bond)))


def test_density_is_the_average_over_rows_and_rotations(moments):
    """Against an average of plain Gaussian densities over rows and scipy's rotations."""
    a, b = LEVEL
    size = moments.at_size(4)
    x, mask = toy_molecules(3, 4, seed=2)
    basis = torch.linalg.svd(torch.eye(4).double() - 0.25).U[:, :3]
    turns = torch.from_numpy(Rotation.random(3000, random_state=0).as_matrix())
    got = make_reference(moments, "shape").at(a, b).log_prob(x, mask)
    eye = torch.eye(F).double()
    for i in range(3):
        points, features = basis.T @ x[i, :, :3], x[i, :, 3:]
        variance = a**2 * size.gyration + b**2  # (K, 3)
        turned = torch.einsum("pi,mij->mpj", points, turns)
        log_positions = torch.stack(
            [
                torch.distributions.Normal(0.0, row.sqrt()).log_prob(turned).sum((1, 2))
                for row in variance
            ]
        )  # (K, M)
        shared = torch.full((4, 4), 0.25).double()
        log_features = torch.stack(
            [
                MultivariateNormal(
                    a * mean.repeat(4),
                    torch.kron(torch.eye(4).double() - shared, a**2 * within + b**2 * eye)
                    + torch.kron(shared, b**2 * eye),
                ).log_prob(features.flatten())
                for mean, within in zip(size.sample_mean, size.sample_within, strict=True)
            ]
        )  # (K,)
        weight = (size.sample_weight.log() + log_features).exp()[:, None]
        per_turn = (weight * log_positions.exp()).sum(0)  # (M,)
        error = float(per_turn.std()) / math.sqrt(3000) / float(per_turn.mean())
        assert error < 0.05
        assert abs(math.exp(float(got[i])) / float(per_turn.mean()) - 1) < FIVE_SIGMA * error


def test_density_is_normalised_on_its_own_samples(moments):
    """E_shape[p_size / p_shape] = 1 if samples and density belong together and integrate to 1."""
    count = 2000
    shape, size = (make_reference(moments, kind).at(0.5, 0.9) for kind in ("shape", "size"))
    generator = torch.Generator().manual_seed(0)
    x = shape.sample([4, 5, 6, 5] * (count // 4), generator, dtype=torch.float64)
    ratio = (size.log_prob(x) - shape.log_prob(x)).exp()
    error = float(ratio.std()) / math.sqrt(count)
    assert error < 0.02
    assert abs(float(ratio.mean()) - 1) < FIVE_SIGMA * error


def test_bound_is_above_the_divergence_and_near_it(moments):
    """Monte-Carlo KL of each posterior: never above the bound, and not far below."""
    a, b = 0.6, 0.8
    reference = make_reference(moments, "shape").at(a, b)
    x, mask = toy_molecules(8, 4, seed=6)
    bound = reference.kl_from_posterior(x, mask)
    draws = 200
    noise, many = unit_noise([4] * (8 * draws), seed=1)
    noisy = a * x.repeat_interleave(draws, 0) + b * noise
    dimension = 9 + 4 * F
    log_q = -0.5 * (noise.square().sum((1, 2)) + dimension * math.log(2 * math.pi * b**2))
    estimate = (log_q - reference.log_prob(noisy, many)).reshape(8, draws)
    error = estimate.std(1) / math.sqrt(draws)
    mean = estimate.mean(1)
    assert bool((mean < bound + FIVE_SIGMA * error).all())
    assert bool((bound < mean + 2 + FIVE_SIGMA * error).all())


def test_no_signal_is_unit_noise(moments):
    reference = make_reference(moments, "shape").at(0.0, 1.0)
    z, mask = unit_noise([5, 4, 6, 4])
    torch.testing.assert_close(reference.transport(z), z, rtol=0, atol=1e-12)
    zero = torch.zeros(4).double()
    torch.testing.assert_close(reference.kl_from_posterior(z, mask), zero, rtol=0, atol=1e-9)
    unit = make_reference(moments, "unit").at(0.0, 1.0)
    torch.testing.assert_close(reference.log_prob(z), unit.log_prob(z), rtol=1e-12, atol=0)


def test_density_is_invariant_to_rotation_and_order(moments):
    reference = make_reference(moments, "shape").at(*LEVEL)
    x, mask = toy_molecules(4, 5, seed=3)
    turned = x.clone()
    turned[..., :3] = x[..., :3] @ torch.from_numpy(Rotation.random(random_state=1).as_matrix())
    expected = reference.log_prob(x, mask)
    torch.testing.assert_close(reference.log_prob(turned, mask), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(reference.log_prob(x.flip(1), mask), expected)


def test_it_fits_the_data_better_than_its_gaussian(moments):
    """Held-out noised molecules have the higher density under the mixture (1e-6 false alarms)."""
    a, b = LEVEL
    x, mask = toy_molecules(1000, 6, seed=77)
    noised = a * x + b * unit_noise([6] * 1000, seed=5)[0]
    shape, size = (make_reference(moments, kind).at(a, b) for kind in ("shape", "size"))
    gain = shape.log_prob(noised, mask) - size.log_prob(noised, mask)
    assert float(gain.mean()) > FIVE_SIGMA * float(gain.std()) / math.sqrt(1000)


def test_an_empty_table_is_refused():
    fitted = ExchangeableMoments(F, table_size=0)
    fitted.update(*toy_molecules(10, 4))
    with pytest.raises(DataError, match=r"table_size=0.* use the reference `size`"):
        ShapeReference("shape", fitted)


def test_second_moments_agree_with_the_data_and_fourth_do_not(moments):
    """What the module says of it: the rows' tensors are covariances, so the spread counts twice.

    The variance of |x|² / (3 (n - 1)) over draws is that of the table and a Wishart term. Draws
    meet both numbers within 4.9 standard errors, a false-alarm rate of 1e-6 each.
    """
    n, count = 5, 40_000
    size = moments.at_size(n)
    table, weight = size.gyration, size.sample_weight
    own = table.sum(1) / 3
    mean = float(weight @ own)
    spread = float(weight @ (own - mean) ** 2)
    wishart = float(weight @ table.square().sum(1)) * 2 / (9 * (n - 1))
    reference = make_reference(moments, "shape")
    generator = torch.Generator().manual_seed(4)
    x = reference.sample([n] * count, generator, dtype=torch.float64)
    q = x[..., :3].square().sum((1, 2)) / (3 * (n - 1))
    assert abs(float(q.mean()) - mean) < FIVE_SIGMA * float(q.std()) / math.sqrt(count)
    deviation = (q - q.mean()).square()
    error = float(deviation.std()) / math.sqrt(count)
    assert abs(float(deviation.mean()) - spread - wishart) < FIVE_SIGMA * error
    assert float(deviation.mean()) > spread + FIVE_SIGMA * error


def test_borrowed_sizes_have_the_second_moments_of_size():
    """Sizes 4 and 12 alone, 8 asked for: both kinds carry over the same means of the features."""
    fitted = ExchangeableMoments(F, table_size=256)
    for n in (4, 12):
        fitted.update(*toy_molecules(150, n, seed=n))
    size = fitted.at_size(8)
    assert size.radius == 4
    mean = size.sample_weight @ size.sample_mean
    apart = size.sample_mean - mean
    rows = 8 * torch.einsum("k,kf,kg->fg", size.sample_weight, apart, apart)
    torch.testing.assert_close(rows, size.between, rtol=1e-5, atol=1e-6)  # rows are float32
    torch.testing.assert_close(mean, size.feature_mean, rtol=1e-5, atol=1e-6)
    v_x = float(size.sample_weight @ size.gyration.sum(1)) / 3
    assert v_x == pytest.approx(size.v_x, rel=1e-5)
