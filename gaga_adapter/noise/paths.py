r"""Noising paths `x_t = a_t x_0 + b_t eps`, and their inverse from log-SNR to time.

Time `t` is continuous in [0, 1]: 0 is data, 1 is noise. Up to a scale, the law of `x_t` depends
on the signal-to-noise ratio alone, so a characteristic point is stored as a log-SNR and every path
says at which of its own times it gets there:

    log_snr(t) = 2 (log a_t - log b_t),     time_at_log_snr(log_snr(t)) = t.

- variance preserving (`VPPath`):  a = sqrt(abar), b = sqrt(1 - abar), tabulated by a codebase;
- variance exploding (`VEPath`):   a = 1, b = sigma (Song et al. 2021; Karras et al. 2022, Eq. 5);
- flow matching (`FlowPath`):      a = 1 - s, b = s (Lipman et al. 2023), with the shift of SD3.

`NAMED_PATHS` holds the schedules that published codebases use, EDM's with their clipping.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from gaga_adapter.errors import DataError, TruncationError
from gaga_adapter.noise.levels import TOLERANCE, first_beyond


class GaussianPath(ABC):
    """A path `x_t = a_t x_0 + b_t eps` whose log-SNR falls strictly from t = 0 to t = 1.

    Every method takes a float or a tensor of any shape and returns a float64 tensor of that shape,
    on the device of the argument.
    """

    @property
    def n_steps(self) -> int | None:
        """Grid intervals of a table (node `i` is at `t = i / n_steps`), `None` for a formula."""
        return None

    @abstractmethod
    def a(self, t: float | Tensor) -> Tensor:
        """Signal coefficient `a_t`."""

    @abstractmethod
    def b(self, t: float | Tensor) -> Tensor:
        """Noise standard deviation `b_t`."""

    @abstractmethod
    def log_snr(self, t: float | Tensor) -> Tensor:
        """`log(a_t² / b_t²)`; infinite where `a_t` or `b_t` is zero."""

    @abstractmethod
    def time_at_log_snr(self, log_snr: float | Tensor) -> Tensor:
        """The time at which the path has this log-SNR: the inverse of `log_snr`.

        Raises:
            TruncationError: If the path never has this log-SNR; the message names its range.
        """

    def first_time(self, log_snr: float) -> float:
        """The first time at or beyond this log-SNR; of a table, that of its first such node.

        Raises:
            TruncationError: If the path never gets that noisy.
        """
        return float(self.time_at_log_snr(min(log_snr, self.log_snr_range[1])))

    def snr(self, t: float | Tensor) -> Tensor:
        """`a_t² / b_t²`."""
        return self.log_snr(t).exp()

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """Lowest and highest log-SNR of the path: at t = 1 and at t = 0."""
        return float(self.log_snr(1.0)), float(self.log_snr(0.0))

    def _checked_log_snr(self, log_snr: float | Tensor) -> Tensor:
        values = torch.as_tensor(log_snr, dtype=torch.float64)
        low, high = self.log_snr_range
        outside = ~((values >= low - TOLERANCE) & (values <= high + TOLERANCE))
        if bool(outside.any()):
            worst = float(values[outside].flatten()[0])
            raise TruncationError(
                f"log-SNR {worst:.6g} is outside of [{low:.6g}, {high:.6g}] of {self!r}. "
                "Choose a point inside of this range or a path that reaches further."
            )
        return values


def _checked_time(t: float | Tensor) -> Tensor:
    times = torch.as_tensor(t, dtype=torch.float64)
    outside = ~((times >= 0) & (times <= 1))
    if bool(outside.any()):
        worst = float(times[outside].flatten()[0])
        raise TruncationError(f"t={worst:.6g} is outside of [0, 1]. Time 0 is data, 1 is noise.")
    return times


class TabulatedPath(GaussianPath):
    """A path known at nodes, with log-SNR (and the log of sqrt(a² + b²)) linear in t between them.

    In a segment that reaches infinite log-SNR, where `a` or `b` is zero at one end, `a` and `b` are
    linear instead: the path stays continuous and invertible up to the pure end point.

    Args:
        a: Signal coefficients (n,), non-negative.
        b: Noise standard deviations (n,), non-negative.
        times: Node times (n,), increasing from 0 to 1; equidistant when `None`.

    Raises:
        DataError: If there are fewer than two nodes, unequal lengths, values that are not finite,
            or a log-SNR that does not fall strictly.
    """

    def __init__(self, a: Tensor, b: Tensor, times: Tensor | None = None) -> None:
        shapes = [tuple(x.shape) for x in (a, b, times) if x is not None]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            raise DataError(f"a, b and times have shapes {shapes}; they need one common length.")
        n = len(a)
        if n < 2:
            raise DataError(f"found {n} nodes, need at least 2 to make a path.")
        self._a = a.detach().to("cpu", torch.float64, copy=True)
        self._b = b.detach().to("cpu", torch.float64, copy=True)
        uniform = torch.arange(n, dtype=torch.float64) / (n - 1)
        self._times = (
            uniform if times is None else times.detach().to("cpu", torch.float64, copy=True)
        )
        self._log_snr = 2 * (self._a.log() - self._b.log())
        self._log_scale = 0.5 * (self._a**2 + self._b**2).log()
        self._n_steps = n - 1 if torch.equal(self._times, uniform) else None
        self._check()

    def _check(self) -> None:
        tables = (self._a, self._b, self._times)
        if not all(bool(torch.isfinite(x).all()) and bool((x >= 0).all()) for x in tables):
            raise DataError("a, b and times must be finite and non-negative.")
        if float(self._times[0]) != 0 or float(self._times[-1]) != 1:
            raise DataError("the node times must run from 0 (data) to 1 (noise).")
        if not bool((self._times.diff() > 0).all()):
            raise DataError("the node times must increase strictly.")
        rising = ~(self._log_snr[1:] < self._log_snr[:-1])
        if bool(rising.any()):
            i = int(rising.nonzero()[0])
            raise DataError(
                f"log-SNR does not fall from node {i} ({float(self._log_snr[i]):.6g}) to node "
                f"{i + 1} ({float(self._log_snr[i + 1]):.6g}). Order the table from data to noise."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._a)} nodes)"

    @property
    def n_steps(self) -> int | None:
        """Grid intervals of an equidistant table, else `None`."""
        return self._n_steps

    def a(self, t: float | Tensor) -> Tensor:
        """Signal coefficient `a_t`."""
        return self._at(t)[0]

    def b(self, t: float | Tensor) -> Tensor:
        """Noise standard deviation `b_t`."""
        return self._at(t)[1]

    def log_snr(self, t: float | Tensor) -> Tensor:
        """`log(a_t² / b_t²)`."""
        return self._at(t)[2]

    def _at(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`a_t`, `b_t` and the log-SNR."""
        times = _checked_time(t)
        a, b, log_snr, log_scale, nodes = (
            x.to(times.device)
            for x in (self._a, self._b, self._log_snr, self._log_scale, self._times)
        )
        i = torch.searchsorted(nodes[1:-1], times)
        w = (times - nodes[i]) / (nodes[i + 1] - nodes[i])
        straight = torch.isinf(log_snr[i]) | torch.isinf(log_snr[i + 1])
        a_line, b_line = torch.lerp(a[i], a[i + 1], w), torch.lerp(b[i], b[i + 1], w)
        curve = torch.lerp(log_snr[i], log_snr[i + 1], w)
        scale = torch.lerp(log_scale[i], log_scale[i + 1], w).exp()
        return (
            torch.where(straight, a_line, scale * torch.sigmoid(curve).sqrt()),
            torch.where(straight, b_line, scale * torch.sigmoid(-curve).sqrt()),
            torch.where(straight, 2 * (a_line.log() - b_line.log()), curve),
        )

    def time_at_log_snr(self, log_snr: float | Tensor) -> Tensor:
        """The time at which the path has this log-SNR; exact, not iterative."""
        target = self._checked_log_snr(log_snr)
        a, b, table, nodes = (
            x.to(target.device) for x in (self._a, self._b, self._log_snr, self._times)
        )
        i = torch.searchsorted(-table[1:-1], -target)
        # a / b = exp(target / 2), whose larger side is divided out so that neither overflows
        of_a, of_b = (-target / 2).clamp(max=0).exp(), (target / 2).clamp(max=0).exp()
        line = of_a * a[i] - of_b * b[i]
        line = line / (of_a * (a[i] - a[i + 1]) + of_b * (b[i + 1] - b[i]))
        curve = (table[i] - target) / (table[i] - table[i + 1])
        straight = torch.isinf(table[i]) | torch.isinf(table[i + 1])
        return torch.lerp(nodes[i], nodes[i + 1], torch.where(straight, line, curve).clamp(0, 1))

    def first_time(self, log_snr: float) -> float:
        """The first node at or beyond this log-SNR, of an equidistant table; else the time."""
        if not self.n_steps:
            return super().first_time(log_snr)
        return self.index_at_log_snr(log_snr) / self.n_steps

    def index_at_log_snr(self, log_snr: float) -> int:
        """First node at or beyond this log-SNR: the least `i` with `log_snr_i <= log_snr`.

        Raises:
            TruncationError: If even the last node has a higher SNR.
        """
        first = first_beyond(self._log_snr, log_snr)
        if first == len(self._log_snr):
            low, high = self.log_snr_range
            raise TruncationError(
                f"no node of {self!r} has a log-SNR of {log_snr:.6g} or less: its range is "
                f"[{low:.6g}, {high:.6g}]. Sample from its end, or choose a higher log-SNR."
            )
        return first


