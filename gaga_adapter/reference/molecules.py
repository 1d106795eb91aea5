r"""References for molecules: Gaussian over exchangeable atoms, per size.

A molecule of `n` atoms splits into three independent Gaussians, on complementary subspaces:

    positions, zero centre of mass:     (n - 1) copies of N(0, G)            G is 3×3
    features around their mean:         (n - 1) copies of N(0, W)            W is F×F
    sqrt(n) times the mean feature:     N(sqrt(n) m, B)                      B is F×F

and noising does `G, W, B, m -> a² G + b² I, a² W + b² I, a² B + b² I, a m`. The kinds differ in
what they know:

- `unit`:    m = 0, G = W = B = I: what samplers start from without a fit;
- `paper`:   m = 0, all three the published scalar times I (a standard deviation used as variance);
- `channel`: sizes pooled: one v_x, and a mean and variance per feature channel;
- `size`:    the moments of each size, `G = v_x(n) I`;
- `shape`:   a mixture over single molecules of that size (`shape.py`).

The log-density is linear in the statistics `x'x`, `sum (h - m)(h - m)'` and `m m'` of a molecule.
Its expectation under `N(a x0, b² P)` is therefore the same formula at expected statistics, which
turns the density into the divergence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gaga_adapter.covariance import EigenCovariance
from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference.base import ReferenceGaussian, draw_noise, workspace
from gaga_adapter.subspace import mask_from_padding, mask_from_sizes, project

LOG_2_PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class MoleculeStatistics:
    """What the log-density of B molecules depends on.

    Attributes:
        n_atoms: (B,), float64 so that everything it multiplies is.
        positions: `sum_i x_i x_i'` (B, 3, 3).
        mean: mean feature (B, F).
        features: `sum_i (h_i - m)(h_i - m)'` (B, F, F).
        mean_noise: variance of each entry of `sqrt(n) m` that `mean` leaves out; 0 for a point.
    """

    n_atoms: Tensor
    positions: Tensor
    mean: Tensor
    features: Tensor
    mean_noise: float = 0.0

    @classmethod
    def of(cls, x: Tensor, mask: Tensor) -> MoleculeStatistics:
        """Statistics of molecules (B, N, 3 + F); their centre of mass is removed."""
        x = project(x.to(torch.float64), mask)
        n_atoms = mask.sum(1).to(torch.float64)
        positions, features = x[..., :3], x[..., 3:]
        mean = features.sum(1) / n_atoms[:, None]
        around = (features - mean[:, None]) * mask[..., None]
        return cls(n_atoms, positions.mT @ positions, mean, around.mT @ around)

    def expected(self, a: float, b: float) -> MoleculeStatistics:
        """Expectation over `a x + b eps`, where these are the statistics of x."""
        noise = (b**2 * (self.n_atoms - 1))[:, None, None]
        return MoleculeStatistics(
            self.n_atoms,
            a**2 * self.positions + noise * torch.eye(3, dtype=noise.dtype, device=noise.device),
            a * self.mean,
            a**2 * self.features
            + noise * torch.eye(self.mean.shape[1], dtype=noise.dtype, device=noise.device),
            b**2,
        )

    def spread(self) -> MoleculeStatistics:
        """An axis of length one (B, 1) to pair every molecule with every row of a mixture."""
        return MoleculeStatistics(
            self.n_atoms[:, None],
            self.positions[:, None],
            self.mean[:, None],
            self.features[:, None],
            self.mean_noise,
        )

    def take(self, index: Tensor) -> MoleculeStatistics:
        """Some of the molecules."""
        return MoleculeStatistics(
            self.n_atoms[index],
            self.positions[index],
            self.mean[index],
            self.features[index],
            self.mean_noise,
        )


@dataclass(frozen=True)
class MoleculeGaussian:
    """Gaussians over molecules; one each (R), or the rows of a mixture.

    Attributes:
        gyration: eigenvalues of G (R, 3).
        axes: eigenvectors of G in columns (R, 3, 3), or `None` if G is a multiple of I or the
            axes are not yet drawn.
        mean: m (R, F).
        within: W, batch (R).
        between: B, batch (R).
    """

    gyration: Tensor
    axes: Tensor | None
    mean: Tensor
    within: EigenCovariance
    between: EigenCovariance

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
        return MoleculeGaussian(
            self.gyration[index],
            None if self.axes is None else self.axes[index],
            self.mean[index],
            self.within.take(index),
            self.between.take(index),
        )

    def to(self, device: torch.device) -> MoleculeGaussian:
        """The same on another device."""
        return MoleculeGaussian(
            self.gyration.to(device),
            None if self.axes is None else self.axes.to(device),
            self.mean.to(device),
            self.within.to(device),
            self.between.to(device),
        )

    @classmethod
    def cat(cls, parts: Sequence[MoleculeGaussian]) -> MoleculeGaussian:
        """Rows of several tables, whose axes are not yet drawn, one after the other."""
        return cls(
            torch.cat([part.gyration for part in parts]),
            None,
            torch.cat([part.mean for part in parts]),
            EigenCovariance.cat([part.within for part in parts]),
            EigenCovariance.cat([part.between for part in parts]),
        )

    def with_axes(self, axes: Tensor) -> MoleculeGaussian:
        """The same with G turned to these axes (R, 3, 3)."""
        return MoleculeGaussian(self.gyration, axes, self.mean, self.within, self.between)

    def transport(self, z: Tensor, mask: Tensor) -> Tensor:
        """Unit noise (R, N, 3 + F), projected, to molecules, by symmetric square roots."""
        positions, features = z[..., :3], z[..., 3:]
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
            + statistics.mean_noise * self.between.inverse_trace()
        )
        return -0.5 * (energy + n * f * LOG_2_PI)

    def position_log_density(self, statistics: MoleculeStatistics) -> Tensor:
        """Log-density (R) of the positions alone, for G a multiple of I."""
        variance = self.gyration[..., 0]
        square = statistics.positions.diagonal(dim1=-2, dim2=-1).sum(-1)
        dimension = 3 * (statistics.n_atoms - 1)
        return -0.5 * (dimension * (LOG_2_PI + variance.log()) + square / variance)


class MoleculeReference(ReferenceGaussian):
    """A Gaussian per size: kinds `unit`, `paper`, `channel` and `size`.

    Args:
        kind: which.
        moments: of the data; `unit` only asks them for the number of channels.
    """

    kinds: ClassVar[tuple[str, ...]] = ("unit", "paper", "channel", "size")

    def __init__(self, kind: str, moments: ExchangeableMoments) -> None:
        super().__init__(kind)
        self.n_features = moments.n_features
        self._moments = moments
        self._known: dict[int, MoleculeGaussian] = {}  # by size, shared between levels

    # ---------------------------------------------------------------- the data, per size

    def _rows(self, n_atoms: int) -> MoleculeGaussian:
        """Data-level Gaussians of one size (R); here R = 1."""
        if n_atoms not in self._known:
            self._known[n_atoms] = self._fit(n_atoms)
        return self._known[n_atoms]

    def _fit(self, n_atoms: int) -> MoleculeGaussian:
        f = self.n_features
        eye = torch.eye(f, dtype=torch.float64)
        mean = torch.zeros(f, dtype=torch.float64)
        if self.kind in ("unit", "paper"):
            v_x = 1.0 if self.kind == "unit" else self._moments.paper_variance
            within = between = v_x * eye
        elif self.kind == "channel":
            v_x = self._moments.position_variance_per_dof
            mean = self._moments.pooled_feature_mean
            within = between = self._moments.pooled_feature_variance.diag()
        else:
            size = self._moments.at_size(n_atoms)
            v_x, mean = size.v_x, size.feature_mean
            within, between = size.within, size.between
        return MoleculeGaussian(
            torch.full((1, 3), v_x, dtype=torch.float64),
            None,
            mean[None],
            EigenCovariance.from_matrix(within[None]),
            EigenCovariance.from_matrix(between[None]),
        )

    def _choose(self, z: Tensor, mask: Tensor) -> MoleculeGaussian:
        """The Gaussian (B) that each molecule's noise is sent to, at the level of the data."""
        n_atoms = mask.sum(1)
        sizes, index = torch.unique(n_atoms, return_inverse=True)
        return MoleculeGaussian.cat([self._rows(int(n)) for n in sizes]).to(z.device).take(index)

    # ---------------------------------------------------------------- the four verbs

    def transport(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map unit noise to the reference, deterministically and molecule by molecule.

        Positions are projected first; `unit` only scales, so at `a² + b² = 1` it returns the noise
        itself, bit for bit.

        Args:
            z: unit noise (B, N, 3 + F), padding exactly zero.
            mask: real atoms (B, N); inferred from the padding when `None`.

        Returns:
            Molecules (B, N, 3 + F), dtype and device of `z`.

        Raises:
            StatsMismatchError: another number of channels.
        """
        mask = self._checked_mask(z, mask)
        if self.kind == "unit":
            scale = math.hypot(self.a, self.b)
            return z.clone() if abs(scale - 1) < 1e-12 else z * scale
        home = workspace(z.device)
        noise, mask = z.to(home), mask.to(home)
        chosen = self._choose(noise, mask).at(self.a, self.b)
        moved = chosen.transport(project(noise.to(torch.float64), mask), mask)
        return moved.to(z.device, z.dtype)

    def sample(
        self,
        n_atoms: Tensor | Sequence[int],
        /,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw molecules.

        Args:
            n_atoms: sizes (B,), each at least 1.
            generator: source of the noise; it is the only one.
            device: where; that of the generator, else the CPU, when `None`.
            dtype: of the result; torch's default when `None`.

        Returns:
            (B, max size, 3 + F), padding exactly zero.

        Raises:
            DataError: a size below 1.
        """
        sizes = torch.as_tensor(n_atoms, dtype=torch.int64)
        if sizes.dim() != 1 or not bool((sizes >= 1).all()):
            raise DataError(f"n_atoms must be a list of sizes of at least 1, got {n_atoms}.")
        mask = mask_from_sizes(sizes)
        noise = draw_noise((*mask.shape, 3 + self.n_features), generator, device, dtype)
        mask = mask.to(noise.device)
        return self.transport(project(noise, mask), mask)

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density in nats (B,), float64, on the zero-centre-of-mass subspace.

        Args:
            x: molecules (B, N, 3 + F) with zero centre of mass.
            mask: real atoms (B, N); inferred from the padding when `None`.

        Raises:
            TruncationError: b = 0.
        """
        self._require_noise()
        mask = self._checked_mask(x, mask)
        home = workspace(x.device)
        return self._log_density(MoleculeStatistics.of(x.to(home), mask.to(home)))

    def kl_from_posterior(self, x0: Tensor, mask: Tensor | None = None) -> Tensor:
        """`KL(N(a x0, b² P) || reference)` in nats (B,), float64, exact.

        Args:
            x0: clean molecules (B, N, 3 + F).
            mask: real atoms (B, N); inferred from the padding when `None`.

        Raises:
            TruncationError: b = 0.
        """
        self._require_noise()
        mask = self._checked_mask(x0, mask)
        home = workspace(x0.device)
        clean = MoleculeStatistics.of(x0.to(home), mask.to(home))
        n = clean.n_atoms
        dimension = 3 * (n - 1) + self.n_features * n
        entropy = 0.5 * dimension * (1 + LOG_2_PI + 2 * math.log(self.b))
        return -entropy - self._log_density(clean.expected(self.a, self.b))

    def _log_density(self, statistics: MoleculeStatistics) -> Tensor:
        """Log-density (B,) as a function of the statistics."""
        sizes, index = torch.unique(statistics.n_atoms, return_inverse=True)
        rows = (
            MoleculeGaussian.cat([self._rows(int(n)) for n in sizes])
            .to(statistics.mean.device)
            .take(index)
        )
        rows = rows.at(self.a, self.b)
        return rows.position_log_density(statistics) + rows.feature_log_density(statistics)

    def _checked_mask(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if x.dim() != 3 or x.shape[-1] != 3 + self.n_features:
            raise StatsMismatchError(
                f"this reference describes molecules (B, N, 3+{self.n_features}), "
                f"got {tuple(x.shape)}."
            )
        mask = mask_from_padding(x) if mask is None else mask
        if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            raise StatsMismatchError(
                f"the mask must be bool {tuple(x.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}."
            )
        if not bool(mask.any(1).all()):
            raise DataError("a molecule of the batch has no atoms: its mask or its rows are empty.")
        return mask
