r"""The Gaussian over molecules of exchangeable atoms, and the statistics its density depends on.

A molecule of `n` atoms splits into three independent Gaussians, on complementary subspaces:

    positions, zero centre of mass:     (n - 1) copies of N(0, G)            G is 3×3
    features around their mean:         (n - 1) copies of N(0, W)            W is F×F
    sqrt(n) times the mean feature:     N(sqrt(n) m, B)                      B is F×F

and noising does `G, W, B, m -> a² G + b² I, a² W + b² I, a² B + b² I, a m`.

The log-density is linear in the statistics `x'x`, `sum (h - m)(h - m)'` and `m m'` of a molecule.
Its expectation under `N(a x0, b² P)` is therefore the same formula at expected statistics, which
turns the density into the divergence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gaga_adapter.covariance import EigenCovariance
from gaga_adapter.reference.base import LOG_2_PI
from gaga_adapter.subspace import project


@dataclass(frozen=True)
class MoleculeStatistics:
    """What the log-density of B molecules depends on."""

    n_atoms: Tensor  # sizes (B,), float64 so that everything they multiply is
    positions: Tensor  # `sum_i x_i x_i'` (B, 3, 3); of tokens (B, 0, 0)
    mean: Tensor  # mean feature (B, F)
    features: Tensor  # `sum_i (h_i - m)(h_i - m)'` (B, F, F)
    noise: float = 0.0  # variance per degree of freedom that was averaged: `mean` leaves it out

    @classmethod
    def of(cls, x: Tensor, mask: Tensor, n_positions: int = 3) -> MoleculeStatistics:
        """Statistics of molecules (B, N, 3 + F); their centre of mass is removed."""
        x = project(x.to(torch.float64), mask, n_positions)
        n_atoms = mask.sum(1).to(torch.float64)
        positions, features = x.tensor_split([n_positions], -1)
        mean = features.sum(1) / n_atoms[:, None]
        around = (features - mean[:, None]) * mask[..., None]
        return cls(n_atoms, positions.mT @ positions, mean, around.mT @ around)

    def expected(self, a: float, b: float) -> MoleculeStatistics:
        """Expectation over `a x + b eps`, where these are the statistics of x."""
        noise = (b**2 * (self.n_atoms - 1))[:, None, None]
        positions, features = (
            a**2 * scatter + noise * torch.eye(scatter.shape[1]).to(noise)
            for scatter in (self.positions, self.features)
        )
        return MoleculeStatistics(self.n_atoms, positions, a * self.mean, features, b**2)

    def take(self, index: Tensor) -> MoleculeStatistics:
        """Some of the molecules, each with an axis of length one for the rows of a mixture."""
        every = (self.n_atoms, self.positions, self.mean, self.features)
        n_atoms, positions, mean, features = (tensor[index][:, None] for tensor in every)
        return MoleculeStatistics(n_atoms, positions, mean, features, self.noise)


@dataclass(frozen=True)
class MoleculeGaussian:
    """Gaussians over molecules: one for each molecule (R), or the rows (R) of a mixture.

    `axes` are `None` if G is a multiple of I, or until the axes of a mixture's rows are drawn.
    """

    gyration: Tensor  # eigenvalues of G (R, 3); of tokens, without positions, (R, 0)
    axes: Tensor | None  # eigenvectors of G in columns (R, 3, 3)
    mean: Tensor  # m (R, F)
    within: EigenCovariance  # W, batch (R)
    between: EigenCovariance  # B, batch (R)

    def at(self, a: float, b: float) -> MoleculeGaussian:
        """The law of `a x + b eps`."""
        return MoleculeGaussian(
            a**2 * self.gyration + b**2,
            self.axes,
            a * self.mean,
            self.within.affine(a, b),
            self.between.affine(a, b),
        )

    def take(self, index: Tensor) -> MoleculeGaussian:
        """Some rows."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> MoleculeGaussian:
        """The same on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> MoleculeGaussian:
        return MoleculeGaussian(
            change(self.gyration),
            None if self.axes is None else change(self.axes),
            change(self.mean),
            self.within.map(change),
            self.between.map(change),
        )

    @classmethod
    def cat(cls, parts: Sequence[MoleculeGaussian]) -> MoleculeGaussian:
        """The rows of several tables one after the other; none of them has axes yet."""
        return cls(
            torch.cat([part.gyration for part in parts]),
            None,
            torch.cat([part.mean for part in parts]),
            EigenCovariance.cat([part.within for part in parts]),
            EigenCovariance.cat([part.between for part in parts]),
        )

    def transport(self, z: Tensor, mask: Tensor) -> Tensor:
        """Unit noise (R, N, 3 + F), projected, to molecules, by symmetric square roots."""
        positions, features = z.tensor_split([self.gyration.shape[-1]], -1)
        scale = self.gyration.sqrt()[:, None]
        if self.axes is None:
            positions = scale * positions
        else:
            positions = (scale * (positions @ self.axes)) @ self.axes.mT
        n_atoms = mask.sum(1, keepdim=True)
        mean = features.sum(1) / n_atoms
        shared = self.between.sqrt_mul(mean) + self.mean
        features = (features - mean[:, None]) @ self.within.sqrt() + shared[:, None]
        return torch.cat([positions, features], dim=-1) * mask[..., None]

    def feature_log_density(self, statistics: MoleculeStatistics) -> Tensor:
        """Log-density (R) of the features alone."""
        n, f = statistics.n_atoms, self.mean.shape[-1]
        residual = statistics.mean - self.mean
        energy = (
            (n - 1) * self.within.log_det()
            + (self.within.inverse() * statistics.features).sum((-2, -1))
            + self.between.log_det()
            + n * self.between.quadratic(residual)
            + statistics.noise * self.between.inverse_trace()
        )
        return -0.5 * (energy + n * f * LOG_2_PI)

    def position_log_density(self, statistics: MoleculeStatistics) -> Tensor:
        """Log-density (R) of the positions alone, for G a multiple of I."""
        n_positions = self.gyration.shape[-1]
        if not n_positions:
            return torch.zeros_like(statistics.n_atoms)
        variance = self.gyration[..., 0]
        square = statistics.positions.diagonal(dim1=-2, dim2=-1).sum(-1)
        dimension = n_positions * (statistics.n_atoms - 1)
        return -0.5 * (dimension * (LOG_2_PI + variance.log()) + square / variance)
