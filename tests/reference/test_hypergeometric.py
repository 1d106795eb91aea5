"""The density of a known form in an unknown turn, against four independent ways to compute it."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import gammaln, ive, logsumexp
from scipy.stats import norm

from gaga_adapter.reference import hypergeometric
from gaga_adapter.reference.hypergeometric import log_form_average, rough_form_average

FIVE_SIGMA = norm.isf(1e-6 / 2)  # 4.89
FORMS = [[5.0, 0.8, 0.2], [4.0, 0.1, 0.001], [3.0, 2.5, 0.2], [2.0, 2.0, 2.0]]
SEEN = [4.0, 1.2, 0.3]  # the form of the point, but for the noise
ALL_SIZES = [1, 2, 3, 4, 5, 6, 8, 12, 18, 28]


def stated_error(n):
    """What the module's docstring says, in nats."""
    return 2e-3 + {1: 0.0, 2: 0.0, 3: 0.18}.get(n, 1.3 / n**2)


def at_level(n, log_snr):
    """Eigenvalues of a point and of forms (P, 3) as they are for QM9 at this log-SNR."""
    snr, form = math.exp(log_snr), torch.tensor(FORMS).double()
    s, t = snr * n * torch.tensor(SEEN).double() + n, snr * n * form
    s, t = s.expand_as(t).clone(), t.clone()
    s[:, n:], t[:, n:] = 0.0, 0.0
    return s, t


# ------------------------------------------------------------------ one matrix


def log_bessel(d, k):
    """`log E exp(k u_1)` of a uniform unit vector u of d numbers."""
    k = np.maximum(k, 1e-8)
    order = d / 2 - 1
    return gammaln(d / 2) + np.log(ive(order, k)) + k - order * np.log(k / 2)


def nodes(width, count):
    """Angles in (-pi/2, pi/2) and log-weights, drawn together to a peak of this curvature."""
    x, weight = np.polynomial.legendre.leggauss(count)
    width = np.asarray(width)[..., None]
    spread = 1 + width * (1 - x * x)
    return np.pi / 2 * x / np.sqrt(spread), np.log(np.pi / 2 * weight * (1 + width) / spread**1.5)


def log_two_columns(n, one, two, count):
    """`log E exp(one U_11 + two U_22)` of a Haar frame of two columns, by one integral."""
    angle, weight = nodes(0.7 * (one + two), count)
    weight = weight + (n - 2) * np.log(np.cos(angle))
    weight = weight - (gammaln(0.5) + gammaln((n - 1) / 2) - gammaln(n / 2))
    rest = np.cos(angle)
    terms = log_bessel(n - 1, one[..., None] * rest) + log_bessel(n - 1, two[..., None] * rest)
    return logsumexp(weight + terms, axis=-1)


def log_three_columns(n, sigma, count=18):
    """`log E exp(sum sigma_i U_ii)` of a Haar frame of three columns in n > 3 dimensions.

    The first column is integrated over its second and third entry; its first entry is uniform on
    a sphere, and the others are a frame of two columns in the n - 1 dimensions that are left.
    """
    one, two, three = sigma
    first, weight_1 = nodes(0.7 * (one + two), count)
    second, weight_2 = nodes(0.7 * (one + three), count)
    first, second = first[:, None], second[None]
    weight = weight_1[:, None] + weight_2 + (n - 2) * np.log(np.cos(first))
    weight = weight + (n - 3) * np.log(np.cos(second)) - math.log(2 * np.pi / (n - 2))
    y, z = np.sin(first), np.cos(first) * np.sin(second)
    gram = two**2 * (1 - y * y), three**2 * (1 - z * z), -two * three * y * z
    trace, det = gram[0] + gram[1], gram[0] * gram[1] - gram[2] ** 2
    large = (trace + np.sqrt((gram[0] - gram[1]) ** 2 + 4 * gram[2] ** 2)) / 2
    small = np.maximum(det, 0) / np.maximum(large, 1e-300)
    inner = log_two_columns(n - 1, np.sqrt(large), np.sqrt(small), count)
    terms = weight + log_bessel(n - 2, one * np.cos(first) * np.cos(second)) + inner
    return float(logsumexp(terms))


def one_matrix(x, n):
    """The module's `log 0F1(n/2; A/4)` for eigenvalues x of `A / b²` (P, 3)."""
    value = hypergeometric._log_one_matrix(*hypergeometric._symmetric(x), n)
    return value + hypergeometric._next_order((1 + x).sqrt(), n)


def test_the_oracle_is_the_average_over_frames():
    """200,000 frames of numpy's QR, 1e-6 false alarms: the nested integrals are set up right."""
    n, sigma = 5, (3.0, 2.0, 0.5)
    frame, r = np.linalg.qr(np.random.default_rng(0).standard_normal((200_000, n, 3)))
    frame *= np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]
    value = np.exp(sum(s * frame[:, i, i] for i, s in enumerate(sigma)))
    error = value.std() / math.sqrt(len(value)) / value.mean()
    assert abs(math.log(value.mean()) - log_three_columns(n, sigma)) < FIVE_SIGMA * error


