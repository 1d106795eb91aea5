r"""Cumulants: the whole curve from clean data, without noise, samples or a model.

Noise has no cumulants beyond the second, and cumulants of independent sums add, so those of
`x_t = a x_0 + b eps` are `a^k C^(k)(x_0)`. The paper (Qu et al., ICLR 2026, Proposition 3.1)
measures non-Gaussianity, for x_t of unit variances, by

    H^K = beta ||offdiag C^(2)||² + sum_{k=3..K} w_k ||C^(k)||²

and leaves `beta, w_k > 0` free. Here x_t is whitened by the reference, and the mean and the whole
covariance count where they differ from the reference's,

    H^K = 1/2 ||E y||² + beta ||Cov y - I||² + sum_{k=3..K} w_k ||C^(k)(y)||²,

which is the paper's where the reference has the data's own variances. The default weights are those
of the Edgeworth expansion of KL(x_t || reference) around the reference (McCullagh 1987, section
5.3; Comon 1994, Eq. 3.4): `beta = 1/4, w_k = 1/(2 k!)`, so that H is an estimate in nats. It is the
leading part near the reference, where t* is chosen; far from it the expansion overshoots, and its
square counts what a KL counts by its logarithm. Against a mixture (`shape`) the cumulants of the
reference are subtracted: `||C^(k)(data) - C^(k)(reference)||²`.

**Dense data**: joint cumulants of all entries while the tensor has at most 2^20 numbers, beyond
that those of single entries, in the eigenvectors of the reference (a partial sum). Up to order 6.

**Molecules**: the full joint tensors of every size, up to order 4, by their symmetry
(`molecule_invariants.py`): also the cumulants of two positions with one or two features. Sizes of
fewer than 24 distinct molecules are left out; the column `share` says how much was judged.

Estimates are unbiased: k-statistics in each of G batches, products of different batches only.
Pseudo-values of the jackknife over batches are the contributions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.criteria.cumulant_batches import DenseBatches, SizeBatches, checked_reference
from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.criteria.kstatistics import MAX_ORDER, norm_pseudo_values
from gaga_adapter.criteria.levels import check_data, coefficients, falling
from gaga_adapter.criteria.molecule_invariants import BLOCKS
from gaga_adapter.criteria.separation import copies
from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.reference import DenseReference, MoleculeReference, ReferenceGaussian

_MAX_MOLECULE_ORDER = 4
_FEWEST_BATCHES, _BATCH = 3, 8
#: Columns of the curve of molecules: types of cumulants, by the blocks they hold.
_TYPES = {
    "fff": ("uuu", "ugg", "ggg"),
    "ppf": ("upp", "gpp"),
    "ffff": ("uuuu", "uugg", "uggg", "gggg"),
    "ppff": ("uupp", "ugpp", "ggpp"),
    "pppp": ("pppp",),
}


@dataclass(frozen=True)
class Cumulant:
    """Cumulants of noised data against those of the reference, in nats per data item.

    Attributes:
        max_order: K, from 2; up to 6 for dense data, up to 4 for molecules (more counts as 4).
        beta: weight of the covariance.
        weights: w_3 .. w_K; those of the Edgeworth expansion when `None`.
        n_samples: at most so many data items.
        n_batches: G, of molecules per size.
        draws_per_item: draws of a reference that is no Gaussian, per data item.

    Raises:
        DataError: a setting that makes no sense.
    """

    name: ClassVar[str] = "cumulant"
    unit: ClassVar[str] = "nats"

    max_order: int = 4
    beta: float = 0.25
    weights: tuple[float, ...] | None = None
    n_samples: int = 50_000
    n_batches: int = 10
    draws_per_item: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.max_order <= MAX_ORDER:
            raise DataError(f"max_order={self.max_order}: orders 2 to {MAX_ORDER} are known.")
        if self.weights is not None and len(self.weights) != self.max_order - 2:
            raise DataError(
                f"got {len(self.weights)} weights; max_order={self.max_order} needs "
                f"{self.max_order - 2}, of orders 3 to {self.max_order}."
            )
        if not all(w >= 0 and math.isfinite(w) for w in (self.beta, *(self.weights or ()))):
            raise DataError(
                f"beta={self.beta}, weights={self.weights}: finite and not negative, please."
            )
        for name, least in (("n_batches", 3), ("n_samples", 24), ("draws_per_item", 1)):
            if getattr(self, name) < least:
                raise DataError(f"{name}={getattr(self, name)} must be at least {least}.")

    def curve(
        self,
        x: Tensor,
        mask: Tensor | None,
        reference: ReferenceGaussian,
        log_snr: Tensor,
        generator: Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CriterionCurve:
        """H^K over log-SNR; see `Criterion.curve`.

        Args:
            x: molecules (M, N, 3 + F), or dense data (M, C, ...).
            mask: molecules: real atoms (M, N), bool. `None` says that the data are dense.
            reference: at any level.
            log_snr: levels (L,), in any order.
            generator: puts the items into batches; draws a reference that is no Gaussian.
            progress: called with (levels done, levels in all).

        Returns:
            Curve with the extra columns `mean` and `covariance`, then for dense data `order_3` ..
            `order_K`, for molecules `fff, ppf, ffff, ppff, pppp` (p a position, f a feature) and
            `share`, of the molecules that were judged. The first ones sum to the value.

        Raises:
            DataError: too few items, a number that is not finite, or other shapes.
        """
        check_data(x, mask)
        levels = falling(log_snr)
        checked_reference(reference, mask)
        home = generator.device if generator is not None else None
        pick = torch.randperm(len(x), generator=generator, device=home)[: self.n_samples]
        pick = pick.to(x.device)
        x, mask = x[pick], None if mask is None else mask[pick]
        group = torch.from_numpy(copies(x, mask))
        groups: Sequence[DenseBatches | SizeBatches]
        if mask is None:
            assert isinstance(reference, DenseReference)
            groups = [self._dense(x, group, reference)]
        else:
            assert isinstance(reference, MoleculeReference)
            groups = self._molecules(x, mask, group, reference, generator)
        judged = sum(part.n_items for part in groups)
        rows: list[Tensor] = []
        columns: dict[str, list[float]] = {}
        for done, level in enumerate(levels, 1):
            found = [self._weighed(part.grams(*coefficients(level))) for part in groups]
            rows.append(torch.cat([torch.stack(list(one.values())).sum(0) for one in found]))
            for name in found[0]:
                column = sum(
                    part.n_items / judged * float(one[name].mean())
                    for part, one in zip(groups, found, strict=True)
                )
                columns.setdefault(name, []).append(column)
            if progress is not None:
                progress(done, len(levels))
        if mask is not None:
            columns["share"] = [judged / len(x)] * len(levels)
        counts = torch.tensor([part.n_batches for part in groups])
        items = torch.tensor([part.n_items for part in groups], dtype=torch.float64)
        sizes = [part.n_atoms for part in groups if isinstance(part, SizeBatches)]
        contributions = Contributions(
            torch.stack(rows, 1).cpu(),
            (items / counts).repeat_interleave(counts),
            torch.tensor(sizes).repeat_interleave(counts) if sizes else None,
        )
        value, error = contributions.value_and_error(self.unit)
        return CriterionCurve(
            criterion=self.name,
            reference=reference.kind,
            unit=self.unit,
            log_snr=tuple(levels),
            value=tuple(value.tolist()),
            std_error=tuple(error.tolist()),
            n_samples=judged,
            extra={name: tuple(column) for name, column in columns.items()},
            contributions=contributions,
        )

    def _weighed(self, grams: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pseudo-values (G,) by column, in nats."""
        pseudo = {name: norm_pseudo_values(gram) for name, gram in grams.items()}
        found = {"mean": 0.5 * pseudo["mean"], "covariance": self.beta * pseudo["covariance"]}
        if pseudo.keys() & set(BLOCKS):
            for name, blocks in _TYPES.items():
                known = [pseudo[block] for block in blocks if block in pseudo]
                if known:
                    found[name] = self._weight(len(name)) * torch.stack(known).sum(0)
        for order in range(3, self.max_order + 1):
            if f"order_{order}" in pseudo:
                found[f"order_{order}"] = self._weight(order) * pseudo[f"order_{order}"]
        return found

    def _weight(self, order: int) -> float:
        if self.weights is not None:
            return self.weights[order - 3]
        return 1 / (2 * math.factorial(order))

    def _dense(self, x: Tensor, group: Tensor, reference: DenseReference) -> DenseBatches:
        batch, n_batches = self._batches(group)
        if n_batches < _FEWEST_BATCHES:
            raise DataError(
                f"found {len(x)} data items, too few that are distinct: need at least "
                f"{_FEWEST_BATCHES * _BATCH}. Pass more data."
            )
        return DenseBatches.of(x.to(torch.float64), batch.to(x.device), reference, self.max_order)

    def _molecules(
        self,
        x: Tensor,
        mask: Tensor,
        group: Tensor,
        reference: MoleculeReference,
        generator: Generator | None,
    ) -> list[SizeBatches]:
        found, left_out = [], 0
        n_atoms = mask.sum(1)
        for size in torch.unique(n_atoms).tolist():
            rows = n_atoms == size
            here = x[rows][mask[rows]].reshape(-1, size, x.shape[2]).to("cpu", torch.float64)
            batch, n_batches = self._batches(group[rows.cpu()])
            if n_batches < _FEWEST_BATCHES:
                left_out += len(here)
                continue
            order = min(self.max_order, _MAX_MOLECULE_ORDER)
            found.append(
                SizeBatches.of(here, batch, reference, order, self.draws_per_item, generator)
            )
        if not found:
            raise DataError(
                f"found {len(x)} molecules, but of no size {_FEWEST_BATCHES * _BATCH} that are "
                "distinct, which a cumulant needs. Pass more data."
            )
        if left_out > 0.05 * len(x):
            warnings.warn(
                f"{left_out} of {len(x)} molecules are left out: fewer than "
                f"{_FEWEST_BATCHES * _BATCH} distinct ones of their size.",
                GAGAWarning,
                stacklevel=3,
            )
        return found

    def _batches(self, group: Tensor) -> tuple[Tensor, int]:
        """Batch of each item (M,), copies of one item in one batch; and how many batches.

        Args:
            group: number of the distinct item (M,).
        """
        distinct, place = torch.unique(group, return_inverse=True)
        n_batches = min(self.n_batches, len(distinct) // _BATCH)
        return place % max(n_batches, 1), n_batches
