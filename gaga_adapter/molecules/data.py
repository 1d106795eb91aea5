"""A set of molecules as two padded arrays: positions in angstrom and atomic numbers.

The set is checked once, where it is made, so that everything behind it may rely on it: finite
coordinates, at least one atom per molecule, and padding only behind the real atoms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import DataError, whole_number


@dataclass(frozen=True, eq=False)
class MoleculeSet:
    """M molecules of at most Nmax atoms, zero-padded.

    Attributes:
        positions: Positions (M, Nmax, 3) float32, angstrom; padding is 0.
        atomic_numbers: Atomic numbers (M, Nmax) uint8; padding is 0.
        name: Origin of the molecules, for messages and provenance.
        smiles: One SMILES per molecule, where the source states them.
    """

    positions: NDArray[np.float32]
    atomic_numbers: NDArray[np.uint8]
    name: str = "molecules"
    smiles: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        positions, numbers = self.positions, self.atomic_numbers
        if positions.ndim != 3 or positions.shape != (*numbers.shape, 3):
            raise DataError(
                f"{self.name}: positions {positions.shape} do not fit atomic numbers "
                f"{numbers.shape}. Allowed: (M, N, 3) and (M, N)."
            )
        if positions.dtype.kind not in "fiu" or numbers.dtype.kind not in "fiu":
            raise DataError(
                f"{self.name}: positions of type {positions.dtype} and atomic numbers of type "
                f"{numbers.dtype}. Allowed: numbers."
            )
        if len(numbers) == 0:
            raise DataError(f"{self.name}: no molecules. Pass at least one.")
        if self.smiles is not None and len(self.smiles) != len(numbers):
            raise DataError(f"{self.name}: {len(self.smiles)} SMILES for {len(numbers)} molecules.")
        is_number = np.isin(numbers, np.arange(len(SYMBOLS)))
        self._refuse(~is_number.all(axis=1), "has an atomic number that is not one of 0 to 118")
        real = numbers > 0
        self._refuse(~real.any(axis=1), "has no atoms")
        self._refuse(
            (real[:, 1:] & ~real[:, :-1]).any(axis=1),
            "has a gap in its atomic numbers: padding must come after the last atom",
        )
        positions = _float32(positions)
        self._refuse(~np.isfinite(positions).all(axis=(1, 2)), "has NaN or infinite coordinates")
        self._refuse((positions[~real] != 0).any(axis=-1), "has coordinates in its padding", ~real)
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "atomic_numbers", np.asarray(numbers, np.uint8))

    def _refuse(self, bad: ArrayLike, cause: str, where: NDArray[np.bool_] | None = None) -> None:
        """Name the first molecule of `bad` (M,), or of `bad` over the atoms picked by `where`."""
        places = np.flatnonzero(bad)
        if len(places):
            index = places[0] if where is None else np.nonzero(where)[0][places[0]]
            raise DataError(f"{self.name}: molecule {index} {cause}.")

    @classmethod
    def from_list(
        cls,
        molecules: Sequence[tuple[ArrayLike, ArrayLike]],
        name: str = "molecules",
        smiles: Sequence[str] | None = None,
    ) -> MoleculeSet:
        """Pad a list of single molecules: positions (n, 3) in angstrom and atomic numbers (n,).

        Raises:
            DataError: If there is no molecule, or one is empty, misshapen or not finite.
        """
        pairs = [(_float32(x), np.asarray(z)) for x, z in molecules]
        for index, (x, z) in enumerate(pairs):
            if z.ndim != 1 or x.shape != (len(z), 3):
                raise DataError(
                    f"{name}: molecule {index} has positions {x.shape} and atomic numbers "
                    f"{z.shape}. Allowed: (n, 3) and (n,)."
                )
        n_atoms = np.array([len(z) for _, z in pairs], np.int64)
        real = np.arange(n_atoms.max(initial=0)) < n_atoms[:, None]
        positions = np.zeros((*real.shape, 3), np.float32)
        numbers = np.zeros(real.shape, np.uint8)
        if real.any():
            all_numbers = np.concatenate([z for _, z in pairs])
            bad = (all_numbers < 1) | (all_numbers >= len(SYMBOLS))
            if bad.any():
                index = np.repeat(np.arange(len(pairs)), n_atoms)[bad][0]
                raise DataError(f"{name}: molecule {index} has an atomic number outside 1 to 118.")
            numbers[real] = all_numbers
            positions[real] = np.concatenate([x for x, _ in pairs])
        return cls(positions, numbers, name, None if smiles is None else tuple(smiles))

    @classmethod
    def concatenate(cls, sets: Sequence[MoleculeSet], name: str | None = None) -> MoleculeSet:
        """All molecules of several sets, in order; SMILES are kept if every set has them."""
        n_max = max((part.positions.shape[1] for part in sets), default=0)
        n_total = sum(len(part) for part in sets)
        positions = np.zeros((n_total, n_max, 3), np.float32)
        numbers = np.zeros((n_total, n_max), np.uint8)
        start = 0
        for part in sets:
            rows, width = slice(start, start + len(part)), part.positions.shape[1]
            positions[rows, :width] = part.positions
            numbers[rows, :width] = part.atomic_numbers
            start += len(part)
        stated = [part.smiles for part in sets if part.smiles is not None]
        smiles = tuple(chain.from_iterable(stated)) if len(stated) == len(sets) else None
        return cls(positions, numbers, name or "+".join(part.name for part in sets), smiles)

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(M, Nmax), True where there is an atom."""
        return self.atomic_numbers > 0

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """(M,) atoms per molecule."""
        counts: NDArray[np.int64] = self.mask.sum(axis=1, dtype=np.int64)
        return counts

    def molecule(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Positions (n, 3) and atomic numbers (n,) of one molecule, without padding."""
        real = self.atomic_numbers[index] > 0
        return self.positions[index, real], self.atomic_numbers[index, real]

    def subset(self, indices: slice | Sequence[int] | NDArray[np.integer]) -> MoleculeSet:
        """The molecules at `indices`, in that order, padded to their own largest size."""
        chosen = np.arange(len(self))[
            indices if isinstance(indices, slice) else np.asarray(indices, np.int64)
        ]
        numbers = self.atomic_numbers[chosen]
        width = int(np.count_nonzero(numbers, axis=1).max(initial=0))
        smiles = None if self.smiles is None else tuple(self.smiles[i] for i in chosen)
        return MoleculeSet(self.positions[chosen, :width], numbers[:, :width], self.name, smiles)

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[MoleculeSet]:
        """The whole set in batches, the last one possibly smaller; `generator` draws the order.

        Raises:
            DataError: If the batch size is no whole number of 1 or more.
        """
        batch_size = whole_number("batch_size", batch_size)
        order = np.arange(len(self))
        if generator is not None:
            order = torch.randperm(len(self), generator=generator).numpy()
        for start in range(0, len(self), batch_size):
            yield self.subset(order[start : start + batch_size])


def _float32(values: ArrayLike) -> NDArray[np.float32]:
    """The values in float32; one beyond its range becomes infinite, and is refused as such."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)
