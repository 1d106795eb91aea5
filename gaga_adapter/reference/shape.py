r"""The `shape` reference: keep the size, form and composition of one molecule of the data.

For a row `k` of the data's table (probability `pi_k` given the size), with the gyration eigenvalues
`l_k` of `x'x / (n - 1)`, draw a uniform frame U (three orthonormal columns in the mean-free space
of the n atoms) and uniform axes R:

    positions  a sqrt(n - 1) U diag(l_k)^(1/2) R' + b z,
    features   ~ mean a m_k, covariance a² W_k + b² I around it, and b² I of sqrt(n) times the mean.

Before noise, every draw has exactly the gyration tensor of its row. So second moments are those of
`size`, and size and form are spread as in the data: the moments of `|x|²` and of the eigenvalues
are the table's own, of every order. Two and three atoms span a line and a plane; their frames have
n - 1 columns, and rows that they borrow from larger sizes are flattened, with the same `|x|²`.

*Transport.* The latent `(k, R, U)` is read off the bits of the molecule's own noise: a hash of its
real rows, in their order, seeds a counter-based generator (`hashing.py`) that gives the row, a
uniform quaternion and the numbers of the frame. So `transport` is a function of one molecule's
noise, the same in every batch, padding and device. The latent is a function of the noise and yet
behaves as independent of it, as hashed bits do: changing the last bit of one coordinate draws
another molecule. The noise of the positions stays what it is.

*Density.* The mixture over rows of `hypergeometric.py`, with `s` the eigenvalues of `x'x / b²` and
`t = a² (n - 1) l_k / b²`; its docstring states the error. Rows that a rough form finds far less
likely than the likeliest one keep the rough form.

*Divergence.* The prior term is an upper bound by Jensen's inequality. Split the noised positions
into their part in the column space of `x_0` and the rest, which is noise alone in n - 4 dimensions:
an orthonormal frame Q times a triangular T, of independent Gaussian entries above a diagonal of
chi variables (Bartlett 1933). The density of a row depends on Q not at all, and but for the
Gaussian factor, whose expectation is known, its logarithm is convex in the other two. So it is
taken at their means: at `s_j = a² (eigenvalue j of x_0'x_0) / b² + c_j²`, `c_j` the mean of a chi
variable of n - 4 - j degrees of freedom, j = 0, 1, 2. The mixture over rows keeps it a bound, for
log-sum-exp is convex and rises.
"""

from __future__ import annotations

import math
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
from gaga_adapter.reference.haar import frames, rotations
from gaga_adapter.reference.hypergeometric import log_form_average, rough_form_average
from gaga_adapter.reference.molecules import MoleculeReference

_CHUNK = 2**19  # numbers in the largest temporary of the density: they stay in the cache
_FAR = 10.0  # nats below the likeliest row, where the rough form is enough
_TINY = 1e-300


