r"""What every reference can do: the closed-form stand-in for the marginal of `a x_0 + b eps`.

A reference knows the data's first two moments, `mu` and `C`. At a level `(a, b)` it is the
Gaussian (or the mixture of Gaussians) with mean `a mu` and covariance `a² C + b² P`, `P` the
projector on the space of the noise. The data themselves are the level a = 1, b = 0.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError

if TYPE_CHECKING:
    from typing import Self

LOG_2_PI = math.log(2 * math.pi)


class ReferenceGaussian(ABC):
    """The reference at one noise level; `at` gives it at another.

    Attributes:
        kinds: the kinds that this family of references has.
        kind: which one this is.
        a: signal coefficient of the level.
        b: noise standard deviation of the level.
    """

    kinds: ClassVar[tuple[str, ...]]

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.a = 1.0
        self.b = 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kind={self.kind!r}, a={self.a:.6g}, b={self.b:.6g})"

    def at(self, a: float | Tensor, b: float | Tensor) -> Self:
        """The reference for `a x_0 + b eps`.

        Args:
            a: signal coefficient, finite.
            b: noise standard deviation, finite and not negative.

        Raises:
            TruncationError: not such numbers.
        """
        level = copy.copy(self)
        level.a, level.b = float(a), float(b)
        if not (math.isfinite(level.a) and math.isfinite(level.b) and level.b >= 0):
            raise TruncationError(
                f"a={level.a}, b={level.b} is no noise level: both must be finite, b not negative."
            )
        return level

    @abstractmethod
    def transport(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map unit noise to the reference, deterministically and example by example.

        Args:
            z: unit noise (B, ...).
            mask: molecules: real atoms (B, N), inferred from the padding when `None`.

        Returns:
            Same shape, dtype and device as `z`.
        """

    @abstractmethod
    def sample(
        self,
        size: Tensor | Sequence[int],
        /,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw from the reference.

        Args:
            size: molecules: numbers of atoms (B,). Dense: the shape (B, *event).
            generator: source of the noise.
            device: where; that of the generator or of `size` when `None`.
            dtype: of the result; torch's default when `None`.
        """

    @abstractmethod
    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density in nats (B,), float64, with respect to Lebesgue measure on the subspace.

        Args:
            x: points (B, ...); molecules with zero centre of mass.
            mask: molecules: real atoms (B, N), inferred from the padding when `None`.

        Raises:
            TruncationError: the reference is singular, as at b = 0.
        """

    @abstractmethod
    def kl_from_posterior(self, x0: Tensor, mask: Tensor | None = None) -> Tensor:
        """`KL(N(a x0, b² P) || reference)` in nats (B,), float64: the prior term of the bound.

        Args:
            x0: clean data (B, ...).
            mask: molecules: real atoms (B, N), inferred from the padding when `None`.

        Raises:
            TruncationError: b = 0, where the divergence is infinite.
        """

    def _require_noise(self) -> None:
        if self.b <= 0:
            raise TruncationError(
                f"{self!r} has no density at b=0. Take it at a noise level first: at(a, b)."
            )


def draw_noise(
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Tensor:
    """Unit noise from a generator, drawn where the generator lives, then moved to `device`."""
    home = generator.device if generator is not None else device
    noise = torch.randn(tuple(shape), generator=generator, device=home, dtype=dtype)
    return noise if device is None else noise.to(device)


def workspace(device: torch.device) -> torch.device:
    """Where float64 work on a tensor of `device` is done: there, or on the CPU if it has none.

    Results in nats stay where they were worked out.
    """
    return torch.device("cpu") if device.type == "mps" else device
