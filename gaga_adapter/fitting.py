"""Fit the artefact of a data set in one pass, or only ask how Gaussian it is.

    stats = fit(batches)

One pass updates the moments and keeps a uniform sample of bounded size (`streaming.py`); a
criterion then draws its curve on that sample, and the selection reads the characteristic log-SNR
off the curve. `compare` asks several criteria about the same sample and the same reference.

Under an initialised process group all processes call `fit`, or none: they share the pass, the first
one draws the curve, and all return the same artefact (`streaming.py`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from gaga_adapter.criteria import CRITERIA, Criterion, CriterionCurve
from gaga_adapter.criteria import criterion as criterion_named
from gaga_adapter.criteria.levels import falling_levels
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import (
    DataError,
    GAGAWarning,
    TruncationError,
    check_seed,
    whole_number,
)
from gaga_adapter.layout import DenseLayout, Layout, TokenLayout
from gaga_adapter.noise.levels import check_log_snr
from gaga_adapter.reference import make_reference
from gaga_adapter.selection import (
    DEFAULT_TOLERANCES,
    Selection,
    bootstrap,
    check_tolerance,
    noisiest,
    select,
    select_by_size,
)
from gaga_adapter.stats import GAGAStats, library_versions
from gaga_adapter.streaming import Batch, Collected, Sharing, collect, sharing_processes

if TYPE_CHECKING:
    from gaga_adapter.moments import DenseKind

#: Where the curve is drawn by default: from far above any useful t* down to nearly pure noise, and
#: densest where t* usually lies.
DEFAULT_LOG_SNR = (
    *(2.5, 2.0, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0, -0.25),
    *(-0.5, -1.0, -1.5, -2.0, -3.0),
)


_N_REFINE = 8000
_MIXED = "two_sample"  # the criterion that looks at positions and discrete types together


@dataclass(frozen=True)
class Verdict:
    """Result of one criterion.

    Attributes:
        curve: Its curve, or `None` if it could not judge these data.
        selection: Choice of t* on the curve, or `None` if there is none.
        reason: Reason for the choice, or for its absence, in one sentence.
    """

    curve: CriterionCurve | None
    selection: Selection | None
    reason: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """Results of several criteria on the same data.

    Attributes:
        layout: Meaning of the channels.
        count: Number of data items in the moments of the reference.
        n_criterion: Number of items that the criteria saw.
        verdicts: Verdict of each criterion, by its name.
    """

    layout: Layout
    count: int
    n_criterion: int
    verdicts: Mapping[str, Verdict]


def fit(
    data: Iterable[Batch],
    layout: Layout | None = None,
    criterion: str | Criterion | Sequence[str | Criterion] = "two_sample",
    reference: str = "auto",
    covariance: DenseKind = "channel",
    tolerance: float | None = None,
    log_snr: Iterable[float] = DEFAULT_LOG_SNR,
    n_criterion: int = 4000,
    by_size: bool = False,
    n_bootstrap: int = 400,
    seed: int = 0,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
    processes: Sharing = "deal",
    channels: int | None = None,
    refine: str | Sequence[str] = (),
    refine_at: float | None = None,
    n_refine: int = _N_REFINE,
) -> GAGAStats:
    """Fit the statistics of a data set and choose its characteristic log-SNR.

    Args:
        data: Batches of floats, in one pass. Molecules and tokens are pairs of x (B, N, 3+F) or
            (B, N, F) and mask (B, N), true on what is real; dense data are x (B, C, ...), alone or
            as the only entry of a tuple or list.
        layout: Meaning of the channels. When `None` it is read off the first batch: the event
            shape of dense data, or three positions and unnamed features per atom. Molecules whose
            features name elements need `MoleculeLayout(elements, ...)`, tokens without positions
            `TokenLayout(F)`.
        criterion: Name of a criterion of Gaussianity, or one with settings of its own. Of several
            in nats, such as `["two_sample", Certificate(model)]`, the one whose t* is the noisiest
            decides: the largest of the lower bounds at hand.
        reference: Kind of the closed-form start that is judged; `auto` is `shape` for molecules,
            `size` for tokens, and the covariance for dense data. `mixed` and `mixed_order` are for
            types that stay discrete, beside uniform types of noise; masked ones need a
            `MixedReference` of their own (`reference/mixed.py`). The artefact remembers the kind:
            its t* is for this start, which `auto` then means everywhere.
        covariance: Covariance of dense data: `channel`, `element`, `low_rank` or `full`. Images and
            latents of one size want `low_rank`; `channel` serves every size, and does not know how
            pixels depend on each other.
        tolerance: Nats that may remain at t*, or the rate of false alarms of p-values, see
            `selection`; the default of the criterion's unit when `None`.
        log_snr: Levels at which the curve is drawn.
        n_criterion: Size of the sample that the criterion sees.
        by_size: Whether to choose a t* for molecules of every size, too.
        n_bootstrap: Number of resamples for the interval of t*; 0 for none.
        seed: Seed of the sample and the criterion.
        provenance: Facts to record about the data.
        progress: Function that is called with (what, done, total) on the first process.
        processes: Way in which processes of `torch.distributed` share the work. `deal`: all pass
            the same stream, and each takes its share of the batches; `own`: each passes its own
            share, as a distributed sampler makes it; `alone`: this process fits by itself, and
            the others need not call.
        channels: Axis of an event of dense data that holds the channels, where no layout says it:
            -1 for tokens x channels, 1 for frames x channels x height x width. When `None` it is
            the first, with a warning if the numbers point to another one.
        refine: Ways to refine the `shape` start of molecules, on items that the criterion does not
            see: `em` fits the mixing weights of its rows, and `tilt` learns a regression that
            chooses one of several candidates for every draw. What does not help on the items of the
            criterion is left out, with a warning. t* is that of the plain start.
        refine_at: Log-SNR at which the start is refined; t* when `None`. The refinement serves
            there and at all noisier levels. If t* turns out to be cleaner, the start stays plain,
            with a warning.
        n_refine: Number of items that the refinement learns from, 1000 or more.

    Returns:
        The artefact, the same on all processes; `save_pretrained` writes it.

    Raises:
        DataError: If there are no data, batches have another form, values are not finite, there
            are too few for the criterion, or an argument makes no sense.
        StatsMismatchError: If batches have other channels than the layout, or the data do not
            have this reference.
        TruncationError: If the criterion never comes within the tolerance, or `refine_at` is no
            log-SNR.
        ProcessError: If another process failed or is gone.
    """
    asked = criterion if isinstance(criterion, Sequence) else [criterion]
    asked = [asked] if isinstance(asked, str) else asked
    judges = [_judge(one) for one in asked]
    if not judges or (len(judges) > 1 and any(judge.unit != "nats" for judge in judges)):
        names = ", ".join(judge.name for judge in judges) or "none"
        raise DataError(
            f"criterion names {names}: need one, or several in nats, whose bounds can be compared."
        )
    others = set(CRITERIA) - {_MIXED}
    if reference.startswith("mixed") and any(judge.name in others for judge in judges):
        raise DataError(
            f"types of the {reference!r} reference stay discrete, and only the criterion "
            f"{_MIXED!r} looks at them. Got {', '.join(judge.name for judge in judges)}."
        )
    check_tolerance(tolerance, judges[0].unit)
    levels = _levels(log_snr, provenance)
    generator = torch.Generator().manual_seed(check_seed(seed))
    n_criterion = whole_number("n_criterion", n_criterion)
    n_bootstrap = whole_number("n_bootstrap", n_bootstrap, 0)
    methods = _refining(refine, refine_at, n_refine)

    def check(layout: Layout | None) -> None:
        if methods:
            _check_refinable(reference, layout)

    check(layout)
    kept = collect(
        data,
        layout,
        n_criterion + (n_refine if methods else 0),
        reference,
        covariance,
        generator,
        progress,
        processes,
        channels,
        check,
    )

    def conclude(beat: Callable[[], None]) -> GAGAStats:
        assert kept is not None
        collected = _part(kept, slice(n_criterion))
        chosen = {}
        for judge in judges:
            curve = _draw(judge, collected, reference, levels, generator, progress, beat)
            chosen[judge.name] = _choose(curve, tolerance, n_bootstrap, generator)
        selection = noisiest(chosen)
        if by_size:
            by_sizes = select_by_size(selection.curve, tolerance)
            selection = replace(selection, by_size=by_sizes)
        judge = next(one for one in judges if one.name == selection.curve.criterion)
        if getattr(judge, "grows_with_items", False):
            values = _by_items(judge, collected, reference, selection, seed, progress, beat)
            selection = replace(selection, by_items=values)
        layout, moments = collected.layout, collected.moments
        facts = {"count": moments.count, "seed": seed, "versions": library_versions()}
        facts = {**(provenance or {}), **facts}
        stats = GAGAStats(layout, moments, selection.log_snr_star, selection, facts)
        if not methods:
            return stats
        from gaga_adapter.refining.refine import refined

        others = _part(kept, slice(n_criterion, None))
        return refined(stats, methods, refine_at, others, collected, generator, progress, beat)

    return sharing_processes(processes).by_first(conclude)


def compare(
    data: Iterable[Batch],
    layout: Layout | None = None,
    criteria: Sequence[str | Criterion] = ("cumulant", "two_sample", "ks_mi"),
    reference: str = "auto",
    covariance: DenseKind = "channel",
    tolerances: Mapping[str, float] | None = None,
    log_snr: Iterable[float] = DEFAULT_LOG_SNR,
    n_criterion: int = 4000,
    n_bootstrap: int = 400,
    seed: int = 0,
    progress: Progress | None = None,
    processes: Sharing = "deal",
    channels: int | None = None,
) -> Comparison:
    """Judge with several criteria how Gaussian the same data are.

    A criterion that cannot judge these data is listed with its reason; the others go on. The
    arguments are those of `fit`, except for `criteria` (names, or criteria with settings of their
    own) and `tolerances` (by unit, `nats` or `p-value`). Each criterion starts from the same
    `seed`, whatever ran before it.

    Raises:
        DataError: If there are no data, batches have another form, values are not finite, or an
            argument makes no sense.
        StatsMismatchError: If batches have other channels than the layout, or the data do not
            have this reference.
        TruncationError: If a tolerance is not positive and finite.
        ProcessError: If another process failed or is gone.
    """
    if isinstance(criteria, str) or not isinstance(criteria, Sequence) or not criteria:
        raise DataError(f"criteria={criteria!r}: pass a list of one or more, such as ['cumulant'].")
    judges = [_judge(one) for one in criteria]
    if unknown := set(tolerances or {}) - set(DEFAULT_TOLERANCES):
        raise DataError(
            f"tolerances are by unit, and {', '.join(sorted(map(repr, unknown)))} is none. Known: "
            f"{', '.join(DEFAULT_TOLERANCES)}."
        )
    tolerance_of = {j.unit: check_tolerance((tolerances or {}).get(j.unit), j.unit) for j in judges}
    levels = _levels(log_snr)
    generator = torch.Generator().manual_seed(check_seed(seed))
    n_criterion = whole_number("n_criterion", n_criterion)
    n_bootstrap = whole_number("n_bootstrap", n_bootstrap, 0)
    collected = collect(
        data, layout, n_criterion, reference, covariance, generator, progress, processes, channels
    )

    def conclude(beat: Callable[[], None]) -> Comparison:
        assert collected is not None
        verdicts = {}
        for judge in judges:
            generator = torch.Generator().manual_seed(seed)
            curve = selection = None
            try:
                curve = _draw(judge, collected, reference, levels, generator, progress, beat)
                selection = _choose(curve, tolerance_of[judge.unit], n_bootstrap, generator)
                reason = selection.reason
            except (DataError, TruncationError) as error:
                reason = str(error)
            verdicts[judge.name] = Verdict(curve, selection, reason)
        return Comparison(collected.layout, collected.moments.count, len(collected.x), verdicts)

    return sharing_processes(processes).by_first(conclude)


def _judge(criterion: str | Criterion) -> Criterion:
    """A criterion by its name, or the one that was passed; refuses what is none, and a class."""
    if isinstance(criterion, str):
        return criterion_named(criterion)
    if isinstance(criterion, type) or not hasattr(criterion, "curve"):
        raise DataError(
            f"criterion={criterion!r} is no criterion. Pass a name such as 'cumulant', or an "
            "object such as TwoSample()."
        )
    return criterion


def _levels(log_snr: Iterable[float], provenance: dict[str, Any] | None = None) -> list[float]:
    """The levels of the curve, from data to noise; refuses arguments before the data are read."""
    try:
        levels = falling_levels(
            torch.tensor([float(level) for level in log_snr], dtype=torch.float64)
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"log_snr={log_snr!r} is no list of levels. Pass numbers such as (2.0, 0.0, -2.0)."
        ) from error
    try:
        json.dumps(provenance)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"provenance cannot be stored as JSON ({error}). Pass text, numbers and lists of them."
        ) from error
    return levels


def _draw(
    judge: Criterion,
    collected: Collected,
    reference: str,
    log_snr: Iterable[float],
    generator: torch.Generator,
    progress: Progress | None,
    beat: Callable[[], None],
) -> CriterionCurve:
    def report(what: str, done: int, total: int | None) -> None:
        beat()
        if progress is not None:
            progress(what, done, total)

    return judge.curve(
        collected.x,
        collected.mask,
        make_reference(collected.moments, reference),
        torch.tensor(sorted(log_snr, reverse=True), dtype=torch.float64),
        generator=generator,
        progress=report,
    )


def _by_items(
    judge: Criterion,
    collected: Collected,
    reference: str,
    selection: Selection,
    seed: int,
    progress: Progress | None,
    beat: Callable[[], None],
) -> dict[int, tuple[float, float]]:
    """What the criterion says at the first level that holds, of a quarter and half of the items."""
    curve, found = selection.curve, {}
    at = curve.log_snr.index(selection.first_level)
    shares = (4, 2)
    for done, share in enumerate(shares):
        if progress is not None:
            progress(f"{curve.criterion} on fewer items", done, len(shares))
        n = curve.n_samples // share
        part = _part(collected, slice(n))
        generator = torch.Generator().manual_seed(seed)
        try:
            with warnings.catch_warnings():  # that so few items make a loose bound is the point
                warnings.simplefilter("ignore", GAGAWarning)
                one = _draw(
                    judge, part, reference, curve.log_snr[at : at + 1], generator, None, beat
                )
        except DataError:  # too few items for the criterion
            continue
        found[n] = (one.value[0], one.std_error[0])
    return {**found, curve.n_samples: (curve.value[at], curve.std_error[at])}


def _part(collected: Collected, rows: slice) -> Collected:
    """Some items of the sample, with the moments of all."""
    mask = None if collected.mask is None else collected.mask[rows]
    return replace(collected, x=collected.x[rows], mask=mask)


def _refining(
    refine: str | Sequence[str], refine_at: float | None, n_refine: int
) -> tuple[str, ...]:
    """The ways to refine; refuses arguments before the data are read."""
    if not refine:
        for name, is_given in (
            ("refine_at", refine_at is not None),
            ("n_refine", n_refine != _N_REFINE),
        ):
            if is_given:
                raise DataError(f"{name} is given and refine is not. Pass refine='tilt', too.")
        return ()
    from gaga_adapter.refining.refine import FEWEST, check_methods

    methods = check_methods(refine)
    if refine_at is not None:
        check_log_snr("refine_at", refine_at)
    whole_number("n_refine", n_refine, FEWEST)
    return methods


def _check_refinable(reference: str, layout: Layout | None) -> None:
    """Refuse data that have no `shape` to refine, and another reference."""
    if reference not in ("auto", "shape") or isinstance(layout, DenseLayout | TokenLayout):
        what = layout.describe() if reference in ("auto", "shape") and layout else reference
        raise DataError(
            f"refine is of the shape reference of molecules, and this is {what}. Leave refine out."
        )


def _choose(
    curve: CriterionCurve, tolerance: float | None, n_bootstrap: int, generator: torch.Generator
) -> Selection:
    selection = select(curve, tolerance)
    if not n_bootstrap or curve.contributions is None:
        return selection
    return replace(selection, interval=bootstrap(curve, tolerance, n_bootstrap, generator))