class ShapeReference(MoleculeReference):
    """The mixture over single molecules of the data, all frames and all rotations: kind `shape`.

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
        forms = self._forms(size.gyration, n_atoms)
        rows = MoleculeGaussian(forms, None, size.sample_mean, within, between)
        return rows if bool((weight > 0).all()) else rows.take(weight > 0)

    def _forms(self, gyration: Tensor, n_atoms: int) -> Tensor:
        """Eigenvalues (R, 3), falling, that molecules of this size can have, with the same sum."""
        falling = gyration.flip(-1)
        possible = torch.arange(3) < n_atoms - 1
        kept = torch.where(possible, falling, 0)
        return kept * (falling.sum(1) / kept.sum(1).clamp(min=_TINY))[:, None]

    def _latent(self, seed: Tensor, mask: Tensor) -> tuple[MoleculeGaussian, Tensor, Tensor]:
        """The row, the axes (B, 3, 3) and uniform numbers (B, N, 3) of each molecule's seed."""
        n_atoms = mask.sum(1)
        u = uniforms(seed, 4 + 3 * mask.shape[1])
        parts, order = [], []
        for n in map(int, torch.unique(n_atoms)):
            here = (n_atoms == n).nonzero().flatten()
            rows = self._rows(n).to(seed.device)
            steps = self._weights[n].to(seed.device).cumsum(0)
            index = torch.searchsorted(steps, u[here, 0] * steps[-1], right=True)
            parts.append(rows.take(index.clamp(max=len(steps) - 1)))
            order.append(here)
        rows = MoleculeGaussian.cat(parts).take(torch.argsort(torch.cat(order)))
        # Atoms take their numbers by their place among the real ones.
        place = (mask.cumsum(1) - 1).clamp(min=0)[..., None].expand(-1, -1, 3)
        return rows, rotations(u[:, 1:4]), u[:, 4:].reshape(len(u), -1, 3).gather(1, place)

    def _carry(self, z: Tensor, mask: Tensor) -> Tensor:
        return self._carry_by(noise_hash(z, mask), z, mask)

    def _carry_by(self, seed: Tensor, z: Tensor, mask: Tensor) -> Tensor:
        """Unit noise to molecules at this level, float64, with the latents of seeds (B,)."""
        rows, axes, numbers = self._latent(seed, mask)
        extent = ((mask.sum(1) - 1)[:, None] * rows.gyration).sqrt()
        form = (frames(numbers, mask) * extent[:, None]) @ axes.mT
        noise = replace(rows, gyration=torch.zeros_like(rows.gyration)).at(self.a, self.b)
        molecules = noise.transport(self.project(z.to(torch.float64), mask), mask)
        molecules[..., :3] += self.a * form
        return molecules

    def row_log_density(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density (B, R), float64, of each row at molecules of one size, without its weight."""
        self._require_noise()
        statistics = self._statistics(x, mask)
        log_weight = self._log_weight(int(statistics.n_atoms[0]), statistics.n_atoms.device)
        return torch.cat([density for _, density in self._by_rows(statistics)]) - log_weight

    def _log_density(self, statistics: MoleculeStatistics) -> Tensor:
        total = torch.empty_like(statistics.mean[:, :1].sum(1))
        for part, density in self._by_rows(statistics):
            total[part] = density.logsumexp(1)
        return total

    def _log_weight(self, n_atoms: int, device: torch.device) -> Tensor:
        """Logarithm of the rows' probabilities (R,)."""
        self._rows(n_atoms)
        return self._weights[n_atoms].to(device).log()

    def _by_rows(self, statistics: MoleculeStatistics) -> Iterator[tuple[Tensor, Tensor]]:
        """Molecules of one size (b,), by index, and their log-density with each row (b, R)."""
        for n in map(int, torch.unique(statistics.n_atoms)):
            here = (statistics.n_atoms == n).nonzero().flatten()
            rows = self._rows(n).to(here.device)
            features, log_weight = rows.at(self.a, self.b), self._log_weight(n, here.device)
            per_molecule = len(log_weight) * max(9, self.n_features**2)
            for part in torch.split(here, max(1, _CHUNK // per_molecule)):
                some = statistics.take(part)
                density = features.feature_log_density(some) + log_weight
                if n > 1:
                    density = density + self._log_positions(some, rows.gyration, n, density)
                yield part, density

    def _log_positions(
        self, statistics: MoleculeStatistics, gyration: Tensor, n: int, others: Tensor
    ) -> Tensor:
        """Log-density (B, R) of the positions, exact where that of all, with `others`, counts."""
        degrees, noise = n - 1, statistics.noise
        scatter = statistics.positions - noise * degrees * torch.eye(3).to(others)
        point = torch.linalg.eigvalsh(scatter / self.b**2).flip(-1)
        known = torch.arange(3, device=point.device) < degrees
        rest = _rest(degrees).to(point) if noise else torch.zeros_like(point)
        point = (torch.where(known, point, 0) + rest).clamp(min=_TINY)  # (B, 1, 3)
        form = (self.a**2 * degrees / self.b**2 * gyration).clamp(min=_TINY)
        rough = rough_form_average(point, form, degrees)
        likely = rough + others
        row, column = (likely >= likely.amax(1, keepdim=True) - _FAR).nonzero().unbind(1)
        exact = log_form_average(point[row, 0], form[column], degrees)
        volume = LOG_2_PI + 2 * math.log(self.b) + noise / self.b**2
        density = rough.index_put((row, column), exact) - 1.5 * degrees * volume
        # The form's average has the Gaussian factor of `rest`, and `volume` that of all noise.
        return density + rest.sum(-1) / 2


def _rest(degrees: int) -> Tensor:
    """Squared means (3,), falling, of the diagonal of T: the noise outside of three columns."""
    free = [max(0, degrees - 3 - j) for j in range(3)]
    half = [math.lgamma((k + 1) / 2) - math.lgamma(k / 2) if k else -math.inf for k in free]
    return 2 * torch.tensor(half, dtype=torch.float64).mul(2).exp()


def noise_hash(z: Tensor, mask: Tensor) -> Tensor:
    """A hash (B,) of each molecule's real rows in their order; padding and batch do not matter."""
    place = mask.cumsum(1).to(torch.int64) * mask
    keys = stream(1, z.shape[1] + 1, z.device)
    return splitmix64((splitmix64(atom_hashes(z) + keys[place]) * mask).sum(1))
