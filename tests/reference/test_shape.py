"""The shape mixture: the latent read off the noise, forms that are kept, density and bound.

What holds of both laws, that of new fits and that of older artefacts, is asked of both.
"""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import dawsn
from scipy.stats import chisquare, ks_2samp, kstest, norm, pearsonr
from torch.distributions import MultivariateNormal

from gaga_adapter.errors import ArtefactError, DataError, StatsMismatchError
from gaga_adapter.hashing import uniforms
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference import ShapeReference, make_reference
from gaga_adapter.reference.shape import noise_hash
from gaga_adapter.reference.wishart import WishartShapeReference
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


def old(moments):
    """Moments as those of an artefact that does not say what its rows are."""
    metadata = moments.metadata()
    del metadata["shape_rows"]
    return ExchangeableMoments.from_state_dict(moments.state_dict(), metadata)


@pytest.fixture(scope="module")
def exact():
    fitted = ExchangeableMoments(F, table_size=64)
    for n in (4, 5, 6):
        fitted.update(*toy_molecules(400, n, seed=n))
    return fitted


@pytest.fixture(scope="module")
def scattered(exact):
    return old(exact)


@pytest.fixture(params=["exact", "scattered"])
def moments(request):
    return request.getfixturevalue(request.param)


def unit_noise(n_atoms, seed=0, dtype=torch.float64):
    mask = mask_from_sizes(torch.as_tensor(n_atoms))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(*mask.shape, 3 + F, generator=generator, dtype=torch.float64)
    return project(noise, mask).to(dtype), mask


def test_the_moments_say_which_law():
    fitted = ExchangeableMoments(F)
    fitted.update(*toy_molecules(10, 4))
    assert fitted.metadata()["shape_rows"] == "tensors"
    assert type(make_reference(fitted, "shape")) is ShapeReference
    again = ExchangeableMoments.from_state_dict(fitted.state_dict(), fitted.metadata())
    assert type(make_reference(again, "shape")) is ShapeReference
    assert type(make_reference(old(fitted), "shape")) is WishartShapeReference
    assert "shape_rows" not in old(fitted).metadata()
    with pytest.raises(ArtefactError, match=r"shape_rows .* must be one of tensors"):
        ExchangeableMoments.from_state_dict(
            fitted.state_dict(), {**fitted.metadata(), "shape_rows": "rows"}
        )
    with pytest.raises(StatsMismatchError, match="cannot merge"):
        fitted.merge(old(fitted))


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


# ------------------------------------------------------------------ the form


def degrees(n):
    return n - 1


@pytest.mark.filterwarnings("ignore:. atoms is far outside")
def test_every_draw_has_the_tensor_of_its_row(exact):
    """Of each size; and sizes that were not seen borrow rows, of which small ones are flattened."""
    reference = make_reference(exact, "shape")
    for n in (1, 2, 3, 4, 5, 6, 7):
        x = reference.sample([n] * 50, torch.Generator().manual_seed(n), dtype=torch.float64)
        positions = x[..., :3]
        tensors = positions.mT @ positions / max(1, n - 1)
        eigenvalues = torch.linalg.eigvalsh(tensors)
        size = exact.at_size(n)
        table = size.gyration.clone()
        if n < 4:
            kept = table[:, 4 - n :] if n > 1 else table[:, :0]
            table = torch.zeros_like(table)
            if n > 1:
                share = size.gyration.sum(1, keepdim=True) / kept.sum(1, keepdim=True)
                table[:, 4 - n :] = kept * share
        gap = (eigenvalues[:, None] - table).abs().amax(-1).amin(1)
        assert float(gap.max()) < 1e-10
        assert float(x[..., :3].sum(1).abs().max()) < 1e-12


@pytest.mark.filterwarnings("ignore:. atoms is far outside")
def test_noise_stays_the_noise(exact):
    """`x_t = a x + b z`: what is left without the noise is the same molecule at every level."""
    z, mask = unit_noise([1, 2, 3, 4, 5, 6])
    reference = make_reference(exact, "shape")
    clean = reference.transport(z, mask)[..., :3]
    for a, b in ((0.8, 0.6), (0.1, 0.99), (1.0, 40.0)):
        left = reference.at(a, b).transport(z, mask)[..., :3] - b * z[..., :3]
        torch.testing.assert_close(left, a * clean, rtol=1e-12, atol=1e-12)


