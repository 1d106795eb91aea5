"""Features: symmetries to rounding, and slow loops over atoms and filters as the oracles.

Statistical bounds are at 4.9 standard errors; the generators are fixed.
"""

import itertools

import numpy as np
import pytest
import torch
from scipy import fft, signal, stats

from gaga_adapter.criteria.two_sample.features_dense import DenseUnits, dense_features
from gaga_adapter.reference import invariants
from gaga_adapter.reference.invariants import molecule_features
from gaga_adapter.subspace import mask_from_sizes

FINE = [0.2 + 0.3 * k for k in range(17)]
COARSE = [0.3 + 0.5 * k for k in range(8)]


def molecules(sizes=(1, 2, 3, 5, 9), width=9, n_features=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = mask_from_sizes(torch.tensor(sizes), width)
    x = torch.randn(len(sizes), width, 3 + n_features, generator=generator, dtype=torch.float64)
    return x * mask[..., None], mask


def same(x, mask, y, other_mask):
    torch.testing.assert_close(
        molecule_features(y, other_mask, 1.3, 0.4),
        molecule_features(x, mask, 1.3, 0.4),
        rtol=1e-9,
        atol=1e-9,
    )


def test_rotations_and_reflections_change_nothing():
    x, mask = molecules()
    generator = torch.Generator().manual_seed(1)
    for sign in (1.0, -1.0):
        square = torch.randn(len(x), 3, 3, generator=generator, dtype=torch.float64)
        turn = sign * torch.linalg.qr(square).Q
        same(x, mask, torch.cat([x[..., :3] @ turn, x[..., 3:]], -1), mask)


def test_permutations_of_all_rows_change_nothing():
    """Real atoms and padding alike: the padding need not be at the end."""
    x, mask = molecules()
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(2))
    same(x, mask, x[:, order], mask[:, order])


def test_padding_changes_nothing():
    x, mask = molecules()
    wide = torch.cat([x, torch.full((len(x), 4, x.shape[2]), torch.nan, dtype=x.dtype)], 1)
    same(x, mask, wide, torch.nn.functional.pad(mask, (0, 4)))


def test_translations_and_units_change_nothing():
    x, mask = molecules()
    moved = x.clone()
    moved[..., :3] += 5.0
    same(x, mask, moved, mask)
    scaled = torch.cat([2 * x[..., :3], 3 * x[..., 3:]], -1)
    torch.testing.assert_close(
        molecule_features(scaled, mask, 2.0, 3.0), molecule_features(x, mask, 1.0, 1.0)
    )


def test_chunks_change_nothing_and_the_input_stays():
    x, mask = molecules(sizes=(3, 4) * 300, width=4)
    before = x.clone()
    whole = molecule_features(x, mask, 1.0, 1.0)
    torch.testing.assert_close(whole[500:510], molecule_features(x[500:510], mask[500:510], 1, 1))
    assert torch.equal(x, before)
    assert molecule_features(x.float(), mask, 1.0, 1.0).dtype == torch.float32


def slow_features(x, h):
    """One molecule (n, 3), (n, F), atom by atom, in the order of the module's list."""
    n, f = h.shape
    free = max(n - 1, 1)
    mean = h.mean(0)
    r, g = x - x.mean(0), h - mean
    d = [[np.linalg.norm(r[i] - r[j]) for j in range(n)] for i in range(n)]
    square = [ri @ ri for ri in r]
    upper = [(p, q) for p in range(f) for q in range(p, f)]
    quantiles = np.array([0, 0.25, 0.5, 0.75, 1])

    def near(c, w):
        return [
            [np.exp(-((d[i][j] - c) ** 2) / (2 * w * w)) * (i != j) for j in range(n)]
            for i in range(n)
        ]

    out = [n, *np.linalg.eigvalsh(sum(np.outer(ri, ri) for ri in r) / free)]
    out += [(sum(square) / free) ** 2, sum(s * s for s in square) / n]
    out += list(np.quantile(np.sqrt(square), quantiles))
    out += list(mean)
    out += [sum(g[i, p] * g[i, q] for i in range(n)) / free for p, q in upper]
    out += [sum(g[i, p] ** k for i in range(n)) / n for k in (3, 4) for p in range(f)]
    out += [sum(g[i, p] * square[i] for i in range(n)) / free for p in range(f)]
    dipole = [sum(g[i, p] * r[i] for i in range(n)) for p in range(f)]
    out += [dipole[p] @ dipole[q] / free**2 for p, q in upper]
    nearest = [min([d[i][j] for j in range(n) if j != i], default=10.0) for i in range(n)]
    out += list(np.quantile(nearest, quantiles))
    out += [np.sum(near(c, 0.25)) / n for c in FINE]
    pulls = []
    for c in COARSE:
        k = near(c, 0.4)
        out += [sum(sum(k[i]) * g[i, p] for i in range(n)) / n for p in range(f)]
        out += [
            sum(k[i][j] * g[i, p] * g[j, p] for i in range(n) for j in range(n)) / n
            for p in range(f)
        ]
        pulls.append([sum(k[i][j] * (r[j] - r[i]) for j in range(n)) for i in range(n)])
    for c in range(len(COARSE)):
        for e in range(c, len(COARSE)):
            out.append(sum(pulls[c][i] @ pulls[e][i] for i in range(n)) / n)
    return np.array(out)


