r"""Selection: from the curve of a criterion to the characteristic log-SNR.

The data count as Gaussian at a level if

    value + 2 std_error <= tolerance,

and `log_snr_star` is the largest log-SNR at which they do there *and at every noisier level*: one
lucky point does not count, and neither does a value that could not be computed. Between the last
level that fails and the first that holds, the upper limit `value + 2 std_error` is taken as linear
in log-SNR. Divergences curve upwards towards the data (at low SNR they fall like a power of it), so
the line lies above them and the choice is on the side of noise. Beyond its ends nothing is assumed
of the curve.

**The default tolerance**, 0.5 nats per molecule. By data processing the samples are no further from
those of the full path than the start from the marginal there. On QM9 with the `shape` reference,
starts at 0.35 nats (`polynomial_2`, t = 550) and at 1.07 nats (t = 400) both kept stability, size,
spread and form of the samples within their errors, while 1.7 nats (`size` at t = 400) halved
molecule stability and made the molecules too compact. The criterion is a lower bound, so the
default keeps a factor of two below what was seen to do no harm; it leads to t* of about 530.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gaga_adapter.criteria import CriterionCurve
from gaga_adapter.errors import ArtefactError, TruncationError

#: Nats per data item that may separate the start from the data's own marginal.
DEFAULT_TOLERANCE = 0.5
#: Standard errors that are added to a value before it is compared.
MARGIN = 2.0


@dataclass(frozen=True)
class Selection:
    """A characteristic log-SNR, with the evidence for it.

    Attributes:
        log_snr_star: from there on towards noise the data count as Gaussian.
        tolerance: in the unit of the curve.
        curve: what it was chosen on.
        reason: one sentence.
    """

    log_snr_star: float
    tolerance: float
    curve: CriterionCurve
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form, the inverse of `from_dict`."""
        return {
            "log_snr_star": self.log_snr_star,
            "tolerance": self.tolerance,
            "reason": self.reason,
            "curve": self.curve.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Selection:
        """Selection from its JSON form, equal to the last bit.

        Raises:
            ArtefactError: a field is missing or makes no sense.
        """
        try:
            return cls(
                log_snr_star=float(data["log_snr_star"]),
                tolerance=float(data["tolerance"]),
                curve=CriterionCurve.from_dict(data["curve"]),
                reason=str(data["reason"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(
                f"cannot read the selection of log_snr_star ({error!r})."
            ) from error


def select(curve: CriterionCurve, tolerance: float = DEFAULT_TOLERANCE) -> Selection:
    """The largest log-SNR from which on the criterion holds towards noise.

    Args:
        curve: of a criterion.
        tolerance: largest value that counts as Gaussian, in the unit of the curve; positive.

    Raises:
        TruncationError: the criterion does not hold even at the noisiest level.
    """
    if not 0 < tolerance < math.inf:
        raise TruncationError(
            f"tolerance={tolerance} {curve.unit}: it must be positive and finite, "
            f"such as {DEFAULT_TOLERANCE}."
        )
    upper = [
        value + MARGIN * error for value, error in zip(curve.value, curve.std_error, strict=True)
    ]
    # From noise to data, as long as it holds. A comparison with NaN is false.
    first = len(upper)
    while first > 0 and upper[first - 1] <= tolerance:
        first -= 1
    if first == len(upper):
        raise TruncationError(_never(curve, tolerance))
    name, unit = curve.criterion, curve.unit
    held = f"{name} + {MARGIN:g} s.e. <= {tolerance:g} {unit}"
    if first == 0:
        return Selection(
            curve.log_snr[0],
            tolerance,
            curve,
            f"{held} on the whole curve; its first level was taken, levels nearer to the data "
            "may hold too",
        )
    star, low, high = curve.log_snr[first], upper[first], upper[first - 1]
    if not math.isnan(high):
        star += (tolerance - low) / (high - low) * (curve.log_snr[first - 1] - star)
    failed = (
        f"{high:.3g} {unit} at log-SNR {curve.log_snr[first - 1]:.3g}"
        if not math.isnan(high)
        else f"not computable at log-SNR {curve.log_snr[first - 1]:.3g}"
    )
    return Selection(
        star,
        tolerance,
        curve,
        f"{held} from log-SNR {star:.3g} on towards noise ({failed}; {curve.n_samples} samples "
        f"against the {curve.reference} reference)",
    )


def _never(curve: CriterionCurve, tolerance: float) -> str:
    known = [
        (value, error, level)
        for value, error, level in zip(curve.value, curve.std_error, curve.log_snr, strict=True)
        if not math.isnan(value)
    ]
    if not known:
        return f"{curve.criterion} could not be computed at any level; there is nothing to choose."
    value, error, level = min(known)
    return (
        f"{curve.criterion} against the {curve.reference} reference does not stay within "
        f"{tolerance:g} {curve.unit} up to the noisiest level (log-SNR {curve.log_snr[-1]:.3g}). "
        f"The smallest value is {value:.3g} ± {error:.2g} {curve.unit} at log-SNR {level:.3g}. "
        "Extend the curve towards noise, choose a richer reference, or raise the tolerance."
    )
