r"""What `ks_mi` measures on one data item: KS distances and average mutual information.

*Molecules*, positions and features apart: the KS distance of all entries from N(0, 1), and the
average nearest-neighbour mutual information of pairs of channels over the atoms. Pairs of atoms are
not used: their samples are the channels, and with k neighbours among k + 1 samples the estimate is
identically 0.

*Dense items* (C, ...), flattened to channels over places: the KS distance of their entries, and the
mutual information of pairs of channels over the places, and of neighbouring places over themselves.
Large items are looked at in a fixed random part. An item of one place is one channel of C places.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import combinations

import torch
from torch import Generator, Tensor

from gaga_adapter.criteria.ks_mi.mutual_information import knn_mutual_information
from gaga_adapter.errors import DataError
from gaga_adapter.reference.base import workspace

_ENTRIES = 256  # most entries of a dense item that KS looks at
_PLACES = 64  # most places of a dense item over which mutual information is taken


class ItemStatistics(ABC):
    """Statistics of items, the same entries and pairs in every call; see `KSMI` for settings."""

    def __init__(self, n_neighbors: int, n_pairs: int, generator: Generator | None) -> None:
        self.n_neighbors = n_neighbors
        self._n_pairs = n_pairs
        self._generator = generator
        self._pairs: dict[int, list[tuple[int, int]]] = {}

    @abstractmethod
    def standard(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of entries, from draws (R, ...); they broadcast to items."""

    @abstractmethod
    def views(self, z: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Samples (B, n) for KS and columns (B, C, n) for mutual information, of items."""

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """KS distances (B, K) and average mutual information (B, I) of standardised items."""
        samples, columns = self.views(z)
        distances = [ks_statistic(values) for values in samples]
        k, source = self.n_neighbors, self._generator
        information = [
            knn_mutual_information(x, self._pairs_of(x.shape[1]), k, source, clip=False).mean(1)
            for x in columns
        ]
        return torch.stack(distances, 1), torch.stack(information, 1)

    def _pairs_of(self, width: int) -> list[tuple[int, int]]:
        """Distinct pairs of columns: all of them, or `n_pairs` at random."""
        if width not in self._pairs:
            pairs = list(combinations(range(width), 2))
            pick = _some(len(pairs), self._n_pairs, self._generator)
            self._pairs[width] = [pairs[i] for i in pick.tolist()]
        return self._pairs[width]


class MoleculeStatistics(ItemStatistics):
    """Statistics of molecules of one size (B, N, 3 + F), or of tokens (B, N, F)."""

    def __init__(
        self, n_neighbors: int, n_pairs: int, generator: Generator | None, n_positions: int = 3
    ) -> None:
        super().__init__(n_neighbors, n_pairs, generator)
        self._n_positions = n_positions

    def standard(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (3 + F,) of the channels; positions have mean 0 and one deviation."""
        atoms = draws.flatten(0, 1).to(torch.float64)
        mean, deviation = atoms.mean(0), atoms.std(0)
        if self._n_positions:
            mean[:3], deviation[:3] = 0, atoms[:, :3].square().mean().sqrt()
        return mean, deviation

    def views(self, z: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Positions and features where there are some (for mutual information, two)."""
        parts = [part for part in z.tensor_split([self._n_positions], -1) if part.shape[-1]]
        columns = [part.mT for part in parts if part.shape[-1] > 1]
        if not columns:
            raise DataError(
                "tokens of one channel have no pair of channels, which mutual information needs. "
                "Use another criterion."
            )
        return [part.flatten(1) for part in parts], columns


class DenseStatistics(ItemStatistics):
    """Statistics of dense items of one shape, with channels on this axis of it.

    Raises:
        DataError: If an item has too few places in a row.
    """

    def __init__(
        self,
        shape: torch.Size,
        n_neighbors: int,
        n_pairs: int,
        generator: Generator | None,
        channels: int = 0,
    ) -> None:
        super().__init__(n_neighbors, n_pairs, generator)
        places = shape.numel() // shape[channels]
        self._axis = channels
        self._shape = (1, shape[channels]) if places == 1 else (shape[channels], places)
        channels, places = self._shape
        if places < n_neighbors + 3:
            raise DataError(
                f"items of shape {tuple(shape)} are {places} places in a row: mutual information "
                f"of {n_neighbors} neighbours needs {n_neighbors + 3}. Use another criterion."
            )
        self._entries = _some(channels * places, _ENTRIES, generator)
        self._places = _some(places - 1, _PLACES, generator)

    def standard(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C, ...) of each entry."""
        return draws.to(torch.float64).mean(0), draws.to(torch.float64).std(0)

    def views(self, z: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Entries; channels where there are two, and one channel beside its own next place."""
        places = self._places.to(z.device)
        flat = z.movedim(1 + self._axis, 1).reshape(len(z), *self._shape)
        neighbours = torch.stack([flat[:, 0, places], flat[:, 0, places + 1]], dim=1)
        columns = [neighbours] if len(flat[0]) == 1 else [flat[:, :, places], neighbours]
        return [flat.flatten(1)[:, self._entries.to(z.device)]], columns


def ks_statistic(values: Tensor) -> Tensor:
    """KS distance `sup |F_n - Phi|` (...) of standardised samples (..., n), in float64."""
    n = values.shape[-1]
    if not n:
        raise DataError(f"samples are empty: {tuple(values.shape)}. KS needs at least 1 value.")
    ordered = values.to(workspace(values.device), torch.float64).sort(-1).values
    below = torch.special.ndtr(ordered)
    step = torch.arange(n + 1, dtype=torch.float64, device=ordered.device) / n
    return torch.maximum((step[1:] - below).amax(-1), (below - step[:-1]).amax(-1))


def _some(count: int, most: int, generator: Generator | None) -> Tensor:
    """All of the first `count` numbers, or `most` of them at random, in order (m,)."""
    home = None if generator is None else generator.device
    return torch.randperm(count, generator=generator, device=home)[:most].sort().values.cpu()
