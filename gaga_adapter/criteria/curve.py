"""The curve that a criterion draws: Gaussianity against log-SNR, with its errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.errors import ArtefactError, DataError
from gaga_adapter.files.checked import MOST_COUNTED, Fields

#: Units that `selection` has a rule for. Fewer nats are more Gaussian, and so is a larger p-value
#: of the hypothesis that the noised data are the reference.
UNITS = ("nats", "p-value")
_MOST_NATS = 1e15  # of a value that is read
_MOST_LOG_SNR = 200.0  # of a level that is read: its exponential is a number
#: Columns (L,) of a curve by name.
Columns = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class CriterionCurve:
    """Values of one criterion at falling log-SNR: from data to noise.

    A value that could not be computed is NaN; it never counts as Gaussian.

    Attributes:
        criterion: Name of the criterion.
        reference: Kind of the reference that it compared with.
        unit: Unit of the values.
        log_snr: Levels (L,), strictly falling.
        value: Values (L,).
        std_error: Standard errors (L,), non-negative where there is a value.
        n_samples: Number of data items that the criterion saw.
        extra: Further columns (L,) by name, such as an AUC.
        contributions: Contribution of each part of the data, where it is known. It is not saved.

    Raises:
        DataError: If there are no points, lengths differ, levels do not fall, or the unit is
            unknown.
    """

    criterion: str
    reference: str
    unit: str
    log_snr: tuple[float, ...]
    value: tuple[float, ...]
    std_error: tuple[float, ...]
    n_samples: int
    extra: Columns = field(default_factory=dict)
    contributions: Contributions | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise DataError(f"unknown unit {self.unit!r}. Known: {', '.join(UNITS)}.")
        columns = {"value": self.value, "std_error": self.std_error, **self.extra}
        lengths = {"log_snr": len(self.log_snr)} | {name: len(c) for name, c in columns.items()}
        if not self.log_snr or len(set(lengths.values())) != 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError(f"columns of a curve have one length, at least 1: {listed}.")
        falls = all(low < high for high, low in zip(self.log_snr, self.log_snr[1:], strict=False))
        if not (falls and all(map(math.isfinite, self.log_snr))):
            raise DataError(
                f"log_snr must be finite and fall from data to noise, got {self.log_snr}."
            )
        for name, column in columns.items():
            if any(map(math.isinf, column)):
                raise DataError(f"{name} holds an infinite number. NaN says 'not computable'.")
        if any(error < 0 for error in self.std_error):
            raise DataError("std_error holds a negative number.")
        if self.unit == "p-value" and any(not (0 <= p <= 1) for p in self.value if p == p):
            raise DataError(f"p-values lie in [0, 1], got {self.value}.")
        parts = self.contributions
        if parts is not None and parts.values.shape[1] != len(self.log_snr):
            raise DataError(
                f"contributions have {parts.values.shape[1]} levels, the curve {len(self.log_snr)}."
            )

    @classmethod
    def from_contributions(
        cls,
        criterion: str,
        reference: str,
        unit: str,
        log_snr: tuple[float, ...],
        parts: Contributions,
        extra: Columns = MappingProxyType({}),
    ) -> CriterionCurve:
        """The curve whose values are the averages of contributions."""
        value, error = (tuple(column.tolist()) for column in parts.value_and_error(unit))
        return cls(criterion, reference, unit, log_snr, value, error, parts.n_items, extra, parts)

    def require_contributions(self) -> Contributions:
        """The contributions of the data.

        Raises:
            DataError: If the curve has none, as one that was read from a file.
        """
        if self.contributions is None:
            raise DataError(
                f"this {self.criterion} curve carries no contributions (they are not saved with "
                "it). Draw it again from the data."
            )
        return self.contributions

    def of_rows(self, index: Tensor) -> CriterionCurve:
        """The curve of a part of the data, or of a resample.

        Args:
            index: Rows of `contributions`, by index (m,) or bool (M,).

        Raises:
            DataError: If the curve has no contributions, or the part is empty.
        """
        parts = self.require_contributions().rows(index)
        return CriterionCurve.from_contributions(
            self.criterion, self.reference, self.unit, self.log_snr, parts
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, the inverse of `from_dict`; NaN is written as null."""
        return {
            "criterion": self.criterion,
            "reference": self.reference,
            "unit": self.unit,
            "n_samples": self.n_samples,
            "log_snr": list(self.log_snr),
            "value": _to_json(self.value),
            "std_error": _to_json(self.std_error),
            "extra": {name: _to_json(column) for name, column in self.extra.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CriterionCurve:
        """Curve from its JSON form, equal to the last bit.

        Raises:
            ArtefactError: If a field is missing or makes no curve.
        """
        about, most = Fields(data, "the curve"), _MOST_NATS
        extra = about.fields("extra")
        try:
            return cls(
                criterion=about.text("criterion"),
                reference=about.text("reference"),
                unit=about.text("unit", UNITS),
                n_samples=about.integer("n_samples", 1, MOST_COUNTED),
                log_snr=about.numbers("log_snr", -_MOST_LOG_SNR, _MOST_LOG_SNR),
                value=about.numbers("value", -most, most, or_null=True),
                std_error=about.numbers("std_error", 0, most, or_null=True),
                extra={n: extra.numbers(n, -most, most, or_null=True) for n in extra.names()},
            )
        except DataError as error:
            raise ArtefactError(f"the curve is not valid: {error}") from error


def _to_json(column: tuple[float, ...]) -> list[float | None]:
    return [None if math.isnan(number) else number for number in column]
