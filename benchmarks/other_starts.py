"""Starts that are no Gaussian of the package: noised held-out molecules, and bare noise."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gaga_adapter import GAGAStats
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.subspace import mask_from_padding, project


class _Start(ReferenceGaussian):
    """A start that a scheduler asks for nothing but its transport."""

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """No scheduler asks for it."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """No scheduler asks for it."""
        raise NotImplementedError

    def kl_from_posterior(self, x0: Tensor, mask: Tensor | None = None) -> Tensor:
        """No scheduler asks for it."""
        raise NotImplementedError


class Oracle(_Start):
    """What a perfect start would give: molecules of the data, noised to the level.

    Args:
        molecules: Molecules to draw from; of the sizes that they lack, `others`.
        others: More molecules.
        stats: Statistics in whose layout the model diffuses.
    """

    def __init__(self, molecules: MoleculeSet, others: MoleculeSet, stats: GAGAStats) -> None:
        super().__init__("oracle")
        self.sets, self.layout = (molecules, others), stats.layout
        sizes = [torch.from_numpy(part.n_atoms) for part in self.sets]
        self.rows = {
            n: next((k, rows) for k, own in enumerate(sizes) if len(rows := (own == n).nonzero()))
            for n in torch.cat(sizes).unique().tolist()
        }

    def transport(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """A molecule of the same size for each row (B, N, C) of noise, which chooses it."""
        mask = mask_from_padding(z) if mask is None else mask
        generator = torch.Generator().manual_seed(zlib.crc32(z.double().numpy().tobytes()))
        x = torch.zeros_like(z)
        for row, n in enumerate(mask.sum(1).tolist()):
            k, rows = self.rows[n]
            place = int(rows[torch.randint(len(rows), (1,), generator=generator)])
            encoded, own = encode(self.sets[k].subset(slice(place, place + 1)), self.layout)
            x[row, :n] = encoded[0, own[0]].to(z)
        return self.a * x + self.b * project(z, mask)


class BareNoise(_Start):
    """The noise of the level without a signal, N(0, b² I)."""

    def __init__(self) -> None:
        super().__init__("noise")

    def transport(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """`b z`, on the subspace."""
        mask = mask_from_padding(z) if mask is None else mask
        return self.b * project(z, mask)


def start_from(scheduler: Any, reference: ReferenceGaussian) -> None:  # noqa: ANN401
    """Give a truncated scheduler another start."""
    scheduler._gaga = replace(scheduler._gaga, reference=reference)
