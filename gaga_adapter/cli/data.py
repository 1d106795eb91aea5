"""What the commands read: molecules of any supported file, or dense arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from gaga_adapter.collecting import Batch
from gaga_adapter.errors import DataError
from gaga_adapter.layout import DenseLayout, Layout, MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet

_BATCH = 2048  # molecules
_BATCH_NUMBERS = 4_000_000  # of dense arrays

Data = Annotated[
    list[str],
    typer.Argument(
        help="qm9, qm9:train, files (.sdf, .xyz, .npz in EDM layout), or one .npy of floats "
        "(M, C, ...) for images, latents and signals."
    ),
]
Elements = Annotated[
    str, typer.Option(help="Elements of the one-hot channels, in the model's order.")
]
PositionScale = Annotated[float, typer.Option(help="Positions are divided by it.")]
OnehotScale = Annotated[float, typer.Option(help="One-hot entries are divided by it.")]
ChargeScale = Annotated[
    float | None,
    typer.Option(help="Atomic numbers are divided by it; no such channel without."),
]


@dataclass(frozen=True, eq=False)
class Source:
    """A data set that can be streamed.

    Attributes:
        name: for tables and provenance.
        layout: what its channels are.
        items: the molecules, or the array (M, C, ...).
    """

    name: str
    layout: Layout
    items: MoleculeSet | np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    def batches(self) -> Iterator[Batch]:
        """Pairs of x (B, N, 3+F) and mask (B, N), or dense x (B, C, ...)."""
        if isinstance(self.items, MoleculeSet):
            from gaga_adapter.molecules.encoding import encode

            assert isinstance(self.layout, MoleculeLayout)
            for part in self.items.batches(_BATCH):
                yield encode(part, self.layout)
            return
        step = max(1, _BATCH_NUMBERS // max(1, self.items[0].size))
        for start in range(0, len(self.items), step):
            yield torch.from_numpy(np.array(self.items[start : start + step]))


def open_data(
    data: list[str],
    elements: str = "H,C,N,O,F",
    position_scale: float = 1.0,
    onehot_scale: float = 4.0,
    charge_scale: float | None = None,
) -> Source:
    """The data that a user named; arrays are mapped from disk, not read.

    Raises:
        DataError: nothing readable there, or an array that is no stack of float events.
    """
    arrays = [name for name in data if name.endswith(".npy")]
    if arrays:
        if len(data) > 1:
            raise DataError(f"got {', '.join(data)}: pass one .npy file at a time, and it alone.")
        return _open_array(Path(arrays[0]))
    from gaga_adapter.molecules.formats import read_molecules

    names = tuple(e.strip() for e in elements.split(","))
    layout = MoleculeLayout(names, position_scale, onehot_scale, charge_scale)
    molecules = read_molecules(data, layout.elements)
    return Source(molecules.name, layout, molecules)


def _open_array(file: Path) -> Source:
    if not file.is_file():
        raise DataError(f"no file {file}.")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"cannot read {file} ({error}). Write it with numpy.save.") from error
    if array.ndim < 2 or not len(array) or array.dtype.kind != "f":
        raise DataError(
            f"{file} holds {array.dtype} {array.shape}; need floats (M, C, ...), one event per "
            "row and channels first, scaled as the model sees them."
        )
    return Source(str(file), DenseLayout(tuple(array.shape[1:])), array)
