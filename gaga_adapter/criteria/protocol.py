"""What a criterion is, and the set-up that the criteria of this package share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from torch import Generator, Tensor

from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.criteria.curve import Columns, CriterionCurve
from gaga_adapter.criteria.levels import check_data, falling
from gaga_adapter.criteria.task import Progress, Task
from gaga_adapter.errors import DataError
from gaga_adapter.reference import ReferenceGaussian


class Criterion(Protocol):
    """How Gaussian noised data are, as a curve over the log-SNR."""

    @property
    def name(self) -> str:
        """Its key in `CRITERIA`."""

    @property
    def unit(self) -> str:
        """Unit of its values."""

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
            progress: Function that is called with (levels done, levels in all).

        Raises:
            DataError: If the data are too few, not finite or of another shape.
        """


class BaseCriterion(ABC):
    """The set-up of the four criteria; one of your own need only follow the protocol."""

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
        check_data(x, mask)
        return self._draw(Task(x, mask, falling(log_snr), generator, progress), reference)

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
