"""Learn what refines the `shape` start at one noise level, and ask others whether it helps.

`fit(data, refine=("em", "tilt"))` keeps some data items for it. The mixing weights and then the
tilt are learnt from these at one level; the criterion `two_sample` finds out on the items of the
criterion, which neither has seen, how far the plain and the refined start are from noised data.
What does not help there is left out, with a warning.

The judge looks at the same invariant features as the tilt does. So a small value says that nothing
is left *in these features*, and not that nothing is left; t* is chosen with the plain start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

import torch
from torch import Generator

from gaga_adapter.criteria.two_sample.criterion import TwoSample
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import DataError, warn
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.levels import TOLERANCE
from gaga_adapter.reference.refined.refinement import Refinement
from gaga_adapter.reference.refined.weights import fit_weights
from gaga_adapter.reference.shape import ShapeReference
from gaga_adapter.refining.learning import learn_tilt
from gaga_adapter.stats import GAGAStats
from gaga_adapter.streaming import Collected

#: Ways to refine, in the order in which they are learnt.
METHODS = ("em", "tilt")
#: Fewest items to learn from.
FEWEST = 1000


def check_methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    """The ways to refine, each once and in their order.

    Raises:
        DataError: If one is unknown, or it is no name and no list of names.
    """
    if not isinstance(methods, str | Sequence):
        raise DataError(
            f"refine={methods!r} names no way to refine. Pass one or a list of: "
            f"{', '.join(METHODS)}."
        )
    asked = [methods] if isinstance(methods, str) else list(methods)
    if unknown := [name for name in asked if name not in METHODS]:
        raise DataError(f"refine={unknown[0]!r} is unknown. Known: {', '.join(METHODS)}.")
    return tuple(name for name in METHODS if name in asked)


def refined(
    stats: GAGAStats,
    methods: Sequence[str],
    log_snr: float | None,
    learn: Collected,
    judge: Collected,
    generator: Generator | None = None,
    progress: Progress | None = None,
    beat: Callable[[], None] = lambda: None,
) -> GAGAStats:
    """The statistics with a refined `shape` start, or as they are if nothing helps.

    They stay as they are, with a warning, if the level is noisier than t*, too.

    Args:
        stats: Plain statistics of molecules.
        methods: Ways to refine, `em`, `tilt` or both.
        log_snr: Level of the refinement; that of t* when `None`.
        learn: Items to learn from.
        judge: Other items, on which the gain is measured.
        generator: Source of randomness.
        progress: Function that is called with (what, done, total).
        beat: Function that is called after each step, too.

    Raises:
        DataError: If the data have no `shape`, or too few items are there to learn from.
    """
    level, moments = stats.log_snr_star if log_snr is None else log_snr, stats.moments
    if level < stats.log_snr_star - TOLERANCE:
        warn(
            f"refine_at={level:.4g} is noisier than t*, log-SNR {stats.log_snr_star:.4g}, and a "
            "refinement serves at its level and beyond. The start stays plain; pass a larger one, "
            "or leave it out."
        )
        return stats
    plain = stats.reference("shape")
    assert isinstance(moments, ExchangeableMoments)
    assert isinstance(plain, ShapeReference)
    assert learn.mask is not None
    if len(learn.x) < FEWEST:
        raise DataError(
            f"{len(learn.x)} items are left to refine the start with, beside those of the "
            f"criterion, and it needs {FEWEST}. Pass more data, or a smaller n_criterion."
        )
    done = count(1)

    def tick() -> None:
        beat()
        if progress is not None:
            progress("refinement", next(done), 2 + len(methods))

    before = _nats(plain, judge, level, generator)
    tick()
    weights = tilt = None
    if "em" in methods:
        weights = fit_weights(plain, learn.x, learn.mask, level, generator)
        if weights is None:
            warn("mixing weights by EM gain nothing on held-out data, so they stay equal.")
        tick()
    if "tilt" in methods:
        base = ShapeReference("shape", moments, weights)
        tilt = learn_tilt(base, learn.x, learn.mask, level, generator=generator)
        tick()
    found = Refinement(level, len(learn.x), len(judge.x), before, before, weights, tilt)
    if not found.methods:
        return stats
    after = _nats(found.reference(moments), judge, level, generator)
    tick()
    if before[0] - after[0] < 2 * math.hypot(before[1], after[1]):
        warn(
            f"refining the start by {' and '.join(found.methods)} does not help: two_sample finds "
            f"{after[0]:.3f} ± {after[1]:.3f} nats with it, {before[0]:.3f} ± {before[1]:.3f} "
            "without. The start stays plain."
        )
        return stats
    return replace(stats, refinement=replace(found, refined_nats=after))


def _nats(
    reference: ShapeReference, items: Collected, log_snr: float, generator: Generator | None
) -> tuple[float, float]:
    """What `two_sample` finds between noised items and a reference at one level, and its error."""
    curve = TwoSample(check_reference=False).curve(
        items.x,
        items.mask,
        reference,
        torch.tensor([log_snr], dtype=torch.float64),
        generator=generator,
    )
    return curve.value[0], curve.std_error[0]
