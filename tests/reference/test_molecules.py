"""Gaussian references for molecules, against explicit Gaussians on an orthonormal basis."""

import math
import pickle

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from gaga_adapter.errors import DataError, GAGAWarning, StatsMismatchError, TruncationError
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference import MoleculeReference, make_reference
from gaga_adapter.subspace import mask_from_padding, mask_from_sizes, project

F = 3
KINDS = ["unit", "paper", "channel", "size"]
LEVEL = (0.7, 0.4)
SIZES = torch.tensor([4, 2, 6, 1, 4])


def toy_molecules(n_atoms, seed=0):
    """Extent, composition and its spread depend on the size; features are correlated."""
    generator = torch.Generator().manual_seed(seed)
    n_atoms = torch.as_tensor(n_atoms)
    mask = mask_from_sizes(n_atoms)
    shape = (len(n_atoms), mask.shape[1])
    stretch = torch.tensor([1.6, 1.0, 0.5]).double() * n_atoms[:, None, None] ** 0.3
    positions = torch.randn(*shape, 3, generator=generator).double() * stretch
    mixing = torch.tensor([[1.0, 0.4, 0.0], [0.0, 0.7, 0.3], [0.2, 0.0, 0.5]]).double()
    atoms = torch.rand(*shape, F, generator=generator).double() ** 2 @ mixing
    shared = torch.randn(len(n_atoms), 1, F, generator=generator).double() @ mixing / 4
    features = atoms + shared + n_atoms[:, None, None] / 10
    return project(torch.cat([positions, features], -1) * mask[..., None], mask), mask


@pytest.fixture(scope="module")
def moments():
    n_atoms = torch.randint(2, 7, (3000,), generator=torch.Generator().manual_seed(7))
    fitted = ExchangeableMoments(F)
    fitted.update(*toy_molecules(torch.cat([n_atoms, torch.ones(300).long()])))
    return fitted


def subspace_basis(n):
    """Orthonormal columns that span the sum-zero vectors of n atoms (n, n - 1)."""
    centred = torch.eye(n).double() - 1 / n
    return torch.linalg.svd(centred).U[:, : n - 1]


def data_parameters(moments, kind, n):
    """v_x, feature mean, W and B that a kind stands for, by plain formulas."""
    eye = torch.eye(F).double()
    if kind == "unit":
        return 1.0, torch.zeros(F).double(), eye, eye
    if kind == "paper":
        v = moments.paper_variance
        return v, torch.zeros(F).double(), v * eye, v * eye
    if kind == "channel":
        var = moments.pooled_feature_variance.diag()
        return moments.position_variance_per_dof, moments.pooled_feature_mean, var, var
    i = moments.sizes.tolist().index(n)
    return float(moments.v_x[i]), moments.feature_mean[i], moments.within[i], moments.between[i]


def explicit(moments, kind, n, a, b):
    """(positions in the basis, features flattened) as torch distributions."""
    v_x, mean, within, between = data_parameters(moments, kind, n)
    eye = torch.eye(F).double()
    shared = torch.full((n, n), 1 / n, dtype=torch.float64)
    covariance = torch.kron(torch.eye(n).double() - shared, a**2 * within + b**2 * eye)
    covariance += torch.kron(shared, a**2 * between + b**2 * eye)
    features = MultivariateNormal(a * mean.repeat(n), covariance)
    d = 3 * (n - 1)
    if not d:
        return None, features
    variance = (a**2 * v_x + b**2) * torch.eye(d).double()
    return MultivariateNormal(torch.zeros(d).double(), variance), features


def coordinates(x, n):
    """Position coordinates (3(n-1),) and features (nF,) of one molecule."""
    return (subspace_basis(n).T @ x[:n, :3]).flatten(), x[:n, 3:].flatten()


each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_log_prob_is_that_of_torch(moments, kind):
    x, mask = toy_molecules(SIZES, seed=1)
    got = make_reference(moments, kind).at(*LEVEL).log_prob(x, mask)
    for i, n in enumerate(SIZES.tolist()):
        positions, features = explicit(moments, kind, n, *LEVEL)
        x_i, h_i = coordinates(x[i], n)
        expected = features.log_prob(h_i)
        if positions is not None:
            expected = expected + positions.log_prob(x_i)
        assert float(got[i]) == pytest.approx(float(expected), rel=1e-10)


@each_kind
@pytest.mark.parametrize(("a", "b"), [LEVEL, (1.0, 3.0), (0.99, 0.1)])
def test_kl_from_posterior_is_that_of_torch(moments, kind, a, b):
    x, mask = toy_molecules(SIZES, seed=1)
    got = make_reference(moments, kind).at(a, b).kl_from_posterior(x, mask)
    for i, n in enumerate(SIZES.tolist()):
        expected = 0.0
        for point, target in zip(
            coordinates(x[i], n), explicit(moments, kind, n, a, b), strict=True
        ):
            if target is not None:
                noise = b**2 * torch.eye(len(point)).double()
                expected += float(kl_divergence(MultivariateNormal(a * point, noise), target))
        assert float(got[i]) == pytest.approx(expected, rel=1e-9)


