r"""References for molecules: one Gaussian per size (`gaussian.py`), known from the data's moments.

The kinds differ in what they know of `G`, the covariance of positions, and of `m`, `W` and `B`, the
mean and covariances of features:

- `unit`:    m = 0, G = W = B = I: what samplers start from without a fit;
- `paper`:   m = 0, all three the published scalar times I (a standard deviation used as variance);
- `channel`: sizes pooled: one v_x, and a mean and variance per feature channel;
- `size`:    the moments of each size, `G = v_x(n) I`;
- `shape`:   a mixture over single molecules of that size (`shape.py`).

Tokens are molecules without positions: of each size they have `m`, `W` and `B`, and no `shape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from gaga_adapter.covariance import EigenCovariance
from gaga_adapter.errors import DataError
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.moments.molecules import matching_mask
from gaga_adapter.reference.base import LOG_2_PI, ReferenceGaussian, draw_noise, mask_of, workspace
from gaga_adapter.reference.gaussian import MoleculeGaussian, MoleculeStatistics
from gaga_adapter.subspace import project


class MoleculeReference(ReferenceGaussian):
    """A Gaussian per size: kinds `unit`, `paper`, `channel` and `size`.

    The kind `unit` only asks the moments of the data for the number of channels.
    """

    kinds: ClassVar[tuple[str, ...]] = ("unit", "paper", "channel", "size")

    def __init__(self, kind: str, moments: ExchangeableMoments) -> None:
        super().__init__(kind)
        self.n_features, self.n_positions = moments.n_features, moments.n_positions
        self.moments = moments
        self._known: dict[int, MoleculeGaussian] = {}  # by size, shared between levels

    def gaussian(self, n_atoms: int) -> MoleculeGaussian:
        """The Gaussian of one size at this level (1); of a mixture, that of its features (R)."""
        return self._rows(n_atoms).at(self.a, self.b)

    def _rows(self, n_atoms: int) -> MoleculeGaussian:
        """Data-level Gaussians of one size (R); here R = 1."""
        if n_atoms not in self._known:
            self._known[n_atoms] = self._fit(n_atoms)
        return self._known[n_atoms]

    def _fit(self, n_atoms: int) -> MoleculeGaussian:
        mean = torch.zeros(self.n_features, dtype=torch.float64)
        if self.kind in ("unit", "paper"):
            v_x = 1.0 if self.kind == "unit" else self.moments.paper_variance
            within = between = v_x * torch.eye(self.n_features, dtype=torch.float64)
        elif self.kind == "channel":
            v_x = self.moments.position_variance_per_dof
            mean = self.moments.pooled_feature_mean
            within = between = self.moments.pooled_feature_variance.diag()
        else:
            size = self.moments.at_size(n_atoms)
            v_x, mean = size.v_x, size.feature_mean
            within, between = size.within, size.between
        gyration = torch.full((1, self.n_positions), v_x, dtype=torch.float64)
        covariances = (EigenCovariance.from_matrix(matrix[None]) for matrix in (within, between))
        return MoleculeGaussian(gyration, None, mean[None], *covariances)

    def _carry(self, z: Tensor, mask: Tensor) -> Tensor:
        """Unit noise to molecules at this level, float64."""
        law = self._of_sizes(mask.sum(1)).at(self.a, self.b)
        return law.transport(self.project(z.to(torch.float64), mask), mask)

    def _of_sizes(self, n_atoms: Tensor) -> MoleculeGaussian:
        """The Gaussian (B) of each size, at the level of the data."""
        sizes, index = torch.unique(n_atoms, return_inverse=True)
        rows = MoleculeGaussian.cat([self._rows(int(n)) for n in sizes])
        return rows.to(n_atoms.device).take(index)

    def project(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Molecules with mean-free positions and zero padding; see `ReferenceGaussian.project`."""
        return project(x, mask, self.n_positions)

    def transport(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map unit noise (B, N, 3 + F) to molecules; see `ReferenceGaussian.transport`."""
        mask = self._checked_mask(z, mask)
        if self.kind == "unit":
            return self._unit_transport(z)
        home = workspace(z.device)
        return self._carry(z.to(home), mask.to(home)).to(z.device, z.dtype)

    def sample(
        self,
        n_atoms: Tensor | Sequence[int],
        /,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw molecules of these sizes (B,); see `ReferenceGaussian.sample`."""
        mask = mask_of(n_atoms)
        shape = (*mask.shape, self.n_positions + self.n_features)
        noise = draw_noise(shape, generator, device, dtype)
        mask = mask.to(noise.device)
        return self.transport(self.project(noise, mask), mask)

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of molecules in nats (B,), float64; see `ReferenceGaussian.log_prob`."""
        self._require_noise()
        return self._log_density(self._statistics(x, mask))

    def kl_from_posterior(self, x0: Tensor, mask: Tensor | None = None) -> Tensor:
        """`KL(N(a x0, b² P) || reference)`; see `ReferenceGaussian.kl_from_posterior`."""
        self._require_noise()
        clean = self._statistics(x0, mask)
        n = clean.n_atoms
        dimension = self.n_positions * (n - 1) + self.n_features * n
        entropy = 0.5 * dimension * (1 + LOG_2_PI + 2 * math.log(self.b))
        return -entropy - self._log_density(clean.expected(self.a, self.b))

    def _log_density(self, statistics: MoleculeStatistics) -> Tensor:
        """Log-density (B,) as a function of the statistics."""
        rows = self._of_sizes(statistics.n_atoms).at(self.a, self.b)
        return rows.position_log_density(statistics) + rows.feature_log_density(statistics)

    def _statistics(self, x: Tensor, mask: Tensor | None) -> MoleculeStatistics:
        mask = self._checked_mask(x, mask)
        home = workspace(x.device)
        return MoleculeStatistics.of(x.to(home), mask.to(home), self.n_positions)

    def _checked_mask(self, x: Tensor, mask: Tensor | None) -> Tensor:
        described = (self.n_features, self.n_positions)
        mask = matching_mask(x, mask, *described, "this reference describes")
        if not bool(mask.any(1).all()):
            raise DataError("a molecule of the batch has no atoms: its mask or its rows are empty.")
        return mask
