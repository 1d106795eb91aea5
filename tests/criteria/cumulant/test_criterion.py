"""The cumulant criterion against closed forms, full tensors and noised data.

Statistical bounds are at 4.9 standard errors, a one-sided false-alarm rate of 5e-7 per assertion.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import gamma, norm
from toys import dense_fitted, dense_moments, fitted, generator, levels

from gaga_adapter.criteria import Cumulant
from gaga_adapter.criteria.cumulant.batches import SizeBatches
from gaga_adapter.criteria.cumulant.invariants import (
    _TURNS,
    BLOCKS,
    Parts,
    _atom_gram,
    _inverse_gram,
    contractions,
)
from gaga_adapter.criteria.cumulant.kstatistics import k_statistic, norm_pseudo_values
from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference import make_reference
from gaga_adapter.selection import bootstrap, select, select_by_size
from gaga_adapter.subspace import mask_from_sizes, project

pytestmark = pytest.mark.filterwarnings("ignore:.*data items may lack the rare ones")

SIGMAS = 4.9
FULL = 60.0  # log-SNR at which the data are seen as they are


def whole(x):
    return torch.ones(x.shape[:2], dtype=torch.bool)


def skewed_molecules(n, n_atoms=4, seed=0):
    """Bent, skewed and with features that know the positions: cumulants of every type."""
    source = generator(seed)
    p = torch.randn(n, n_atoms, 3, generator=source, dtype=torch.float64)
    p = p * torch.rand(n, 1, 1, generator=source, dtype=torch.float64).mul(0.8).exp()
    p[:, 0] = p[:, min(1, n_atoms - 1)] + torch.nn.functional.normalize(p[:, 0], dim=-1)  # a bond
    p -= p.mean(1, keepdim=True)
    h = torch.rand(n, n_atoms, 2, generator=source, dtype=torch.float64) ** 4
    h[..., 0] += 0.5 * p.square().sum(-1) / p.square().sum((1, 2)).clamp(min=1e-9)[:, None]
    h[..., 1] += h[..., 0] ** 2 / 4
    turn = torch.linalg.qr(torch.randn(n, 3, 3, generator=source, dtype=torch.float64)).Q
    order = torch.rand(n, n_atoms, generator=source).argsort(1)[..., None]
    x = torch.cat([p @ turn, h], -1)
    return x.gather(1, order.expand(-1, -1, 5))


def contrasted_molecules(n, n_atoms, seed=0):
    """Everything shares a random scale, features know the positions: no block is small."""
    source = generator(seed)
    p = torch.randn(n, n_atoms, 3, generator=source, dtype=torch.float64)
    p -= p.mean(1, keepdim=True)
    h = torch.rand(n, n_atoms, 2, generator=source, dtype=torch.float64) ** 4
    h[..., 1] += 0.5 * h[..., 0]
    h = h + 0.2 * p.square().sum(-1, keepdim=True).clamp(max=4)
    scale = torch.where(torch.rand(n, 1, 1, generator=source) < 0.5, 0.5, 1.5).double()
    return torch.cat([p, h], -1) * scale


def whitened_coordinates(x, reference, level):
    """Signal of whitened molecules (n, d), the mean feature apart, and the kind of each number.

    The noise of `a x_0 + b eps` adds nothing to cumulants beyond the second.
    """
    n, n_atoms, f = len(x), x.shape[1], x.shape[2] - 3
    a, b = coefficients(level)
    law = reference.at(a, b).gaussian(n_atoms)
    p, h = a * x[..., :3], a * (x[..., 3:] - x[..., 3:].mean((0, 1)))
    within, between = (torch.linalg.cholesky(c.inverse()[0]) for c in (law.within, law.between))
    axes = torch.linalg.qr(torch.cat([torch.ones(n_atoms, 1), torch.eye(n_atoms)[:, 1:]], 1)).Q
    g = axes.T.double() @ h  # the first of the axes is that of the mean
    parts = [p / law.gyration[0, 0].sqrt(), g[:, :1] @ between, g[:, 1:] @ within]
    kinds = "p" * (3 * n_atoms) + "u" * f + "g" * (f * (n_atoms - 1))
    return torch.cat([part.reshape(n, -1) for part in parts], 1), kinds


# ------------------------------------------------------------------------ invariants of molecules


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
def test_gram_matrices_are_those_of_the_tensors(n):
    projector = np.eye(n) - 1 / n
    atoms = [
        np.einsum("li,lj,lk,lm->ijkm", *[projector] * 4),
        np.einsum("ij,km->ijkm", projector, projector),
        np.einsum("ik,jm->ijkm", projector, projector),
        np.einsum("im,jk->ijkm", projector, projector),
    ]
    gram = [[(x * y).sum() for y in atoms] for x in atoms]
    np.testing.assert_allclose(_atom_gram(n), gram, atol=1e-12)
    eye = np.eye(3)
    turns = [np.einsum(s, eye, eye) for s in ("ab,cd->abcd", "ac,bd->abcd", "ad,bc->abcd")]
    gram = [[(x * y).sum() for y in turns] for x in turns]
    np.testing.assert_allclose(_TURNS, gram, atol=1e-12)
    three = np.einsum("li,lj,lk->ijk", *[projector] * 3)
    expected = 0 if n < 3 else 1 / (three**2).sum()
    np.testing.assert_allclose(_inverse_gram("ggg", n), [[expected]], atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_contractions_give_back_the_norm(n):
    """Tensors in the span of the invariants, at random: |C|² = q' G⁻¹ q."""
    projector = np.eye(n) - 1 / n
    eye = np.eye(3)
    atoms = [
        np.einsum("li,lj,lk,lm->ijkm", *[projector] * 4),
        np.einsum("ij,km->ijkm", projector, projector),
        np.einsum("ik,jm->ijkm", projector, projector),
        np.einsum("im,jk->ijkm", projector, projector),
    ]
    turns = [np.einsum(s, eye, eye) for s in ("ab,cd->abcd", "ac,bd->abcd", "ad,bc->abcd")]
    basis = [
        np.multiply.outer(a, t).transpose(0, 4, 1, 5, 2, 6, 3, 7).reshape([3 * n] * 4)
        for a, t in itertools.product(atoms, turns)
    ]
    weights = np.random.default_rng(0).normal(size=12)
    tensor = sum(w * b for w, b in zip(weights, basis, strict=True))
    q = np.array([(tensor * b).sum() for b in basis])
    assert q @ _inverse_gram("pppp", n).numpy() @ q == pytest.approx((tensor**2).sum())


