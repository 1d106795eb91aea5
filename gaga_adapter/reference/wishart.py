r"""The `shape` reference of older artefacts: rows as covariances, around which the draws scatter.

For a row `k` of the data's table and a Haar-random `R`, positions are, for each of n - 1 degrees,
N(0, a² R diag(l_k) R' + b² I). The tensor of one molecule serves as a covariance, and a draw has a
Wishart matrix around it. So the spread of size and form is counted twice,

    Var q = Var tr(l_k) / 3 + 2 / (9 (n - 1)) E tr(diag(l_k)²),     q = |x|² / (3 (n - 1)),

where the data have the first term alone: the second moments agree and the fourth do not. Fits keep
each row's tensor exactly since (`shape.py`). Artefacts from before keep this start, which their t*
was chosen for.

*Density.* The average over rotations is that of `haar.py`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gaga_adapter.reference.base import LOG_2_PI
from gaga_adapter.reference.gaussian import MoleculeStatistics
from gaga_adapter.reference.haar import log_haar_average
from gaga_adapter.reference.shape import ShapeReference

# Two and three atoms span a line and a plane, whose other eigenvalues are zero but for rounding.
_ROUNDING = 1e-15


class WishartShapeReference(ShapeReference):
    """The mixture over Gaussians whose covariances are the tensors of single molecules."""

    def _forms(self, gyration: Tensor, n_atoms: int) -> Tensor:
        return gyration

    def _carry_by(self, seed: Tensor, z: Tensor, mask: Tensor) -> Tensor:
        rows, axes, _ = self._latent(seed, mask)
        law = replace(rows, axes=axes).at(self.a, self.b)
        return law.transport(self.project(z.to(torch.float64), mask), mask)

    def _log_positions(
        self, statistics: MoleculeStatistics, gyration: Tensor, n: int, rough: Tensor
    ) -> Tensor:
        eigenvalues = torch.linalg.eigvalsh(statistics.positions[:, 0])
        eigenvalues = torch.where(eigenvalues > _ROUNDING * eigenvalues[:, -1:], eigenvalues, 0)
        variance = self.a**2 * gyration + self.b**2
        volume = variance.log().sum(-1) + 3 * LOG_2_PI
        return log_haar_average(eigenvalues, variance.reciprocal()) - 0.5 * (n - 1) * volume