def test_moments_of_every_order_are_those_of_the_data():
    """With a table of all molecules, |x|² and the form of draws are those of the data.

    Both have one value per molecule, so draws have the law of the data if they are these values at
    even odds: chi-square of the counts, and 4.9 standard errors for the mean and the variance of
    |x|². The false-alarm rate is 1e-6 each. Older artefacts fail the test of the variance.
    """
    n, count = 5, 40_000
    data, mask = toy_molecules(200, n, seed=3)
    fitted = ExchangeableMoments(F, table_size=200)
    fitted.update(data, mask)
    square = data[..., :3].square().sum((1, 2))
    found = {}
    for name, moments in (("exact", fitted), ("scattered", old(fitted))):
        reference = make_reference(moments, "shape")
        generator = torch.Generator().manual_seed(4)
        q = reference.sample([n] * count, generator, dtype=torch.float64)[..., :3]
        q = q.square().sum((1, 2))
        assert abs(float(q.mean() - square.mean())) < FIVE_SIGMA * float(q.std()) / count**0.5
        deviation = (q - q.mean()).square()
        error = float(deviation.std()) / math.sqrt(count)
        found[name] = abs(float(deviation.mean() - square.var(correction=0))) / error
        if name == "exact":
            gap = (q[:, None] - square).abs()
            assert float((gap.amin(1) / square[gap.argmin(1)]).max()) < 1e-6  # float32 in the table
            counts = torch.bincount(gap.argmin(1), minlength=200).numpy()
            assert chisquare(counts).pvalue > 1e-6
    assert found["exact"] < FIVE_SIGMA
    assert found["scattered"] > 2 * FIVE_SIGMA


def test_fourth_moments_of_the_coordinates_are_those_of_the_data():
    """Of one coordinate, and of two of one atom: turned data and draws, 4.9 standard errors."""
    n, count = 5, 40_000
    data, mask = toy_molecules(200, n, seed=3)
    fitted = ExchangeableMoments(F, table_size=200)
    fitted.update(data, mask)
    reference = make_reference(fitted, "shape")
    x = reference.sample([n] * count, torch.Generator().manual_seed(5), dtype=torch.float64)
    # The mean over rotations of |x_i|^4 needs no rotation. Atoms of one molecule are exchangeable
    # in the draws, so the sum over all pairs of atoms is compared.
    own = (x[..., :3].mT @ x[..., :3]).square().sum((1, 2))
    expected = (data[..., :3].mT @ data[..., :3]).square().sum((1, 2))
    error = float(own.std()) / math.sqrt(count)
    assert abs(float(own.mean() - expected.mean())) < FIVE_SIGMA * error


def test_the_form_is_independent_of_the_noise(exact):
    """Form and noise do not see each other, nor row, frame and axes: 1e-6 false alarms each."""
    count = 8000
    z, mask = unit_noise([4] * count, seed=9)
    form = make_reference(exact, "shape").transport(z, mask)[..., :3]
    noise = z[..., :3]
    volume = torch.linalg.det(form[:, :3])
    for value in (form[:, 0, 0], form[:, 1, 2], form.square().sum((1, 2)), volume):
        for other in (noise[:, 0, 0], noise[:, 1, 2], noise.square().sum((1, 2)), z[:, 0, 3]):
            assert pearsonr(value, other).pvalue > 1e-6
            halves = other < other.median()
            assert ks_2samp(value[halves], value[~halves]).pvalue > 1e-6
    assert pearsonr((form * noise).sum((1, 2)), volume).pvalue > 1e-6
    # Mirror images are as likely as the molecules themselves.
    assert ks_2samp(volume, -volume).pvalue > 1e-6


def simulated(moments, n, count, a, b):
    """Draws of the mixture by numpy's QR and scipy's rotations alone."""
    rng = np.random.default_rng(1)
    size = moments.at_size(n)
    rows = rng.choice(len(size.gyration), count, p=size.sample_weight.numpy())
    turn = Rotation.random(count, random_state=2).as_matrix()
    noise = rng.standard_normal((count, n, 3))
    noise -= noise.mean(1, keepdims=True)
    gyration = size.gyration.numpy()[rows]
    if moments.keeps_tensors:
        frame, r = np.linalg.qr(rng.standard_normal((count, n - 1, 3)))
        frame *= np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]
        basis = np.linalg.svd(np.eye(n) - 1 / n)[0][:, : n - 1]
        form = (basis @ frame) * np.sqrt((n - 1) * gyration)[:, None]
        positions = a * form @ turn.transpose(0, 2, 1) + b * noise
    else:
        scale = np.sqrt(a**2 * gyration + b**2)
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


