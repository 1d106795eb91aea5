r"""The laws that noise levels are drawn from in training, each cut at t*.

A law is a map from u in [0, 1] to a timestep, its quantile function; cut at t* it is
`u -> quantile(u F(t*))`, F its distribution function. Whatever happens to u, stratification or
importance, is then the same for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError
from gaga_adapter.noise.draws import entries


class Density(Protocol):
    """The law of a noise level, cut at t*."""

    @property
    def n_atoms(self) -> int | None:
        """Number of equally likely values; `None` where the law is continuous."""

    def quantile(self, u: Tensor) -> Tensor:
        """Timesteps for u in [0, 1], same shape, increasing."""

    def cdf(self, t: Tensor) -> Tensor:
        """The u (float64, same shape) of timesteps; of a table the middle of an entry's share."""


@dataclass(frozen=True)
class Uniform:
    """Uniform in (0, t*]."""

    t_star: float
    n_atoms: None = None

    def quantile(self, u: Tensor) -> Tensor:
        """`u t*`."""
        return u * self.t_star

    def cdf(self, t: Tensor) -> Tensor:
        """`t / t*`."""
        return t.double() / self.t_star


@dataclass(frozen=True, eq=False)
class Table:
    """Every entry of a table equally often."""

    values: Tensor  # timesteps (K,) from data to noise, the last one t*

    @property
    def n_atoms(self) -> int:
        """Number K of entries."""
        return len(self.values)

    def quantile(self, u: Tensor) -> Tensor:
        """Entry `floor(u K)`."""
        return entries(self.values, u)

    def cdf(self, t: Tensor) -> Tensor:
        """`(i + 1/2) / K` of the entry i nearest to a timestep."""
        values = self.values.to(t.device).double()
        distance = (t.double()[..., None] - values).abs()
        return (distance.argmin(-1).double() + 0.5) / len(values)


@dataclass(frozen=True)
class OfNormal:
    """An increasing function of a normal number, cut at t*."""

    mean: float  # mean of the normal number
    std: float  # standard deviation of the normal number
    end: float  # value t* of the function; the end of its range cuts nothing
    of_normal: Callable[[Tensor], Tensor]  # the function
    to_normal: Callable[[Tensor], Tensor]  # its inverse
    n_atoms: None = None

    def __post_init__(self) -> None:
        if not (self.std > 0 and math.isfinite(self.std)):
            raise TruncationError(f"std={self.std} must be positive and finite, such as 1.2.")

    def quantile(self, u: Tensor) -> Tensor:
        """The cut quantile function."""
        # Stay off 0 and 1, where the normal number is infinite; at 1 a law that is cut has t*.
        inside = (u * self._share()).clamp(1e-12, 1 - 1e-12)
        t = self.of_normal(self.mean + self.std * torch.special.ndtri(inside))
        return t.clamp(max=self.end)

    def cdf(self, t: Tensor) -> Tensor:
        """The cut distribution function."""
        return self._below(t) / self._share()

    def _share(self) -> float:
        """Probability of the whole law below t*."""
        return float(self._below(torch.tensor(self.end, dtype=torch.float64)))

    def _below(self, t: Tensor) -> Tensor:
        """Probability of the whole law below t, float64."""
        below: Tensor = torch.special.ndtr((self.to_normal(t.double()) - self.mean) / self.std)
        return below


def checked_end(t_star: float, what: str, most: float = math.inf) -> float:
    """The end of a law, which has to be in (0, most]."""
    end = float(t_star)
    if not 0 < end <= most:
        limit = "positive" if math.isinf(most) else f"in (0, {most:g}]"
        raise TruncationError(f"{what}={t_star} must be {limit}. Pass the t* of your statistics.")
    return end
