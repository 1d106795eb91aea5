r"""Batches of clean data, ready to give the norms of their cumulants at any noise level.

Each batch estimates, without bias, how its mean, covariance and higher cumulants differ from those
of the reference. Inner products of different batches then have no bias from noise. Whitening by
the reference's covariance is a factor `a / sqrt(a² λ + b²)` per index, so a level costs a rescaling
and a Gram matrix (G, G) of the batches, and nothing is noised.

A Gaussian reference has no cumulants beyond the second. Those of any other are estimated from its
own draws, and subtracted.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gaga_adapter.covariance import DiagonalCovariance
from gaga_adapter.criteria.kstatistics import k_statistic, marginal_k_statistic
from gaga_adapter.criteria.linear import anchor_of, is_gaussian
from gaga_adapter.criteria.molecule_invariants import (
    Parts,
    block_grams,
    contractions,
    second_moments,
)
from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.reference import DenseReference, MoleculeReference, ReferenceGaussian

_JOINT_LIMIT = 2**20  # entries of a joint cumulant tensor; beyond, single entries only
_BASIS_LIMIT = 4096  # entries of an event whose eigenvectors are completed


@dataclass(frozen=True, eq=False)
class SizeBatches:
    """Batches of molecules of one size.

    Attributes:
        n_atoms: N.
        n_items: molecules in all batches.
        found: contractions of cumulants of each batch, less those of the reference.
        second: differences of `v`, `W`, `B` and of the mean of each batch.
        variances: of the reference, along `p` (), `u` (F,) and `g` (F,).
    """

    n_atoms: int
    n_items: int
    found: list[dict[str, Tensor]]
    second: list[dict[str, Tensor]]
    variances: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        x: Tensor,
        batch: Tensor,
        reference: MoleculeReference,
        max_order: int,
        draws_per_item: int,
        generator: Generator | None,
    ) -> SizeBatches:
        """Batches of molecules.

        Args:
            x: molecules of one size (n, N, 3 + F), float64.
            batch: number of the batch of each (n,), from 0.
            reference: at any level.
            max_order: 2 to 4.
            draws_per_item: draws of a reference that is no Gaussian, per molecule.
            generator: of these draws.
        """
        n_atoms = x.shape[1]
        anchor = anchor_of(reference) if not is_gaussian(reference) else reference
        assert isinstance(anchor, MoleculeReference)
        law = anchor.at(1.0, 0.0).gaussian(n_atoms)
        bases = law.within.basis[0], law.between.basis[0]
        variances = {
            "p": law.gyration[0, 0],
            "u": law.between.eigenvalues[0],
            "g": law.within.eigenvalues[0],
        }
        known = {
            "v": variances["p"],
            "W": variances["g"].diag(),
            "B": variances["u"].diag(),
            "m": math.sqrt(n_atoms) * (law.mean[0] @ bases[1]),
        }
        parts, drawn = _parts(x, *bases), None
        if not is_gaussian(reference):
            sizes = torch.full((len(x) * draws_per_item,), n_atoms)
            draws = reference.at(1.0, 0.0).sample(sizes, generator=generator, dtype=torch.float64)
            drawn = _parts(draws, *bases)
        found, second = [], []
        for g in range(int(batch.max()) + 1):
            rows = batch == g
            own, moments = _estimates(parts.take(rows), max_order)
            theirs: dict[str, Tensor] = {}
            others = known
            if drawn is not None:
                part = drawn.take(rows.repeat_interleave(draws_per_item))
                theirs, others = _estimates(part, max_order)
            found.append({k: own[k] - theirs[k] if theirs else own[k] for k in own})
            second.append({k: moments[k] - others[k] for k in moments})
        return cls(n_atoms, len(x), found, second, variances)

    @property
    def n_batches(self) -> int:
        """G."""
        return len(self.second)

    def grams(self, a: float, b: float) -> dict[str, Tensor]:
        """Gram matrices (G, G) of the whitened differences at a level, by block."""
        scale = {k: a * (a**2 * v + b**2).rsqrt() for k, v in self.variances.items()}
        free = self.n_atoms - 1
        mean = torch.stack([d["m"] for d in self.second]) * scale["u"]
        v = torch.stack([d["v"] for d in self.second])[:, None] * scale["p"] ** 2
        within, between = (
            (torch.stack([d[name] for d in self.second]) * s[:, None] * s).flatten(1)
            for name, s in (("W", scale["g"]), ("B", scale["u"]))
        )
        second = 3 * free * v @ v.T + free * within @ within.T + between @ between.T
        blocks = {"mean": mean @ mean.T, "covariance": second}
        if self.found[0]:
            blocks |= block_grams(self.found, scale, self.n_atoms)
        return blocks


def _parts(x: Tensor, within: Tensor, between: Tensor) -> Parts:
    """Molecules (n, N, 3 + F) in their parts, features along these axes (F, F)."""
    positions, features = x[..., :3], x[..., 3:]
    mean = features.mean(1)
    return Parts(
        positions - positions.mean(1, keepdim=True),
        (features - mean[:, None]) @ within,
        math.sqrt(x.shape[1]) * mean @ between,
    )


def _estimates(parts: Parts, max_order: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Contractions of the cumulants beyond the second, and the second moments."""
    return contractions(parts, max_order) if max_order > 2 else {}, second_moments(parts)