@pytest.mark.parametrize("n", [4, 5, 6, 8, 12, 18, 28])
def test_one_matrix_as_by_nested_quadrature(n):
    """Rods, discs and balls from weak to strong."""
    for scale in (0.03, 1.0, 30.0):
        for form in ([1.0, 1.0, 1.0], [1.0, 0.3, 0.02], [1.0, 0.9, 0.0]):
            x = scale * torch.tensor([form]).double()
            expected = log_three_columns(n, (n / 2 * x[0].sqrt()).tolist())
            assert abs(float(one_matrix(x, n)) - expected) < stated_error(n)


def test_three_degrees_as_by_the_matrix_fisher_integral():
    """Frames of three columns in three dimensions are rotations and their mirror images."""

    def log_rotations(sigma, sign):
        one, two, three = sigma[0], sigma[1], sign * sigma[2]
        u, weight = np.polynomial.legendre.leggauss(400)
        left, right = (one - two) * (1 - u) / 2, (one + two) * (1 + u) / 2
        terms = left + right + three * u + np.log(ive(0, left) * ive(0, right) * weight / 2)
        return logsumexp(terms)

    for scale in (0.03, 1.0, 30.0):
        for form in ([1.0, 1.0, 1.0], [1.0, 0.3, 0.02], [1.0, 0.9, 0.0]):
            x = scale * torch.tensor([form]).double()
            sigma = (1.5 * x[0].sqrt()).tolist()
            expected = np.logaddexp(log_rotations(sigma, 1), log_rotations(sigma, -1))
            got = float(one_matrix(x, 3)) + math.log(2)
            assert abs(got - float(expected)) < stated_error(3)


@pytest.mark.parametrize("n", [3, 4, 9, 28])
def test_large_matrices_have_the_exact_limit(n):
    """Far out the frames are a Gaussian around one point, whose volume is known."""
    sigma = np.array([3.0, 2.0, 1.0]) * 1e5 * n
    pairs = [(0, 1), (0, 2), (1, 2)]
    sphere = sum(
        math.log(2) + (n - k) / 2 * math.log(math.pi) - gammaln((n - k) / 2) for k in range(3)
    )
    expected = sigma.sum() - sphere
    expected += 0.5 * sum(math.log(2 * math.pi / (sigma[i] + sigma[j])) for i, j in pairs)
    expected += (n - 3) / 2 * np.log(2 * math.pi / sigma).sum()
    x = torch.from_numpy((2 * sigma / n) ** 2)[None]
    assert float(one_matrix(x, n)) == pytest.approx(float(expected), abs=1e-3)


# ------------------------------------------------------------------ two matrices


@pytest.mark.parametrize("n", ALL_SIZES)
def test_small_arguments_follow_the_zonal_series(n):
    """`sum C_k(X) C_k(Y) / ((b)_k k! C_k(I))` to the third degree, of every partition."""
    generator = torch.Generator().manual_seed(n)
    for scale in (0.02, 0.1):
        s, t = (
            scale * n * torch.rand(5, 3, generator=generator).double().sort(descending=True).values
            for _ in range(2)
        )
        s[:, n:], t[:, n:] = 0.0, 0.0

        def zonal(x):
            p, q, r = ((x**k).sum(-1) for k in (1, 2, 3))
            return {
                (1,): p,
                (2,): (p * p + 2 * q) / 3,
                (1, 1): 2 * (p * p - q) / 3,
                (3,): (p**3 + 6 * p * q + 8 * r) / 15,
                (2, 1): 3 * (p**3 + p * q - 2 * r) / 5,
                (1, 1, 1): (p**3 - 3 * p * q + 2 * r) / 3,
            }

        left, right, unit = zonal(t), zonal(s / 4), zonal(torch.ones(3).double())
        total = torch.ones(5).double()
        for parts, value in left.items():
            if len(parts) > n:
                continue
            rising = math.prod(
                n / 2 - i / 2 + k for i, part in enumerate(parts) for k in range(part)
            )
            scale_k = rising * math.factorial(sum(parts)) * float(unit[parts])
            total = total + value * right[parts] / scale_k
        got = log_form_average(s, t, n) + (s.sum(1) + t.sum(1)) / 2
        rest = float((s.sum(1) * t.sum(1) / (4 * n / 2)).max()) ** 4 / 24
        # Laplace's next order leaves a part of the second degree: 1 / n² of the first.
        second = 0.0 if n < 3 else float((s.sum(1) * t.sum(1)).max()) / 2 / n**3
        torch.testing.assert_close(got, total.log(), rtol=0, atol=1e-6 + rest + second)