def test_samples_follow_the_mixture_and_not_another(exact, scattered):
    """Two-sample KS against a simulation, 1e-6 false alarms each; the others fail the same test."""
    n, count = 5, 20000
    laws = {
        "exact": make_reference(exact, "shape"),
        "scattered": make_reference(scattered, "shape"),
        "size": make_reference(exact, "size"),
    }
    draws = {}
    for name, reference in laws.items():
        generator = torch.Generator().manual_seed(3)
        x = reference.at(*LEVEL).sample([n] * count, generator, dtype=torch.float64).numpy()
        draws[name] = summaries(x[..., :3], x[..., 3:])
    for name, moments in (("exact", exact), ("scattered", scattered)):
        expected = summaries(*simulated(moments, n, count, *LEVEL))
        for other, got in draws.items():
            passed = {k: ks_2samp(got[k], v).pvalue > 1e-6 for k, v in expected.items()}
            if other == name:
                assert all(passed.values()), passed
            else:
                assert not passed["largest eigenvalue"]


# ------------------------------------------------------------------ density and bound


def one_row(gyration_scale):
    """Moments of a single tetrahedral molecule: isotropic gyration, one composition."""
    corners = f64([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * gyration_scale
    features = f64([[0.1, 0.9], [0.4, 0.2], [0.7, 0.3], [0.2, 0.5]])
    x = torch.cat([corners, features], 1)[None]
    fitted = ExchangeableMoments(F)
    fitted.update(x)
    return fitted, x


def test_one_isotropic_row_of_older_artefacts_is_one_gaussian():
    """Density and divergence against torch.distributions, in coordinates of the subspace."""
    a, b = LEVEL
    fitted, molecule = one_row(1.3)
    reference = make_reference(old(fitted), "shape").at(a, b)
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
def test_two_atoms_of_older_artefacts_at_any_noise(log_snr):
    """One bond: the average of a Gaussian with one long axis is a Dawson function."""
    features = f64([[0.1, 0.9], [0.4, 0.2]])
    bond = torch.cat([f64([[0.6, 0, 0], [-0.6, 0, 0]]), features], 1)[None]
    fitted = ExchangeableMoments(F)
    fitted.update(bond)
    a, b = (math.sqrt(1 / (1 + math.exp(sign * log_snr))) for sign in (-1, 1))
    reference = make_reference(old(fitted), "shape").at(a, b)
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


def test_density_of_older_artefacts_is_the_average_over_rows_and_rotations(scattered):
    """Against an average of plain Gaussian densities over rows and scipy's rotations."""
    a, b = LEVEL
    size = scattered.at_size(4)
    x, mask = toy_molecules(3, 4, seed=2)
    basis = torch.linalg.svd(torch.eye(4).double() - 0.25).U[:, :3]
    turns = torch.from_numpy(Rotation.random(3000, random_state=0).as_matrix())
    got = make_reference(scattered, "shape").at(a, b).log_prob(x, mask)
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


def two_atom_density(log_snr, stretch=1.1):
    """A bond at a level: reference, point and the density of its two features."""
    features = f64([[0.1, 0.9], [0.4, 0.2]])
    bond = torch.cat([f64([[0.6, 0, 0], [-0.6, 0, 0]]), features], 1)[None]
    fitted = ExchangeableMoments(F)
    fitted.update(bond)
    a, b = (math.sqrt(1 / (1 + math.exp(sign * log_snr))) for sign in (-1, 1))
    x = a * bond.clone()
    x[..., :3] *= stretch
    size = fitted.at_size(2)
    x[..., 3:] = a * size.sample_mean[0]  # the table holds float32
    within = a**2 * size.sample_within[0] + b**2 * torch.eye(F).double()
    around = -0.5 * float(torch.logdet(within)) - F / 2 * math.log(b**2)
    around -= 2 * F / 2 * math.log(2 * math.pi)
    return make_reference(fitted, "shape").at(a, b), bond, x, around


@pytest.mark.parametrize("log_snr", [-4.0, 0.0, 2.0, 8.0, 30.0, 55.0])
def test_two_atoms_at_any_noise(log_snr):
    """A bond of fixed length in a uniform direction and noise: `sinh(k) / k`, in closed form."""
    reference, bond, x, around = two_atom_density(log_snr)
    a, b = reference.a, reference.b
    length = math.sqrt(float(reference.moments.at_size(2).gyration.sum()))
    far = math.sqrt(float(x[..., :3].square().sum()))
    k = a * length * far / b**2
    turned = math.log(-math.expm1(-2 * k) / (2 * k)) - (far - a * length) ** 2 / (2 * b**2)
    expected = turned - 1.5 * math.log(2 * math.pi * b**2) + around
    assert float(reference.log_prob(x)) == pytest.approx(expected, abs=1e-5, rel=1e-6)
    assert math.isfinite(float(reference.kl_from_posterior(bond)))


def test_density_is_the_average_over_rows_frames_and_rotations(exact):
    """Against an average of plain densities over rows, numpy's frames and scipy's rotations.

    Five atoms at a log-SNR of -1.4, where 100,000 forms are enough. The density is known to 0.08
    nats for four degrees, and to less at this noise; 1e-6 false alarms.
    """
    a, b = 0.3, 1.0
    n, count = 5, 100_000
    size = exact.at_size(n)
    x, mask = toy_molecules(3, n, seed=2)
    x = a * x + b * unit_noise([n] * 3, seed=8)[0]
    got = make_reference(exact, "shape").at(a, b).log_prob(x, mask)
    rng = np.random.default_rng(0)
    frame, r = np.linalg.qr(rng.standard_normal((count, n - 1, 3)))
    frame *= np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]
    turns = Rotation.random(count, random_state=0).as_matrix()
    basis = torch.linalg.svd(torch.eye(n).double() - 1 / n).U[:, : n - 1]
    shared = torch.full((n, n), 1 / n).double()
    eye, apart = torch.eye(F).double(), torch.eye(n).double() - 1 / n
    log_features = torch.stack(
        [
            MultivariateNormal(
                a * mean.repeat(n),
                torch.kron(apart, a**2 * within + b**2 * eye) + torch.kron(shared, b**2 * eye),
            ).log_prob(x[..., 3:].flatten(1))
            for mean, within in zip(size.sample_mean, size.sample_within, strict=True)
        ]
    )  # (K, 3)
    for i in range(3):
        points = (basis.T @ x[i, :, :3]).numpy()
        along = np.einsum("mij,ik,mkj->mj", frame, points, turns)  # (M, 3)
        extent = np.sqrt((n - 1) * size.gyration.numpy())
        distance = (points**2).sum() + a**2 * (extent**2).sum(1)
        exponent = (2 * a * along @ extent.T - distance) / (2 * b**2)  # (M, K)
        weight = (size.sample_weight.log() + log_features[:, i]).exp().numpy()
        per_form = np.exp(exponent) @ weight
        error = per_form.std() / math.sqrt(count) / per_form.mean()
        assert error < 0.02
        expected = math.log(per_form.mean()) - 1.5 * (n - 1) * math.log(2 * math.pi * b**2)
        assert abs(float(got[i]) - expected) < FIVE_SIGMA * error + 0.01


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


@pytest.mark.filterwarnings("ignore:.* atoms is far outside")
@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 18])
def test_the_bound_is_near_at_every_size(exact, n):
    """Monte-Carlo KL of posteriors at log-SNR 0.25: below the bound, by 6 nats at the most.

    The bound that leaves out the noise beside the molecule is 11.6 nats above it at 18 atoms, and
    this one 4.8. The density is known to 0.2 nats; 1e-6 false alarms.
    """
    a, b = coefficients(0.25)
    reference = make_reference(exact, "shape").at(a, b)
    x, mask = toy_molecules(12, n, seed=6)
    bound = reference.kl_from_posterior(x, mask)
    draws = 20
    noise, many = unit_noise([n] * (12 * draws), seed=1)
    noisy = a * x.repeat_interleave(draws, 0) + b * noise
    dimension = 3 * (n - 1) + n * F
    log_q = -0.5 * (noise.square().sum((1, 2)) + dimension * math.log(2 * math.pi * b**2))
    estimate = (log_q - reference.log_prob(noisy, many)).reshape(12, draws)
    gap = bound - estimate.mean(1)
    error = FIVE_SIGMA * float(estimate.var(1).mean() / draws / 12) ** 0.5
    assert float(gap.mean()) > -0.2 - error
    assert float(gap.mean()) < 6 + error


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


def test_fourth_moments_of_older_artefacts_have_a_wishart_term(scattered):
    """The rows' tensors are covariances, so the spread of size counts twice.

    The variance of |x|² / (3 (n - 1)) over draws is that of the table and a Wishart term. Draws
    meet both numbers within 4.9 standard errors, a false-alarm rate of 1e-6 each.
    """
    n, count = 5, 40_000
    size = scattered.at_size(n)
    table, weight = size.gyration, size.sample_weight
    own = table.sum(1) / 3
    mean = float(weight @ own)
    spread = float(weight @ (own - mean) ** 2)
    wishart = float(weight @ table.square().sum(1)) * 2 / (9 * (n - 1))
    reference = make_reference(scattered, "shape")
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
