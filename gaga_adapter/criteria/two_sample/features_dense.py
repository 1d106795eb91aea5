r"""Features in which a classifier can see the structure of dense data: images, latents, vectors.

Events are (C, ...), in units in which every channel has mean 0 and variance 1:

- the mean square, which is large or small together where events differ in contrast, and its square;
- entries, per channel: averages of the first four powers, which are how the log-ratio of nearly
  Gaussian entries depends on the data; skewness, kurtosis and quantiles over its entries; and the
  covariances of the channels;
- spectrum, per channel: mean power in octaves of the spatial frequency, which is how the log-ratio
  of two stationary Gaussians depends on the data;
- local structure: second moment and kurtosis of the responses to the 3 x 3 DCT (the gradients, the
  Laplacian and their products) at two scales, averaged over the channels: heavy where there are
  edges;
- the numbers themselves, or of more than 64 the event averaged down to 3 x 3 per channel; their
  products if at most 16;
- of at most 512 numbers: energy and fourth moment in bands of their principal axes, from the
  leading to the last, whitened.

A vector (C,) has no neighbours: its entries stand for one channel, each in its own units, and
spectrum and local structure are left out. Volumes are read as the stack of their planes. Of more
than four channels the averages over channels take the place of each, but for mean and variance.

The units and the principal axes are those of both samples pooled, which says nothing of which is
which: under an exchange of the samples they stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_RAW, _MAX_PRODUCTS, _MAX_AXES, _MAX_CHANNELS = 64, 16, 512, 4
_COARSE, _SCALES = 3, 2
_QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
_QUANTILE_ENTRIES = 1024  # a channel is sampled at about so many, evenly: sorting is what costs
_LEADING = 8  # principal axes that are a band of their own; further bands double in width
_CHUNK = 256  # events at a time: their responses stay in the cache


@dataclass(frozen=True)
class PrincipalAxes:
    """Principal axes of events of D numbers."""

    centre: Tensor  # mean (D,)
    whiten: Tensor  # (D, D): columns are the axes over their deviation (0 for 0), the leading first

    @classmethod
    def of(cls, z: Tensor) -> PrincipalAxes:
        """Axes of the correlation matrix of numbers (B, D)."""
        eps, centre = torch.finfo(z.dtype).eps, z.mean(0)
        y = z.double() - centre
        spread = y.square().mean(0).sqrt()
        inverse = torch.where(spread > eps, spread, torch.inf).reciprocal()
        values, vectors = torch.linalg.eigh((y * inverse).T @ (y * inverse) / len(y))
        keep = torch.where(values > eps * values[-1], values, torch.inf).rsqrt()
        return cls(centre, (inverse[:, None] * vectors * keep).flip(1).to(z.dtype))

    def moments(self, z: Tensor) -> Tensor:
        """Second and fourth moments of whitened numbers (B, D) in bands of the axes (B, K)."""
        widths = [1] * min(_LEADING, z.shape[1])
        while sum(widths) < z.shape[1]:
            widths.append(min(max(widths[-1] * 2, _LEADING), z.shape[1] - sum(widths)))
        square = ((z - self.centre) @ self.whiten).square()
        parts = [*torch.split(square, widths, 1), *torch.split(square.square(), widths, 1)]
        return torch.stack([part.mean(1) for part in parts], 1)


@dataclass(frozen=True)
class DenseUnits:
    """Units that two samples share, from both together."""

    mean: Tensor  # per channel (C, 1); of vectors (1, C), per entry
    scale: Tensor  # standard deviations, shaped as `mean`; 1 where there is none
    axes: PrincipalAxes | None  # of events in these units, if they have not too many numbers

    @classmethod
    def of(cls, x: Tensor) -> DenseUnits:
        """Units of events (B, C, ...), both samples together."""
        planes, eps = _planes(x), torch.finfo(x.dtype).eps
        dims = 0 if _is_vector(x) else tuple(k for k in range(planes.dim()) if k != 1)
        mean = planes.mean(dims, keepdim=True)[0].flatten(1)
        scale = planes.std(dims, correction=0, keepdim=True)[0].flatten(1)
        scale = torch.where(scale > eps * mean.abs(), scale, 1.0)
        if planes[0].numel() > _MAX_AXES:
            return cls(mean, scale, None)
        z = ((planes.flatten(2) - mean) / scale).flatten(1)
        return cls(mean, scale, PrincipalAxes.of(z))


def dense_features(x: Tensor, units: DenseUnits) -> Tensor:
    """Features (B, D) of dense data (B, C, ...), floats; at most about 150 columns."""
    return torch.cat([_features(part, units) for part in torch.split(x, _CHUNK)])


def _is_vector(x: Tensor) -> bool:
    """Whether events have one number per channel."""
    return math.prod(x.shape[2:]) == 1


def _planes(x: Tensor) -> Tensor:
    """Events as vectors (B, 1, C), signals (B, C, L) or images (B, C, H, W)."""
    if _is_vector(x):
        return x.reshape(len(x), 1, -1)
    return x if x.dim() <= 4 else x.flatten(2, -2)


def _features(x: Tensor, units: DenseUnits) -> Tensor:
    planes = _planes(x)
    entries = (planes.flatten(2) - units.mean) / units.scale
    numbers = entries.flatten(1)
    energy = numbers.square().mean(1, keepdim=True)
    columns = [energy, energy.square(), *_entry_moments(entries)]
    raw = numbers
    if not _is_vector(x):
        z = entries.reshape(planes.shape)
        columns += [_per_channel(_octaves(z)), _local_moments(z)]
        if numbers.shape[1] > _MAX_RAW:
            raw = _per_channel(_coarsen(z).flatten(2))
    if raw.shape[1] <= _MAX_RAW:
        columns.append(raw)
    if numbers.shape[1] <= _MAX_PRODUCTS:
        columns.append(_products(numbers))
    if units.axes is not None:
        columns.append(units.axes.moments(numbers))
    return torch.cat(columns, dim=1)


def _per_channel(columns: Tensor) -> Tensor:
    """Columns (B, C, K) side by side, or of many channels their average (B, K)."""
    return columns.flatten(1) if columns.shape[1] <= _MAX_CHANNELS else columns.mean(1)


def _entry_moments(entries: Tensor) -> list[Tensor]:
    """Moments and quantiles of the entries (B, C, L) of each channel; covariances of channels."""
    if entries.shape[2] == 1:
        return []
    mean, var = entries.mean(2, keepdim=True), entries.var(2, correction=0, keepdim=True)
    unit = (entries - mean) * var.clamp(min=torch.finfo(entries.dtype).eps).rsqrt()
    step = math.ceil(entries.shape[2] / _QUANTILE_ENTRIES)
    ordered = entries[..., ::step].sort(2).values
    place = torch.tensor(_QUANTILES, dtype=entries.dtype) * (ordered.shape[2] - 1)
    powers = [y.pow(k).mean(2) for y in (entries, unit) for k in (3, 4)]
    form = [*powers, *ordered[..., place.round().long()].unbind(2)]
    columns = [mean.flatten(1), var.flatten(1), _per_channel(torch.stack(form, 2))]
    if 1 < entries.shape[1] <= _MAX_CHANNELS:
        columns.append(_products(entries - mean, 1))
    return columns


def _products(z: Tensor, above: int = 0) -> Tensor:
    """Products (B, K) of pairs of the rows of (B, C) or (B, C, L), averaged over L."""
    z = z[..., None] if z.dim() == 2 else z
    rows, columns = torch.triu_indices(z.shape[1], z.shape[1], above).to(z.device)
    return (z @ z.mT / z.shape[2])[:, rows, columns]


def _octaves(z: Tensor) -> Tensor:
    """Mean power (B, C, K) per octave of the frequency, below the highest of one axis and above."""
    dims = tuple(range(2, z.dim()))
    power = torch.fft.fftn(z, dim=dims, norm="ortho").abs().square().flatten(2)
    square = torch.zeros(1, dtype=torch.float64)
    for length in z.shape[2:]:
        square = (square[:, None] + torch.fft.fftfreq(length, dtype=torch.float64) ** 2).flatten()
    # Frequency 0 is the mean. Octaves end at 1/2, 1/4, ... per pixel; the last are the corners.
    octave = (2 * square.sqrt().clamp(min=1e-9)).log2().ceil().long()
    octaves = sorted(set(octave[square > 0].tolist()))
    share = torch.stack([(octave == k) & (square > 0) for k in octaves], 1).to(z)
    mean: Tensor = power @ (share / share.sum(0))
    return mean


def _local_moments(z: Tensor) -> Tensor:
    """Second moment and kurtosis of the responses to the 3-point DCT, at each scale (B, K)."""
    columns = []
    for scale in range(_SCALES):
        if scale:
            z = _halve(z)
        responses = [z]
        for axis in range(2, z.dim()):
            if z.shape[axis] >= 3:
                responses = [y for response in responses for y in _dct3(response, axis)]
        for response in responses[1:]:  # the first is the local mean
            square = response.flatten(2).square()
            second, floor = square.mean(2), torch.finfo(z.dtype).eps
            kurtosis = square.square().mean(2) / second.square().clamp(min=floor)
            columns += [second.mean(1), kurtosis.mean(1)]
    return torch.stack(columns, 1) if columns else z.new_zeros(len(z), 0)


def _dct3(z: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Responses of (B, C, ...) to the three rows of the orthonormal DCT along one axis."""
    left, middle, right = (z.narrow(axis, k, z.shape[axis] - 2) for k in range(3))
    rows = left + right + middle, right - left, left + right - 2 * middle
    return rows[0] / math.sqrt(3), rows[1] / math.sqrt(2), rows[2] / math.sqrt(6)


def _halve(z: Tensor) -> Tensor:
    """Sums of neighbours over √2 along every axis of (B, C, ...): white noise stays what it is."""
    for axis in range(2, z.dim()):
        if z.shape[axis] > 1:
            z = z.unfold(axis, 2, 2).sum(-1) / math.sqrt(2)
    return z


def _coarsen(z: Tensor) -> Tensor:
    """Averages of (B, C, ...) over thirds of every axis."""
    if z.dim() == 3:
        return torch.nn.functional.adaptive_avg_pool1d(z, _COARSE)
    return torch.nn.functional.adaptive_avg_pool2d(z, (_COARSE, _COARSE))