@dataclass(frozen=True, eq=False)
class DenseBatches:
    """Batches of dense events.

    Attributes:
        n_items: events in all batches.
        estimates: by order, differences from the reference: the mean (G, d), the covariance
            (G, d, d), then joint cumulants (G, d, .., d), or those of single entries (G, d).
        variances: of the reference along each coordinate (d,).
    """

    n_items: int
    estimates: dict[int, Tensor]
    variances: Tensor

    @classmethod
    def of(
        cls, x: Tensor, batch: Tensor, reference: DenseReference, max_order: int
    ) -> DenseBatches:
        """Batches of events.

        Args:
            x: events (M, C, ...), float64.
            batch: number of the batch of each (M,), from 0.
            reference: at any level.
            max_order: 2 to 6.

        Raises:
            DataError: too many entries for the eigenvectors of the reference.
        """
        mean, covariance = reference.at(1.0, 0.0).gaussian(x.shape[1:], x.device)
        y = x.flatten(1) - mean
        d = y.shape[1]
        if isinstance(covariance, DiagonalCovariance):
            variances = covariance.var
        else:
            if d > _BASIS_LIMIT:
                raise DataError(
                    f"events of {d} entries are too large for cumulants against the "
                    f"{reference.kind} reference; at most {_BASIS_LIMIT}. Judge against `element` "
                    "or `channel`, or by two_sample."
                )
            basis = torch.linalg.qr(covariance.basis, mode="complete").Q
            basis[:, : covariance.basis.shape[1]] = covariance.basis
            y = y @ basis
            rest = covariance.residual.expand(covariance.n_rest)
            variances = torch.cat([covariance.eigenvalues, rest])
        if d**2 > _JOINT_LIMIT:
            warnings.warn(
                f"events of {d} entries: cumulants of single entries only, correlations are not "
                "counted. Judge by two_sample as well.",
                GAGAWarning,
                stacklevel=4,
            )
        parts = [y[batch == g] for g in range(int(batch.max()) + 1)]
        estimates = {}
        for order in range(1, max_order + 1):
            estimate = k_statistic if d**order <= _JOINT_LIMIT else marginal_k_statistic
            estimates[order] = torch.stack([estimate(part, order) for part in parts])
        known = variances.diag() if estimates[2].dim() == 3 else variances
        estimates[2] = estimates[2] - known
        return cls(len(x), estimates, variances)

    @property
    def n_batches(self) -> int:
        """G."""
        return len(self.estimates[1])

    def grams(self, a: float, b: float) -> dict[str, Tensor]:
        """Gram matrices (G, G) of the whitened differences at a level, by block."""
        scale = a * (a**2 * self.variances + b**2).rsqrt()
        names = {1: "mean", 2: "covariance"}
        blocks = {}
        for order, estimate in self.estimates.items():
            joint = estimate.dim() == order + 1
            whitened = estimate
            for axis in range(order):
                shape = [1] * estimate.dim()
                shape[1 + axis if joint else 1] = -1
                whitened = whitened * scale.reshape(shape)
            flat = whitened.flatten(1)
            blocks[names.get(order, f"order_{order}")] = flat @ flat.T
        return blocks


def checked_reference(reference: ReferenceGaussian, mask: Tensor | None) -> None:
    """Refuse a reference of another kind of data.

    Raises:
        DataError: molecules need a reference of molecules, and dense data one of dense data.
    """
    wanted = DenseReference if mask is None else MoleculeReference
    if not isinstance(reference, wanted):
        raise DataError(
            f"a {type(reference).__name__} is no reference for these data; need a "
            f"{wanted.__name__}, such as make_reference gives."
        )
