r"""Histograms at t*: the channels of the noised data beside draws of the fitted start.

We show the noised data `a x_0 + b eps` and draws of the reference, both divided by `a`: the axis
then has the unit of the data (angstrom for positions), and the noise added is `sigma = b / a`,
whatever the schedule. Beside them stands what a sampler without a fit starts from: N(0, I) at the
variance preserving level, which is `N(0, 1/a²)` here. One histogram sees one channel alone, and
says nothing of how the channels depend on each other; the curve does. So molecules get one more
histogram, of their size `v_x = |x|² / (3 (N-1))`: there a start that knows only the channels
differs from the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaga_adapter.criteria.levels import add_noise, channels_first, draw_like
from gaga_adapter.errors import StatsMismatchError
from gaga_adapter.layout import AtomLayout, DenseLayout, Layout, TokenLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import mask_from_sizes

_Array = NDArray[np.float64]
_BINS = 48
_MOST = 400_000  # numbers of one channel that a histogram is made of
_DRAWS = 2_000_000  # numbers drawn from the reference if there are no data
_MOST_ITEMS = 4000
#: Largest number of channels of dense data that are shown.
MOST_CHANNELS = 12


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Data to compare the reference with, in the layout of the statistics."""

    name: str
    x: Tensor  # molecules (M, N, 3 + F), or dense data (M, C, ...)
    mask: Tensor | None = None  # real atoms (M, N), bool; None for dense data


@dataclass(frozen=True)
class Histogram:
    """One channel at t*, divided by `a`: densities per unit of the axis, in K bins."""

    name: str
    unit: str
    edges: tuple[float, ...]  # (K + 1,)
    reference: tuple[float, ...]  # the fitted start (K,)
    data: tuple[float, ...] | None  # the noised data (K,), if there are any
    unfitted: tuple[float, ...] | None  # N(0, I) at this level (K,), if it has a simple form
    moments: dict[str, tuple[float, float]]  # mean and standard deviation of each of the three


def histograms(
    stats: GAGAStats, held_out: HeldOut | None, generator: torch.Generator
) -> tuple[Histogram, ...]:
    """Compare the channels of the data with the reference that t* was chosen with, at t*.

    Without data the reference stands beside N(0, I) alone.
    """
    a, b = coefficients(stats.log_snr_star)
    chosen = stats.selection
    reference = stats.reference("auto" if chosen is None else chosen.curve.reference).at(a, b)
    noisy = mask = None
    if held_out is None:
        fitted, fitted_mask = _draws(stats, reference, generator)
    else:
        x, mask, layout = held_out.x.double(), held_out.mask, stats.layout
        if isinstance(layout, DenseLayout):
            fits = mask is None and x.shape[1:] == layout.shape
        else:
            fits = mask is not None and x.shape[2:] == (layout.n_channels,)
        if not fits:
            raise StatsMismatchError(
                f"the statistics describe {layout.describe()}, {held_out.name} has items of shape "
                f"{tuple(x.shape[1:])}. Pass data in the layout of the statistics."
            )
        noisy = add_noise(x, mask, reference, generator) / a
        fitted = draw_like(x, mask, reference, generator)
        fitted_mask = None if mask is None else mask_from_sizes(mask.sum(1))
    fitted = fitted / a
    if isinstance(stats.layout, DenseLayout):
        fitted = channels_first(fitted, reference)
        noisy = None if noisy is None else channels_first(noisy, reference)
    channels = _channels(stats.layout)
    panels = []
    for name, unit, columns, scale in channels:
        data = None if noisy is None else _numbers(noisy, mask, columns) * scale
        start = _numbers(fitted, fitted_mask, columns) * scale
        panels.append(_histogram(name, unit, start, data, scale / a))
    if not isinstance(stats.layout, DenseLayout | TokenLayout) and fitted_mask is not None:
        _, unit, _, scale = channels[0]
        data = None if noisy is None or mask is None else _sizes(noisy, mask) * scale**2
        start = _sizes(fitted, fitted_mask) * scale**2
        panels.append(_histogram("size of a molecule, v_x", f"{unit}²", start, data, None))
    return tuple(panels)


