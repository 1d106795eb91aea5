r"""Matched moments: the spread that a predicted mean lacks is given back.

A step from `x = a x_0 + b eps` to the next level `(A, B)` is linear in the clean prediction,

    x' = c_1 xhat + c_2 x + s eps',        c_1 = A - a c_2.

A network predicts the mean of `x_0` given x, and a mean has less variance than the data, by the
mean squared error. So x' has a smaller second moment than the path has, `A² v + B²` for data of
variance v, and few steps make samples too compact. Here the prediction is scaled (about the mean
of the data) by the number r for which the second moment is that of the path,

    (a² v + b²) (c_1² r² <xhat, xhat> + 2 c_1 c_2 r <xhat, x> + c_2² <x, x>) / <x, x> + s²
        = A² v + B²,

with `<., .>` per degree of freedom over the batch. By chance, `<x, x>` is not quite the `a² v + b²`
that the path has for it. Since only quotients by it count, chance is left as it is: a sample that
is large stays as much larger than the others.

What v is, the samples themselves say, `v_own = (<x, x> - b²) / a²`; and the data say it, too. The
two are averaged with their inverse variances: `v_own` has `(2 b⁴ + 4 a² b² v) / (a⁴ d)` for d
degrees of freedom, the mean of a batch that of its examples' own, beyond the `2 v² / d` that
chance makes of equal ones. So far out the data decide, close to the data the samples, which keep
their own size; and a batch of one serves as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.moments.dense import DenseMoments, fits
from gaga_adapter.noise.conventions import Level
from gaga_adapter.reference.base import workspace
from gaga_adapter.subspace import mask_from_padding

#: A prediction is never scaled by more than this, nor by less than its inverse.
MOST_SCALED = 2.0
#: Standard deviation over examples of their own variance, in shares of it, where the moments of
#: dense data do not say.
_SPREAD = 0.5
#: What moments said of a size, by their count and the size: they pool over many sizes for it.
_OF_SIZE: WeakKeyDictionary[ExchangeableMoments, dict[tuple[int, int], tuple[float, float]]] = (
    WeakKeyDictionary()
)


class Step(NamedTuple):
    """A step `x' = of_clean xhat + of_sample x + noise eps'` between two levels."""

    here: Level
    there: Level
    of_clean: float
    of_sample: float
    noise: float


@dataclass(frozen=True)
class _Batch:
    """What a batch is about.

    Attributes:
        part: Channels that are scaled.
        counts: Number 1 where an entry counts, and 0 in the padding; broadcasts.
        mean: Mean of the data in that part, of a shape that broadcasts.
        dof: Degrees of freedom of the batch.
        variance: Data's own variance per degree of freedom.
        uncertainty: Variance, beyond chance, of the mean over such a batch of the examples' own
            variances.
    """

    part: slice
    counts: Tensor | float
    mean: Tensor
    dof: float
    variance: float
    uncertainty: float


def matched(
    clean: Tensor, sample: Tensor, step: Step, moments: ExchangeableMoments | DenseMoments
) -> Tensor:
    """The clean prediction, scaled so that the next sample has the second moment of the path.

    Args:
        clean: Prediction of x_0 (B, ...); the centre of mass of molecules is zero.
        sample: Sample (B, ...) that it was made from; molecules have padding of exactly zero.
        step: Step that is to follow.
        moments: Moments of the data. Of molecules, the positions are scaled; of dense data, all.

    Returns:
        Prediction (B, ...). It comes back as it is where there is nothing to scale: at pure noise,
        for data without spread, and for dense samples of another layout than the moments', such as
        latents that a pipeline packs into tokens.
    """
    a, b = step.here
    if not a or not step.of_clean:
        return clean
    if isinstance(moments, ExchangeableMoments):
        batch = _molecules(sample, moments)
    else:
        batch = _dense(sample, moments)
    if batch is None or not batch.dof or not batch.variance > 0:
        return clean
    mean = batch.mean
    x = sample[..., batch.part].to(mean) - a * mean
    predicted = (clean[..., batch.part].to(mean) - mean) * batch.counts
    pairs = ((x, x), (predicted, x), (predicted, predicted))
    own, cross, square = (torch.stack([(p * q).sum() for p, q in pairs]) / batch.dof).tolist()
    if not min(own, square) > 0 or not math.isfinite(own + cross + square):
        return clean
    noise = own_uncertainty(step.here, batch.variance, batch.dof)
    weight = batch.uncertainty / (batch.uncertainty + noise)
    variance = weight * (own - b**2) / a**2 + (1 - weight) * batch.variance
    now, then = a**2 * variance + b**2, step.there.a**2 * variance + step.there.b**2
    # A quadratic equation for the scale, in units of what the path has for <x, x>.
    rest = (then - step.noise**2) / now - step.of_sample**2
    half = step.of_clean * step.of_sample * cross / own
    lead = step.of_clean**2 * square / own
    root = math.sqrt(max(half**2 + lead * rest, 0.0))
    scale = min(max((root - half) / lead, 1 / MOST_SCALED), MOST_SCALED)
    scaled: Tensor = (mean + scale * predicted).to(clean)
    if batch.part == slice(None):
        return scaled
    return torch.cat([scaled, clean[..., batch.part.stop :]], dim=-1)


def own_uncertainty(here: Level, variance: float, dof: float) -> float:
    """Variance, by the noise, of what a sample says of its own variance, `(<x, x> - b²) / a²`.

    Args:
        here: Level of the sample.
        variance: Variance of its data per degree of freedom.
        dof: Degrees of freedom.
    """
    a, b = here
    return (2 * b**4 + 4 * a**2 * b**2 * variance) / (a**4 * dof)


def _molecules(sample: Tensor, moments: ExchangeableMoments) -> _Batch | None:
    """Positions, whose variance depends on the number of atoms."""
    n_positions = moments.n_positions
    mask = mask_from_padding(sample)
    sizes = mask.sum(1)
    found, counts = torch.unique(sizes[sizes > 1], return_counts=True)
    if not n_positions or not len(found):
        return None
    dof = variance = uncertainty = 0.0
    known = _OF_SIZE.setdefault(moments, {})
    for n, count in zip(found.tolist(), counts.tolist(), strict=True):
        if (moments.count, n) not in known:
            at = moments.at_size(n)
            known[moments.count, n] = at.v_x, at.v_x_std
        v_x, v_x_std = known[moments.count, n]
        own = n_positions * (n - 1)
        dof += count * own
        variance += count * own * v_x
        beyond_chance = max(v_x_std**2 - 2 * v_x**2 / own, 0.0)
        uncertainty += count * own**2 * beyond_chance
    zero = torch.zeros((), dtype=torch.float64, device=workspace(sample.device))
    return _Batch(
        slice(n_positions),
        mask[..., None].to(zero),
        zero,
        dof,
        variance / dof,
        uncertainty / dof**2,
    )


def _dense(sample: Tensor, moments: DenseMoments) -> _Batch | None:
    """All of an example, about the mean of its entries or, at other sizes, of its channels."""
    event = tuple(sample.shape[1:])
    if not fits(event, moments.shape, moments.channels, any_size=True):
        return None
    if moments.kind != "channel" and tuple(moments.mean.shape) == event:
        mean, variance = moments.mean, moments.var
    else:
        shape = [1] * len(event)
        shape[moments.channels] = -1
        mean, variance = moments.channel_mean.reshape(shape), moments.channel_var
    own = float(variance.mean())
    mean = mean.to(workspace(sample.device), torch.float64)
    uncertainty = (_SPREAD * own) ** 2 / len(sample)
    return _Batch(slice(None), 1.0, mean, float(sample.numel()), own, uncertainty)
