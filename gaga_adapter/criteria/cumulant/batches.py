r"""Batches of clean data, ready to give the norms of their cumulants at any noise level.

Each batch estimates, without bias, how its mean, covariance and higher cumulants differ from those
of the reference. Inner products of different batches then have no bias from noise. Whitening by
the reference's covariance is a factor `a / sqrt(a² λ + b²)` per index, so a level costs a rescaling
and a Gram matrix (G, G) of the batches, and nothing is noised. Dense events of many entries, whose
tensors would be too large, give the same matrix from the inner products of the events
(`products.py`).

A Gaussian reference has no cumulants beyond the second. Those of any other are estimated from its
own draws, and subtracted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Generator, Tensor

from gaga_adapter.covariance import DiagonalCovariance
from gaga_adapter.criteria.cumulant.invariants import (
    Parts,
    block_grams,
    contractions,
    scale_axes,
    second_moments,
)
from gaga_adapter.criteria.cumulant.kstatistics import k_statistic
from gaga_adapter.criteria.cumulant.products import k_statistic_product
from gaga_adapter.criteria.levels import anchor_of, is_gaussian
from gaga_adapter.errors import DataError
from gaga_adapter.reference import DenseReference, MoleculeReference

#: Most numbers of a joint cumulant tensor. In place of larger ones serve inner products of items.
TENSOR_LIMIT = 2**20
# With inner products: most items of a batch, and most items (squared) times entries.
_MOST_PER_BATCH, _PRODUCT_LIMIT = 512, 2**36
_BASIS_LIMIT = 4096  # most entries of an event for which eigenvectors become a full basis


@dataclass(frozen=True, eq=False)
class SizeBatches:
    """Batches of molecules of one size."""

    n_atoms: int
    n_items: int  # in all batches
    higher: list[dict[str, Tensor]]  # contractions of cumulants, less those of the reference
    second: list[dict[str, Tensor]]  # differences of `v`, `W`, `B` and of the mean
    variances: dict[str, Tensor]  # of the reference along `p` (), `u` (F,) and `g` (F,)

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
        """Batches, numbered from 0 by `batch` (n,), of molecules (n, N, 3 + F) of one size.

        A reference that is no Gaussian is drawn from `draws_per_item` times per molecule.
        """
        n_atoms = x.shape[1]
        anchor = anchor_of(reference) if not is_gaussian(reference) else reference
        assert isinstance(anchor, MoleculeReference)
        law = anchor.at(1.0, 0.0).gaussian(n_atoms)
        bases = law.within.basis[0], law.between.basis[0]
        p = law.gyration[0, 0] if reference.n_positions else torch.ones((), dtype=torch.float64)
        u, g = law.between.eigenvalues[0], law.within.eigenvalues[0]
        mean = math.sqrt(n_atoms) * (law.mean[0] @ bases[1])
        known = {
            "v": p if reference.n_positions else 0 * p,
            "W": g.diag(),
            "B": u.diag(),
            "m": mean,
        }
        parts, of_draws = _parts(x, *bases, reference.n_positions), None
        if not is_gaussian(reference):
            sizes = torch.full((len(x) * draws_per_item,), n_atoms)
            draws = reference.at(1.0, 0.0).sample(sizes, generator=generator, dtype=torch.float64)
            of_draws = _parts(draws, *bases, reference.n_positions)
        higher, second = [], []
        for number in range(int(batch.max()) + 1):
            rows = batch == number
            own, moments = _estimates(parts.take(rows), max_order)
            if of_draws is not None:
                part = of_draws.take(rows.repeat_interleave(draws_per_item))
                theirs, known = _estimates(part, max_order)
                own = {k: own[k] - theirs[k] for k in own}
            higher.append(own)
            second.append({k: moments[k] - known[k] for k in moments})
        return cls(n_atoms, len(x), higher, second, {"p": p, "u": u, "g": g})

    @property
    def n_batches(self) -> int:
        """Number G of batches."""
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
        if self.higher[0]:
            blocks |= block_grams(self.higher, scale, self.n_atoms)
        return blocks


def _parts(x: Tensor, within: Tensor, between: Tensor, n_positions: int) -> Parts:
    """Molecules (n, N, 3 + F) in their parts, with features along the given axes (F, F).

    Tokens have positions (n, N, 0), and all that is odd in nothing is zero.
    """
    positions, features = x.tensor_split([n_positions], -1)
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
    """Batches of dense events."""

    n_items: int  # in all batches
    # Differences from the reference by order, while the tensors are small: the mean (G, d), the
    # covariance (G, d, d), then joint cumulants (G, d, .., d).
    estimates: dict[int, Tensor]
    centred: list[Tensor]  # events (n_g, d) around the mean of their batch, for the orders beyond
    beyond: tuple[int, ...]
    variances: Tensor  # of the reference along each coordinate (d,)

    @staticmethod
    def room(d: int, max_order: int, n_batches: int) -> float:
        """Most events of d entries that can be judged: any number while the tensors are small."""
        if d**max_order <= TENSOR_LIMIT:
            return math.inf
        return min(_MOST_PER_BATCH * n_batches, math.isqrt(_PRODUCT_LIMIT // d))

    @classmethod
    def of(
        cls, x: Tensor, batch: Tensor, reference: DenseReference, max_order: int
    ) -> DenseBatches:
        """Batches, numbered from 0 by `batch` (M,), of events (M, C, ...), float64."""
        mean, covariance = reference.at(1.0, 0.0).gaussian(x.shape[1:], x.device)
        y = x.flatten(1) - mean
        d = y.shape[1]
        if isinstance(covariance, DiagonalCovariance):
            variances = covariance.var
        elif d > _BASIS_LIMIT:
            raise DataError(
                f"events of {d} entries are too large for cumulants against the {reference.kind} "
                f"reference; at most {_BASIS_LIMIT}. Judge against `element` or `channel`, or by "
                "two_sample."
            )
        else:
            basis = torch.linalg.qr(covariance.basis, mode="complete").Q
            basis[:, : covariance.basis.shape[1]] = covariance.basis
            y = y @ basis
            rest = covariance.residual.expand(covariance.n_rest)
            variances = torch.cat([covariance.eigenvalues, rest])
        parts = [y[batch == g] for g in range(int(batch.max()) + 1)]
        orders = range(2, max_order + 1)
        beyond = tuple(order for order in orders if d**order > TENSOR_LIMIT)
        estimates = {
            order: torch.stack([k_statistic(part, order) for part in parts])
            for order in (1, *orders)
            if order not in beyond
        }
        if 2 in estimates:
            estimates[2] = estimates[2] - variances.diag()
        centred = [part - part.mean(0) for part in parts] if beyond else []
        return cls(len(x), estimates, centred, beyond, variances)

    @property
    def n_batches(self) -> int:
        """Number G of batches."""
        return len(self.estimates[1])

    def grams(self, a: float, b: float) -> dict[str, Tensor]:
        """Gram matrices (G, G) of the whitened differences at a level, by block.

        Of orders without tensors the diagonals are zero: only different batches are compared.
        """
        scale = a * (a**2 * self.variances + b**2).rsqrt()
        grams = self._products(scale) if self.beyond else {}
        for order, estimate in self.estimates.items():
            flat = scale_axes(estimate, [scale] * order, 1).flatten(1)
            grams[order] = flat @ flat.T
        names = {1: "mean", 2: "covariance"}
        return {names.get(order, f"order_{order}"): grams[order] for order in sorted(grams)}

    def _products(self, scale: Tensor) -> dict[int, Tensor]:
        """Gram matrices (G, G) of the orders beyond, from the inner products of events."""
        n = self.n_batches
        grams = {order: scale.new_zeros(n, n) for order in self.beyond}
        known = scale**2 * self.variances  # covariance of the whitened reference (d,)
        whitened = [part * scale for part in self.centred]
        # <C_g - D, C_h - D> = <C_g, C_h> - <C_g, D> - <C_h, D> + |D|²
        along = [float((part.square() @ known).sum()) / (len(part) - 1) for part in whitened]
        for g, h in combinations(range(n), 2):
            gram = whitened[g] @ whitened[h].T
            for order in self.beyond:
                product = k_statistic_product(gram, order)
                if order == 2:
                    product = product - along[g] - along[h] + known.square().sum()
                grams[order][g, h] = grams[order][h, g] = product
        return grams
