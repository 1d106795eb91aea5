r"""KS + mutual information, calibrated: are noised data draws of the reference?

The statistics are those of the paper's practical test (Qu et al., ICLR 2026, section 4.2), per data
item: the Kolmogorov-Smirnov distance of its standardised entries from N(0, 1), and the average
nearest-neighbour mutual information of its channels (`item_statistics.py`). The verdict is not.
What a statistic is when the data *are* the reference depends on the number of atoms, the noise
level and the reference; so it is measured on draws of the reference, of the same sizes, that go the
same way. (`published.py` has the published constants and what is wrong with them.)

*Score.* In each size the statistics `s` (S,) are standardised by mean and deviation of the draws. A
statistic may be off in either direction: noised QM9 has a KS distance *below* that of the `size`
reference and a mutual information above it; against `shape` both are below. So a direction is
learnt: on a pilot part of the items `w = R⁻¹ mean(s)`, R the correlation of the draws (Fisher
1936). On all others, with draws of their own,

    c_i = w·(s_i - mean) / sd / sqrt(1 + M_n / R_n)

for the M_n items and R_n draws of size n. Given the pilot the c_i have mean 0 under the null
hypothesis, and `sqrt(M) mean c` variance 1, the scatter of the draws' own mean included. The value
is the p-value P(Z > sqrt(M) mean c): its power grows with the data, its rate of false alarms is the
tolerance. It says whether the data can be told from the reference, not how far they are from it.

Molecules are turned at random: their frame is a convention of the file, and no reference has one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.criteria.ks_mi.item_statistics import (
    DenseStatistics,
    ItemStatistics,
    MoleculeStatistics,
)
from gaga_adapter.criteria.levels import check_data, coefficients, falling, noised
from gaga_adapter.criteria.two_sample.separation import copies
from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.reference.base import workspace
from gaga_adapter.reference.haar import rotations

_FEWEST_ITEMS = 40
_FEWEST_DRAWS = 256  # of the reference, per size


@dataclass(frozen=True)
class KSMI:
    """Calibrated KS + mutual information, a p-value.

    Attributes:
        n_samples: at most so many data items.
        n_neighbors: k of the mutual information.
        n_pairs: at most so many distinct pairs of channels.
        draws_per_item: draws of the reference per data item; 256 per size in any case.
        pilot: share of the items on which the direction is learnt, and which are not judged.
        alpha: false-alarm rate of the verdict on single items, in the column `pass_rate`.

    Raises:
        DataError: a setting that makes no sense.
    """

    name: ClassVar[str] = "ks_mi"
    unit: ClassVar[str] = "p-value"

    n_samples: int = 12_000
    n_neighbors: int = 3
    n_pairs: int = 16
    draws_per_item: int = 3
    pilot: float = 0.25
    alpha: float = 0.05

    def __post_init__(self) -> None:
        for name, least in (
            ("n_samples", _FEWEST_ITEMS),
            ("n_neighbors", 1),
            ("n_pairs", 1),
            ("draws_per_item", 1),
        ):
            if getattr(self, name) < least:
                raise DataError(f"{name}={getattr(self, name)} must be at least {least}.")
        for name in ("pilot", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise DataError(f"{name}={getattr(self, name)} must lie between 0 and 1.")

    @property
    def fewest_atoms(self) -> int:
        """Atoms of the smallest molecule whose mutual information says something: k + 2."""
        return self.n_neighbors + 2

    def curve(
        self,
        x: Tensor,
        mask: Tensor | None,
        reference: ReferenceGaussian,
        log_snr: Tensor,
        generator: Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CriterionCurve:
        """p-value of "noised data are draws of the reference"; see `Criterion.curve`.

        Args:
            x: molecules (M, N, 3 + F), or dense data (M, C, ...).
            mask: molecules: real atoms (M, N), bool. `None` says that the data are dense.
            reference: at any level.
            log_snr: levels (L,), in any order.
            generator: picks items and pairs, turns the molecules, draws noise and reference.
            progress: called with (levels done, levels in all).

        Returns:
            Curve over the items that are judged, with the extra columns `ks` and `mi`, their
            average statistics in standard errors under the null hypothesis (of either sign), and
            `pass_rate`, the share of items that pass by themselves: `1 - alpha` under the null.

        Raises:
            DataError: too few items or entries, a number that is not finite, or other shapes.
        """
        check_data(x, mask)
        levels = falling(log_snr)
        home = workspace(x.device)
        x, mask = self._picked(x.to(home), None if mask is None else mask.to(home), generator)
        first = math.ceil(self.pilot * len(x))
        statistics = (
            DenseStatistics(x.shape[1:], self.n_neighbors, self.n_pairs, generator)
            if mask is None
            else MoleculeStatistics(self.n_neighbors, self.n_pairs, generator)
        )
        terms: list[Tensor] = []
        extra: dict[str, tuple[float, ...]] = {"ks": (), "mi": (), "pass_rate": ()}
        for done, level in enumerate(levels, 1):
            at = reference.at(*coefficients(level))
            pilot, judged = _compared(
                x, mask, at, statistics, first, self.draws_per_item, generator
            )
            order = torch.cat([part.rows for part in judged]).argsort()
            direction = _direction(pilot)
            terms.append(torch.cat([part.along(direction) for part in judged])[order])
            for name, some in (("ks", judged[0].is_ks), ("mi", ~judged[0].is_ks)):
                z = torch.cat([part.along(some.to(torch.float64)) for part in judged])
                extra[name] += (float(z.sum()) / math.sqrt(len(z)),)
            passed = torch.cat([part.passed(self.alpha) for part in judged])
            extra["pass_rate"] += (float(passed.double().mean()),)
            if progress is not None:
                progress(done, len(levels))
        contributions = Contributions.of_items(
            torch.stack(terms, 1), None if mask is None else mask[first:]
        )
        value, error = contributions.value_and_error(self.unit)
        return CriterionCurve(
            criterion=self.name,
            reference=reference.kind,
            unit=self.unit,
            log_snr=tuple(levels),
            value=tuple(value.tolist()),
            std_error=tuple(error.tolist()),
            n_samples=contributions.n_items,
            extra=extra,
            contributions=contributions,
        )

    def _picked(
        self, x: Tensor, mask: Tensor | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Distinct items in random order, at most `n_samples`; molecules large enough, turned."""
        if mask is not None:
            enough = mask.sum(1) >= self.fewest_atoms
            left_out = int((~enough).sum())
            if left_out:
                warnings.warn(
                    f"{left_out} of {len(x)} molecules have fewer than {self.fewest_atoms} atoms, "
                    f"too few for mutual information with {self.n_neighbors} neighbours. They are "
                    "left out.",
                    GAGAWarning,
                    stacklevel=3,
                )
            x, mask = x[enough], mask[enough]
        home = None if generator is None else generator.device
        pick = torch.randperm(len(x), generator=generator, device=home)[: self.n_samples]
        pick = _distinct(pick.to(x.device), x, mask)
        if len(pick) < _FEWEST_ITEMS:
            raise DataError(
                f"found {len(pick)} data items that can be tested, need at least {_FEWEST_ITEMS}. "
                "Pass more data."
            )
        if mask is None:
            return x[pick], None
        u = torch.rand(len(pick), 3, generator=generator, device=home, dtype=torch.float64)
        turned = x[pick, :, :3] @ rotations(u).to(x.device, x.dtype)
        return torch.cat([turned, x[pick, :, 3:]], dim=-1), mask[pick]


