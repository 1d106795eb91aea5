r"""The laws that noise levels are drawn from in training, each cut at t*.

A law is a map from u in [0, 1] to a timestep, its quantile function; cut at t* it is
`u -> quantile(u F(t*))`, F its distribution function. Whatever happens to u, stratification or
importance, is then the same for all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError
from gaga_adapter.noise.draws import entries


class Density(Protocol):
    """The law of one number, cut at t*."""

    @property
    def n_atoms(self) -> int | None:
        """Number of equally likely values; `None` where the law is continuous."""

    def quantile(self, u: Tensor) -> Tensor:
        """Timesteps for u in [0, 1], same shape, increasing."""

    def cdf(self, t: Tensor) -> Tensor:
        """The u (float64, same shape) of timesteps; of a table the middle of an entry's share."""


@dataclass(frozen=True)
class Uniform:
    """Uniform in (0, t*].

    Attributes:
        t_star: the end.
    """

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
    """Every entry of a table equally often.

    Attributes:
        values: timesteps (K,), from data to noise, the last one t*.
    """

    values: Tensor

    @property
    def n_atoms(self) -> int:
        """K."""
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
class _Normal:
    """A monotone function of a normal number, cut at its value for `end`.

    Attributes:
        mean: of the normal number.
        std: of the normal number.
        end: t*; may be the end of the range, so that nothing is cut.
    """

    mean: float
    std: float
    end: float
    n_atoms: None = None

    @staticmethod
    def from_normal(x: Tensor) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def to_normal(t: Tensor) -> Tensor:
        raise NotImplementedError

    def _share(self) -> float:
        """Probability of the whole law below `end`."""
        x = float(self.to_normal(torch.tensor(self.end, dtype=torch.float64)))
        return float(torch.special.ndtr(torch.tensor((x - self.mean) / self.std).double()))

    def quantile(self, u: Tensor) -> Tensor:
        """The cut quantile function."""
        # Off 0 and 1, where the normal number is infinite; the second is t* itself if it is cut.
        inside = (u * self._share()).clamp(1e-12, 1 - 1e-12)
        t = self.from_normal(self.mean + self.std * torch.special.ndtri(inside))
        return t.clamp(max=self.end)

    def cdf(self, t: Tensor) -> Tensor:
        """The cut distribution function."""
        z = (self.to_normal(t.double()) - self.mean) / self.std
        below: Tensor = torch.special.ndtr(z)
        return below / self._share()


class LogNormal(_Normal):
    """`ln sigma` normal: Karras et al. 2022, Table 1."""

    @staticmethod
    def from_normal(x: Tensor) -> Tensor:
        """`exp x`."""
        return x.exp()

    @staticmethod
    def to_normal(t: Tensor) -> Tensor:
        """`ln t`."""
        return t.log()


class LogitNormal(_Normal):
    """`logit t` normal: Esser et al. 2024, Eq. 19."""

    @staticmethod
    def from_normal(x: Tensor) -> Tensor:
        """The logistic function."""
        return x.sigmoid()

    @staticmethod
    def to_normal(t: Tensor) -> Tensor:
        """`ln(t / (1 - t))`."""
        return t.logit()


def checked_end(t_star: float, what: str, most: float = math.inf) -> float:
    """An end in (0, most].

    Raises:
        TruncationError: it is not.
    """
    end = float(t_star)
    if not 0 < end <= most:
        limit = "positive" if math.isinf(most) else f"in (0, {most:g}]"
        raise TruncationError(f"{what}={t_star} must be {limit}. Pass the t* of your statistics.")
    return end


def checked_std(std: float) -> float:
    """A positive standard deviation.

    Raises:
        TruncationError: it is not positive.
    """
    if not (std > 0 and math.isfinite(std)):
        raise TruncationError(f"std={std} must be positive and finite, such as 1.2.")
    return float(std)