def test_every_block_is_the_norm_of_its_part_of_the_full_joint_tensor():
    """Every coordinate of whitened molecules against every other, sorted by their kinds."""
    n, n_atoms, level = 30_000, 3, 1.0
    x = contrasted_molecules(n, n_atoms)
    reference = fitted(x, whole(x))
    y, kinds = whitened_coordinates(x, reference, level)
    batch = torch.arange(n) % 10
    batches = SizeBatches.of(x, batch, reference, 4, 1, None)
    found = {k: norm_pseudo_values(g) for k, g in batches.grams(*coefficients(level)).items()}
    seen = set()
    for order in (3, 4):
        tensors = [k_statistic(y[batch == g], order) for g in range(10)]
        letters = np.array(list(map("".join, map(sorted, itertools.product(kinds, repeat=order)))))
        for name in np.unique(letters):
            here = torch.from_numpy(letters == name)
            parts = torch.stack([tensor.flatten()[here] for tensor in tensors])
            expected = norm_pseudo_values(parts @ parts.T)
            error = float(expected.std()) / math.sqrt(10)
            block = next((b for b in BLOCKS if sorted(b) == sorted(name)), None)
            if block is None:  # symmetry leaves nothing: the estimate scatters around zero
                assert abs(float(expected.mean())) < 2 * SIGMAS * error
                continue
            seen.add(block)
            # the same molecules in the same batches: both are off by nearly the same
            value = float(found[block].mean())
            assert abs(value - float(expected.mean())) < 2 * error < 0.25 * value
    assert seen == set(BLOCKS)


