r"""References for dense tensors: one Gaussian over the flattened event.

    x_t ~ N(a mu, a² C + b² I),

with `C` a multiple of I (`unit`: 1, mean 0; `paper`: the published scalar, mean 0), one variance
per channel at any resolution (`channel`), one per entry (`element`), low rank plus a residual
(`low_rank`), or full (`full`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, get_args

import torch
from torch import Tensor

from gaga_adapter.covariance import Covariance, DiagonalCovariance
from gaga_adapter.errors import StatsMismatchError
from gaga_adapter.moments import DenseKind, DenseMoments
from gaga_adapter.moments.dense import fits, next_step
from gaga_adapter.reference.base import LOG_2_PI, ReferenceGaussian, draw_noise, workspace

# Kinds of moments that each kind of reference can be made from: its own and all finer ones.
_FROM_COARSE: tuple[str, ...] = get_args(DenseKind)
_KNOWN_FROM: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("unit", "paper", "channel"), _FROM_COARSE),
    "element": _FROM_COARSE[1:],
    "low_rank": ("low_rank",),
    "full": ("full",),
}


class DenseReference(ReferenceGaussian):
    """A Gaussian over tensors of one event shape.

    The kinds `unit`, `paper` and `channel` serve any resolution of the same channels: any height
    and width, any number of frames or of tokens.

    Attributes:
        shape: Shape of the events that were fitted.
        channels: Axis of an event that holds the channels.

    Raises:
        StatsMismatchError: If the moments are too coarse for the kind.
    """

    kinds: ClassVar[tuple[str, ...]] = tuple(_KNOWN_FROM)

    def __init__(self, kind: str, moments: DenseMoments) -> None:
        super().__init__(kind)
        if moments.kind not in _KNOWN_FROM[kind]:
            raise StatsMismatchError(
                f"reference {kind!r} needs moments of kind {' or '.join(_KNOWN_FROM[kind])}, "
                f"these are {moments.kind!r}. Fit again with that kind."
            )
        self.shape, self.channels = moments.shape, moments.channels
        self._any_resolution = kind in ("unit", "paper", "channel")
        self._covariance: Covariance
        diagonal = kind == "element"  # the covariance of finer moments is not
        if self._any_resolution:
            mean = torch.zeros(self.shape[self.channels], dtype=torch.float64)
            var = torch.ones_like(mean)
            if kind == "paper":
                var = torch.full_like(mean, moments.paper_variance)
            elif kind == "channel":
                mean, var = moments.channel_mean, moments.channel_var
            per_channel = [-1 if axis == self.channels else 1 for axis in range(len(self.shape))]
            self._mean = mean.reshape(per_channel)
            self._covariance = DiagonalCovariance(var.reshape(per_channel))
        else:
            self._mean, var = moments.mean, moments.var.flatten()
            self._covariance = DiagonalCovariance(var) if diagonal else moments.covariance()

    def gaussian(self, event: Sequence[int], device: torch.device) -> tuple[Tensor, Covariance]:
        """Mean (D,) and covariance, float64, of a flattened event of this shape at this level.

        Raises:
            StatsMismatchError: If the reference describes other events.
        """
        event = tuple(event)
        if not fits(event, self.shape, self.channels, self._any_resolution):
            raise StatsMismatchError(
                f"this reference ({self.kind}) describes events of shape {self.shape}, got "
                f"{event}. {next_step(event, self.shape, self.channels)}"
            )
        mean, covariance = self._mean, self._covariance
        if self._any_resolution and isinstance(covariance, DiagonalCovariance):
            covariance = DiagonalCovariance(covariance.var.expand(event).flatten())
        mean = (self.a * mean.expand(event).flatten()).to(device)
        return mean, covariance.affine(self.a, self.b).to(device)

    def transport(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map unit noise (B, *event) to the reference; see `ReferenceGaussian.transport`."""
        mean, covariance = self.gaussian(z.shape[1:], workspace(z.device))
        if self.kind == "unit":
            return self._unit_transport(z)
        noise = z.to(mean.device, torch.float64).flatten(1)  # autocast leaves float64 alone
        return (mean + covariance.sqrt_mul(noise)).reshape(z.shape).to(z.device, z.dtype)

    def sample(
        self,
        shape: Tensor | Sequence[int],
        /,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw events of this shape (B, *event); see `ReferenceGaussian.sample`."""
        return self.transport(draw_noise([int(n) for n in shape], generator, device, dtype))

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of events in nats (B,), float64; see `ReferenceGaussian.log_prob`."""
        self._require_noise()
        mean, covariance = self.gaussian(x.shape[1:], workspace(x.device))
        energy = covariance.quadratic(x.to(mean.device, torch.float64).flatten(1) - mean)
        return -0.5 * (energy + covariance.log_det() + len(mean) * LOG_2_PI)

    def kl_from_posterior(self, x0: Tensor, mask: Tensor | None = None) -> Tensor:
        """`KL(N(a x0, b² I) || reference)`; see `ReferenceGaussian.kl_from_posterior`."""
        self._require_noise()
        mean, covariance = self.gaussian(x0.shape[1:], workspace(x0.device))
        residual = self.a * x0.to(mean.device, torch.float64).flatten(1) - mean
        noise = self.b**2 * covariance.inverse_trace() + covariance.log_det()
        entropy = len(mean) * (1 + 2 * math.log(self.b))
        return 0.5 * (covariance.quadratic(residual) + noise - entropy)
