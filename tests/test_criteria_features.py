"""Invariant features: symmetries to rounding, and a slow loop over atoms as the oracle."""

import numpy as np
import pytest
import torch
from scipy import stats

from gaga_adapter.criteria.features import dense_features, molecule_features
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
    out.append(sum(s * s for s in square) / n)
    out += list(np.quantile(np.sqrt(square), quantiles))
    out += list(mean)
    out += [sum(g[i, p] * g[i, q] for i in range(n)) / free for p, q in upper]
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


@pytest.mark.parametrize(
    ("shape", "width"),
    [
        ((2, 4, 4), 1 + 2 * 4 + 32),  # numbers, no products
        ((2, 8, 8), 1 + 2 * 4),  # moments only
        ((2, 2, 2), 1 + 2 * 4 + 8 + 36),  # numbers and products
        ((3,), 1 + 3 + 6),  # one number per channel has no moments
        ((100,), 1 + 100),
    ],
)
def test_dense_features_by_size(shape, width):
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert dense_features(x).shape == (5, width)


def test_dense_features_are_the_moments_and_products():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 2, 2, 3, generator=generator, dtype=torch.float64).exp()
    flat, channels = x.flatten(1).numpy(), x.flatten(2).numpy()
    expected = np.concatenate(
        [
            (flat**2).mean(1, keepdims=True),
            channels.mean(2),
            channels.var(2),
            stats.skew(channels, axis=2),
            stats.kurtosis(channels, axis=2, fisher=False),
            flat,
            np.stack([flat[:, i] * flat[:, j] for i in range(12) for j in range(i, 12)], 1),
        ],
        axis=1,
    )
    np.testing.assert_allclose(dense_features(x).numpy(), expected, rtol=1e-10)


def test_constant_channels_have_finite_features():
    assert bool(torch.isfinite(dense_features(torch.zeros(3, 2, 8, 8))).all())
