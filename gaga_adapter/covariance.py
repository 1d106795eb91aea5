r"""Covariances closed under noising: `C -> a² C + b² I` stays in its family at no cost.

If `C = U diag(l) U'` then `a² C + b² I = U diag(a² l + b²) U'`: the eigenvectors never change, so
one decomposition serves every noise level. A family knows its square root (to sample), its inverse
as a quadratic form and its log-determinant (for densities), and its trace. Leading axes are a
batch, so the covariances of many molecules are one object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DiagonalCovariance:
    """`C = diag(var)`.

    Attributes:
        var: Variances (..., D), non-negative.
    """

    var: Tensor

    def affine(self, a: float, b: float) -> DiagonalCovariance:
        """`a² C + b² I`."""
        return DiagonalCovariance(a**2 * self.var + b**2)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float64) -> DiagonalCovariance:
        """The same covariance elsewhere."""
        return DiagonalCovariance(self.var.to(device, dtype))

    def sqrt_mul(self, z: Tensor) -> Tensor:
        """`C^(1/2) z` for vectors z (..., D)."""
        return self.var.sqrt() * z

    def quadratic(self, x: Tensor) -> Tensor:
        """`x' C^-1 x` (...) for vectors x (..., D)."""
        return (x**2 / self.var).sum(-1)

    def log_det(self) -> Tensor:
        """Log-determinant (...)."""
        return self.var.log().sum(-1)

    def trace(self) -> Tensor:
        """Trace (...)."""
        return self.var.sum(-1)

    def inverse_trace(self) -> Tensor:
        """`tr C^-1` (...)."""
        return self.var.reciprocal().sum(-1)


@dataclass(frozen=True)
class EigenCovariance:
    """`C = U diag(l) U' + r (I - U U')`, full when U is square, low rank otherwise.

    Attributes:
        basis: Orthonormal columns U (..., D, R) with R <= D.
        eigenvalues: Eigenvalues l (..., R), non-negative.
        residual: Variance r (...) along each of the other D - R directions; unused if R = D.
    """

    basis: Tensor
    eigenvalues: Tensor
    residual: Tensor

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> EigenCovariance:
        """Decomposition of symmetric matrices (..., D, D); negative rounding is set to zero."""
        eigenvalues, basis = torch.linalg.eigh(matrix)
        return cls(basis, eigenvalues.clamp(min=0), torch.zeros_like(eigenvalues[..., :1].sum(-1)))

    @property
    def n_rest(self) -> int:
        """Number D - R of directions outside of the basis."""
        return int(self.basis.shape[-2] - self.basis.shape[-1])

    def affine(self, a: float, b: float) -> EigenCovariance:
        """`a² C + b² I`."""
        return EigenCovariance(
            self.basis, a**2 * self.eigenvalues + b**2, a**2 * self.residual + b**2
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> EigenCovariance:
        """The same change of each tensor, such as a move or the choice of some of a batch."""
        return EigenCovariance(change(self.basis), change(self.eigenvalues), change(self.residual))

    def to(self, device: torch.device, dtype: torch.dtype = torch.float64) -> EigenCovariance:
        """The same covariance elsewhere."""
        return self.map(lambda tensor: tensor.to(device, dtype))

    @classmethod
    def cat(cls, parts: Sequence[EigenCovariance]) -> EigenCovariance:
        """Several batches as one, along their first axis."""
        return cls(
            torch.cat([part.basis for part in parts]),
            torch.cat([part.eigenvalues for part in parts]),
            torch.cat([part.residual for part in parts]),
        )

    def _coordinates(self, x: Tensor) -> Tensor:
        """`U' x` (..., R)."""
        return torch.einsum("...dr,...d->...r", self.basis, x)

    def sqrt_mul(self, z: Tensor) -> Tensor:
        """`C^(1/2) z` for vectors z (..., D), with the symmetric root."""
        scale = self.eigenvalues.sqrt()
        if not self.n_rest:
            return torch.einsum("...dr,...r->...d", self.basis, scale * self._coordinates(z))
        rest = self.residual.sqrt()[..., None]
        inside = (scale - rest) * self._coordinates(z)
        return rest * z + torch.einsum("...dr,...r->...d", self.basis, inside)

    def quadratic(self, x: Tensor) -> Tensor:
        """`x' C^-1 x` (...) for vectors x (..., D)."""
        inside = self._coordinates(x)
        total = (inside**2 / self.eigenvalues).sum(-1)
        if self.n_rest:
            outside = x - torch.einsum("...dr,...r->...d", self.basis, inside)
            total = total + (outside**2).sum(-1) / self.residual
        return total

    def inverse(self) -> Tensor:
        """`C^-1` as matrices (..., D, D)."""
        return self._matrix(self.eigenvalues.reciprocal(), self.residual.reciprocal())

    def sqrt(self) -> Tensor:
        """The symmetric root `C^(1/2)` as matrices (..., D, D)."""
        return self._matrix(self.eigenvalues.sqrt(), self.residual.sqrt())

    def _matrix(self, inside: Tensor, outside: Tensor) -> Tensor:
        """The matrices with these eigenvalues on the basis and on the rest."""
        if not self.n_rest:
            return (self.basis * inside[..., None, :]) @ self.basis.mT
        rest = outside[..., None]
        eye = torch.eye(self.basis.shape[-2], dtype=rest.dtype, device=rest.device)
        return rest[..., None] * eye + (self.basis * (inside - rest)[..., None, :]) @ self.basis.mT

    def log_det(self) -> Tensor:
        """Log-determinant (...)."""
        total = self.eigenvalues.log().sum(-1)
        return total + self.n_rest * self.residual.log() if self.n_rest else total

    def trace(self) -> Tensor:
        """Trace (...)."""
        return self.eigenvalues.sum(-1) + self.n_rest * self.residual

    def inverse_trace(self) -> Tensor:
        """`tr C^-1` (...)."""
        total = self.eigenvalues.reciprocal().sum(-1)
        return total + self.n_rest / self.residual if self.n_rest else total


Covariance = DiagonalCovariance | EigenCovariance


def is_covariance(matrix: Tensor, rounding: float) -> Tensor:
    """Whether matrices (..., D, D) are symmetric and have no negative eigenvalue, bool (...).

    Both may be missed by `rounding` times the largest entry of the diagonal.
    """
    if not matrix.shape[-1]:
        return torch.ones(matrix.shape[:-2], dtype=torch.bool)
    largest = matrix.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=torch.finfo(matrix.dtype).tiny)
    scaled = matrix / largest[..., None, None]
    asymmetry = (scaled - scaled.mT).abs().flatten(-2).amax(-1)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    failures: Tensor = torch.linalg.cholesky_ex((scaled + scaled.mT) / 2 + rounding * eye).info
    proper: Tensor = (asymmetry <= rounding) & (failures == 0)
    return proper