@pytest.mark.parametrize(("n_atoms", "f"), [(1, 2), (2, 0), (2, 1), (2, 2), (3, 1), (4, 2)])
def test_types_sum_to_the_norm_of_the_full_joint_tensor(n_atoms, f):
    x = skewed_molecules(24_000, n_atoms, seed=n_atoms)[..., : 3 + f]
    reference = fitted(x, whole(x))
    y, _ = whitened_coordinates(x, reference, 1.0)
    curve = Cumulant(n_batches=10).curve(x, whole(x), reference, levels(1.0), generator())
    for order, types in ((3, ("fff", "ppf")), (4, ("ffff", "ppff", "pppp"))):
        parts = torch.stack([k_statistic(part, order).flatten() for part in y.chunk(6)])
        pseudo = norm_pseudo_values(parts @ parts.T) / (2 * math.factorial(order))
        error = float(pseudo.std()) / math.sqrt(6)
        found = sum(curve.extra[name][0] for name in types)
        # of the same data in other batches; with 6 of them an error is itself known to 30 %
        assert abs(found - float(pseudo.mean())) < 2 * SIGMAS * error
        assert error < 0.1 * found or (f == 0 and order == 3 and found == 0)


def test_contractions_of_few_molecules_are_unbiased():
    """Averages over 3000 batches of 5 against 30 times as many molecules at once."""
    x = contrasted_molecules(480_000, 3, seed=2)
    parts = Parts(x[..., :3], x[..., 3:] - x[..., 3:].mean(1, keepdim=True), x[..., 3:].sum(1))
    large = contractions(parts.take(torch.arange(15_000, 480_000)), 4)
    small = [contractions(parts.take(torch.arange(5 * k, 5 * k + 5)), 4) for k in range(3000)]
    for name in BLOCKS:
        found = torch.stack([one[name] for one in small])
        # 1.02: the error of the large sample; 0.8: of the largest of up to 64 entries
        error = 1.02 * found.std(0) / math.sqrt(3000)
        assert float(((found.mean(0) - large[name]).abs() / error).max()) < SIGMAS + 0.8, name


def test_molecules_of_two_scales_have_the_fourth_cumulant_of_the_textbook():
    """p ~ N(0, v D) with v of two values: C4 = Var(v) times the three pairings."""
    n, n_atoms = 60_000, 5
    v = torch.where(torch.rand(n, generator=generator(1)) < 0.5, 0.7, 1.3).double()
    x = torch.randn(n, n_atoms, 3, generator=generator(2), dtype=torch.float64)
    x = project(x * v.sqrt()[:, None, None], whole(x))
    curve = Cumulant().curve(x, whole(x), fitted(x, whole(x)), levels(FULL, 0.0), generator())
    free = n_atoms - 1
    pairings = 3 * free**2 * 9 + 6 * free * 3
    for level, value, error in zip(curve.log_snr, curve.value, curve.std_error, strict=True):
        # unit variance: the signal's share of a whitened coordinate is sigmoid(log-SNR)
        expected = (0.09 / (1 + math.exp(-level)) ** 2) ** 2 * pairings / 48
        assert abs(value - expected) < SIGMAS * error < 0.5 * expected


def test_nothing_changes_when_atoms_are_renamed_turned_or_moved_in_the_padding():
    x = skewed_molecules(600).float()
    one = Cumulant().curve(x, whole(x), fitted(x, whole(x)), levels(1.0), generator())
    order = torch.rand(600, 4, generator=generator(5)).argsort(1)
    turn = torch.linalg.qr(torch.randn(600, 3, 3, generator=generator(6))).Q
    other = x.gather(1, order[..., None].expand(-1, -1, 5)).clone()
    other[..., :3] = other[..., :3] @ turn
    wide = torch.zeros(600, 7, 5)
    wide[:, 1:5] = other
    mask = torch.zeros(600, 7, dtype=torch.bool)
    mask[:, 1:5] = True
    two = Cumulant().curve(wide, mask, fitted(x, whole(x)), levels(1.0), generator())
    assert two.value == pytest.approx(one.value, rel=1e-4)
    assert two.std_error == pytest.approx(one.std_error, rel=1e-3)


# -------------------------------------------------------------------------------- Gaussian data


