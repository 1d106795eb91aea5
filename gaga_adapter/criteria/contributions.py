r"""What each part of a data set adds to a curve: the material of subsets and of the bootstrap.

A criterion's value at a level is a function of the average of one number per data item,

    nats      value = mean_i c_i
    p-value   value = P(Z > sqrt(M) mean_i c_i),  Z ~ N(0, 1),

where under the null hypothesis the c_i of the second have mean 0 and variance 1. A criterion whose
value is no average over items gives jackknife pseudo-values of batches of items instead (Efron and
Stein 1981): `c_g = G value - (G-1) value_{-g}`, one row per batch, with the items it stands for as
its weight.

From the rows follow the value on any part of the data, such as the molecules of one size, and that
on a bootstrap resample. What a criterion learnt from all items together (a classifier, a null
distribution) is held fixed in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gaga_adapter.errors import DataError


@dataclass(frozen=True, eq=False)
class Contributions:
    """Rows whose average is the value of a curve.

    Attributes:
        values: Rows (M, L), float64; NaN where not computable.
        weight: Number of items that each row stands for (M,), float64, positive.
        size: Number of atoms of each row (M,), int64, for molecules; `None` for dense data.

    Raises:
        DataError: If the shapes do not agree.
    """

    values: Tensor
    weight: Tensor
    size: Tensor | None = None

    def __post_init__(self) -> None:
        rows = len(self.values)
        if self.values.dim() != 2 or not rows or self.weight.shape != (rows,):
            raise DataError(
                f"contributions are (M, L) with weights (M,), got {tuple(self.values.shape)} and "
                f"{tuple(self.weight.shape)}."
            )
        if self.size is not None and self.size.shape != (rows,):
            raise DataError(f"sizes are ({rows},), got {tuple(self.size.shape)}.")

    @classmethod
    def of_items(cls, values: Tensor, mask: Tensor | None) -> Contributions:
        """One row (L) of `values` (M, L) per data item, of molecules with their mask (M, N)."""
        size = None if mask is None else mask.sum(1).cpu()
        values = values.detach().to("cpu", torch.float64)
        return cls(values, torch.ones(len(values), dtype=torch.float64), size)

    @property
    def n_items(self) -> int:
        """Data items behind all rows."""
        return round(float(self.weight.sum()))

    def rows(self, index: Tensor) -> Contributions:
        """Some of the rows, by index (m,) or bool (M,); an index may come repeatedly."""
        size = None if self.size is None else self.size[index]
        return Contributions(self.values[index], self.weight[index], size)

    @property
    def strata(self) -> Tensor:
        """Stratum of each row (M,), int64: its size; a size of one row joins the nearest with more.

        References are conditional on the size, so sizes are taken as given: errors and resamples
        vary what happens inside of each.
        """
        if self.size is None:
            return torch.zeros(len(self.values), dtype=torch.int64)
        sizes, stratum, counts = torch.unique(self.size, return_inverse=True, return_counts=True)
        several = (counts > 1).nonzero().flatten()
        if not len(several):
            return torch.zeros_like(stratum)
        nearest: Tensor = (sizes[:, None] - sizes[several]).abs().argmin(1)
        return nearest[stratum]

    def resample(self, generator: torch.Generator | None = None) -> Tensor:
        """Rows (M,) of a bootstrap resample: drawn with replacement inside of each stratum."""
        order = self.strata.argsort(stable=True)
        counts = self.strata.bincount()
        first, length = (v.repeat_interleave(counts) for v in (counts.cumsum(0) - counts, counts))
        place = torch.rand(len(order), generator=generator, dtype=torch.float64) * length
        return order[first + place.long().clamp(max=length - 1)]

    def value_and_error(self, unit: str) -> tuple[Tensor, Tensor]:
        """Value and standard error per level, (L,) each; a p-value has no standard error."""
        share = (self.weight / self.weight.sum())[:, None]
        mean = (share * self.values).sum(0)
        if unit == "p-value":
            z = mean * math.sqrt(self.n_items)
            return torch.special.erfc(z / math.sqrt(2)) / 2, torch.zeros_like(mean)
        stratum = self.strata

        def total(rows: Tensor) -> Tensor:
            sums = torch.zeros(int(stratum.max()) + 1, rows.shape[1], dtype=torch.float64)
            return sums.index_add_(0, stratum, rows)

        whole = total(share)
        deviation = self.values - (total(share * self.values) / whole)[stratum]
        # Rows of equal weight give the usual s² / M of each stratum: the factor is M / (M - 1).
        correction = 1 / (1 - total(share**2) / whole**2)
        return mean, (total((share * deviation) ** 2) * correction).sum(0).sqrt()
