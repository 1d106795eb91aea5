r"""The last term of the bound, `L_0 = -log p(x | z_0)`, for how data are read off z_0.

`z_0 = a_0 x + b_0 eps` is the cleanest level. Continuous numbers are read off the denoiser's
prediction there, with the noise that is left; one of finitely many values is read off z_0 itself,
`p(v | z_0) ∝ q(z_0 | v)` (Kingma et al. 2021, appendix C), which is nearly certain there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gaga_adapter.elements import atomic_numbers
from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.layout import Layout, MoleculeLayout, TokenLayout
from gaga_adapter.subspace import degrees_of_freedom


class Decoder(Protocol):
    """The law of the data given the cleanest level z_0."""

    def nats(
        self, x: Tensor, mask: Tensor | None, noisy: Tensor, predicted: Tensor, sigma: float
    ) -> Tensor:
        """`-log p(x | z_0)` (B,), float64.

        Args:
            x: Data (B, ...).
            mask: Real atoms of molecules (B, N); `None` for dense data.
            noisy: Noised data `z_0 / a_0 = x + sigma eps` (B, ...).
            predicted: Prediction of x by the denoiser (B, ...).
            sigma: Noise level `b_0 / a_0`.
        """


def dimensions(x: Tensor, mask: Tensor | None, n_positions: int = 3) -> Tensor:
    """Degrees of freedom (B,) of data (B, ...), float64."""
    if mask is None:
        return torch.full((len(x),), float(x[0].numel()), dtype=torch.float64, device=x.device)
    n = mask.sum(1)
    return (degrees_of_freedom(n, n_positions) + n * (x.shape[-1] - n_positions)).double()


@dataclass(frozen=True)
class Continuous:
    """Density of real numbers, `N(x; prediction, sigma² P)`.

    Attributes:
        n_positions: Number of position channels of molecules, 3; 0 for tokens, which have none.
    """

    n_positions: int = 3

    def nats(
        self, x: Tensor, mask: Tensor | None, noisy: Tensor, predicted: Tensor, sigma: float
    ) -> Tensor:
        """`d/2 log(2 pi sigma²) + |x - prediction|² / (2 sigma²)`, d degrees of freedom."""
        square = (x - predicted).double().square().flatten(1).sum(1)
        d = dimensions(x, mask, self.n_positions)
        return 0.5 * (d * math.log(2 * math.pi * sigma**2) + square / sigma**2)


@dataclass(frozen=True)
class Levels:
    """Numbers on a grid of equal steps, such as 256 values of a pixel.

    Attributes:
        n: Number of values.
        low: Least value.
        high: Greatest value.
    """

    n: int = 256
    low: float = -1.0
    high: float = 1.0

    def nats(
        self, x: Tensor, mask: Tensor | None, noisy: Tensor, predicted: Tensor, sigma: float
    ) -> Tensor:
        """Softmax over the values, per number.

        Raises:
            DataError: If the data are not on the grid.
        """
        values = torch.linspace(self.low, self.high, self.n, dtype=torch.float64, device=x.device)
        step = (self.high - self.low) / (self.n - 1)
        index = ((x.double() - self.low) / step).round()
        off = (index * step + self.low - x.double()).abs().max()
        if float(off) > 0.01 * step or float(index.min()) < 0 or float(index.max()) > self.n - 1:
            raise DataError(
                f"the data are not on {self.n} values from {self.low:g} to {self.high:g}. "
                "Pass decoder=Continuous(), or the grid they are on."
            )
        own = index.long().flatten(1)
        seen = noisy.double().flatten(1)
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for place in range(0, seen.shape[1], 4096):  # bounds the memory of the table of values
            part = seen[:, place : place + 4096, None]
            log_p = (-0.5 * ((part - values) / sigma).square()).log_softmax(-1)
            total -= log_p.gather(-1, own[:, place : place + 4096, None]).sum((1, 2))
        return total


@dataclass(frozen=True)
class Atoms:
    """Positions as real numbers, the element of each atom as one of the layout's.

    Attributes:
        layout: Meaning of the channels.
    """

    layout: MoleculeLayout

    def nats(
        self, x: Tensor, mask: Tensor | None, noisy: Tensor, predicted: Tensor, sigma: float
    ) -> Tensor:
        """Density of the positions in the layout's units, probability of the elements.

        Raises:
            StatsMismatchError: If there are other channels than the layout's, or no mask.
            DataError: If the features of an atom are no element of the layout.
        """
        if mask is None or x.shape[-1] != self.layout.n_channels:
            raise StatsMismatchError(
                f"got {tuple(x.shape)}, need molecules (B, N, {self.layout.n_channels}) with a "
                f"mask: {self.layout.describe()}."
            )
        values = self._values().to(x.device)  # (E, F)
        features = x[..., 3:].double()
        own = features[..., : len(values)].argmax(-1)
        off = ((features - values[own]).abs().amax(-1) * mask).max()
        if float(off) > 1e-3 * float(values.max()):
            raise DataError(
                "the features of an atom are no element of the layout. Encode the molecules with "
                "`encode(molecules, layout)`."
            )
        square = (noisy[..., None, 3:].double() - values).square().sum(-1)  # (B, N, E)
        log_p = (-0.5 * square / sigma**2).log_softmax(-1).gather(-1, own[..., None]).squeeze(-1)
        positions = Continuous().nats(x[..., :3], mask, noisy[..., :3], predicted[..., :3], sigma)
        return positions - (log_p * mask).sum(1)

    def _values(self) -> Tensor:
        """Features (E, F) of each element, float64."""
        onehot = torch.eye(len(self.layout.elements), dtype=torch.float64)
        onehot = onehot / self.layout.onehot_scale
        if self.layout.charge_scale is None:
            return onehot
        numbers = torch.tensor(atomic_numbers(self.layout.elements), dtype=torch.float64)
        return torch.cat([onehot, numbers[:, None] / self.layout.charge_scale], -1)


def default_decoder(layout: Layout) -> Decoder:
    """The decoder of elements if the layout names them, else that of real numbers."""
    if isinstance(layout, MoleculeLayout):
        return Atoms(layout)
    return Continuous(0 if isinstance(layout, TokenLayout) else 3)