class VPPath(TabulatedPath):
    """Variance-preserving table, `a² + b² = 1`; entry `i` of n sits at `t = i / (n - 1)`."""

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> VPPath:
        """Path from `abar` (T,), such as `scheduler.alphas_cumprod`, ordered from data to noise."""
        abar = alphas_cumprod.detach().to("cpu", torch.float64)
        return cls(abar.sqrt(), (1 - abar).sqrt())

    @classmethod
    def from_betas(cls, betas: Tensor) -> VPPath:
        """Path from the variances `beta` (T,) of the noising steps: `abar = cumprod(1 - beta)`."""
        return cls.from_alphas_cumprod((1 - betas.detach().to("cpu", torch.float64)).cumprod(0))


@dataclass(frozen=True)
class VEPath(GaussianPath):
    """Variance exploding: `a = 1`, `b = sigma` from `sigma_min` at t = 0 to `sigma_max` at t = 1.

    With `rho` it is the grid of Karras et al. 2022, Eq. 5, `sigma^(1/rho)` linear in t; without, it
    is geometric (Song et al. 2021).

    Attributes:
        sigma_min: Noise at t = 0, positive.
        sigma_max: Noise at t = 1, above `sigma_min`.
        rho: Exponent of the Karras grid, or `None`.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float | None = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise DataError(
                f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}."
            )

    def _roots(self, rho: float) -> tuple[float, float]:
        """`sigma^(1 / rho)` at both ends."""
        return math.pow(self.sigma_min, 1 / rho), math.pow(self.sigma_max, 1 / rho)

    def a(self, t: float | Tensor) -> Tensor:
        """Signal coefficient, one everywhere."""
        return torch.ones_like(_checked_time(t))

    def b(self, t: float | Tensor) -> Tensor:
        """Noise standard deviation sigma."""
        times = _checked_time(t)
        if self.rho is None:
            return self.sigma_min * (times * math.log(self.sigma_max / self.sigma_min)).exp()
        low, high = self._roots(self.rho)
        return (low + times * (high - low)).pow(self.rho)

    def log_snr(self, t: float | Tensor) -> Tensor:
        """`-2 log sigma`."""
        return -2 * self.b(t).log()

    def time_at_log_snr(self, log_snr: float | Tensor) -> Tensor:
        """The time at which `sigma = exp(-log_snr / 2)`."""
        sigma = (-self._checked_log_snr(log_snr) / 2).exp()
        if self.rho is None:
            t = (sigma / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)
        else:
            low, high = self._roots(self.rho)
            t = (sigma ** (1 / self.rho) - low) / (high - low)
        return t.clamp(0, 1)


@dataclass(frozen=True)
class FlowPath(GaussianPath):
    """Flow matching, `a = 1 - s`, `b = s` with `s = shift t / (1 + (shift - 1) t)`.

    Attributes:
        shift: Timestep shift (Esser et al. 2024, Eq. 23), positive; 1 for the plain straight path.
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise DataError(f"shift must be positive, got {self.shift}.")

    def a(self, t: float | Tensor) -> Tensor:
        """Signal coefficient `1 - s`."""
        times = _checked_time(t)
        return (1 - times) / (1 + (self.shift - 1) * times)

    def b(self, t: float | Tensor) -> Tensor:
        """Noise standard deviation `s`."""
        times = _checked_time(t)
        return self.shift * times / (1 + (self.shift - 1) * times)

    def log_snr(self, t: float | Tensor) -> Tensor:
        """`2 log((1 - t) / (shift t))`, from infinity to minus infinity."""
        times = _checked_time(t)
        return 2 * (torch.log1p(-times) - times.log() - math.log(self.shift))

    def time_at_log_snr(self, log_snr: float | Tensor) -> Tensor:
        """The time `t = sigmoid(-log_snr / 2 - log shift)`; every log-SNR is reached."""
        return torch.sigmoid(-self._checked_log_snr(log_snr) / 2 - math.log(self.shift))


