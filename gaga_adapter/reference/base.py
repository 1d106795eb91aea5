r"""What every reference can do: the closed-form stand-in for the marginal of `a x_0 + b eps`.

A reference knows the data's first two moments, `mu` and `C`. At a level `(a, b)` it is the
Gaussian (or the mixture of Gaussians) with mean `a mu` and covariance `a² C + b² P`, `P` the
projector on the space of the noise. The data themselves are the level a = 1, b = 0.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import wraps
from typing import TYPE_CHECKING, ClassVar, ParamSpec, TypeVar

import torch
from torch import Tensor

from gaga_adapter.errors import DataError, TruncationError
from gaga_adapter.subspace import mask_from_sizes, project

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
T = TypeVar("T")
LOG_2_PI = math.log(2 * math.pi)


class ReferenceGaussian(ABC):
    """The reference at one noise level; `at` gives it at another.

    Attributes:
        kinds: Kinds that this family of references has.
        kind: Kind of this reference.
        a: Signal coefficient of the level.
        b: Noise standard deviation of the level.
        is_measured: Whether the data of its moments are states that have their noise already.
    """

    kinds: ClassVar[tuple[str, ...]]
    is_measured: bool = False

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.a = 1.0
        self.b = 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kind={self.kind!r}, a={self.a:.6g}, b={self.b:.6g})"

    def at(self, a: float | Tensor, b: float | Tensor) -> Self:
        """The reference for `a x_0 + b eps`.

        Args:
            a: Signal coefficient, finite.
            b: Noise standard deviation, finite and non-negative.

        Raises:
            TruncationError: If `a` or `b` is not such a number.
        """
        level = copy.copy(self)
        level.a, level.b = float(a), float(b)
        if not (math.isfinite(level.a) and math.isfinite(level.b) and level.b >= 0):
            raise TruncationError(
                f"a={level.a}, b={level.b} is no noise level: both must be finite, b not negative."
            )
        return level

    def known(self) -> Self:
        """This reference, or the nearest one towards data whose density is known.

        All but a tilted one have a density at every level with noise. The prior term at the level
        of the result is an upper bound of that here, by data processing.
        """
        return self

    def project(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The projector P on the space of the noise: that of molecules if there is a mask.

        Args:
            x: Data or noise (B, ...).
            mask: Real atoms (B, N), bool; `None` for dense data, which fill their space.
        """
        return x if mask is None else project(x, mask)

    def noised(
        self, x: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Clean data at the level of the reference: `a x_0 + b P eps`.

        Args:
            x: Clean data (B, ...).
            mask: Real atoms (B, N), bool, of molecules; `None` for dense data.
            generator: Source of randomness.
        """
        noise = draw_noise(x.shape, generator, x.device, x.dtype)
        return self.project(self.a * x + self.b * noise, mask)

    @abstractmethod
    def transport(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map unit noise to the reference, deterministically and example by example.

        The kind `unit` only scales, so at `a² + b² = 1` it returns the noise itself, bit for bit.
        Others work in float64, also under autocast, and project the positions of molecules first.

        Args:
            z: Unit noise (B, ...); molecules have padding of exactly zero.
            mask: Real atoms (B, N) of molecules; inferred from the padding when `None`.

        Returns:
            Examples (B, ...), dtype and device of `z`.

        Raises:
            StatsMismatchError: If the reference describes other channels or another shape.
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
            size: Numbers of atoms (B,) of molecules; for dense data the shape (B, *event).
            generator: Source of the noise; it is the only one.
            device: Device of the result; that of the generator, else the CPU, when `None`.
            dtype: Data type of the result; torch's default when `None`.

        Returns:
            Examples (B, ...); molecules (B, max size, 3 + F) with padding of exactly zero.

        Raises:
            DataError: If a size is below 1.
        """

    @abstractmethod
    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density in nats (B,), float64, with respect to Lebesgue measure on the subspace.

        Args:
            x: Points (B, ...); molecules with zero centre of mass.
            mask: Real atoms (B, N) of molecules; inferred from the padding when `None`.

        Raises:
            TruncationError: If the reference is singular, as at b = 0.
        """

    @abstractmethod
    def kl_from_posterior(self, x0: Tensor, mask: Tensor | None = None) -> Tensor:
        """`KL(N(a x0, b² P) || reference)` in nats (B,), float64: the prior term of the bound.

        It is exact for every kind but `shape`, which gives an upper bound.

        Args:
            x0: Clean data (B, ...).
            mask: Real atoms (B, N) of molecules; inferred from the padding when `None`.

        Raises:
            TruncationError: If b = 0, where the divergence is infinite.
        """

    def _unit_transport(self, z: Tensor) -> Tensor:
        scale = math.hypot(self.a, self.b)
        return z.clone() if abs(scale - 1) < 1e-12 else z * scale

    def _require_noise(self) -> None:
        if self.b > 0:
            return
        if self.is_measured:
            raise TruncationError(
                f"{self!r} is the law of states that were measured, noise and all, and has no "
                "density. Draw from it with sample; at(a, b) would add noise a second time. "
                "TwoSample().of_states bounds a divergence from it by draws."
            )
        raise TruncationError(
            f"{self!r} has no density at b=0. Take it at a noise level first: at(a, b)."
        )


def without_autocast(function: Callable[P, T]) -> Callable[P, T]:
    """A function whose products are not rounded to half precision where it is called in autocast.

    Autocast leaves float64 alone, so only work in float32 needs it.
    """

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        with ExitStack() as stack:
            if torch.is_autocast_enabled():  # of CUDA
                stack.enter_context(torch.autocast("cuda", enabled=False))
            stack.enter_context(torch.autocast("cpu", enabled=False))
            return function(*args, **kwargs)

    return called


def mask_of(n_atoms: Tensor | Sequence[int]) -> Tensor:
    """Mask (B, N), bool, of molecules of these sizes (B,).

    Raises:
        DataError: If they are no list, or one is below 1.
    """
    sizes = torch.as_tensor(n_atoms, dtype=torch.int64)
    if sizes.dim() != 1 or not bool((sizes >= 1).all()):
        raise DataError(f"n_atoms must be a list of sizes of at least 1, got {n_atoms}.")
    return mask_from_sizes(sizes)


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
    """The device for float64 work on a tensor of `device`: that one, or the CPU if it has none.

    Results in nats stay on this device.
    """
    return torch.device("cpu") if device.type == "mps" else device
