"""What a criterion is, and the set-up that the criteria of this package share.

**Copies.** Close to the data a classifier that has learnt one noised copy of an item knows the
others, and would find the points of the data set instead of the law behind it. So items that are
exactly equal are known to the criteria, which keep them together or use one of them. Events of at
most 16 numbers may well be discrete (a type, a pixel): their copies are draws like any other, and
so are those of data with fewer than 100 distinct items, which show no law but a discrete one.
Copies that were turned or reordered are not recognised.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.criteria.curve import Columns, CriterionCurve
from gaga_adapter.criteria.levels import check_data, falling_levels
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import DataError, warn
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.reference.base import workspace
from gaga_adapter.subspace import as_mask, atoms_first

_DISCRETE_NUMBERS, _DISCRETE_ITEMS = 16, 100


class Criterion(Protocol):
    """How Gaussian noised data are, as a curve over the log-SNR."""

    @property
    def name(self) -> str:
        """Key of the criterion in `CRITERIA`."""

    @property
    def unit(self) -> str:
        """Unit of the values."""

    def curve(
        self,
        x: Tensor,
        mask: Tensor | None,
        reference: ReferenceGaussian,
        log_snr: Tensor,
        generator: Generator | None = None,
        progress: Progress | None = None,
    ) -> CriterionCurve:
        """The curve of one data set against one reference.

        Args:
            x: Clean data: molecules (M, N, 3 + F), or dense (M, C, ...).
            mask: Real atoms (M, N) of molecules, bool; `None` says that the data are dense.
            reference: Reference at any level; it is moved to each level of the curve.
            log_snr: Levels (L,), in any order.
            generator: Source of all randomness: the choice of items, their noise, and draws of the
                reference.
            progress: Function that is called with (criterion, levels done, levels in all).

        Raises:
            DataError: If the data are too few, not finite or of another shape.
        """


@dataclass(frozen=True, eq=False)
class Task:
    """The arguments of `Criterion.curve`, once checked; levels fall, from data to noise."""

    x: Tensor
    mask: Tensor | None
    levels: list[float]
    generator: Generator | None
    progress: Callable[[int, int], None] | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def sizes(self) -> Tensor | None:
        """Number of atoms (M,) of each molecule; `None` for dense data."""
        return None if self.mask is None else self.mask.sum(1)

    def take(self, index: Tensor) -> Task:
        """Some of the items, by index (m,) or bool (M,)."""
        index = index.to(self.x.device)
        return replace(self, x=self.x[index], mask=None if self.mask is None else self.mask[index])

    def sample(self, most: float) -> Task:
        """At most `most` of the items, in random order."""
        home = None if self.generator is None else self.generator.device
        order = torch.randperm(len(self), generator=self.generator, device=home)
        return self.take(order[: int(min(most, len(self)))])

    def in_workspace(self) -> Task:
        """The same data where float64 work can be done, in float32 at least."""
        home = workspace(self.x.device)
        x = self.x if self.x.dtype == torch.float64 else self.x.float()
        return replace(self, x=x.to(home), mask=None if self.mask is None else self.mask.to(home))

    def require(
        self, least: int, which: str = "", goal: str = "", what: str = "data items"
    ) -> None:
        """Refuse fewer items than `least`."""
        if len(self) < least:
            raise DataError(
                f"found {len(self)} {what}{which}, need at least {least}{goal}. Pass more data."
            )

    def copies(self, fate: str, share: float = 0.9) -> NDArray[np.int64]:
        """`copies` of the items, with a warning if less than `share` of them is distinct."""
        group = copies(self.x, self.mask)
        n_distinct = len(np.unique(group))
        if n_distinct < share * len(self):
            warn(
                f"only {n_distinct} of {len(self)} data items are distinct. Copies {fate}. If the "
                "set was repeated or drawn with replacement, pass each item once."
            )
        return group

    def ticker(self, steps: int, per_level: int = 1) -> Callable[[], None]:
        """A function to call after each of all `steps`, `per_level` of which make one level."""
        done = count(1)

        def tick() -> None:
            if self.progress is not None:
                self.progress(next(done) // per_level, steps // per_level)

        return tick


def copies(x: Tensor, mask: Tensor | None) -> NDArray[np.int64]:
    """Number (M,) of the distinct item that each item is a copy of, by first appearance."""
    if mask is None:
        numbers = torch.full((len(x),), math.prod(x.shape[1:]))
    else:
        numbers = mask.sum(1).cpu() * x.shape[2]
        x = atoms_first(torch.where(mask[..., None], x, 0), mask)[0]
    rows = (x.detach().flatten(1).to("cpu", torch.float32) + 0.0).numpy()  # -0 becomes 0
    known: dict[tuple[int, int], int] = {}
    group = np.empty(len(x), dtype=np.int64)
    for i, (row, n) in enumerate(zip(rows, numbers.tolist(), strict=True)):
        key = (0, i) if n <= _DISCRETE_NUMBERS else (n, hash(row.tobytes()))
        group[i] = known.setdefault(key, len(known))
    return group if len(known) >= _DISCRETE_ITEMS else np.arange(len(x))


class BaseCriterion(ABC):
    """The set-up of the four criteria; your own need only follow the protocol `Criterion`."""

    name: ClassVar[str]
    unit: ClassVar[str]

    def curve(
        self,
        x: Tensor,
        mask: Tensor | None,
        reference: ReferenceGaussian,
        log_snr: Tensor,
        generator: Generator | None = None,
        progress: Progress | None = None,
    ) -> CriterionCurve:
        """The curve of one data set against one reference; see `Criterion.curve`."""
        task = self._task(x, mask, log_snr, generator, progress)
        described = getattr(reference, "n_features", None)
        if described is not None and task.mask is not None:
            n_channels = described + reference.n_positions  # type: ignore[attr-defined]
            if x.shape[-1] != n_channels:
                raise DataError(
                    f"the data have {x.shape[-1]} channels, and the reference describes "
                    f"{n_channels}. Fit the reference on such data."
                )
        return self._draw(task, reference)

    def _task(
        self,
        x: Tensor,
        mask: Tensor | None,
        log_snr: Tensor,
        generator: Generator | None,
        progress: Progress | None,
    ) -> Task:
        """The checked data and levels of `curve`; progress is told the name of the criterion."""
        if mask is not None and (known := as_mask(mask, x)) is not None:
            mask = known
        check_data(x, mask)
        tick = None if progress is None else partial(progress, self.name)
        return Task(x, mask, falling_levels(log_snr), generator, tick)

    @abstractmethod
    def _draw(self, task: Task, reference: ReferenceGaussian) -> CriterionCurve:
        """The curve of checked data."""

    def _curve(
        self, task: Task, reference: ReferenceGaussian, parts: Contributions, extra: Columns
    ) -> CriterionCurve:
        return CriterionCurve.from_contributions(
            self.name, reference.kind, self.unit, tuple(task.levels), parts, extra
        )

    def _require(self, **least: int) -> None:
        """Refuse settings below these numbers."""
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise DataError(f"{name}={getattr(self, name)} must be at least {bound}.")
