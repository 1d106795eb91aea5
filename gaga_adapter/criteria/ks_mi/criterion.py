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
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.criteria.ks_mi.item_statistics import (
    DenseStatistics,
    ItemStatistics,
    MoleculeStatistics,
)
from gaga_adapter.criteria.levels import add_noise, n_positions
from gaga_adapter.criteria.protocol import BaseCriterion, Task
from gaga_adapter.errors import DataError, warn
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.reference.base import without_autocast
from gaga_adapter.reference.haar import rotations

_FEWEST_ITEMS = 40
_FEWEST_DRAWS = 256  # fewest draws of the reference, per size


@dataclass(frozen=True)
class KSMI(BaseCriterion):
    """Calibrated KS + mutual information: p-value of "noised data are draws of the reference".

    Its curve is over the items that are tested. Extra columns are `ks` and `mi`, their average
    statistics in standard errors under the null hypothesis (of either sign), and `pass_rate`, the
    share of items that pass by themselves: `1 - alpha` under the null.

    Attributes:
        n_samples: Largest number of data items.
        n_neighbors: Number k of neighbours of the mutual information.
        n_pairs: Largest number of distinct pairs of channels.
        draws_per_item: Number of draws of the reference per data item; 256 per size in any case.
        pilot: Share of the items that the direction is learnt on, and that are not tested.
        alpha: False-alarm rate of the verdict on single items, in the column `pass_rate`.

    Raises:
        DataError: If a setting makes no sense.
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
        self._require(n_samples=_FEWEST_ITEMS, n_neighbors=1, n_pairs=1, draws_per_item=1)
        for name in ("pilot", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise DataError(f"{name}={getattr(self, name)} must lie between 0 and 1.")

    @property
    def fewest_atoms(self) -> int:
        """Atoms of the smallest molecule whose mutual information says something: k + 2."""
        return self.n_neighbors + 2

    @without_autocast
    def _draw(self, task: Task, reference: ReferenceGaussian) -> CriterionCurve:
        task = self._sample(task, n_positions(reference))
        tick = task.ticker(len(task.levels))
        first = math.ceil(self.pilot * len(task))
        settings = (self.n_neighbors, self.n_pairs, task.generator)
        statistics: ItemStatistics
        if task.mask is None:
            axis = getattr(reference, "channels", 0)
            statistics = DenseStatistics(task.x.shape[1:], *settings, channels=axis)
        else:
            statistics = MoleculeStatistics(*settings, n_positions=n_positions(reference))
        terms: list[Tensor] = []
        extra: dict[str, tuple[float, ...]] = {"ks": (), "mi": (), "pass_rate": ()}
        for level in task.levels:
            at = reference.at(*coefficients(level))
            pilot, rest = self._comparisons(task, at, statistics, first)
            order = torch.cat([part.rows for part in rest]).argsort()
            direction = _direction(pilot)
            terms.append(torch.cat([part.along(direction) for part in rest])[order])
            for name, some in (("ks", rest[0].is_ks), ("mi", ~rest[0].is_ks)):
                z = torch.cat([part.along(some.to(torch.float64)) for part in rest])
                extra[name] += (float(z.sum()) / math.sqrt(len(z)),)
            passes = torch.cat([part.passes(self.alpha) for part in rest])
            extra["pass_rate"] += (float(passes.double().mean()),)
            tick()
        mask = None if task.mask is None else task.mask[first:]
        parts = Contributions.of_items(torch.stack(terms, 1), mask)
        return self._curve(task, reference, parts, extra)

    def _sample(self, task: Task, n_positions: int) -> Task:
        """Distinct items in random order, at most `n_samples`; molecules large enough, turned."""
        task = task.in_workspace()
        if task.sizes is not None:
            enough = task.sizes >= self.fewest_atoms
            if left_out := int((~enough).sum()):
                warn(
                    f"{left_out} of {len(task)} molecules have fewer than {self.fewest_atoms} "
                    "atoms, too few for mutual information with "
                    f"{self.n_neighbors} neighbours. They are left out."
                )
            task = task.take(enough)
        task = task.sample(self.n_samples)
        group = task.copies("are left out", share=1.0)
        first = np.sort(np.unique(group, return_index=True)[1])  # a copy is no further evidence
        task = task.take(torch.from_numpy(first))
        task.require(_FEWEST_ITEMS, " that can be tested")
        if task.mask is None or not n_positions:
            return task
        home = None if task.generator is None else task.generator.device
        u = torch.rand(len(task), 3, generator=task.generator, device=home, dtype=torch.float64)
        turned = task.x[..., :3] @ rotations(u).to(task.x.device, task.x.dtype)
        return replace(task, x=torch.cat([turned, task.x[..., 3:]], dim=-1))

    def _comparisons(
        self, task: Task, reference: ReferenceGaussian, statistics: ItemStatistics, first: int
    ) -> tuple[list[_Part], list[_Part]]:
        """Noised items beside draws of the reference, by size: of the pilot, and from `first` on.

        The draws that standardise the entries are others than those that calibrate the statistics,
        and the pilot has its own: given these, items and draws are alike under the null hypothesis.
        """
        x, mask = task.x, task.mask
        noisy = add_noise(x, mask, reference, task.generator)
        sizes = torch.zeros(len(x), device=x.device) if mask is None else mask.sum(1)
        pilot: list[_Part] = []
        rest: list[_Part] = []
        for size in torch.unique(sizes):
            rows = (sizes == size).nonzero().flatten()
            items = noisy[rows]
            if mask is not None:
                items = items[mask[rows]].reshape(len(rows), int(size), -1)

            def draw(count: int, event: torch.Size = items.shape[1:]) -> Tensor:
                shape = (count, *event) if mask is None else [event[0]] * count
                return reference.sample(shape, task.generator, x.device, x.dtype)

            mean, deviation = statistics.standard(draw(_FEWEST_DRAWS))
            for parts, some in ((pilot, rows < first), (rest, rows >= first)):
                if bool(some.any()):
                    null = draw(max(_FEWEST_DRAWS, self.draws_per_item * int(some.sum())))
                    both = (items[some] - mean) / deviation, (null - mean) / deviation
                    parts.append(_Part.of(rows[some], *both, statistics))
        return pilot, rest


@dataclass(frozen=True, eq=False)
class _Part:
    """Items of one size beside draws of the reference, in standardised statistics."""

    rows: Tensor  # indices of the items (m,)
    data: Tensor  # statistics of the items (m, S)
    null: Tensor  # statistics of the draws (R, S), of mean 0 and variance 1
    is_ks: Tensor  # whether each statistic (S,) is a KS distance

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

    def passes(self, alpha: float) -> Tensor:
        """Items (m,) whose largest statistic is not among the share alpha of largest draws."""
        largest = self.null.amax(1)
        rank = min(math.ceil((1 - alpha) * (len(largest) + 1)), len(largest))
        return self.data.amax(1) <= largest.sort().values[rank - 1]


def _direction(parts: list[_Part]) -> Tensor:
    """Direction (S,) in which items differ from the draws, `R⁻¹ mean(s)`."""
    total = torch.stack([part.data.sum(0) for part in parts]).sum(0)
    correlation = torch.stack([len(part.data) * part.null.T.corrcoef() for part in parts]).sum(0)
    direction: Tensor = torch.linalg.solve(correlation, total)
    return direction