def test_gaussian_molecules_are_zero_on_average_even_if_they_are_few():
    """250 sets of 60 molecules of their own reference: no bias of finite samples."""
    reference = fitted(skewed_molecules(4000).float(), whole(torch.zeros(4000, 4)))
    found, errors = [], []
    for seed in range(250):
        sizes = torch.full((60,), 4)
        x = reference.sample(sizes, generator=generator(seed), dtype=torch.float64)
        curve = Cumulant().curve(x, whole(x), reference, levels(0.5), generator(seed))
        found.append(curve.value[0])
        errors.append(curve.std_error[0])
    found = np.array(found)
    error = found.std() / math.sqrt(250)
    assert abs(found.mean()) < SIGMAS * error
    # jackknife errors of 7 batches are right on average, if a little large (Efron and Stein 1981)
    assert 0.8 < np.sqrt(np.mean(np.square(errors))) / found.std() < 1.8


@pytest.mark.parametrize("kind", ["element", "full"])
def test_gaussian_events_are_zero_on_average(kind):
    mix = torch.randn(4, 4, generator=generator(9), dtype=torch.float64)
    if kind == "element":
        mix = mix.diag().diag()
    population = torch.randn(200_000, 4, generator=generator(8), dtype=torch.float64) @ mix
    reference = dense_fitted(population, kind)
    found = []
    for seed in range(60):
        x = torch.randn(80, 4, generator=generator(seed), dtype=torch.float64) @ mix
        curve = Cumulant(max_order=6).curve(x, None, reference, levels(2.0), generator(seed))
        found.append(curve.value[0])
    assert abs(np.mean(found)) < SIGMAS * np.std(found) / math.sqrt(60)


def test_draws_of_a_mixture_are_zero_against_it_and_not_against_its_gaussian():
    x = skewed_molecules(3000).float()
    shape, size = (fitted(x, whole(x), kind) for kind in ("shape", "size"))
    draws = shape.sample(torch.full((6000,), 4), generator=generator(3))
    against = {
        reference.kind: Cumulant(draws_per_item=2).curve(
            draws, whole(draws), reference, levels(1.0), generator(4)
        )
        for reference in (shape, size)
    }
    assert abs(against["shape"].value[0]) < SIGMAS * against["shape"].std_error[0]
    assert against["size"].value[0] > SIGMAS * against["size"].std_error[0]
    # noise subtracted, shape is what size sees less what both have
    own = Cumulant(draws_per_item=2).curve(x, whole(x), shape, levels(1.0), generator(5))
    assert own.value[0] < against["size"].value[0]


# ------------------------------------------------------------------------------------ dense data


def skewed_events(n, seed=0):
    """Two skewed entries, correlated, of mean 0 and variance 1."""
    z = torch.empty(n, 3, dtype=torch.float64).exponential_(generator=generator(seed)) - 1
    return torch.stack([(z[:, 0] + z[:, 1]) / 2**0.5, (z[:, 0] + z[:, 2]) / 2**0.5], 1)


def test_the_closed_curve_is_that_of_noised_data():
    """H of noised events, from their own k-statistics, at every level."""
    x = skewed_events(60_000)
    reference = dense_fitted(x, "element")
    curve = Cumulant().curve(x, None, reference, levels(3.0, 1.0, -0.5), generator())
    for k, level in enumerate(curve.log_snr):
        a, b = coefficients(level)
        y = a * x + b * torch.randn(x.shape, generator=generator(k), dtype=torch.float64)
        y = (y - y.mean(0)) / y.std(0)
        terms = []
        for order, weight in ((2, 1 / 4), (3, 1 / 12), (4, 1 / 48)):
            parts = torch.stack([k_statistic(part, order).flatten() for part in y.chunk(10)])
            if order == 2:
                parts = parts - torch.eye(2, dtype=torch.float64).flatten()
            terms.append(weight * norm_pseudo_values(parts @ parts.T))
        pseudo = torch.stack(terms).sum(0)
        error = math.hypot(float(pseudo.std()) / math.sqrt(10), curve.std_error[k])
        # y is standardised, so the covariance counts off its diagonal alone; so does the curve's
        assert abs(curve.value[k] - float(pseudo.mean())) < SIGMAS * error
        assert curve.value[k] > 5 * curve.std_error[k]


