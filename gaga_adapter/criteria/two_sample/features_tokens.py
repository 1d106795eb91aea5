r"""Features in which a classifier can see the structure of sets of tokens without positions.

Tokens are (B, N, F), in units in which every channel has mean 0 and variance 1 over all tokens.
With `g_i = h_i - mean h` of the set:

- N, the mean token, and N times the products of its channels;
- the covariance of the channels within the set, third and fourth moments per channel;
- the squared spread `(sum |g_i|²)²`, `sum |g_i|⁴`, and quantiles of `|g_i|`;
- how the tokens lie to each other: the histogram of their distances, and quantiles of the nearest.

All are invariant under permutations of the tokens and under padding. Of more than `_MOST` channels
the products are those of each channel with itself, and moments are averaged over the channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaga_adapter.reference.invariants import quantiles, upper

_MOST = 12
_CENTRES = tuple(0.2 * k for k in range(1, 13))  # two Gaussian tokens are about 1.4 apart
_WIDTH, _LONE, _CHUNK = 0.15, 10.0, 128


def token_units(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale (F,) of the channels of tokens (M, F); the scale is 1 where all are equal."""
    scale = numbers.std(0, correction=0)
    return numbers.mean(0), torch.where(scale > 0, scale, 1.0)


def token_features(x: Tensor, mask: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Invariant features (B, D) of tokens (B, N, F), with mean and scale (F,) of each channel."""
    chunks = zip(torch.split(x, _CHUNK), torch.split(mask, _CHUNK), strict=True)
    return torch.cat([_features((y - mean) / scale, real) for y, real in chunks])


def _features(h: Tensor, mask: Tensor) -> Tensor:
    real, few = mask[..., None], h.shape[-1] <= _MOST
    n = mask.sum(1, keepdim=True).to(h.dtype)
    free = (n - 1).clamp(min=1)
    h = torch.where(real, h, 0)
    mean = h.sum(1) / n
    g = torch.where(real, h - mean[:, None], 0)
    square = g.square().sum(-1) / h.shape[-1]
    pairs = mask[:, :, None] & mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool).to(mask)
    apart = square[:, :, None] + square[:, None] - 2 * (g @ g.mT) / h.shape[-1]
    distance = torch.where(pairs, apart.clamp(min=0).sqrt(), torch.inf)
    powers = [g.pow(k).sum(1) / n for k in (3, 4)]
    columns = [
        n,
        mean,
        n * (upper(mean[:, :, None] * mean[:, None]) if few else mean.square()),
        (upper(g.mT @ g) if few else g.square().sum(1)) / free,
        *(power if few else power.mean(1, keepdim=True) for power in powers),
        (square.sum(1, keepdim=True) / free).square(),
        square.square().sum(1, keepdim=True) / n,
        quantiles(square.sqrt(), mask),
        quantiles(distance.amin(2).clamp(max=_LONE), mask),
    ]
    for centre in _CENTRES:
        near = torch.exp(-0.5 * ((distance - centre) / _WIDTH) ** 2)
        columns.append(near.sum((1, 2))[:, None] / n)
    return torch.cat(columns, 1)
