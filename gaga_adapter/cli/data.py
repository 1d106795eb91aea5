"""What the commands read: molecules of any supported source, streamed, or dense arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import torch
import typer

from gaga_adapter.cli import choices
from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.layout import DenseLayout, Layout, MoleculeLayout
from gaga_adapter.molecules.formats import Hydrogens, MoleculeStream, stream_molecules
from gaga_adapter.streaming import Batch

_BATCH = 2048  # molecules
_BATCH_NUMBERS = 4_000_000  # of dense arrays

Data = Annotated[
    list[str],
    typer.Argument(
        help="qm9, qm9:train, files, folders or patterns of molecules (.sdf, .xyz, .extxyz, also "
        ".gz; .npz in EDM's layout; ASE's .db; .smi or .csv with --embed), or one .npy of floats "
        "(M, C, ...) for images, latents and signals."
    ),
]
Elements = Annotated[
    str,
    typer.Option(
        help="Elements of the one-hot channels, in the model's order; auto looks them up in one "
        "pass and orders them by atomic number."
    ),
]
HydrogensOption = Annotated[
    str,
    choices.one_of(
        choices.hydrogens,
        "keep them as they are, remove all, or add those that the bonds imply (SDF, SMILES).",
        "--hydrogens",
    ),
]
Embed = Annotated[
    bool,
    typer.Option("--embed", help="Make geometries by ETKDG for SMILES and for SDF records in 2D."),
]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad", help="Leave malformed molecules out and count them."),
]
PositionScale = Annotated[float, typer.Option(help="Positions, in angstrom, are divided by it.")]
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
    items: MoleculeStream | np.ndarray

    @property
    def total(self) -> int | None:
        """Items in all; None for files, which are not counted before they are read."""
        return self.items.total if isinstance(self.items, MoleculeStream) else len(self.items)

    def batches(self, share: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Pairs of x (B, N, 3+F) and mask (B, N), or dense x (B, C, ...).

        Args:
            share: (r, W): the batches r, r + W, ... alone. Nothing is made of the others, so
                that several processes read files as many times faster.
        """
        if isinstance(self.items, MoleculeStream):
            from gaga_adapter.molecules.encoding import encode

            assert isinstance(self.layout, MoleculeLayout)
            for part in self.items.shared(*share):
                yield encode(part, self.layout)
            return
        step = max(1, _BATCH_NUMBERS // max(1, self.items[0].size))
        for start in range(share[0] * step, len(self.items), share[1] * step):
            yield torch.from_numpy(np.array(self.items[start : start + step]))


def open_data(
    data: list[str],
    elements: str = "H,C,N,O,F",
    position_scale: float = 1.0,
    onehot_scale: float = 4.0,
    charge_scale: float | None = None,
    hydrogens: str = "keep",
    embed: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
) -> Source:
    """The data that a user named; files are streamed, and arrays mapped from disk, not read.

    Args:
        data: names of sources.
        elements: symbols with commas or blanks between, or `auto`.
        position_scale: of the layout, like the next two.
        onehot_scale: of the layout.
        charge_scale: of the layout.
        hydrogens: `keep`, `remove` or `add`.
        embed: make geometries by ETKDG.
        skip_bad: leave malformed molecules out.
        seed: of the embedding.

    Raises:
        DataError: nothing readable there, or an array that is no stack of float events.
    """
    arrays = [name for name in data if name.endswith(".npy")]
    if arrays:
        if len(data) > 1:
            raise DataError(f"got {', '.join(data)}: pass one .npy file at a time, and it alone.")
        return _open_array(Path(arrays[0]))
    names = tuple(elements.replace(",", " ").split())
    # a wrong way with hydrogens is refused by name
    reading = (cast(Hydrogens, hydrogens), embed, skip_bad, seed)
    if names == ("auto",):
        names = stream_molecules(data, _BATCH, None, *reading).found_elements()
    layout = MoleculeLayout(names, position_scale, onehot_scale, charge_scale)
    molecules = stream_molecules(data, _BATCH, layout.elements, *reading)
    return Source(molecules.name, layout, molecules)


def check_covariance(source: Source, covariance: str) -> None:
    """Refuse a covariance of arrays for molecules, whose start `--reference` names.

    Raises:
        StatsMismatchError: it was given for molecules.
    """
    if covariance != "channel" and isinstance(source.layout, MoleculeLayout):
        raise StatsMismatchError(
            f"--covariance {covariance} is of arrays, and {source.name} are molecules. "
            "Pass --reference shape, size, channel, paper or unit."
        )


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
