r"""Cumulants of exchangeable, rotation-invariant molecules, up to order four.

A molecule of N atoms splits into positions `p_i` in R³ and features `g_i`, both of sum zero over
its atoms, and `u = sqrt(N) (m - E m)`, the scaled mean feature. Permutations and rotations leave of
their joint cumulants only what lies in the span of few invariant tensors. With `D = 1 - 11'/N` and
`I_k = sum_l (D e_l)^{⊗k}` they are, for the atoms,

    order 2: D      order 3: I_3      order 4: I_4, D_ij D_kl, D_ik D_jl, D_il D_jk

and for the directions of positions `δ_αβ`, or its three pairings for four of them. What is odd in
the positions vanishes by reflection. So a cumulant tensor is fixed by its contractions q with these
invariants, sums over atoms such as `sum_i g_i ⊗ g_i ⊗ g_i` and `(sum |p_i|²)²`, and with their Gram
matrix G,

    ||C||² = q' G⁻¹ q,

times the number of places that the parts can take: `(u, g, g)` stands for three blocks of the full
tensor. The blocks of one type by the letters of their parts, positions as p:

    uuu, ugg, ggg, upp, gpp,   uuuu, uugg, uggg, gggg, uupp, ugpp, ggpp, pppp.

Every contraction is unbiased. Where u takes part it is a joint k-statistic of u and sums over the
atoms of a molecule, which are numbers of the molecule as u is: `uugg` is the third joint cumulant
of `u, u, sum_i g_i g_i'` (`kstatistics.py` for the factors). Without u the means are known, zero,
and from those of order four go products of second moments; of a product of two averages over
molecules an unbiased estimate is the average over pairs of *different* molecules.

Whitening by the reference multiplies each index of a contraction by a number, `a / sqrt(a² λ + b²)`
with λ the reference's variance along it, if features are written in the eigenvectors of the
reference. So one pass over the clean data gives the norms at every noise level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Places that the parts can take in the full tensor, by block.
_PLACES = {
    **{"uuu": 1, "ugg": 3, "ggg": 1, "upp": 3, "gpp": 3},
    **{"uuuu": 1, "uugg": 6, "uggg": 4, "gggg": 1, "uupp": 6, "ugpp": 12, "ggpp": 6, "pppp": 1},
}
BLOCKS = tuple(_PLACES)
#: Gram matrix of the three pairings of four directions.
_TURNS = 3 + 6 * torch.eye(3, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Parts:
    """Molecules of one size, in the parts that symmetry keeps apart."""

    p: Tensor  # positions (n, N, 3), of sum zero
    g: Tensor  # features around their molecule's mean (n, N, F)
    u: Tensor  # `sqrt(N)` times the mean feature (n, F)

    def take(self, rows: Tensor) -> Parts:
        """Some of the molecules."""
        return Parts(self.p[rows], self.g[rows], self.u[rows])


def second_moments(parts: Parts) -> dict[str, Tensor]:
    """Unbiased `v` (), `W` (F, F) and `B` (F, F), and the mean `m` (F,) of u.

    For one atom, `v` and `W` are zero.
    """
    n_free = max(parts.p.shape[1] - 1, 1)
    return {
        "v": parts.p.square().sum((1, 2)).mean() / (3 * n_free),
        "W": torch.einsum("sia,sib->ab", parts.g, parts.g) / (len(parts.g) * n_free),
        "B": torch.cov(parts.u.T).reshape(2 * parts.u.shape[1:]),
        "m": parts.u.mean(0),
    }


def contractions(parts: Parts, max_order: int) -> dict[str, Tensor]:
    """Contractions (invariants, F, .., F) of the cumulants of order 3 (and 4), by block.

    There must be at least 4 molecules.
    """
    p, g, u = parts.p, parts.g, parts.u - parts.u.mean(0)
    n, f = u.shape
    two, three = n / (n - 1), n**2 / ((n - 1) * (n - 2))  # of k-statistics
    square = p.square().sum(2)  # (n, N)
    total = square.sum(1)  # (n,)
    atoms = (g[..., :, None] * g[..., None, :]).flatten(2)  # g_i g_i' as (n, N, F²)
    gg = atoms.sum(1).reshape(n, f, f)

    def mean(pattern: str, *tensors: Tensor) -> Tensor:
        average: Tensor = torch.einsum(pattern, *tensors) / n
        return average

    third = {
        "uuu": three * mean("sa,sb,sc->abc", u, u, u)[None],
        "ugg": two * mean("sa,sbc->abc", u, gg)[None],
        "ggg": mean("six,sic->xc", atoms, g).reshape(1, f, f, f),
        "upp": two * mean("sa,s->a", u, total)[None],
        "gpp": mean("sia,si->a", g, square)[None],
    }
    if max_order < 4:
        return third
    dipole = torch.einsum("sia,sid->sad", g, p)
    gyration = p.mT @ p
    uu = u[:, :, None] * u[:, None]
    ug = (u[:, None, :, None] * g[:, :, None]).flatten(2)  # u g_i' as (n, N, F²)
    mean_uu, mean_gg, mean_pp = uu.mean(0), gg.mean(0), total.mean()
    pairs = _pairings(torch.einsum("ab,cd->abcd", mean_uu, mean_uu))
    fourth_k = (n + 1) * mean("sab,scd->abcd", uu, uu) - (n - 1) * torch.stack(pairs).sum(0)
    with_u = {
        "uuuu": three / (n - 3) * fourth_k[None],
        "uggg": two * mean("six,siy->xy", ug, atoms).reshape(1, f, f, f, f),
        "ugpp": two * mean("six,si->x", ug, square).reshape(1, f, f),
        "uugg": three * mean("sab,scd->abcd", uu, gg - mean_gg)[None],
        "uupp": three * mean("sab,s->ab", uu, total - mean_pp)[None],
    }

    # What a Gaussian of the same second moments would have: it is one pairing of the atoms and one
    # of the channels or directions for each pairing of the four places.
    def product(pattern: str, x: Tensor, y: Tensor, same: Tensor) -> Tensor:
        """Product of two averages over molecules, without pairs of a molecule with itself."""
        different: Tensor = (n * torch.einsum(pattern, x, y) - same) / (n - 1)
        return different

    free, gram = max(p.shape[1] - 1, 1), _atom_gram(p.shape[1])
    gggg, ggpp = mean("sab,scd->abcd", gg, gg), mean("sab,s->ab", gg, total)
    pppp = mean("s,s->", total, total)
    ww = product("ab,cd->abcd", mean_gg, mean_gg, gggg) / free**2
    wv = product("ab,->ab", mean_gg, mean_pp, ggpp) / (3 * free**2)
    vv = product(",->", mean_pp, mean_pp, pppp) / (3 * free) ** 2

    quartic = mean("six,siy->xy", atoms, atoms).reshape(f, f, f, f)
    one_atom = mean("six,si->x", atoms, square).reshape(f, f)
    crossed = mean("sad,sbd->ab", dipole, dipole)
    positions = _position_contractions(
        mean("si,si->", square, square), pppp, mean("sxy,sxy->", gyration, gyration)
    )
    without_u = {
        "gggg": torch.stack([quartic, *_pairings(gggg)])
        - torch.einsum("rt,tabcd->rabcd", gram[:, 1:], torch.stack(_pairings(ww))),
        "ggpp": torch.stack([one_atom, ggpp, crossed, crossed]) - 3 * gram[:, 1, None, None] * wv,
        "pppp": positions - vv * torch.einsum("rt,st->rs", gram[:, 1:], _TURNS).flatten(),
    }
    return third | with_u | without_u


def block_grams(
    batches: list[dict[str, Tensor]], scale: dict[str, Tensor], n_atoms: int
) -> dict[str, Tensor]:
    """Inner products of the whitened `contractions` of G batches, by block (G, G).

    Whitening multiplies each index by a factor: `p` (), `u` (F,) or `g` (F,).
    """
    grams = {}
    for block in batches[0]:
        whitened = torch.stack([batch[block] for batch in batches])
        # One factor per index of a feature, after the axes of batches and of invariants.
        whitened = scale_axes(whitened, [scale[letter] for letter in block.replace("p", "")], 2)
        metric = _inverse_gram(block, n_atoms)
        whitened = whitened * scale["p"] ** block.count("p")
        whitened = whitened.reshape(len(batches), len(metric), -1)
        weighed = torch.einsum("rs,hsx->hrx", metric, whitened)
        grams[block] = _PLACES[block] * whitened.flatten(1) @ weighed.flatten(1).T
    return grams


def scale_axes(tensor: Tensor, factors: list[Tensor], first: int) -> Tensor:
    """The tensor times a vector along each axis, from axis `first` on."""
    for axis, factor in enumerate(factors, first):
        tensor = tensor * factor.reshape([-1 if k == axis else 1 for k in range(tensor.dim())])
    return tensor


def _pairings(tensor: Tensor) -> list[Tensor]:
    """`T_abcd, T_acbd, T_adbc` as tensors over abcd, for T a product of two pairs."""
    return [tensor, *(torch.einsum(f"{pairs}->abcd", tensor) for pairs in ("acbd", "adbc"))]


def _position_contractions(quartic: Tensor, total: Tensor, mixed: Tensor) -> Tensor:
    """Contractions (12,) with the atoms' four invariants times the directions' three.

    They follow from `sum_i |p_i|⁴`, `(sum_i |p_i|²)²` and `sum_ij (p_i · p_j)²`.
    """
    pairs = mixed + (total - mixed) * torch.eye(3, dtype=total.dtype)
    return torch.cat([quartic.expand(1, 3), pairs]).flatten()


def _atom_gram(n_atoms: int) -> Tensor:
    """Gram matrix (4, 4) of `I_4` and the three pairings of D."""
    n, free = float(n_atoms), float(n_atoms - 1)
    gram = free * torch.ones(4, 4, dtype=torch.float64)
    gram.diagonal()[:] = free**2
    gram[0, :] = gram[:, 0] = free**2 / n
    gram[0, 0] = (free**4 + free) / n**3
    return gram


def _inverse_gram(block: str, n_atoms: int) -> Tensor:
    """G⁻¹ of a block's invariants; the pseudo-inverse where few atoms leave fewer of them."""
    n, one = float(n_atoms), torch.ones(1, 1, dtype=torch.float64)
    by_order = {0: one, 2: (n - 1) * one, 3: (n - 1) * (n - 2) / n * one, 4: _atom_gram(n_atoms)}
    atoms = by_order[len(block) - block.count("u")]
    directions = {0: one, 2: 3 * one, 4: _TURNS}[block.count("p")]
    gram = torch.kron(atoms, directions)
    inverse: Tensor = torch.linalg.pinv(gram, hermitian=True, rtol=1e-10)
    return inverse