def _edm_polynomial_2(n_steps: int, precision: float) -> GaussianPath:
    """EDM's `polynomial_2`: `abar = (1 - t²)²`, step ratios clipped, then kept off 0 and 1."""
    t = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    abar = (1 - t**2) ** 2
    ratios = torch.cat([abar[:1], abar[1:] / abar[:-1]]).clamp(min=0.001)
    return VPPath.from_alphas_cumprod((1 - 2 * precision) * ratios.cumprod(0) + precision)


def _cosine(n_points: int) -> GaussianPath:
    """Nichol & Dhariwal 2021, Eq. 17, at evenly spread points."""
    u = torch.arange(n_points, dtype=torch.float64) / (n_points - 1)
    abar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return VPPath.from_betas((1 - abar[1:] / abar[:-1]).clamp(max=0.999))


def _linear(low: float, high: float, power: float, n_steps: int) -> GaussianPath:
    """Betas whose power 1 / p is linear in the step."""
    roots = torch.linspace(low ** (1 / power), high ** (1 / power), n_steps, dtype=torch.float64)
    return VPPath.from_betas(roots**power)


#: Published schedules: name -> (n_steps, precision) -> path. EDM's tables have n_steps + 1 entries
#: (step `i` is t = i / n_steps), diffusers' have n_steps (timestep `i` is t = i / (n_steps - 1)).
NAMED_PATHS: Mapping[str, Callable[[int, float], GaussianPath]] = {
    "edm/polynomial_2": _edm_polynomial_2,
    "edm/cosine": lambda n_steps, precision: _cosine(n_steps + 2),  # without precision
    "ddpm/linear": lambda n_steps, precision: _linear(1e-4, 0.02, 1, n_steps),
    "ddpm/scaled_linear": lambda n_steps, precision: _linear(0.00085, 0.012, 2, n_steps),
    "ddpm/cosine": lambda n_steps, precision: _cosine(n_steps + 1),
    "karras/edm": lambda n_steps, precision: VEPath(0.002, 80.0, 7.0),
    "flow/linear": lambda n_steps, precision: FlowPath(),
}