def test_near_the_reference_it_is_the_divergence_in_nats():
    """Standardised gamma noised to three levels, against numerical integration."""
    shape = 8.0
    x = torch.from_numpy(
        (np.random.default_rng(0).gamma(shape, size=(200_000, 1)) - shape) / math.sqrt(shape)
    )
    curve = Cumulant(n_samples=200_000).curve(
        x, None, dense_fitted(x, "element"), levels(1.0, 0.0, -1.0), generator()
    )

    z = np.linspace(1e-6, 60, 6001)
    clean, grid = (z - shape) / math.sqrt(shape), np.linspace(-6, 8, 561)
    for k, level in enumerate(curve.log_snr):
        a, b = coefficients(level)
        joint = gamma.pdf(z, shape) * norm.pdf(grid[:, None], a * clean, b)
        p = trapezoid(joint, z, axis=1)
        kl = trapezoid(p * np.log(p / norm.pdf(grid)), grid)
        assert abs(curve.value[k] - kl) < SIGMAS * curve.std_error[k] + 0.12 * kl
        assert curve.std_error[k] < 0.1 * kl


def test_smaller_prefix_sums_stay_smaller_at_every_level():
    """Proposition 3.1: a partly Gaussianised copy of equal variance is never less Gaussian."""
    x = skewed_events(40_000)
    y = (x + torch.randn(x.shape, generator=generator(7), dtype=torch.float64)) / 2**0.5
    grid = levels(*np.linspace(4, -3, 15))
    one, two = (
        Cumulant(beta=1.0, weights=(0.5, 2.0, 0.1), max_order=5).curve(
            z, None, dense_fitted(z, "element"), grid, generator()
        )
        for z in (x, y)
    )
    prefixes = []
    for curve in (one, two):
        parts = [curve.extra[name][0] for name in ("covariance", "order_3", "order_4", "order_5")]
        prefixes.append(np.cumsum(parts))
    assert (prefixes[1] < prefixes[0]).all()
    assert (np.array(two.value) < np.array(one.value)).all()
    assert (np.diff(one.value) < 0).all()


def test_weights_and_parts_are_those_asked_for():
    x = skewed_events(4000)
    grid, reference = levels(1.0), dense_fitted(x, "element")
    plain = Cumulant(max_order=3).curve(x, None, reference, grid, generator())
    assert plain.value[0] == pytest.approx(
        sum(plain.extra[name][0] for name in ("mean", "covariance", "order_3"))
    )
    heavy = Cumulant(beta=1.0, weights=(3.0,), max_order=3).curve(
        x, None, reference, grid, generator()
    )
    assert heavy.extra["covariance"][0] == pytest.approx(4 * plain.extra["covariance"][0])
    assert heavy.extra["order_3"][0] == pytest.approx(36 * plain.extra["order_3"][0])
    second = Cumulant(max_order=2).curve(x, None, reference, grid, generator())
    assert set(second.extra) == {"mean", "covariance"}
    molecules = skewed_molecules(200)
    both = (
        Cumulant(max_order=k).curve(
            molecules, whole(molecules), fitted(molecules, whole(molecules)), grid, generator()
        )
        for k in (3, 6)
    )
    third, sixth = both
    assert set(third.extra) == {"mean", "covariance", "fff", "ppf", "share"}
    assert set(sixth.extra) == set(third.extra) | {"ffff", "ppff", "pppp"}
    assert len(BLOCKS) == 13


def test_a_wrong_reference_shows_in_mean_and_covariance():
    x = 2 * torch.randn(20_000, 3, generator=generator(), dtype=torch.float64) + 1
    curve = Cumulant().curve(x, None, dense_fitted(x, "element"), levels(0.0), generator())
    assert abs(curve.value[0]) < SIGMAS * curve.std_error[0] + 1e-3
    reference = make_reference(dense_moments(x, "element"), "unit")
    unit = Cumulant().curve(x, None, reference, levels(0.0), generator())
    # whitened by N(0, 1) at a² = b² = 1/2: mean a, variance 5/2
    assert unit.extra["mean"][0] == pytest.approx(3 * 0.5 * 0.5, rel=0.05)
    assert unit.extra["covariance"][0] == pytest.approx(3 * 0.25 * 1.5**2, rel=0.05)


