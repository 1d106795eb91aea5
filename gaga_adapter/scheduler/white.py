"""Whether a tensor is noise, from its numbers alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

#: Fewest numbers on which noise can be told from anything else.
ENOUGH = 100
#: Standard errors that white noise may be off.
_ERRORS = 6.0


def distinct(x: Tensor) -> Tensor:
    """The events of a batch (B, ...) without copies, as one seed for every prompt makes them."""
    if len(x) < 2:
        return x
    _, place = torch.unique(x.flatten(1).double().sum(1), return_inverse=True)
    first = torch.full((int(place.max()) + 1,), len(x), device=x.device)
    first.scatter_reduce_(0, place, torch.arange(len(x), device=x.device), "amin")
    return x[first]


def root_mean_square(noise: Tensor) -> float:
    """Of the entries that are not zero, as the padding of molecules is."""
    entries = noise.detach().float()
    count = int((entries != 0).sum())
    return float(entries.square().sum().div(max(count, 1)).sqrt())


def is_white(latents: Any) -> bool:  # noqa: ANN401
    """Whether a tensor looks like white noise: no mean, and neighbours that know nothing of it.

    White Gaussian noise fails one of these few tests of six standard errors each with a
    probability of about 1e-8.
    """
    if not isinstance(latents, Tensor) or not latents.is_floating_point() or latents.ndim < 2:
        return False
    x = distinct(latents.detach()).float()
    if x.numel() < ENOUGH or not bool(torch.isfinite(x).all()):
        return False
    square = float(x.square().mean())
    if not square or abs(float(x.mean())) > _ERRORS * math.sqrt(square / x.numel()):
        return False
    for axis in range(1, x.ndim):
        length = x.shape[axis]
        if length > 1:
            pairs = x.narrow(axis, 0, length - 1) * x.narrow(axis, 1, length - 1)
            if abs(float(pairs.mean())) > _ERRORS * square / math.sqrt(pairs.numel()):
                return False
    return True