def named_path(name: str, n_steps: int = 1000, precision: float = 1e-5) -> GaussianPath:
    """A published schedule by name.

    Args:
        name: Key of `NAMED_PATHS`.
        n_steps: Number of training steps of the codebase, for the tabulated ones.
        precision: Distance that EDM's polynomial keeps `abar` off 0 and 1.

    Raises:
        TruncationError: If the name is unknown or `n_steps` is below 2.
    """
    if name not in NAMED_PATHS:
        raise TruncationError(f"unknown path {name!r}. Known: {', '.join(NAMED_PATHS)}.")
    if n_steps < 2:
        raise TruncationError(f"n_steps={n_steps}, need at least 2 to make a path.")
    return NAMED_PATHS[name](n_steps, precision)


@dataclass(frozen=True)
class Start:
    """Place of t* on one named schedule."""

    schedule: str
    value: float | None  # training timestep, time of a flow, or sigma; None if never reached
    kind: str  # timestep, time or sigma
    share: float | None  # of the path, 0 to 1; None for schedules in sigma, and if never reached

    @property
    def text(self) -> str:
        """The value with the name of its kind."""
        if self.value is None:
            return "never that noisy"
        if self.kind == "timestep":
            return f"timestep {self.value:.0f}"
        return f"{'sigma' if self.kind == 'sigma' else 's'} = {self.value:.3f}"

    @property
    def share_text(self) -> str:
        """The share in per cent."""
        return "–" if self.share is None else f"{100 * self.share:.0f} %"


def starts(
    log_snr_star: float, n_steps: int = 1000, discrete_types: bool = False
) -> tuple[Start, ...]:
    """t* under every named schedule; where types stay discrete, under those of flows alone."""
    places = []
    for name in NAMED_PATHS:
        if discrete_types and not name.startswith("flow"):
            continue
        path = named_path(name, n_steps)
        kind = "timestep" if path.n_steps else "time" if isinstance(path, FlowPath) else "sigma"
        value = share = None
        with suppress(TruncationError):  # it never gets that noisy
            t = path.first_time(log_snr_star)
            value = round(t * path.n_steps) if path.n_steps else float(path.b(t))
            share = None if kind == "sigma" else t
        places.append(Start(name, value, kind, share))
    return tuple(places)