def test_a_wrong_reference_of_molecules_shows_in_mean_and_covariance():
    """Against `unit`, 1/2 |mean|² and 1/4 ||Cov - I||² of 9 coordinates and 8 features."""
    x = torch.randn(20_000, 4, 5, generator=generator(), dtype=torch.float64)
    x[..., :3] *= 2
    x[..., 3:] *= 3
    x[..., 3:] += torch.randn(20_000, 1, 2, generator=generator(1), dtype=torch.float64) + 0.5
    x = project(x, whole(x))
    curve = Cumulant().curve(x, whole(x), fitted(x, whole(x), "unit"), levels(0.0), generator())
    # at a² = b² = 1/2: variances of 5/2 (9), 5 (3 x 2), and (9 + 4 + 1) / 2 of the mean (2)
    assert curve.extra["mean"][0] == pytest.approx(0.5 * 4 * 2 * 0.5**2 / 2, rel=0.1)
    expected = 0.25 * (9 * 1.5**2 + 6 * 4**2 + 2 * 6**2)
    assert curve.extra["covariance"][0] == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("limit", [1, 20, 100])
def test_large_events_need_no_tensors(monkeypatch, limit):
    """The same curve, be it from tensors or from inner products of items."""
    x = skewed_events(400)
    x = torch.cat([x, x.roll(1, 0) ** 2], 1)
    reference = dense_fitted(x, "element")
    settings = Cumulant(max_order=4, n_batches=5)
    expected = settings.curve(x, None, reference, levels(2.0, -1.0), generator())
    monkeypatch.setattr("gaga_adapter.criteria.cumulant.batches.TENSOR_LIMIT", limit)
    found = settings.curve(x, None, reference, levels(2.0, -1.0), generator())
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    assert found.std_error == pytest.approx(expected.std_error, rel=1e-9)
    assert found.extra.keys() == expected.extra.keys()


@pytest.mark.parametrize("d", [40, 1100])
def test_entries_that_share_a_contrast_are_seen_together(d):
    """x ~ N(0, v I) with v of two values: C4 = Var(v) times the three pairings, at any size."""
    v = torch.where(torch.rand(2000, generator=generator(1)) < 0.5, 0.5, 1.5).double()
    x = v.sqrt()[:, None] * torch.randn(2000, d, generator=generator(2), dtype=torch.float64)
    unit = make_reference(dense_moments(x, "element"), "unit")
    curve = Cumulant().curve(x, None, unit, levels(-1.0), generator(3))
    expected = (0.25 / (1 + math.e) ** 2) ** 2 * (3 * d**2 + 6 * d) / 48
    assert abs(curve.extra["order_4"][0] - expected) < SIGMAS * curve.std_error[0] < 0.8 * expected
    assert abs(curve.value[0] - expected) < SIGMAS * curve.std_error[0]


def test_how_many_large_events_are_judged():
    x = torch.randn(1500, 50, generator=generator(), dtype=torch.float64)
    reference = dense_fitted(x, "element")
    few = Cumulant(n_batches=3).curve(x.repeat(2, 1)[:1600], None, reference, levels(0.0))
    assert few.n_samples == 3 * 512
    wide = torch.randn(60, 5000, generator=generator(), dtype=torch.float64)
    low_rank = dense_fitted(wide, "low_rank")
    with pytest.raises(DataError, match="at most 4096"):
        Cumulant().curve(wide, None, low_rank, levels(0.0), generator())


# --------------------------------------------------------------------------------- the curve


def test_contributions_make_errors_sizes_and_intervals():
    sizes = torch.cat([torch.full((600,), 4), torch.full((400,), 6)])
    x = torch.zeros(1000, 6, 5, dtype=torch.float64)
    x[:600, :4], x[600:] = skewed_molecules(600, 4), skewed_molecules(400, 6)
    mask = mask_from_sizes(sizes)
    x = project(x, mask)
    grid = levels(*np.linspace(3, -6, 10))
    curve = Cumulant().curve(x, mask, fitted(x, mask), grid, generator())
    value, error = curve.contributions.value_and_error("nats")
    assert tuple(value.tolist()) == curve.value
    assert tuple(error.tolist()) == curve.std_error
    assert curve.contributions.size.unique().tolist() == [4, 6]
    assert curve.extra["share"] == (1.0,) * 10
    star = select(curve, 0.05).log_snr_star
    low, high = bootstrap(curve, 0.05, 100, generator())
    assert low <= star <= high
    assert set(select_by_size(curve, 0.05)) == {4, 6}


