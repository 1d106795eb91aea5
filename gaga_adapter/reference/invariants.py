r"""Features in which a classifier can see the structure of molecules, with their symmetries.

Molecules are (B, N, 3 + F). With positions and features centred on their molecule, `r_i = x_i - x̄`
and `g_i = h_i - h̄`, and soft bins of the pair distance `k_c(d) = exp(-(d - c)² / 2 w²)`:

- form: N, the eigenvalues of the gyration matrix `r'r / (N-1)` and the square of their sum,
  `sum |r_i|⁴`, quantiles of `|r_i|`;
- types: `h̄`, the covariance of the features, their third and fourth moments, their covariance with
  `|r_i|²`, and their dipoles `p_f = sum_i g_if r_i` as products `p_f · p_g`;
- distances: the histogram `sum_ij k_c(d_ij)`, and quantiles over atoms of the nearest distance;
- who is near whom, per soft type: `sum_ij k_c(d_ij) g_i`, so that heavy atoms have more neighbours,
  and `sum_ij k_c(d_ij) g_i g_j`, so that like atoms meet more or less often;
- angles: the pulls `v_ic = sum_j k_c(d_ij) (r_j - r_i)` as products `sum_i v_ic · v_ie`.

All are sums over atoms or pairs of scalar products: invariant under permutations of the atoms,
padding, rotations and reflections. Lengths and features are in units of their root mean square, so
one set of bins serves every noise level and every normalisation of the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gaga_adapter.subspace import atoms_first

# In units of the root mean square coordinate two Gaussian atoms are 2.3 ± 0.9 apart; a bond of an
# organic molecule is 0.7 long.
_FINE, _FINE_WIDTH = tuple(0.2 + 0.3 * k for k in range(17)), 0.25
_COARSE, _COARSE_WIDTH = tuple(0.3 + 0.5 * k for k in range(8)), 0.4
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_LONE = 10.0  # nearest distance of an atom that is alone
_CHUNK = 256  # molecules at a time: their pairs stay in the cache
_MOST_PAIRS = 256 * 64**2  # of atoms at a time: larger molecules share a chunk with fewer others


def unit_of(numbers: Tensor) -> float:
    """Root mean square of numbers, as a unit: 1 where it is 0, as it is for single atoms."""
    square = numbers.double().square()
    return math.sqrt(float(square.mean())) or 1.0 if square.numel() else 1.0


def molecule_features(x: Tensor, mask: Tensor, length: float, amplitude: float) -> Tensor:
    """Invariant features (B, D) of molecules (B, N, 3 + F), at least one atom each.

    `length` is the unit of the positions, `amplitude` that of the atom features.
    """
    x, mask = atoms_first(x, mask)  # chunks are cut to their largest molecule
    positions, features = x[..., :3] / length, x[..., 3:] / amplitude
    places, parts = [], []
    for rows, width in _chunks(mask.sum(1), mask.shape[1]):
        parts.append(_features(positions[rows, :width], features[rows, :width], mask[rows, :width]))
        places.append(rows)
    result = torch.cat(parts)
    result[torch.cat(places)] = result.clone()
    return result


def _chunks(sizes: Tensor, width: int) -> Iterator[tuple[Tensor, int]]:
    """Rows of molecules that are worked on together, and the number of atoms to look at.

    A few large molecules do not make all others as wide: then those of like size go together.
    """
    n_most = _MOST_PAIRS // width**2
    order = torch.arange(len(sizes)) if n_most >= _CHUNK else sizes.argsort(stable=True).cpu()
    widths = [width] * len(order) if n_most >= _CHUNK else sizes.cpu()[order].tolist()
    start = 0
    while start < len(order):
        end = start + 1
        while end < min(len(order), start + _CHUNK) and (
            (end + 1 - start) * widths[end] ** 2 <= _MOST_PAIRS
        ):
            end += 1
        yield order[start:end].to(sizes.device), widths[end - 1]
        start = end


def _features(positions: Tensor, features: Tensor, mask: Tensor) -> Tensor:
    real = mask[..., None]
    n = mask.sum(1, keepdim=True).to(positions.dtype)
    n_free = (n - 1).clamp(min=1)
    r, g = torch.where(real, positions, 0), torch.where(real, features, 0)
    mean = g.sum(1) / n
    r = torch.where(real, r - r.sum(1, keepdim=True) / n[..., None], 0)
    g = torch.where(real, g - mean[:, None], 0)

    square = r.square().sum(-1)
    dipole = g.mT @ r
    pairs = mask[:, :, None] & mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool).to(mask)
    distance = (square[:, :, None] + square[:, None] - 2 * (r @ r.mT)).clamp(min=0).sqrt()
    distance = torch.where(pairs, distance, torch.inf)
    columns = [
        n,
        torch.linalg.eigvalsh(r.mT @ r / n_free[..., None]),
        (square.sum(1, keepdim=True) / n_free).square(),
        square.square().sum(1, keepdim=True) / n,
        quantiles(square.sqrt(), mask),
        mean,
        upper(g.mT @ g) / n_free,
        g.pow(3).sum(1) / n,
        g.pow(4).sum(1) / n,
        (g * (square - square.sum(1, keepdim=True) / n)[..., None]).sum(1) / n_free,
        upper(dipole @ dipole.mT) / n_free**2,
        quantiles(distance.amin(2).clamp(max=_LONE), mask),
    ]
    columns += [_bin(distance, centre, _FINE_WIDTH).sum((1, 2))[:, None] / n for centre in _FINE]
    pulls = []
    for centre in _COARSE:
        near = _bin(distance, centre, _COARSE_WIDTH)
        neighbours = near.sum(2, keepdim=True)
        columns += [(neighbours * g).sum(1) / n, (near @ g * g).sum(1) / n]
        pulls.append(near @ r - neighbours * r)
    pull = torch.stack(pulls, -1).flatten(1, 2)  # (B, 3 N, bins)
    return torch.cat([*columns, upper(pull.mT @ pull) / n], dim=1)


def _bin(distance: Tensor, centre: float, width: float) -> Tensor:
    return torch.exp(-0.5 * ((distance - centre) / width) ** 2)


def upper(matrix: Tensor) -> Tensor:
    """Entries on and above the diagonal of symmetric matrices (B, F, F)."""
    rows, columns = torch.triu_indices(matrix.shape[-1], matrix.shape[-1]).to(matrix.device)
    return matrix[:, rows, columns]


def quantiles(values: Tensor, mask: Tensor) -> Tensor:
    """Quantiles (B, Q) of the real entries of values (B, N), linear between order statistics."""
    ordered = torch.where(mask, values, torch.inf).sort(1).values
    last = (mask.sum(1) - 1)[:, None]
    place = last * torch.tensor(_QUANTILES, dtype=values.dtype, device=values.device)
    below = place.floor().long()
    above = torch.minimum(below + 1, last)
    return torch.lerp(ordered.gather(1, below), ordered.gather(1, above), place - below)
