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

import numpy as np
import torch
from torch import Generator, Tensor

from gaga_adapter.criteria.levels import add_noise, draw_like
from gaga_adapter.criteria.two_sample.criterion import TwoSample
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import DataError, TruncationError, warn
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.levels import TOLERANCE, coefficients
from gaga_adapter.reference.invariants import molecule_features
from gaga_adapter.reference.refined.refinement import Refinement
from gaga_adapter.reference.refined.tilt import Tilt, cells_of
from gaga_adapter.reference.refined.weights import fit_weights
from gaga_adapter.reference.shape import ShapeReference
from gaga_adapter.stats import GAGAStats
from gaga_adapter.streaming import Collected
from gaga_adapter.subspace import mask_from_sizes

#: Ways to refine, in the order in which they are learnt.
METHODS = ("em", "tilt")
#: Number of candidates of a tilted draw.
N_CANDIDATES = 16
#: Fewest items to learn from.
FEWEST = 1000
_LIMIT = 4.0  # of the log-odds: beyond it one point in fifty decides
_PENALTY = 100.0  # L2 weight of the regression, as that of `two_sample`
_FEWEST_OF_SIZE = 50  # items of a size from which the tilt serves it
_N_DRAWS, _N_CELLS = 2048, 64  # draws per size for the law of a weight


def check_methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    """The ways to refine, each once and in their order.

    Raises:
        DataError: If one is unknown.
    """
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
        TruncationError: If the level is noisier than t*.
    """
    level, moments = stats.log_snr_star if log_snr is None else log_snr, stats.moments
    if level < stats.log_snr_star - TOLERANCE:
        raise TruncationError(
            f"refine_at={level:.4g} is noisier than t*, log-SNR {stats.log_snr_star:.4g}, and a "
            "refinement serves at its level and beyond. Pass a larger one, or leave it out."
        )
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


def learn_tilt(
    reference: ShapeReference,
    x: Tensor,
    mask: Tensor,
    log_snr: float,
    n_candidates: int = N_CANDIDATES,
    generator: Generator | None = None,
) -> Tilt:
    """A tilt of a reference towards noised data, at one level.

    Args:
        reference: The reference, at any level.
        x: Clean data (M, N, 3 + F).
        mask: Real atoms (M, N), bool.
        log_snr: Level of the tilt.
        n_candidates: Number of candidates of a draw.
        generator: Source of randomness.

    Raises:
        DataError: If no size has enough items.
    """
    from sklearn.linear_model import LogisticRegression

    here = reference.at(*coefficients(log_snr))
    sizes, counts = torch.unique(mask.sum(1), return_counts=True)
    sizes = sizes[counts >= _FEWEST_OF_SIZE]
    if not len(sizes):
        raise DataError(
            f"no size has {_FEWEST_OF_SIZE} items to learn a tilt from. Pass more data."
        )
    x = x.double()
    samples = (
        (add_noise(x, mask, here, generator), mask),
        (draw_like(x, mask, here, generator), mask_from_sizes(mask.sum(1))),
    )
    numbers = torch.cat([y[real] for y, real in samples])
    length, amplitude = (
        math.sqrt(float(part.square().mean())) if part.numel() else 1.0
        for part in (numbers[:, :3], numbers[:, 3:])
    )
    features = torch.cat([molecule_features(y, real, length, amplitude) for y, real in samples])
    mean, scale = features.mean(0), features.std(0, correction=0)
    scale = torch.where(scale > 1e-12 * mean.abs().clamp(min=1.0), scale, torch.inf)
    model = LogisticRegression(C=1 / _PENALTY, max_iter=2000)
    model.fit(((features - mean) / scale).numpy(), np.repeat([1, 0], len(x)))
    coefficient = torch.from_numpy(model.coef_[0]) / scale
    intercept = float(model.intercept_[0]) - float(coefficient @ mean)
    tilt = Tilt(
        log_snr=log_snr,
        length=length,
        amplitude=amplitude,
        coefficients=coefficient,
        intercept=intercept,
        limit=_LIMIT,
        n_candidates=n_candidates,
        sizes=sizes,
        cells=torch.ones(len(sizes), _N_CELLS, dtype=torch.float64),
    )
    cells = []
    for n in sizes.tolist():
        draws = here.sample([n] * _N_DRAWS, generator=generator, dtype=torch.float64)
        odds = tilt.log_odds(draws, torch.ones(draws.shape[:2], dtype=torch.bool))
        cells.append(cells_of(odds.exp(), _N_CELLS))
    return replace(tilt, cells=torch.stack(cells))


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