def _channels(layout: Layout) -> list[tuple[str, str, slice, float]]:
    """Name, unit, columns and the factor that brings a channel to that unit."""
    if isinstance(layout, DenseLayout):
        count = min(layout.n_channels, MOST_CHANNELS)
        return [(f"channel {k}", "model units", slice(k, k + 1), 1.0) for k in range(count)]
    if isinstance(layout, TokenLayout):
        count = min(layout.n_channels, MOST_CHANNELS)
        return [(f"channel {k}", "model units", slice(k, k + 1), 1.0) for k in range(count)]
    if isinstance(layout, AtomLayout):
        features = range(min(layout.n_features, MOST_CHANNELS))
        return [
            ("positions x, y, z", "model units", slice(0, 3), 1.0),
            *((f"feature {k}", "model units", slice(3 + k, 4 + k), 1.0) for k in features),
        ]
    named = [
        ("positions x, y, z", "Å", slice(0, 3), layout.position_scale),
        *(
            (f"is {element}", "one-hot entry", slice(3 + k, 4 + k), layout.onehot_scale)
            for k, element in enumerate(layout.elements)
        ),
    ]
    if layout.charge_scale is not None:
        charge = slice(layout.n_channels - 1, None)
        named.append(("atomic number", "elementary charges", charge, layout.charge_scale))
    return named


def _draws(
    stats: GAGAStats, reference: ReferenceGaussian, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Draws from a reference without data; sizes are as frequent as in the fitted data."""
    moments = stats.moments
    if isinstance(moments, ExchangeableMoments):
        order = torch.multinomial(moments.counts, _MOST_ITEMS, True, generator=generator)
        sizes = moments.sizes[order]
        x = reference.sample(sizes, generator=generator, dtype=torch.float64)
        return x, mask_from_sizes(sizes)
    count = min(_MOST_ITEMS, max(2, _DRAWS // max(1, math.prod(moments.shape))))
    shape = (count, *moments.shape)
    return reference.sample(shape, generator=generator, dtype=torch.float32), None


def _numbers(x: Tensor, mask: Tensor | None, columns: slice) -> _Array:
    """All numbers of some channels (n,), thinned evenly."""
    values = (x if mask is None else x[mask])[:, columns].flatten()
    stride = max(1, math.ceil(len(values) / _MOST))
    return np.asarray(values[::stride].double())


def _sizes(x: Tensor, mask: Tensor) -> _Array:
    """`v_x` of every molecule of at least two atoms (m,), in the square of the positions' unit."""
    degrees = 3 * (mask.sum(1) - 1)
    return np.asarray((x[..., :3].square().sum((1, 2)) / degrees)[degrees > 0])


def _histogram(
    name: str, unit: str, reference: _Array, data: _Array | None, unfitted: float | None
) -> Histogram:
    arrays = {"reference": reference} if data is None else {"reference": reference, "data": data}
    ends = [np.quantile(values, (0.002, 0.998)) for values in arrays.values()]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if not high > low:  # a constant
        low, high = low - 1.0, high + 1.0
    edges = np.linspace(low, high, _BINS + 1)
    moments = {key: _moments(values) for key, values in arrays.items()}
    heights = {key: _round(_density(values, edges)) for key, values in arrays.items()}
    if unfitted is not None:
        middle = (edges[1:] + edges[:-1]) / 2
        bell = np.exp(-0.5 * (middle / unfitted) ** 2) / (unfitted * math.sqrt(2 * math.pi))
        moments["unfitted"], heights["unfitted"] = (0.0, unfitted), _round(bell)
    start, others = heights["reference"], (heights.get("data"), heights.get("unfitted"))
    return Histogram(name, unit, _round(edges), start, *others, moments)


def _density(values: _Array, edges: _Array) -> _Array:
    return np.asarray(np.histogram(values, edges)[0] / (len(values) * np.diff(edges)))


def _moments(values: _Array) -> tuple[float, float]:
    mean, std = values.mean(), values.std()
    if abs(mean) < 1e-12 * std:  # rounding alone: positions are centred
        mean = 0.0
    return float(f"{mean:.4g}"), float(f"{std:.4g}")


def _round(values: _Array | Sequence[float]) -> tuple[float, ...]:
    """Five digits: enough for a picture, and small in the page."""
    return tuple(float(f"{value:.5g}") for value in values)