def test_copies_of_items_add_no_certainty():
    x = skewed_molecules(300)
    reference = fitted(x, whole(x))
    once = Cumulant().curve(x, whole(x), reference, levels(0.0), generator())
    many = x.repeat(4, 1, 1)
    with pytest.warns(GAGAWarning, match="only 300 of 1200 data items are distinct"):
        again = Cumulant().curve(many, whole(many), reference, levels(0.0), generator())
    assert again.std_error[0] > 0.6 * once.std_error[0]


@pytest.mark.parametrize("n_atoms", [1, 2, 3])
def test_small_molecules_and_few_features(n_atoms):
    for f in (0, 1):
        x = torch.randn(100, n_atoms, 3 + f, generator=generator(), dtype=torch.float64)
        x = project(x, whole(x))
        curve = Cumulant().curve(x, whole(x), fitted(x, whole(x)), levels(0.0), generator())
        assert math.isfinite(curve.value[0])
        assert abs(curve.value[0]) < SIGMAS * max(curve.std_error[0], 1e-12)


def test_constant_features_are_no_divergence_and_no_error():
    x = project(torch.randn(400, 4, 5, generator=generator()), torch.ones(400, 4, dtype=torch.bool))
    x[..., 3:] = 0.25
    curve = Cumulant().curve(x, whole(x), fitted(x, whole(x)), levels(2.0), generator())
    assert abs(curve.value[0]) < SIGMAS * curve.std_error[0]
    assert abs(curve.extra["fff"][0]) < 1e-12


def test_data_that_cannot_be_judged():
    x = skewed_molecules(200)
    reference = fitted(x, whole(x))
    criterion = Cumulant()
    with pytest.raises(DataError, match=r"of no size are there 24 distinct ones.*two_sample"):
        criterion.curve(x[:20], whole(x[:20]), reference, levels(0.0))
    events = torch.randn(3, 2)
    few = dense_fitted(events, "element")
    with pytest.raises(DataError, match="found 3 data items, too few"):
        criterion.curve(events, None, few, levels(0.0))
    with pytest.warns(GAGAWarning, match="200 data items may lack the rare ones"):
        criterion.curve(x, whole(x), reference, levels(0.0))
    wide = torch.randn(100, 4, 36)
    with pytest.raises(DataError, match=r"of 33 feature channels are 33\^4 numbers"):
        criterion.curve(wide, whole(wide), fitted(wide, whole(wide)), levels(0.0))
    bad = x.clone()
    bad[7, 0, 0] = math.nan
    with pytest.raises(DataError, match="item 7 of the data"):
        criterion.curve(bad, whole(bad), reference, levels(0.0))
    with pytest.raises(DataError, match="is no reference for these data"):
        criterion.curve(torch.randn(99, 3), None, reference, levels(0.0))
    mixed = torch.cat([torch.full((180,), 4), torch.full((20,), 3)])
    mask = mask_from_sizes(mixed)
    with pytest.warns(GAGAWarning, match="leaves out 20 of the 200 molecules that it judges"):
        curve = criterion.curve(project(x, mask), mask, reference, levels(0.0))
    assert curve.extra["share"] == (0.9,)
    assert curve.n_samples == 180


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_order": 7}, "orders 2 to 6"),
        ({"max_order": 1}, "orders 2 to 6"),
        ({"weights": (1.0,)}, "got 1 weights; max_order=4 needs 2"),
        ({"beta": -1.0}, "finite and non-negative"),
        ({"weights": (math.nan, 1.0)}, "finite and non-negative"),
        ({"n_batches": 2}, "n_batches=2 must be at least 3"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(DataError, match=message):
        Cumulant(**settings)