@pytest.mark.parametrize("n", ALL_SIZES)
def test_weak_forms_as_by_frames_and_rotations(n):
    """50,000 frames of numpy and rotations of scipy at a log-SNR of -4, 1e-6 false alarms."""
    s, t = at_level(n, -4.0)
    count, columns = 50_000, min(n, 3)
    rng = np.random.default_rng(n)
    frame, r = np.linalg.qr(rng.standard_normal((count, n, columns)))
    frame = frame * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]
    turns = Rotation.random(count, random_state=n).as_matrix()
    top = np.zeros((count, 3, 3))
    top[:, : min(n, 3), :columns] = frame[:, :3]
    got = log_form_average(s, t, n)
    for k, form in enumerate(t.numpy()):
        scale = np.sqrt(s[k].numpy())[:, None] * np.sqrt(form)
        value = np.exp((top * turns * scale).sum((1, 2)))
        error = value.std() / math.sqrt(count) / value.mean()
        expected = math.log(value.mean()) - float(s[k].sum() + t[k].sum()) / 2
        assert error < 0.03
        assert abs(float(got[k]) - expected) < FIVE_SIGMA * error + stated_error(n)


def near_rotations(width, count, seed):
    """Rotations around the four half turns of the axes, and the log of their density to Haar's."""
    rng = np.random.default_rng(seed)
    turns = Rotation.from_rotvec(np.clip(rng.standard_t(5, (count, 3)), -40, 40) * width)
    halves = Rotation.from_matrix(
        [np.diag(d) for d in ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1])]
    )
    turns = turns * halves[rng.integers(0, 4, count)]
    parts = []
    for half in halves:
        vector = (turns * half).as_rotvec()
        angle = np.linalg.norm(vector, axis=1)
        # Each rotation is reached by the vectors of its axis, a full turn apart.
        own = []
        for turn in range(-3, 4):
            far = angle + 2 * np.pi * turn
            place = vector * (far / np.maximum(angle, 1e-12))[:, None]
            density = gammaln(3) - gammaln(2.5) - 0.5 * np.log(5 * np.pi)
            log_t = (density - 3 * np.log1p((place / width) ** 2 / 5) - np.log(width)).sum(1)
            own.append(log_t + 2 * np.log(np.abs(far)) - np.log(2 - 2 * np.cos(angle)))
        parts.append(logsumexp(own, axis=0) + math.log(8 * np.pi**2) - math.log(4))
    return turns.as_matrix(), logsumexp(parts, axis=0)


@pytest.mark.parametrize("n", [2, 3, 28])
@pytest.mark.parametrize("log_snr", [-2.0, 0.0, 2.0])
def test_the_average_over_rotations(n, log_snr):
    """20,000 rotations of scipy, more of them where the average is: 1e-6 false alarms each."""
    s, t = at_level(n, log_snr)
    got = log_form_average(s, t, n) + (s.sum(1) + t.sum(1)) / 2
    for k in range(len(t)):
        v = (1 + s[k] * t[k] / (n / 2) ** 2).sqrt()
        curvature = hypergeometric._curvature(s[k], t[k], v, n).numpy()[[2, 1, 0]]
        turns, log_density = near_rotations(1 / np.sqrt(2 * curvature + 1), 20_000, seed=n)
        root = np.sqrt(t[k].numpy())
        inside = np.einsum("mji,j,mjk->mik", turns, s[k].numpy(), turns) * root[:, None] * root
        x = torch.from_numpy(np.linalg.eigvalsh(inside / (n / 2) ** 2)).clamp(min=0)
        value = hypergeometric._log_one_matrix(*hypergeometric._symmetric(x), n).numpy()
        weight = np.exp(value - value.max() - log_density)
        error = weight.std() / math.sqrt(len(weight)) / weight.mean()
        expected = math.log(weight.mean()) + value.max()
        expected += float(hypergeometric._next_order(v[None], n)) if n > 2 else 0.0
        assert error < 0.02
        assert abs(float(got[k]) - expected) < FIVE_SIGMA * error + 2e-3


@pytest.mark.parametrize("n", ALL_SIZES)
def test_the_rough_form_is_near(n):
    for log_snr in (-4.0, -2.0, 0.0, 2.0):
        s, t = at_level(n, log_snr)
        rough = rough_form_average(s[:, None], t[None], n).diagonal()
        assert float((rough - log_form_average(s, t, n)).abs().max()) < 1.5


def test_no_form_and_far_forms_are_finite():
    """Nothing known of the form leaves unit noise; and at any level a number comes out."""
    for n in ALL_SIZES:
        s, t = at_level(n, 0.0)
        none = torch.zeros_like(t)
        torch.testing.assert_close(
            log_form_average(s, none, n), -s.sum(1) / 2, rtol=1e-12, atol=1e-12
        )
        for scale in (1e-300, 1e12, 1e24):
            assert bool(torch.isfinite(log_form_average(scale * s, scale * t, n)).all())


def test_every_pair_stands_alone():
    """In chunks, and of any number of pairs, also none."""
    s, t = at_level(9, 1.0)
    many = log_form_average(s.repeat(700, 1), t.repeat(700, 1), 9)
    torch.testing.assert_close(many, log_form_average(s, t, 9).repeat(700), rtol=1e-13, atol=1e-13)
    assert log_form_average(s[:0], t[:0], 9).shape == (0,)