@each_kind
def test_transport_is_affine_with_the_right_mean_and_covariance(moments, kind):
    """Columns of the map read off unit vectors: covariance blocks exactly, cross blocks zero."""
    n = 4
    reference = make_reference(moments, kind).at(*LEVEL)
    basis = subspace_basis(n)
    d = 3 * (n - 1) + n * F
    noise = torch.zeros(d + 1, n, 3 + F).double()
    for k in range(3 * (n - 1)):
        noise[1 + k, :, k % 3] = basis[:, k // 3]
    noise[1 + 3 * (n - 1) :, :, 3:] = torch.eye(n * F).double().reshape(-1, n, F)
    moved = reference.transport(noise, torch.ones(d + 1, n, dtype=torch.bool))
    flat = torch.stack([torch.cat(coordinates(molecule, n)) for molecule in moved])
    positions, features = explicit(moments, kind, n, *LEVEL)
    mean = torch.cat([positions.mean, features.mean])
    torch.testing.assert_close(flat[0], mean, rtol=1e-12, atol=1e-12)
    root = (flat[1:] - flat[0]).T
    expected = torch.block_diag(positions.covariance_matrix, features.covariance_matrix)
    torch.testing.assert_close(root @ root.T, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["size", "shape"])
def test_reference_has_the_moments_of_noised_data(moments, kind):
    """Noised data of 5 atoms and draws from the reference, each fitted again: the same moments.

    Each number within 5.5 standard errors, a false alarm below 1e-6 for all of them together.
    """
    a, b = LEVEL
    count, n = 20000, 5
    x, mask = toy_molecules(torch.full((count,), n), seed=5)
    own = ExchangeableMoments(F, table_size=count)
    own.update(x, mask)
    generator = torch.Generator().manual_seed(11)
    noised = a * x + b * project(torch.randn(x.shape, generator=generator).double(), mask)
    drawn = make_reference(own, kind).at(a, b).sample(mask.sum(1), generator, dtype=torch.float64)
    fits = []
    for sample in (noised, drawn):
        fitted = ExchangeableMoments(F, table_size=0)
        fitted.update(sample, mask)
        fits.append(fitted)
    one, other = fits
    error = math.sqrt(float(one.v_x_std) ** 2 + float(other.v_x_std) ** 2) / math.sqrt(count)
    assert abs(float(one.v_x - other.v_x)) < 5.5 * error
    spread = (one.between + other.between)[0].diagonal() / n
    assert bool(
        ((one.feature_mean - other.feature_mean)[0].abs() < 5.5 * (spread / count).sqrt()).all()
    )
    # A covariance entry of near-Gaussian data has variance at most 2 sigma_i² sigma_j² / dof; the
    # data's own kurtosis is below that of a Gaussian here.
    for name, degrees in (("within", (n - 1) * count), ("between", count)):
        c_1, c_2 = getattr(one, name)[0], getattr(other, name)[0]
        scale = torch.outer(c_1.diagonal(), c_1.diagonal()).sqrt()
        assert bool(((c_1 - c_2).abs() < 5.5 * scale * math.sqrt(2 * 2 / degrees)).all()), name


def test_expected_divergence_is_least_for_the_true_moments(moments):
    """E KL(q || reference) = E KL(q || p_t) + KL(p_t || reference), so `size` is the closest."""
    x, mask = toy_molecules(torch.randint(2, 7, (500,), generator=torch.Generator().manual_seed(9)))
    values = {
        kind: float(make_reference(moments, kind).at(*LEVEL).kl_from_posterior(x, mask).mean())
        for kind in KINDS
    }
    assert values["size"] < values["channel"] < min(values["paper"], values["unit"])


@each_kind
def test_no_signal_is_unit_noise(moments, kind):
    reference = make_reference(moments, kind).at(0.0, 1.0)
    mask = mask_from_sizes(SIZES)
    noise = torch.randn(5, 6, 3 + F, generator=torch.Generator().manual_seed(0)).double()
    z = project(noise, mask)
    torch.testing.assert_close(reference.transport(z), z, rtol=0, atol=1e-12)
    zero = torch.zeros(5).double()
    torch.testing.assert_close(reference.kl_from_posterior(z), zero, rtol=0, atol=1e-9)


def test_unit_returns_the_noise_bit_for_bit(moments):
    mask = mask_from_sizes(SIZES)
    z = torch.randn(5, 6, 3 + F, generator=torch.Generator().manual_seed(0)) * mask[..., None]
    reference = make_reference(moments, "unit")
    assert torch.equal(reference.at(math.sqrt(0.3), math.sqrt(0.7)).transport(z), z)
    assert torch.equal(reference.at(1.0, 80.0).transport(z), z * math.sqrt(6401.0))


@pytest.mark.parametrize("kind", [*KINDS, "shape"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_samples_lie_on_the_subspace(moments, kind, dtype):
    reference = make_reference(moments, kind).at(*LEVEL)
    generator = torch.Generator().manual_seed(0)
    x = reference.sample(SIZES, generator=generator, dtype=dtype)
    assert x.dtype == dtype
    assert x.shape == (5, 6, 3 + F)
    assert torch.equal(mask_from_padding(x), mask_from_sizes(SIZES))
    rounding = 40 * torch.finfo(dtype).eps
    assert float(x[..., :3].double().sum(1).abs().max()) < rounding
    again = reference.sample(SIZES.tolist(), generator=generator.manual_seed(0), dtype=dtype)
    assert torch.equal(x, again)
    assert reference.log_prob(x).dtype == torch.float64
    before = x.clone()
    reference.transport(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", ["size", "shape"])
def test_mask_is_inferred_and_padding_may_hold_anything(moments, kind):
    reference = make_reference(moments, kind).at(*LEVEL)
    x, mask = toy_molecules(SIZES, seed=3)
    dirty = torch.where(mask[..., None], x, 7.0)
    for verb in (reference.transport, reference.log_prob, reference.kl_from_posterior):
        assert torch.equal(verb(x), verb(x, mask))
        torch.testing.assert_close(verb(dirty, mask), verb(x, mask), rtol=1e-13, atol=1e-13)


def test_levels_share_what_is_known_of_sizes(moments):
    reference = make_reference(moments, "size")
    x, mask = toy_molecules(SIZES, seed=3)
    one = reference.at(*LEVEL).log_prob(x, mask)
    reference.at(0.1, 0.9)
    again = reference.at(0.9, 0.2).at(*LEVEL).log_prob(x, mask)
    assert torch.equal(one, again)
    assert (reference.a, reference.b) == (1.0, 0.0)


@pytest.mark.parametrize("kind", ["size", "shape"])
def test_reference_keeps_what_it_was_made_from(moments, kind):
    x, mask = toy_molecules(SIZES, seed=3)
    growing = ExchangeableMoments(F)
    growing.update(*toy_molecules(torch.full((300,), 4)))
    growing.update(*toy_molecules(torch.full((300,), 5)))
    reference = make_reference(growing, kind).at(*LEVEL)
    growing.update(*toy_molecules(torch.full((300,), 4), seed=8))
    mask = mask_from_sizes(torch.tensor([4, 5]))
    x = toy_molecules(torch.tensor([4, 5]), seed=3)[0]
    old = reference.log_prob(x, mask)
    new = make_reference(growing, kind).at(*LEVEL).log_prob(x, mask)
    assert float((old - new)[0].abs()) > 1e-6
    assert float((old - new)[1].abs()) < 1e-9
    assert torch.equal(pickle.loads(pickle.dumps(reference)).log_prob(x, mask), old)


def test_unseen_sizes_work_and_far_ones_warn_once(moments):
    reference = make_reference(moments, "size").at(*LEVEL)
    assert reference.sample([7]).shape == (1, 7, 3 + F)
    with pytest.warns(GAGAWarning, match="30 atoms"):
        reference.sample([30])
    reference.at(0.5, 0.5).sample([30])  # known now: a second warning would be an error


def test_positions_alone():
    bare = ExchangeableMoments(0)
    x, mask = toy_molecules(SIZES, seed=3)
    bare.update(x[..., :3], mask)
    for kind in (*KINDS, "shape"):
        reference = make_reference(bare, kind).at(*LEVEL)
        drawn = reference.sample([4, 2])
        assert drawn.shape == (2, 4, 3)
        assert bool(torch.isfinite(reference.log_prob(drawn)).all())


def test_refusals(moments):
    with pytest.raises(StatsMismatchError, match=r"unknown reference 'full'\. .* unit, .* shape"):
        make_reference(moments, "full")
    reference = make_reference(moments, "size")
    x, mask = toy_molecules(SIZES)
    for verb in (reference.log_prob, reference.kl_from_posterior):
        with pytest.raises(TruncationError, match="no density at b=0"):
            verb(x, mask)
    with pytest.raises(StatsMismatchError, match=r"\(B, N, 3\+3\), got \(5, 6, 5\)"):
        reference.transport(x[..., :-1])
    with pytest.raises(StatsMismatchError, match="the mask must be bool"):
        reference.transport(x, mask.float() / 2)
    with pytest.raises(DataError, match="no atoms"):
        reference.transport(torch.zeros_like(x))
    with pytest.raises(DataError, match="sizes of at least 1"):
        reference.sample([3, 0])
    with pytest.raises(DataError, match="found 0 molecules"):
        make_reference(ExchangeableMoments(F), "size").sample([3])
    assert make_reference(ExchangeableMoments(F), "unit").sample([3]).shape == (1, 3, 3 + F)
    assert isinstance(reference, MoleculeReference)
    assert make_reference(moments).kind == "shape"