def test_features_are_those_of_a_loop_over_atoms():
    x, mask = molecules()
    fast = molecule_features(x, mask, 1.0, 1.0)
    assert bool(torch.isfinite(fast).all())
    for row, molecule, real in zip(fast, x, mask, strict=True):
        slow = slow_features(molecule[real][:, :3].numpy(), molecule[real][:, 3:].numpy())
        np.testing.assert_allclose(row.numpy(), slow, rtol=1e-9, atol=1e-9)


def test_molecules_without_features():
    x, mask = molecules(n_features=0)
    assert bool(torch.isfinite(molecule_features(x, mask, 1.0, 1.0)).all())


# ---------------------------------------------------------------------------- dense data


def events(*shape, n=40, seed=0):
    """Skewed events with channels of different mean and scale."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64).exp()
    k = torch.arange(1.0, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1))
    return k * x - 3 * k


def features(x):
    return dense_features(x, DenseUnits.of(x))


@pytest.mark.parametrize(
    ("shape", "width"),
    [
        ((1,), 2 + 1 + 1 + 2),  # square, number, product, one axis
        ((5,), 2 + 11 + 5 + 15 + 10),
        ((64,), 2 + 11 + 64 + 22),
        ((100,), 2 + 11 + 24),  # too many numbers to show each
        ((600,), 2 + 11),  # and too many for principal axes
        ((2, 1, 1), 2 + 11 + 2 + 3 + 4),  # one number per channel: a vector
        ((1, 8, 8), 2 + 11 + 4 + 32 + 64 + 22),
        ((3, 8, 8), 2 + 33 + 3 + 12 + 32 + 27 + 26),
        ((4, 64, 64), 2 + 44 + 6 + 28 + 32 + 36),
        ((16, 32, 32), 2 + 32 + 9 + 6 + 32 + 9),  # many channels: averages
        ((2, 100), 2 + 22 + 1 + 12 + 8 + 6 + 26),
    ],
    ids=str,
)
def test_dense_features_are_few(shape, width):
    found = features(torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (5, width)
    assert found.dtype == torch.float32
    assert bool(torch.isfinite(found).all())
    assert width <= 160


def slow_image(x):
    """One event (C, H, W) in units of its own channels, by scipy: all but the principal axes."""
    channels, h, w = x.shape
    centred = x - x.mean((1, 2), keepdims=True)
    out = [(x**2).mean(), (x**2).mean() ** 2, *x.mean((1, 2)), *x.var((1, 2))]
    for z in x.reshape(channels, -1):
        ordered = np.sort(z)
        out += [(z**3).mean(), (z**4).mean(), stats.skew(z), stats.kurtosis(z, fisher=False)]
        out += [ordered[round(q * (len(z) - 1))] for q in (0, 0.1, 0.5, 0.9, 1)]
    out += [
        (centred[c] * centred[e]).mean() for c in range(channels) for e in range(c + 1, channels)
    ]
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(h), np.fft.fftfreq(w), indexing="ij"))
    edges = [0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    for z in x:
        power = np.abs(np.fft.fft2(z)) ** 2 / z.size
        for low, high in itertools.pairwise(edges):
            inside = (radius > low) & (radius <= high)
            out += [power[inside].mean()] if inside.any() else []
    rows = fft.idct(np.eye(3), norm="ortho")
    for z in (x, (x[:, ::2] + x[:, 1::2])[..., ::2] / 2 + (x[:, ::2] + x[:, 1::2])[..., 1::2] / 2):
        for i in range(3):
            for j in range(3):
                if i + j:
                    kernel = np.outer(rows[i], rows[j])
                    y = [signal.correlate2d(image, kernel, mode="valid") for image in z]
                    out.append(np.mean([(r**2).mean() for r in y]))
                    out.append(np.mean([(r**4).mean() / (r**2).mean() ** 2 for r in y]))
    return np.array(out)


def test_dense_features_are_those_of_a_loop_over_filters():
    x = events(3, 12, 10)
    units = DenseUnits.of(x)
    fast = dense_features(x, units).numpy()
    unit = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), correction=0, keepdim=True)
    for row, event in zip(fast, unit.numpy(), strict=True):
        slow = slow_image(event)
        np.testing.assert_allclose(row[: len(slow)], slow, rtol=1e-9, atol=1e-9)
        thirds = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(event), 3).flatten()
        np.testing.assert_allclose(row[len(slow) : len(slow) + 27], thirds, atol=1e-9)


def test_vectors_have_moments_numbers_and_products():
    x = events(5)
    units = (x - x.mean(0)) / x.std(0, correction=0)
    z = units.numpy()
    expected = np.concatenate(
        [
            (z**2).mean(1, keepdims=True),
            (z**2).mean(1, keepdims=True) ** 2,
            z.mean(1, keepdims=True),
            z.var(1, keepdims=True),
            (z**3).mean(1, keepdims=True),
            (z**4).mean(1, keepdims=True),
            stats.skew(z, axis=1)[:, None],
            stats.kurtosis(z, axis=1, fisher=False)[:, None],
            np.sort(z, 1)[:, [0, 0, 2, 4, 4]],
            z,
            np.stack([z[:, i] * z[:, j] for i in range(5) for j in range(i, 5)], 1),
        ],
        axis=1,
    )
    np.testing.assert_allclose(features(x)[:, : expected.shape[1]].numpy(), expected, atol=1e-9)


def test_principal_axes_whiten_and_lead():
    """Moments of axes are those of scikit-learn's whitened PCA, up to the sign that they square."""
    from sklearn.decomposition import PCA

    x = events(20, n=200) @ torch.randn(
        20, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    z = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    white = PCA(whiten=True).fit_transform(z) * np.sqrt(200 / 199)
    bands = [[k] for k in range(8)] + [range(8, 16), range(16, 20)]
    expected = [(white[:, list(b)] ** p).mean(1) for p in (2, 4) for b in bands]
    np.testing.assert_allclose(features(x)[:, -20:].numpy(), np.stack(expected, 1), rtol=1e-7)


def test_white_noise_has_a_flat_spectrum_and_no_excess():
    """Octaves and responses have power 1 at every scale, and kurtosis 3."""
    x = torch.randn(4000, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    found = features(x)[:, 13:50].double()  # after the moments: five octaves, then pairs
    mean, error = found.mean(0), found.std(0) / 4000**0.5
    powers = [*range(5), *range(5, 37, 2)]
    assert bool(((mean[powers] - 1).abs() < 4.9 * error[powers] + 2e-3).all())
    # The kurtosis of few correlated responses is a little low; of Gaussian ones it stays below 3.
    assert bool(((mean[6:37:2] < 3 + 4.9 * error[6:37:2]) & (mean[6:37:2] > 2.4)).all())


def test_units_are_blind_to_the_labels_and_to_the_scale():
    one, other = events(2, 6, 6), events(2, 6, 6, seed=1)
    units, swapped = DenseUnits.of(torch.cat([one, other])), DenseUnits.of(torch.cat([other, one]))
    torch.testing.assert_close(dense_features(one, units), dense_features(one, swapped))
    big = torch.tensor([1e8, 1e-8], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(features(big * (one + 1)), features(one), rtol=1e-6, atol=1e-6)


def test_volumes_are_stacks_of_their_planes_and_chunks_change_nothing():
    x = events(1, 3, 4, 5, n=300)
    torch.testing.assert_close(features(x), features(x.reshape(300, 1, 12, 5)))
    before, units = x.clone(), DenseUnits.of(x)
    torch.testing.assert_close(dense_features(x, units)[250:260], dense_features(x[250:260], units))
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(3,), (2, 8, 8), (2, 30, 30), (1, 9), (1, 2, 2)], ids=str)
def test_constant_and_repeated_numbers_have_finite_features(shape):
    constant = torch.full((30, *shape), 0.1)
    half = torch.cat(
        [constant, torch.randn(30, *shape, generator=torch.Generator().manual_seed(0))]
    )
    repeated = torch.randn(60, 1, *shape[1:], generator=torch.Generator().manual_seed(0))
    for x in (constant, half, repeated.expand(60, *shape), 0 * constant):
        assert bool(torch.isfinite(features(x)).all())


def test_one_large_molecule_does_not_make_all_others_as_wide(monkeypatch):
    """The largest tensor of pairs is bounded, and every molecule has the features it has alone."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([3] * 600 + [150, 5, 90])
    x = torch.randn(len(sizes), 150, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(150) < sizes[:, None]
    x = torch.where(mask[..., None], x, 0)
    features, seen = invariants._features, []

    def watched(positions, others, real):
        seen.append(len(real) * real.shape[1] ** 2)
        return features(positions, others, real)

    monkeypatch.setattr(invariants, "_features", watched)
    monkeypatch.setattr(invariants, "_MOST_PAIRS", 150**2)
    together = molecule_features(x, mask, 1.0, 1.0)
    assert max(seen) == 150**2
    assert len(seen) <= 6
    for row, n in enumerate(sizes.tolist()):
        if row % 100 == 0 or n > 3:
            alone = features(
                x[row : row + 1, :n, :3], x[row : row + 1, :n, 3:], mask[:1, :n] | True
            )
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-9, rtol=1e-9)
