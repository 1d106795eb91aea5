r"""Random-looking numbers that are a pure function of a tensor's bits.

Two places need randomness that depends on the content and on nothing else, not on the batch, its
order or its padding: which molecules a bounded sample of the data keeps, and the latent that a
deterministic transport reads off its noise. Both hash float bits with the finaliser of SplitMix64
(Steele, Lea & Flood 2014) in wrapping int64 arithmetic, which gives the same bits on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Odd constants of SplitMix64, as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def splitmix64(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 numbers that flips each bit with odds 1/2."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_1  # the masks make the shifts logical
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))


def stream(seed: Tensor | int, n: int, device: torch.device | None = None) -> Tensor:
    """The first `n` outputs (..., n) of SplitMix64 from each seed (...), int64.

    It is a counter-based generator. The result is on `device` if the seed is a plain number.
    """
    start = torch.as_tensor(seed, dtype=torch.int64, device=device)
    counter = torch.arange(1, n + 1, dtype=torch.int64, device=start.device)
    return splitmix64(start[..., None] + counter * _GOLDEN)


def uniforms(seed: Tensor, n: int) -> Tensor:
    """`n` numbers in [0, 1) per seed, float64 (..., n), from the upper 53 bits of `stream`."""
    return ((stream(seed, n) >> 11) & (2**53 - 1)).to(torch.float64) * 2.0**-53


def normals(seed: Tensor, n: int) -> Tensor:
    """`n` standard normal numbers per seed, float64 (..., n), by Box and Muller's formula.

    Unlike the bits they come from, they are the same on every device to rounding only.
    """
    radius, angle = uniforms(seed, 2 * ((n + 1) // 2)).chunk(2, -1)
    radius, angle = (-2 * torch.log1p(-radius)).sqrt(), 2 * math.pi * angle
    return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)[..., :n]


def atom_hashes(x: Tensor) -> Tensor:
    """One hash (...), int64, per row of floats (..., C); equal rows have equal hashes, -0 is 0."""
    bits = (x.to(torch.float64) + 0.0).contiguous().view(torch.int64)
    keys = stream(0, x.shape[-1], x.device) | 1
    return splitmix64((bits * keys).sum(-1))
