r"""The `shape` reference: keep the form and composition of one molecule of the data.

For a row `k` of the data's table (probability `pi_k` given the size) and a Haar-random `R`,

    positions  ~ N(0, a² R diag(l_k) R' + b² I) for each of n - 1 degrees,
    features   ~ mean a m_k, covariance a² W_k + b² I around it, and b² I of sqrt(n) times the mean.

Averaged over `R` and `k` it has the same first two moments as `size`, and molecules that differ in
size, anisotropy and composition. They differ more than the data do: `l_k`, which is the tensor of
one molecule, serves as a covariance, and the draws scatter around it once more,

    Var q = Var tr(l_k) / 3 + 2 / (9 (n - 1)) E tr(diag(l_k)²),     q = |x|² / (3 (n - 1)),

where the data have the first term alone. So the fourth moments do not agree: on QM9 at t = 400 this
is 1.55 of the 1.61 nats that the cumulants find.

*Transport.* The latent `(k, R)` is read off the bits of the molecule's own noise: a hash of its
real rows, in their order, seeds a counter-based generator (`hashing.py`) that gives the row and a
uniform quaternion. So `transport` is a function of one molecule's noise, the same in every batch,
padding and device. The latent is a function of the noise and yet behaves as independent of it, as
hashed bits do: changing the last bit of one coordinate draws another molecule.

*Density.* The mixture over rows of the exact average over rotations, by `haar.py`. *Divergence.*
The prior term is the bound `KL(q || reference) <= -log sum_k pi_k ∫ exp(-KL(q || p_kR)) dR`:
log-sum-exp is convex, so by Jensen the expectation may be taken inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from gaga_adapter.covariance import EigenCovariance
from gaga_adapter.errors import DataError
from gaga_adapter.hashing import atom_hashes, splitmix64, stream, uniforms
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference.base import LOG_2_PI
from gaga_adapter.reference.gaussian import MoleculeGaussian, MoleculeStatistics
from gaga_adapter.reference.haar import log_haar_average, n_nodes, rotations
from gaga_adapter.reference.molecules import MoleculeReference

# Two and three atoms span a line and a plane, whose other eigenvalues are zero but for rounding.
_ROUNDING = 1e-15
_CHUNK = 2**19  # numbers in the largest temporary of the density: they stay in the cache


class ShapeReference(MoleculeReference):
    """The mixture over single molecules of the data and all rotations: kind `shape`.

    Args:
        kind: Kind of the reference, `shape`.
        moments: Moments of the molecules, with a table.
        weights: Probabilities of the table's rows (T,), of sum one per size, which count at sizes
            that borrow from no other; equal ones when `None`.

    Raises:
        DataError: If the moments were fitted without a table.
    """

    kinds: ClassVar[tuple[str, ...]] = ("shape",)

    def __init__(
        self, kind: str, moments: ExchangeableMoments, weights: Tensor | None = None
    ) -> None:
        super().__init__(kind, moments)
        if not moments.table_size:
            raise DataError(
                "these moments hold no sample of molecules (table_size=0) to draw from. "
                "Fit again with a table, or use the reference `size`."
            )
        self._row_weights = weights
        self._weights: dict[int, Tensor] = {}

    def _fit(self, n_atoms: int) -> MoleculeGaussian:
        """One row per sampled molecule (R); the weights go beside them."""
        size = self.moments.at_size(n_atoms)
        weight = size.sample_weight
        if self._row_weights is not None and not size.radius:
            weight = self._row_weights[self.moments.table_sizes == n_atoms]
        self._weights[n_atoms] = weight[weight > 0]
        within = EigenCovariance.from_matrix(size.sample_within)
        between = EigenCovariance.from_matrix(torch.zeros_like(size.sample_within))
        rows = MoleculeGaussian(size.gyration, None, size.sample_mean, within, between)
        return rows if bool((weight > 0).all()) else rows.take(weight > 0)

    def _choose(self, z: Tensor, mask: Tensor) -> MoleculeGaussian:
        n_atoms = mask.sum(1)
        u = uniforms(noise_hash(z, mask), 4)
        parts, order = [], []
        for n in map(int, torch.unique(n_atoms)):
            here = (n_atoms == n).nonzero().flatten()
            rows = self._rows(n).to(z.device)
            steps = self._weights[n].to(z.device).cumsum(0)
            index = torch.searchsorted(steps, u[here, 0] * steps[-1], right=True)
            parts.append(rows.take(index.clamp(max=len(steps) - 1)))
            order.append(here)
        law = MoleculeGaussian.cat(parts).take(torch.argsort(torch.cat(order)))
        return replace(law, axes=rotations(u[:, 1:]))

    def row_log_density(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density (B, R), float64, of each row at molecules of one size, without its weight."""
        self._require_noise()
        statistics = self._statistics(x, mask)
        return torch.cat([part for _, part in self._rows_at(statistics)])

    def _log_density(self, statistics: MoleculeStatistics) -> Tensor:
        total = torch.empty_like(statistics.mean[:, :1].sum(1))
        for part, density in self._rows_at(statistics):
            n = int(statistics.n_atoms[part[0]])
            total[part] = (density + self._weights[n].to(total.device).log()).logsumexp(1)
        return total

    def _rows_at(self, statistics: MoleculeStatistics) -> Iterator[tuple[Tensor, Tensor]]:
        """Molecules of one size (b,), by index, and the log-density of each row there (b, R)."""
        for n in map(int, torch.unique(statistics.n_atoms)):
            here = (statistics.n_atoms == n).nonzero().flatten()
            rows = self._rows(n).to(here.device).at(self.a, self.b)
            eigenvalues = torch.linalg.eigvalsh(statistics.positions)
            eigenvalues = torch.where(eigenvalues > _ROUNDING * eigenvalues[:, -1:], eigenvalues, 0)
            precision = rows.gyration.reciprocal()
            exponents = float(eigenvalues[here].max() * precision.max())
            per_molecule = len(precision) * max(n_nodes(exponents) ** 2, self.n_features**2)
            for part in torch.split(here, max(1, _CHUNK // per_molecule)):
                volume = rows.gyration.log().sum(-1) + 3 * LOG_2_PI
                density = rows.feature_log_density(statistics.take(part)) - 0.5 * (n - 1) * volume
                if n > 1:
                    density = density + log_haar_average(eigenvalues[part], precision)
                yield part, density


def noise_hash(z: Tensor, mask: Tensor) -> Tensor:
    """A hash (B,) of each molecule's real rows in their order; padding and batch do not matter."""
    place = mask.cumsum(1).to(torch.int64) * mask
    keys = stream(1, z.shape[1] + 1, z.device)
    return splitmix64((splitmix64(atom_hashes(z) + keys[place]) * mask).sum(1))