def _distinct(pick: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Items of `pick` (m,) without those that are copies of an earlier one: no further evidence."""
    group = copies(x[pick], None if mask is None else mask[pick])
    first = np.sort(np.unique(group, return_index=True)[1])
    if len(first) < len(pick):
        warnings.warn(
            f"only {len(first)} of {len(pick)} data items are distinct. Copies are left out.",
            GAGAWarning,
            stacklevel=4,
        )
    return pick[torch.from_numpy(first).to(pick.device)]


@dataclass(frozen=True, eq=False)
class _Part:
    """Items of one size beside draws of the reference, in standardised statistics.

    Attributes:
        rows: which items (m,).
        data: their statistics (m, S).
        null: statistics of the draws (R, S), of mean 0 and variance 1.
        is_ks: which of the statistics (S,) are KS distances.
    """

    rows: Tensor
    data: Tensor
    null: Tensor
    is_ks: Tensor

    @classmethod
    def of(cls, rows: Tensor, items: Tensor, draws: Tensor, statistics: ItemStatistics) -> _Part:
        """Compare standardised items (m, ...) and draws (R, ...)."""
        (ks, information), (null_ks, null_information) = statistics(items), statistics(draws)
        data, null = torch.cat([ks, information], 1), torch.cat([null_ks, null_information], 1)
        mean, deviation = null.mean(0), null.std(0)
        is_ks = torch.arange(data.shape[1], device=data.device) < ks.shape[1]
        return cls(rows, (data - mean) / deviation, (null - mean) / deviation, is_ks)

    def along(self, direction: Tensor) -> Tensor:
        """Terms (m,) whose sum has mean 0 and variance m if the data are the reference."""
        deviation = (self.null @ direction).std()
        return self.data @ direction / deviation / math.sqrt(1 + len(self.data) / len(self.null))

    def passed(self, alpha: float) -> Tensor:
        """Items (m,) whose largest statistic is not among the share alpha of largest draws."""
        largest = self.null.amax(1)
        rank = min(math.ceil((1 - alpha) * (len(largest) + 1)), len(largest))
        return self.data.amax(1) <= largest.sort().values[rank - 1]


def _compared(
    x: Tensor,
    mask: Tensor | None,
    reference: ReferenceGaussian,
    statistics: ItemStatistics,
    first: int,
    draws_per_item: int,
    generator: Generator | None,
) -> tuple[list[_Part], list[_Part]]:
    """Noised items beside draws of the reference, by size: the pilot's, and those from `first` on.

    The draws that standardise the entries are others than those that calibrate the statistics, and
    the pilot has its own: given these, items and draws are alike under the null hypothesis.
    """
    noisy = noised(x, mask, reference, generator)
    sizes = torch.zeros(len(x), device=x.device) if mask is None else mask.sum(1)
    pilot: list[_Part] = []
    judged: list[_Part] = []
    for size in torch.unique(sizes):
        rows = (sizes == size).nonzero().flatten()
        items = noisy[rows]
        if mask is not None:
            items = items[mask[rows]].reshape(len(rows), int(size), -1)

        def draw(count: int, event: torch.Size = items.shape[1:]) -> Tensor:
            shape = (count, *event) if mask is None else [event[0]] * count
            return reference.sample(shape, generator, x.device, x.dtype)

        mean, deviation = statistics.standard(draw(_FEWEST_DRAWS))
        for parts, some in ((pilot, rows < first), (judged, rows >= first)):
            if bool(some.any()):
                null = draw(max(_FEWEST_DRAWS, draws_per_item * int(some.sum())))
                both = (items[some] - mean) / deviation, (null - mean) / deviation
                parts.append(_Part.of(rows[some], *both, statistics))
    return pilot, judged


def _direction(parts: list[_Part]) -> Tensor:
    """Direction (S,) in which items differ from the draws, `R⁻¹ mean(s)`."""
    total = torch.stack([part.data.sum(0) for part in parts]).sum(0)
    correlation = torch.stack([len(part.data) * part.null.T.corrcoef() for part in parts]).sum(0)
    direction: Tensor = torch.linalg.solve(correlation, total)
    return direction
