r"""Selection: from the curve of a criterion to the characteristic log-SNR.

The data count as Gaussian at a level if

    value + 2 std_error <= tolerance        of a curve in nats,
    p-value >= tolerance / L                of a curve of L p-values,

and `log_snr_star` is the largest log-SNR at which they do there *and at every noisier level*: one
lucky point does not count, and neither does a value that could not be computed. Between the last
level that fails and the first that holds, the upper limit `value + 2 std_error` is taken as linear
in log-SNR. Where it curves upwards towards the data, as divergences do far out in the noise (they
fall like a power of the SNR there), the line lies above it and the choice is on the side of noise.
Close to the data that need not be so: the divergence of a law with a density levels off. Nothing is
known of the form of p-values, and the first level that holds is taken. Beyond its ends nothing is
assumed of the curve.

**No guarantee.** `two_sample` and `certificate` are *lower bounds*: at t* the divergence is at
least their value, and may exceed the tolerance. The standard errors are those of the bound, not of
what it misses. What a classifier finds grows with the number of items, so t* does too (`by_items`);
what a denoiser certifies, with the denoiser. Of several lower bounds the largest counts
(`noisiest`). And nats bound samples loosely: 0.5 of them allow a share of good samples of
66 % to fall to 20 % at worst (`worst_share`). Only samples from t* and from the full path, side by
side, show a t* to be safe.

(Bonferroni 1936: on data that *are* the reference, the tolerance is the rate at which some level of
the curve fails by chance.) A p-value says whether the data *can be told* from the reference, not
how far they are from it: the more data, the noisier its t*. Nats say what t* costs, and converge.
Choose in nats.

**Interval.** Rows of the curve's contributions are drawn again with replacement, and `log_snr_star`
is chosen anew on each resample (Efron 1979, percentiles). What the criterion learnt from all data
together is held fixed, so the interval is that of the choice given the criterion.

**Per size.** The divergence from a reference that knows the size is the average of those of the
sizes. Larger molecules have more to tell, so their t* is noisier; a batch of one size can start at
its own.

**A condition narrows the law.** The curve is that of all data. Averaged over conditions c,

    E_c KL(p(x_t | c) || start) = KL(p(x_t) || start) + I(x_t; c),

so a condition adds its mutual information with the noised data at t*, which the criterion has not
seen. It is small for what says little about the form that is left at t*, such as most prompts, and
large for what fixes a part of the target (`warn_of_condition`).

**The default tolerance**, 0.5 nats per molecule. By data processing the samples are no further from
those of the full path than the start from the marginal there. On QM9 (`polynomial_2`, 200 steps)
molecules from the `shape` of older artefacts, whose tensors scatter, at t = 525 (0.5 nats) and
t = 400 (1.19 nats) have a v_x within 2 % of the data's and a spread of it within 7 %. From `size`
at t = 400 (1.78 nats) they are too compact and too alike: v_x is 1.87 instead of 2.05, its spread
0.28 instead of 0.42, though no fewer are stable. The criterion is a lower bound, so the default
keeps a factor of two below 1.19; it led to a t* of 525, and leads to 501 with exact tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator

from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.errors import DataError, TruncationError, warn
from gaga_adapter.files.checked import Fields
from gaga_adapter.noise.levels import MOST_LOG_SNR, TOLERANCE

#: Nats per data item that may separate the start from the data's own marginal.
DEFAULT_TOLERANCE = 0.5
#: Tolerance by unit of the curve; that of p-values is the rate of false alarms on a whole curve.
DEFAULT_TOLERANCES = {"nats": DEFAULT_TOLERANCE, "p-value": 0.05}
#: Standard errors that are added to a value before it is compared.
MARGIN = 2.0
_MOST_TOLERANCE = 1e15  # nats, of a selection that is read
#: Criteria whose values lie below the divergence, by name, with what makes them larger.
LOWER_BOUNDS = {"two_sample": "more items", "certificate": "a better denoiser"}
_TAILS = torch.tensor([0.05, 0.95], dtype=torch.float64)


@dataclass(frozen=True)
class Selection:
    """A characteristic log-SNR, with the evidence for it.

    Attributes:
        log_snr_star: Log-SNR from which on towards noise the data count as Gaussian. Of a lower
            bound this is no guarantee, see `meaning`.
        tolerance: Tolerance in the unit of the curve.
        curve: Curve that the choice was made on.
        reason: Reason for the choice in one sentence.
        interval: 90 % bootstrap interval of `log_snr_star` (noise side, data side), if asked for.
        by_size: Choice of `log_snr_star` for molecules of each size, if asked for.
        by_items: Value and standard error at the first level that holds, by the number of items
            that the criterion saw, if it grows with them.
        others: Choices of `log_snr_star` by further criteria, of which this one is the noisiest.
    """

    log_snr_star: float
    tolerance: float
    curve: CriterionCurve
    reason: str
    interval: tuple[float, float] | None = None
    by_size: Mapping[int, float] = field(default_factory=dict)
    by_items: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def meaning(self) -> str:
        """What the choice claims and what not, in sentences."""
        curve, told = self.curve, []
        if curve.unit == "p-value":
            return "A p-value says whether data can be told from the start, not how far they are."
        grows = LOWER_BOUNDS.get(curve.criterion)
        if grows is None:
            told.append("The values are estimates, not bounds.")
        else:
            told.append(
                f"The values are lower bounds at {curve.n_samples:,} items: {grows} would find "
                f"more, and the divergence at t* may exceed {self.tolerance:g} nats."
            )
        if len(self.by_items) > 1:
            steps = (f"{value:.2f} ± {e:.2f} at {n:,}" for n, (value, e) in self.by_items.items())
            told.append(f"At log-SNR {self.first_level:.3g} it is {', '.join(steps)} items.")
        if self.others:
            more = ", ".join(f"{star:.3g} by {name}" for name, star in self.others.items())
            told.append(f"It is the noisiest choice; the others are {more}.")
        told.append(
            f"{self.tolerance:g} nats allow a share of good samples of 66 % to fall to "
            f"{100 * worst_share(0.66, self.tolerance):.0f} % at worst: compare samples from t* "
            "with those of the full path."
        )
        return " ".join(told)

    @property
    def first_level(self) -> float:
        """The level of the curve nearest to the data that lies at or beyond `log_snr_star`."""
        levels = [level for level in self.curve.log_snr if level <= self.log_snr_star + 1e-9]
        return levels[0] if levels else self.curve.log_snr[-1]

    def to_dict(self) -> dict[str, Any]:
        """JSON form, the inverse of `from_dict`."""
        return {
            "log_snr_star": self.log_snr_star,
            "tolerance": self.tolerance,
            "reason": self.reason,
            "interval": None if self.interval is None else list(self.interval),
            "by_size": {str(size): star for size, star in self.by_size.items()},
            "by_items": {str(n): list(pair) for n, pair in self.by_items.items()},
            "others": dict(self.others),
            "curve": self.curve.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Selection:
        """Selection from its JSON form, equal to the last bit.

        Raises:
            ArtefactError: If a field is missing or makes no sense.
        """
        about = Fields(data, "the selection")
        curve = CriterionCurve.from_dict(about.fields("curve").data)
        noisy, clean = curve.log_snr[-1] - TOLERANCE, curve.log_snr[0] + TOLERANCE
        interval = None
        if about.is_given("interval"):
            ends = about.numbers("interval", -MOST_LOG_SNR, MOST_LOG_SNR)
            if len(ends) != 2 or ends[0] > ends[1]:
                raise about.refuse("interval", "its noise side and its data side")
            interval = ends[0], ends[1]
        stars: dict[int, float] = {}
        if about.is_given("by_size"):
            by_size = about.fields("by_size")
            for size in by_size.names():
                if not re.fullmatch("[1-9][0-9]{0,8}", size):
                    raise about.refuse("by_size", "log-SNRs by the number of atoms")
                stars[int(size)] = by_size.number(size, -MOST_LOG_SNR, MOST_LOG_SNR)
        items: dict[int, tuple[float, float]] = {}
        if about.is_given("by_items"):
            by_items = about.fields("by_items")
            for count in by_items.names():
                pair = by_items.numbers(count, -_MOST_TOLERANCE, _MOST_TOLERANCE)
                if not re.fullmatch("[1-9][0-9]{0,11}", count) or len(pair) != 2:
                    raise about.refuse("by_items", "a value and its error by the number of items")
                items[int(count)] = pair[0], pair[1]
        others: dict[str, float] = {}
        if about.is_given("others"):
            fields = about.fields("others")
            others = {n: fields.number(n, -MOST_LOG_SNR, MOST_LOG_SNR) for n in fields.names()}
        limit = math.nextafter(1, 0) if curve.unit == "p-value" else _MOST_TOLERANCE
        return cls(
            log_snr_star=about.number("log_snr_star", noisy, clean),
            tolerance=about.number("tolerance", 1e-300, limit),
            curve=curve,
            reason=about.text("reason"),
            interval=interval,
            by_size=stars,
            by_items=items,
            others=others,
        )


@dataclass(frozen=True)
class CurveRow:
    """One level of a curve."""

    log_snr: float
    value: float  # NaN if it is not computable
    std_error: float
    is_gaussian: bool  # whether sampling may start at this level


def curve_rows(curve: CriterionCurve, log_snr_star: float | None) -> list[CurveRow]:
    """The levels of a curve, from data to noise."""
    star = -math.inf if log_snr_star is None else log_snr_star + 1e-9
    columns = zip(curve.log_snr, curve.value, curve.std_error, strict=True)
    return [CurveRow(level, value, error, level <= star) for level, value, error in columns]


def check_tolerance(tolerance: float | None, unit: str) -> float:
    """The tolerance, or the default of the unit.

    Raises:
        TruncationError: If it is not positive and finite, or for p-values not below 1.
    """
    if tolerance is None:
        return DEFAULT_TOLERANCES[unit]
    limit = 1.0 if unit == "p-value" else math.inf
    if not 0 < tolerance < limit:
        raise TruncationError(
            f"tolerance={tolerance} {unit}: it must be positive and "
            f"{'below 1' if unit == 'p-value' else 'finite'}, such as {DEFAULT_TOLERANCES[unit]}."
        )
    return tolerance


def threshold(curve: CriterionCurve, tolerance: float) -> float:
    """Limit of the values of a curve: the tolerance, or for p-values its share of one level."""
    return tolerance / len(curve.log_snr) if curve.unit == "p-value" else tolerance


def select(
    curve: CriterionCurve, tolerance: float | None = None, consecutive: int | None = None
) -> Selection:
    """The largest log-SNR from which on the criterion holds towards noise.

    Args:
        curve: Curve of a criterion.
        tolerance: Largest value that counts as Gaussian, in nats; of p-values the rate of false
            alarms on the whole curve. The unit's default when `None`.
        consecutive: Number of levels in a row that are enough, counted from the data; all of them
            up to pure noise when `None`. The published rule is 2.

    Raises:
        TruncationError: If the criterion does not hold even at the noisiest level.
    """
    tolerance = check_tolerance(tolerance, curve.unit)
    if consecutive is not None and not 1 <= consecutive <= len(curve.log_snr):
        raise TruncationError(
            f"consecutive={consecutive}: the curve has {len(curve.log_snr)} levels. Ask for 1 to "
            f"{len(curve.log_snr)}, or None for all up to noise."
        )
    nats, limit = curve.unit == "nats", threshold(curve, tolerance)
    upper = upper_limits(curve.value, curve.std_error)
    first = first_that_holds(upper, limit, curve.unit, consecutive)
    if first is None:
        raise TruncationError(_never(curve, tolerance))
    star, low = curve.log_snr[first], upper[first]
    claim = f"p-value of {curve.criterion} >= {limit:.2g}"
    if nats:
        claim = f"{curve.criterion} + {MARGIN:g} s.e. <= {limit:g} nats"
    if first == 0:
        whole = "its first level was taken, levels nearer to the data may hold too"
        return Selection(star, tolerance, curve, f"{claim} on the whole curve; {whole}")
    closer, high = curve.log_snr[first - 1], upper[first - 1]
    if nats and not math.isnan(high):
        star += (tolerance - low) / (high - low) * (closer - star)
    value = "not computable" if math.isnan(high) else f"{high:.3g} {curve.unit}"
    reason = (
        f"{claim} from log-SNR {star:.3g} on towards noise (at log-SNR {closer:.3g} it is {value}; "
        f"{curve.n_samples} samples against the {curve.reference} reference)"
    )
    return Selection(star, tolerance, curve, reason)


def upper_limits(value: Sequence[float], std_error: Sequence[float]) -> list[float]:
    """What is compared with the tolerance: values (L,) and their margin of standard errors."""
    return [one + MARGIN * error for one, error in zip(value, std_error, strict=True)]


def first_that_holds(
    upper: Sequence[float], limit: float, unit: str = "nats", consecutive: int | None = None
) -> int | None:
    """The level from which on a criterion holds, by its place in the order from data to noise.

    Args:
        upper: Values with their margins (L,).
        limit: Limit of the values.
        unit: Unit of the values.
        consecutive: Number of levels in a row that are enough; all up to noise when `None`.

    Returns:
        The place, or `None` if there is no such level.
    """
    # A comparison with NaN is false, and false does not hold.
    holds = [value <= limit if unit == "nats" else value >= limit for value in upper]
    ends = [len(holds)] * len(holds)
    if consecutive is not None:
        ends = list(range(consecutive, len(holds) + 1))
    return next((k for k, end in enumerate(ends) if all(holds[k:end])), None)


def noisiest(selections: Mapping[str, Selection]) -> Selection:
    """The choice by the largest lower bound at hand: the noisiest of several, with the others.

    Args:
        selections: Choices in one unit, by the name of their criterion; one or more.
    """
    name = min(selections, key=lambda one: selections[one].log_snr_star)
    others = {one: s.log_snr_star for one, s in selections.items() if one != name}
    return replace(selections[name], others=others)


def worst_share(share: float, nats: float) -> float:
    """The lowest share that is within `nats` of a share, such as that of stable molecules.

    Samples P of the full path and Q from t* satisfy `KL(P || Q) <= nats`, and so do the laws of
    one yes-or-no figure of them: `p log(p / q) + (1 - p) log((1 - p) / (1 - q)) <= nats`.

    Args:
        share: Share p of the full path, in [0, 1].
        nats: Divergence at t*, at least 0.
    """
    low, high = 0.0, share
    for _ in range(300):  # the divergence falls from q = 0 to q = p
        middle = (low + high) / 2
        apart = share * math.log(share / middle) if share and middle else math.inf * share
        if share < 1:
            apart += (1 - share) * math.log((1 - share) / (1 - middle))
        low, high = (middle, high) if apart > nats else (low, middle)
    return high


def right_guesses(nats: float) -> float:
    """The largest share of right guesses from which of two laws, equally likely, one item comes.

    It is half of one plus the total variation, which is at most `sqrt(nats / 2)` (Pinsker) and
    `sqrt(1 - exp(-nats))` (Bretagnolle and Huber 1979).

    Args:
        nats: Divergence of the two laws, at least 0.
    """
    apart = min(math.sqrt(nats / 2), math.sqrt(-math.expm1(-nats)))
    return 0.5 + apart / 2


def bootstrap(
    curve: CriterionCurve,
    tolerance: float | None = None,
    n_replicates: int = 400,
    generator: Generator | None = None,
) -> tuple[float, float]:
    """90 % percentile interval of `log_snr_star` (noise side, data side).

    A resample on which the criterion never holds counts as the noisiest level of the curve.

    Raises:
        TruncationError: If there are fewer than 20 resamples, or the tolerance is not positive and
            finite.
        DataError: If the curve carries no contributions.
    """
    check_tolerance(tolerance, curve.unit)
    if n_replicates < 20:
        raise TruncationError(f"n_replicates={n_replicates}: an interval of 90 % needs 20 or more.")
    parts = curve.require_contributions()
    stars = []
    for _ in range(n_replicates):
        try:
            stars.append(select(curve.of_rows(parts.resample(generator)), tolerance).log_snr_star)
        except TruncationError:
            stars.append(curve.log_snr[-1])
    low, high = torch.tensor(stars, dtype=torch.float64).quantile(_TAILS).tolist()
    return low, high


def select_by_size(
    curve: CriterionCurve, tolerance: float | None = None, min_items: int = 400
) -> dict[int, float]:
    """`log_snr_star` of molecules of each size that occurs.

    A size is judged together with its neighbours: the smallest window of sizes `[N - r, N + r]`
    that holds `min_items` molecules.

    Raises:
        DataError: If the curve carries no contributions, or those of dense data.
        TruncationError: If the criterion never holds for one of the sizes.
    """
    parts = curve.require_contributions()
    if parts.size is None:
        raise DataError("a t* per size needs molecules; this curve is of dense data.")
    stars = {}
    for size in torch.unique(parts.size).tolist():
        distance = (parts.size - size).abs()
        radii, order = distance.sort(stable=True)
        reached = parts.weight[order].cumsum(0) >= min_items
        radius = int(radii[reached][0] if bool(reached.any()) else radii[-1])
        try:
            stars[size] = select(curve.of_rows(distance <= radius), tolerance).log_snr_star
        except TruncationError as error:
            raise TruncationError(
                f"molecules of {size} atoms (with those of {radius} more or fewer): {error} "
                f"Or widen the windows: min_items={2 * min_items}."
            ) from error
    return stars


def _never(curve: CriterionCurve, tolerance: float) -> str:
    """The message where the criterion does not hold: the best value, and what to do."""
    rows = zip(curve.value, curve.std_error, curve.log_snr, strict=True)
    known = [row for row in rows if not math.isnan(row[0])]
    if not known:
        return f"{curve.criterion} could not be computed at any level; there is nothing to choose."
    if curve.unit == "p-value":
        value, error, level = max(known)
        best = f"The largest p-value is {value:.3g} at log-SNR {level:.3g}."
        advice = "choose a richer reference, or choose in nats: p-values fall with the sample size."
    else:
        value, error, level = min(known)
        best = f"The smallest value is {value:.3g} ± {error:.2g} nats at log-SNR {level:.3g}."
        advice = "choose a richer reference, or raise the tolerance."
    limit = threshold(curve, tolerance)
    return (
        f"{curve.criterion} against the {curve.reference} reference does not stay within "
        f"{limit:.3g} {curve.unit} up to the noisiest level (log-SNR {curve.log_snr[-1]:.3g}). "
        f"{best} Extend the curve towards noise, {advice}"
    )


def warn_of_condition(what: str) -> None:
    """Say that t* was chosen for the law of all data, and that a condition narrows it.

    Args:
        what: Condition, as the subject of a sentence.
    """
    warn(
        f"{what} narrows what is to be sampled, and t* was chosen for the law of all data: on "
        "average the start is further off, by the mutual information of condition and noised data "
        "at t*. Compare samples with those of the full path, choose a noisier t_star, or fit on "
        "data of this condition. If it fixes the whole target, see RigidTarget."
    )
