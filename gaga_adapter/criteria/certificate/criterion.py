r"""Certificate: what a trained denoiser knows of noised data that the reference does not.

For `y = x_0 + sigma eps`, snr = 1 / sigma², and any law Q of x_0 (Verdú 2010; the Gaussian case by
Guo, Shamai and Verdú 2005),

    KL(p_snr || q_snr) = 1/2 ∫_0^snr [mse_Q(s) - mmse(s)] ds,

where mse_Q is the error, under the data, of the denoiser that is optimal for Q (`linear.py`), and
mmse that of the best there is. A model's error on held-out data is not below mmse, so with it the
integral is a lower bound of the KL, by exactly what the model misses; it is tight for a good model.
Data that the model has learnt by heart certify nothing.

**Pairs.** Both denoise the same noised items, and the noise that their errors share drops out. The
closed form of mse_Q over the noise stands beside them as the column `lmmse`: a check, and the
linear minimum if the moments of the reference are the data's own.

**One integral for every reference.** We integrate against a Gaussian anchor instead of Q, and the
step from it to Q needs no denoiser (`linear.py`). The anchor of molecules is `size`, so a poor
mean or scale of the reference costs no network calls and no accuracy; a dense reference is its own.

**Where the model is worse than linear** it certifies nothing, and the linear denoiser takes its
place there: the integrand is 0. The even items decide where this holds for the odd ones and these
for them, so an item has no say in its own case, and choosing the better of two noisy averages adds
no bias. A `GAGAWarning` names these levels. The two halves decide for each other, so near the null
hypothesis, where chance decides, what they add is not independent. The standard error therefore has
the scatter of all items, of a half that does not count as well, unless the model is surely worse
there: it is too large rather than too small.

**Quadrature.** In log-SNR, `∫ .. ds = ∫ .. s d log s`: the integral of the cubic spline through the
levels of the curve and others between and below, at most `step` apart. A denoiser made for a table
of timesteps is asked at the nearest of these. What lies below `noisiest`, or outside of the table,
is left out; the true integrand is not negative, so the bound holds. All this is linear in the
errors of an item: one row of contributions per item, and standard errors that know how the levels
hang together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from gaga_adapter.criteria.certificate.denoisers import Denoiser, Predict, as_denoiser
from gaga_adapter.criteria.certificate.linear import (
    anchor_to_reference,
    expected_error,
    posterior_mean,
)
from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.criteria.levels import (
    add_noise,
    anchor_of,
    is_gaussian,
    n_positions,
)
from gaga_adapter.criteria.protocol import BaseCriterion, Task
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import DataError, TruncationError, UnsupportedModelError, warn
from gaga_adapter.reference import ReferenceGaussian

_MOST_NODES = 2000
_FEWEST = 10  # items that one half needs to decide for the other
_SURE = 4.0  # standard errors from which a model counts as worse than linear: 3e-5 per level
_TAIL = 0.01  # nats that may be left out below `noisiest` without a warning


@dataclass(frozen=True)
class Certificate(BaseCriterion):
    """Certified lower bound of `KL(p_t || reference)`, in nats per held-out data item.

    Extra columns of its curve are errors per item (squared, all channels) at the level of the
    integral nearest to each: `model_error`, `linear_error` of the anchor, and `lmmse`, which is
    `linear_error` averaged over the noise in closed form (NaN for an anchor that is no Gaussian).

    Attributes:
        denoiser: Denoiser from `as_denoiser`, or a callable that it takes without a scheduler.
        n_samples: Largest number of data items.
        batch_size: Number of items in one call of the denoiser.
        n_noise: Number of noised copies of each item per level.
        noisiest: Log-SNR at which the integral starts; lower where the curve asks for it.
        step: Largest distance of two levels of the integral, in log-SNR.

    Raises:
        DataError: If a setting makes no sense.
        UnsupportedModelError: If `as_denoiser` refuses the denoiser.
    """

    name: ClassVar[str] = "certificate"
    unit: ClassVar[str] = "nats"

    denoiser: Denoiser | Predict
    n_samples: int = 1000
    batch_size: int = 64
    n_noise: int = 1
    noisiest: float = -7.0
    step: float = 0.4

    def __post_init__(self) -> None:
        as_denoiser(self.denoiser)
        self._require(n_samples=_FEWEST, batch_size=1, n_noise=1)
        if not (math.isfinite(self.noisiest) and 0 < self.step <= 1):
            raise DataError(
                f"noisiest={self.noisiest}, step={self.step}: need a finite log-SNR, and a step "
                "in (0, 1]."
            )

    def curves(
        self,
        x: Tensor,
        mask: Tensor | None,
        references: Sequence[ReferenceGaussian],
        log_snr: Tensor,
        generator: Generator | None = None,
        progress: Progress | None = None,
    ) -> list[CriterionCurve]:
        """Curves against several references, from the same calls of the denoiser.

        The arguments are those of `Criterion.curve`. The anchor is that of the first reference, and
        progress counts the levels of the integral and of each curve.

        Raises:
            DataError: If there is no reference, or the data are too few, not finite or of another
                shape.
            StatsMismatchError: If a reference describes other channels.
            UnsupportedModelError: If the denoiser returns something else than a prediction of x_0,
                or its timesteps do not reach the levels.
        """
        if not references:
            raise DataError("no reference to compare with. Pass one or more.")
        return self._curves(self._task(x, mask, log_snr, generator, progress), references)

    def _draw(self, task: Task, reference: ReferenceGaussian) -> CriterionCurve:
        return self._curves(task, [reference])[0]

    def _curves(self, task: Task, references: Sequence[ReferenceGaussian]) -> list[CriterionCurve]:
        levels = task.levels
        denoiser, anchor = as_denoiser(self.denoiser), anchor_of(references[0])
        task.require(_FEWEST)
        task = task.sample(self.n_samples)
        x = task.x if task.x.dtype == torch.float64 else task.x.float()
        task = replace(task, x=x if task.mask is None else anchor.project(x, task.mask))
        nodes = self._nodes(levels, denoiser)
        tick = task.ticker(len(nodes) + len(levels) * len(references))
        linear, model = self._errors(anchor, task, nodes, tick)
        gain = 0.5 * nodes.exp() * (linear - model)  # the integrand per item, (M, K)
        # Where the model beats the linear denoiser on the items of the other half, it counts.
        half = torch.arange(len(gain)) % 2
        wins = torch.stack([gain[half == h].mean(0) > 0 for h in (0, 1)])[1 - half]
        counted = torch.where(wins, gain, _scatter(gain, half, task.sizes))
        integral = counted @ _weights(nodes, levels).T
        _warn(gain, nodes)

        extra = _columns(linear, model, anchor, task, nodes)
        curves = []
        for reference in references:
            rows = integral.clone()
            for column, level in enumerate(levels):
                rows[:, column] += anchor_to_reference(anchor, reference, task, level, self.n_noise)
                tick()
            parts = Contributions.of_items(rows, task.mask)
            curves.append(self._curve(task, reference, parts, extra))
        return curves

    def _nodes(self, levels: list[float], denoiser: Denoiser) -> Tensor:
        """Levels of the integral (K,), rising, float64: those of the curve and more."""
        marks = [min(self.noisiest, levels[-1] - self.step), *reversed(levels)]
        if (marks[-1] - marks[0]) / self.step + len(marks) > _MOST_NODES:
            raise DataError(
                f"the integral from log-SNR {marks[0]:.4g} to {marks[-1]:.4g} in steps of "
                f"{self.step:g} has more than {_MOST_NODES} levels, each a pass over the data. "
                "Raise `step` or `noisiest`, or draw the curve at fewer and lower levels."
            )
        pieces = [torch.tensor(marks[:1], dtype=torch.float64)]
        for low, high in pairwise(marks):
            n = math.ceil((high - low) / self.step)
            pieces.append(torch.linspace(low, high, n + 1, dtype=torch.float64)[1:])
        wanted = torch.cat(pieces)
        # A table is also asked at its first level beyond the curve, so that nothing is lost there.
        beyond = wanted.new_tensor(sorted(v for v in denoiser.levels or () if v >= levels[0])[:1])
        nodes: Tensor = torch.unique(torch.cat([denoiser.nearest(wanted), beyond]))
        if len(nodes) < 2:
            raise UnsupportedModelError(
                f"of the denoiser's timesteps only that at log-SNR {float(nodes[0]):.3g} is near "
                f"{marks[0]:.3g} to {marks[-1]:.3g}. Ask for levels that it was made for."
            )
        return nodes

    def _errors(
        self, anchor: ReferenceGaussian, task: Task, nodes: Tensor, tick: Callable[[], None]
    ) -> tuple[Tensor, Tensor]:
        """Squared errors of the linear denoiser and of the model (M, K) each, float64."""
        denoiser, x, mask = as_denoiser(self.denoiser), task.x, task.mask
        denoiser = replace(denoiser, n_positions=n_positions(anchor))
        linear, model = torch.zeros(2, len(x), len(nodes), dtype=torch.float64)
        # Molecules of like size share a batch, which is cut to the largest of them.
        order = torch.arange(len(x)) if mask is None else mask.sum(1).argsort(stable=True).cpu()
        for k, level in enumerate(nodes.tolist()):
            sigma = math.exp(-level / 2)
            for _ in range(self.n_noise):
                y = add_noise(x, mask, anchor.at(1.0, sigma), task.generator)
                for rows in torch.split(order, self.batch_size):
                    clean, noisy, real = x[rows], y[rows], None
                    if mask is not None:
                        width = int(mask[rows].any(0).nonzero().max()) + 1
                        clean, noisy, real = clean[:, :width], noisy[:, :width], mask[rows, :width]
                    best = posterior_mean(anchor, noisy, sigma, real)
                    for errors, guess in ((linear, best), (model, denoiser(noisy, sigma, real))):
                        difference = guess.to(errors) - clean.to(errors)
                        errors[rows, k] += difference.square().flatten(1).sum(1) / self.n_noise
            tick()
        return linear, model


def discarded_nats(curve: CriterionCurve, log_snr_star: float) -> tuple[float, float]:
    """Nats that a start at `log_snr_star` discards, at least, and their standard error.

    They are the value of a curve in nats, such as that of `Certificate`, linear between its levels.
    Without contributions the error is an upper limit.

    Raises:
        DataError: If the curve is one of p-values.
        TruncationError: If the log-SNR is outside of the curve.
    """
    if curve.unit != "nats":
        raise DataError(f"the {curve.criterion} curve is in {curve.unit}, not in nats.")
    rising = curve.log_snr[::-1]
    if not rising[0] <= log_snr_star <= rising[-1]:
        raise TruncationError(
            f"log_snr_star={log_snr_star:.4g} is outside of the curve, {rising[0]:.4g} to "
            f"{rising[-1]:.4g}. Draw the curve at levels around it."
        )
    if curve.contributions is None:
        columns = (curve.value[::-1], curve.std_error[::-1])
        value, error = (float(np.interp(log_snr_star, rising, column)) for column in columns)
        return value, error
    share = np.array([np.interp(log_snr_star, rising, level) for level in np.eye(len(rising))])
    weight, parts = torch.from_numpy(share[::-1].copy()), curve.contributions
    used = weight > 0  # a level that is NaN does not reach beyond its neighbours
    here = replace(parts, values=(parts.values[:, used] @ weight[used])[:, None])
    value, error = map(float, here.value_and_error(curve.unit))
    return value, error


def _weights(nodes: Tensor, levels: list[float]) -> Tensor:
    """Integral up to each level (L) of the cubic spline through values at the nodes: (L, K)."""
    from scipy.interpolate import CubicSpline

    spline = CubicSpline(nodes.numpy(), torch.eye(len(nodes), dtype=torch.float64).numpy())
    # Nothing is assumed beyond the nodes.
    ends = torch.tensor(levels, dtype=torch.float64).clamp(float(nodes[0]), float(nodes[-1]))
    return torch.from_numpy(spline.antiderivative()(ends.numpy()))


def _columns(
    linear: Tensor, model: Tensor, anchor: ReferenceGaussian, task: Task, nodes: Tensor
) -> dict[str, tuple[float, ...]]:
    """Errors per item at the node nearest to each level, and their closed form."""
    at = [int((nodes - level).abs().argmin()) for level in task.levels]
    columns = {
        "model_error": tuple(model.mean(0)[at].tolist()),
        "linear_error": tuple(linear.mean(0)[at].tolist()),
        "lmmse": (math.nan,) * len(at),
    }
    if is_gaussian(anchor):
        exact = (expected_error(anchor, task.x, task.mask, float(nodes[k])).mean() for k in at)
        columns["lmmse"] = tuple(map(float, exact))
    return columns


def _scatter(gain: Tensor, half: Tensor, sizes: Tensor | None) -> Tensor:
    """Deviations (M, K) of the gains from their mean in each half and size; 0 where surely worse.

    They stand where a half does not count: of mean zero, so that the value is without them, and
    with the scatter that the decision would have let in.
    """
    group = half if sizes is None else 2 * sizes.cpu() + half
    _, index, counts = torch.unique(group, return_inverse=True, return_counts=True)
    total = torch.zeros(len(counts), gain.shape[1], dtype=gain.dtype).index_add_(0, index, gain)
    deviation = gain - (total / counts[:, None])[index]
    return torch.where(_surely_worse(gain), 0.0, deviation)


def _surely_worse(gain: Tensor) -> Tensor:
    """Nodes (K,) at which the model is worse than the linear denoiser beyond doubt."""
    return gain.mean(0) < -_SURE * gain.std(0) / math.sqrt(len(gain))


def _warn(gain: Tensor, nodes: Tensor) -> None:
    """Warn where the model is worse than linear, or much is left out, by the integrand (M, K)."""
    mean, error = gain.mean(0), gain.std(0) / math.sqrt(len(gain))
    worse = _surely_worse(gain)
    if bool(worse.any()):
        at = ", ".join(f"{level:.3g}" for level in nodes[worse].tolist())
        warn(
            f"the model denoises worse than the linear denoiser at log-SNR {at} (by up to "
            f"{-float(mean[worse].min()):.2g} nats per unit of log-SNR). It is uninformative "
            "there, and these levels add nothing to the certificate."
        )
    # As if the integrand fell like snr², its slowest where the first moments agree.
    tail = float(mean[0]) / 2
    if float(mean[0]) > _SURE * float(error[0]) and tail > _TAIL:
        warn(
            f"about {tail:.2g} nats lie below log-SNR {float(nodes[0]):.3g} and are left out of "
            "the certificate. Set `noisiest` lower to count them."
        )
