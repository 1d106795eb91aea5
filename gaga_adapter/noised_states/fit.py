"""Fit on a codebase's own noised states, level by level.

    stats = fit_states(states_at_level, levels=[0.1, 0.2, 0.3])
    x = stats.start().sample(sizes)              at stats.level_star

`fit` needs the data alone, because the moments of `a x_0 + b eps` follow from those of `x_0` if the
noise knows nothing of the data. Flows with optimal transport pair the two: they reorder the noise,
turn it, or exchange it within a batch, so that it lies near the data. Then signal and noise add up
in amplitude instead of in variance, and the moments of a state must be measured where it is.

At every level one pass over states takes the moments, and holds some states out. Boosted trees and
a logistic regression tell these from as many draws of the reference (`criteria/two_sample`): that
is a lower bound, in nats, of what a start from the reference costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaga_adapter.criteria import CRITERIA
from gaga_adapter.criteria.two_sample.criterion import TwoSample
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import (
    DataError,
    StatsMismatchError,
    TruncationError,
    check_seed,
    plain_number,
    whole_number,
)
from gaga_adapter.files.checked import to_json
from gaga_adapter.layout import Layout
from gaga_adapter.noised_states.artefact import FittedStates, MeasuredLevel, Towards, same_level
from gaga_adapter.reference.measured import measured_reference
from gaga_adapter.selection import MARGIN, check_tolerance, first_that_holds
from gaga_adapter.stats import library_versions
from gaga_adapter.streaming import (
    Batch,
    Collected,
    Sharing,
    collect,
    is_pair,
    sharing_processes,
)

if TYPE_CHECKING:
    from gaga_adapter.moments import DenseKind

_OTHER: dict[str, Towards] = {"data": "noise", "noise": "data"}


def fit_states(
    states_at_level: Callable[[float], Iterable[Batch] | Batch],
    levels: Iterable[float],
    layout: Layout | None = None,
    towards: Towards = "data",
    reference: str = "auto",
    covariance: DenseKind = "channel",
    tolerance: float | None = None,
    criterion: TwoSample | str | None = None,
    n_criterion: int = 4000,
    seed: int = 0,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
    processes: Sharing = "deal",
    channels: int | None = None,
) -> FittedStates:
    """Fit the law of a codebase's noised states at every level, and choose where to start.

    Args:
        states_at_level: Function that gets a level and returns states that the codebase's own
            interpolant makes there: batches as for `fit`, or a single one. Molecules and tokens are
            pairs of x (B, N, 3+F) or (B, N, F) and mask (B, N); dense data are x (B, C, ...). It is
            called once a level, and its batches are read once.
        levels: Levels in the codebase's own time, rising or falling.
        layout: Meaning of the channels; read off the first batch when `None`, see `fit`.
        towards: End of the path to which the codebase's time rises: `data` if 0 is noise, as in
            SemlaFlow, FlowMol and torchcfm, or `noise` if 0 is data.
        reference: Kind of the start; `auto` is `shape` for molecules, `size` for tokens, and the
            covariance for dense data.
        covariance: Covariance of dense data: `channel`, `element`, `low_rank` or `full`. Images and
            latents of one size want `low_rank`; `channel` serves every size, and does not know how
            pixels depend on each other.
        tolerance: Nats that may remain at the start; 0.5 when `None`.
        criterion: Two-sample criterion with settings of its own, or its name. The others need clean
            data.
        n_criterion: Number of states that are held out at every level, half of all at most.
        seed: Seed of the choice of those states and of the criterion. The noise of the states is
            the codebase's.
        provenance: Facts to record about the states.
        progress: Function that is called with (what, done, total) on the first process.
        processes: Way in which processes of `torch.distributed` share the work, see `fit`.
        channels: Axis of an event of dense data that holds the channels, see `fit`.

    Returns:
        The statistics of all levels, the same on all processes.

    Raises:
        DataError: If there are no states at a level, they are too few, not finite or of another
            form, or an argument makes no sense.
        StatsMismatchError: If the states of a level have other channels than the layout, or do not
            have this reference.
        TruncationError: If levels are out of order or repeated, or the states are not within the
            tolerance even at the noisiest level.
        ArtefactError: If the provenance cannot be stored as JSON.
        ProcessError: If another process failed or is gone.
    """
    if not callable(states_at_level):
        raise DataError(
            f"states_at_level is a {type(states_at_level).__name__}, and a function is needed. "
            "Pass one that takes a level and returns batches of states."
        )
    if towards not in _OTHER:
        raise DataError(f"towards={towards!r} is unknown. Known: {', '.join(_OTHER)}.")
    judge = _judge_of_states(criterion)
    tolerance = check_tolerance(tolerance, judge.unit)
    ordered = _from_data_to_noise(levels, towards)
    check_seed(seed)
    n_criterion = whole_number("n_criterion", n_criterion)
    provenance = {**(provenance or {}), "seed": seed, "versions": library_versions()}
    to_json(provenance)

    team = sharing_processes(processes)
    measured: list[MeasuredLevel] = []
    for level in ordered:
        generator = torch.Generator().manual_seed(seed)
        with _named(level):
            collected = collect(
                _batches(states_at_level(level)),
                layout,
                n_criterion,
                reference,
                covariance,
                generator,
                progress,
                processes,
                None if measured else channels,
                hold_out=True,
            )
            judged = partial(_judged, judge, level, collected, reference, generator)
            layout, one = team.by_first(judged)
        measured.append(one)
        if progress is not None and team.index == 0:
            progress(judge.name, len(measured), len(ordered))
    assert layout is not None
    kind = measured_reference(measured[0].moments, reference).kind
    star, reason = _choice(measured, tolerance, kind, towards)
    return FittedStates(layout, tuple(measured), towards, kind, tolerance, star, reason, provenance)


def _judge_of_states(criterion: object) -> TwoSample:
    """The two-sample criterion that was passed or named; refuses all others."""
    if criterion is None or criterion == TwoSample.name:
        return TwoSample()
    if isinstance(criterion, TwoSample):
        return criterion
    advice = f"Pass {TwoSample.name!r}, an object such as TwoSample(), or leave it out."
    if isinstance(criterion, str):
        is_another = criterion in CRITERIA
    else:
        is_another = hasattr(criterion, "curve") and not isinstance(criterion, type)
    if is_another:
        raise DataError(
            f"criterion={criterion!r} cannot judge states that have their noise already: all but "
            f"the two-sample criterion add noise to clean data. {advice}"
        )
    raise DataError(f"criterion={criterion!r} is no criterion. {advice}")


def _from_data_to_noise(levels: Iterable[float], towards: Towards) -> list[float]:
    """The levels in the order of curves; refuses what is out of order or repeated."""
    advice = "Pass levels as numbers in the codebase's own time, such as [0.1, 0.2, 0.3]."
    is_single = isinstance(levels, str | bytes) or getattr(levels, "ndim", 1) == 0
    if is_single or not isinstance(levels, Iterable):
        raise TruncationError(f"levels={levels!r} is no list. {advice}")
    given = [plain_number("a level", level, advice) for level in levels]
    if not given:
        raise TruncationError(f"levels is empty. {advice}")
    for one, other in pairwise(sorted(given)):
        if same_level(one, other):
            raise TruncationError(f"levels holds {one:g} more than once. Pass each level once.")
    if given not in (sorted(given), sorted(given, reverse=True)):
        shown = ", ".join(f"{level:g}" for level in given)
        raise TruncationError(f"levels {shown} neither rise nor fall. Pass sorted(levels).")
    return sorted(given, reverse=towards == "data")


def _batches(states: Any) -> Iterable[Batch]:  # noqa: ANN401 - whatever the function returned
    """The batches of a level: a single tensor, or pair of x and mask, is one batch."""
    return [states] if isinstance(states, Tensor) or is_pair(states) else states


@contextmanager
def _named(level: float) -> Iterator[None]:
    """Name the level in an error about its states."""
    try:
        yield
    except (DataError, StatsMismatchError) as error:
        raise type(error)(f"states at level {level:g}: {error}") from error


def _judged(
    judge: TwoSample,
    level: float,
    collected: Collected | None,
    reference: str,
    generator: torch.Generator,
    beat: Callable[[], None],
) -> tuple[Layout, MeasuredLevel]:
    """The layout and what is measured of one level, on the first process."""
    assert collected is not None
    moments, x = collected.moments, collected.x
    if len(x) < judge.fewest:
        raise DataError(
            f"{len(x)} of {moments.count + len(x)} states are held out, and the criterion needs at "
            f"least {judge.fewest} of these. Half of all are held out, n_criterion at most: pass "
            f"{2 * judge.fewest} states or more, with n_criterion={judge.fewest} or more."
        )
    law = measured_reference(moments, reference)
    beat()
    found = judge.of_states(x, collected.mask, law, generator)
    one = MeasuredLevel(level, moments, found.kl, found.kl_std_error, found.auc, len(x))
    return collected.layout, one


def _choice(
    measured: Sequence[MeasuredLevel], tolerance: float, kind: str, towards: Towards
) -> tuple[float, str]:
    """The level of the start, and the reason for it; levels run from data to noise."""
    first = first_that_holds([one.upper for one in measured], tolerance)
    claim = f"two_sample + {MARGIN:g} s.e. <= {tolerance:g} nats against the {kind} reference"
    if first is None:
        last, other = measured[-1], _OTHER[towards]
        raise TruncationError(
            f"the states are not within {tolerance:g} nats of the {kind} reference at the noisiest "
            f"level, {last.level:g}: {last.value:.3g} ± {last.std_error:.2g} nats of "
            f"{last.n_held_out:,} states. Measure levels nearer to noise, choose a richer "
            "reference, or raise the tolerance. If the codebase's time rises towards "
            f"{other}, pass towards={other!r}."
        )
    star = measured[first].level
    if first == 0:
        return star, f"{claim} at all levels; levels nearer to the data may hold too"
    closer = measured[first - 1]
    return star, (
        f"{claim} from level {star:g} on towards noise (at level {closer.level:g} it is "
        f"{closer.value:.3g} ± {closer.std_error:.2g} nats)"
    )
