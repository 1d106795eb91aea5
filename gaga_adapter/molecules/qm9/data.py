"""QM9: 130,831 molecules of up to 9 heavy atoms with DFT geometries (Ramakrishnan et al. 2014).

The geometries come from the `qm9pack` package, which holds the whole set as csv files. Its own
import needs `pkg_resources`, so the files are looked up without importing it. They are parsed once
and cached as one npz file in `$GAGA_CACHE`, or else in `~/.cache/gaga-adapter`.

The split is that of the EDM codebase (Hoogeboom et al. 2022, `qm9/data/prepare/qm9.py`): numpy's
legacy generator with seed 0 permutes the molecules; the first 100,000 train, the next 17,748
validate and the last 13,083 test.
"""

from __future__ import annotations

import contextlib
import csv
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.distributed import Progress
from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import DataError, GAGAWarning, MissingExtraError, WriteError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.files.cache import cache_folder
from gaga_adapter.molecules.data import MoleculeSet

Split = Literal["train", "valid", "test"]

N_MOLECULES = 130_831
N_TRAIN, N_VALID = 100_000, 17_748
_CACHE_NAME = "qm9-1.npz"  # count up when the arrays in it change
_SMILES_NAME = "qm9-train-smiles-1.txt"


def load_qm9(
    split: Split | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> MoleculeSet:
    """All of QM9 ordered by its own index, or one split in the order of EDM's permutation.

    A split's order is random, so its first k molecules are a random sample of it.

    Args:
        split: Name of the split: `train`, `valid`, `test`, or None for everything.
        cache_dir: Folder of the parsed arrays; `$GAGA_CACHE` or `~/.cache/gaga-adapter` if None.
        progress: Function that is called while the files are parsed for the first time.

    Raises:
        DataError: If the split is unknown, or the installed data is not the QM9 it should be.
        MissingExtraError: If `qm9pack` is not installed and nothing is cached.
    """
    if split not in (None, "train", "valid", "test"):
        raise DataError(f"QM9 has no split {split!r}. Allowed: train, valid, test, or none.")
    path = cache_folder(cache_dir) / _CACHE_NAME
    everything = _load_cache(path)
    if everything is None:
        everything = _parse_qm9pack(progress)
        _try_to_cache(path, partial(_write_arrays, everything))
    if split is None:
        return everything
    return replace(everything.subset(split_indices(split)), name=f"qm9:{split}")


def split_indices(split: Split) -> NDArray[np.int64]:
    """Rows of the whole set that form a split, in the order of EDM's permutation."""
    legacy = np.random.RandomState(0)  # local; the split is defined by this generator
    ends = {"train": (0, N_TRAIN), "valid": (N_TRAIN, N_TRAIN + N_VALID)}
    start, stop = ends.get(split, (N_TRAIN + N_VALID, N_MOLECULES))
    return legacy.permutation(N_MOLECULES)[start:stop].astype(np.int64)


def qm9_train_smiles(
    cache_dir: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> frozenset[str]:
    """SMILES of the training split as EDM writes them, the reference of its novelty.

    Hydrogens are explicit and bonds come from distances, so these are not the SMILES that QM9
    states. They are made once, in about a minute, and cached; arguments and errors are those of
    `load_qm9`.
    """
    path = cache_folder(cache_dir) / _SMILES_NAME
    with contextlib.suppress(OSError):
        return frozenset(path.read_text(encoding="ascii").split())
    from gaga_adapter.molecules.metrics.chemistry import to_smiles

    train = load_qm9("train", cache_dir, progress)
    smiles: list[str | None] = []
    for part in train.batches(1000):
        smiles += to_smiles(part, largest_fragment=False)
        if progress is not None:
            progress("SMILES of QM9 (once)", len(smiles), len(train))
    distinct = frozenset(one for one in smiles if one is not None)
    text = "\n".join(sorted(distinct))
    _try_to_cache(path, lambda temporary: temporary.write_text(text, encoding="ascii"))
    return distinct


def write_cache(everything: MoleculeSet, cache_dir: str | os.PathLike[str]) -> None:
    """Write all of QM9 where `load_qm9` looks first, for a machine without `qm9pack`.

    Raises:
        DataError: If it is not all of QM9, or has no SMILES.
        WriteError: If the folder cannot be written.
    """
    if len(everything) != N_MOLECULES or everything.smiles is None:
        raise DataError(
            f"{len(everything)} molecules{'' if everything.smiles else ' without SMILES'} are not "
            f"all of QM9, which has {N_MOLECULES}."
        )
    with replacing(cache_folder(cache_dir) / _CACHE_NAME) as temporary:
        _write_arrays(everything, temporary)


def qm9pack_rows(progress: Progress | None = None) -> Iterator[dict[str, str]]:
    """Rows of the csv files of qm9pack; lists in them are written as Python lists in strings.

    Raises:
        MissingExtraError: If `qm9pack` is not installed.
        DataError: If there are not as many rows as QM9 has molecules.
    """
    spec = find_spec("qm9pack")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("qm9pack", "data")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    files = sorted(folder.glob("qm9_part*.csv"))
    n_rows = 0
    for done, file in enumerate(files):
        if progress is not None:
            progress("reading QM9 (once)", done, len(files))
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                n_rows += 1
                yield row
    if n_rows != N_MOLECULES:
        raise DataError(f"{folder}: {n_rows} molecules. QM9 has {N_MOLECULES}; reinstall qm9pack.")


def _parse_qm9pack(progress: Progress | None = None) -> MoleculeSet:
    columns: dict[str, list[str]] = {
        key: [] for key in ("Index", "SMILES", "N_atoms", "Elements", "XYZ_Ang")
    }
    for row in qm9pack_rows(progress):
        for key, values in columns.items():
            values.append(row[key])
    n_atoms = np.array(columns["N_atoms"], np.int64)
    symbols = "".join(columns["Elements"]).translate(str.maketrans("", "", "[]', ")).encode()
    flat = ",".join(columns["XYZ_Ang"]).translate(str.maketrans("", "", "[] "))
    xyz = np.fromstring(flat, np.float64, sep=",")
    if not (len(symbols) == n_atoms.sum() == len(xyz) / 3):
        raise DataError(
            f"qm9pack has {len(symbols)} elements and {len(xyz)} coordinates for {n_atoms.sum()} "
            "atoms. Reinstall it."
        )
    number_of = np.zeros(256, np.uint8)
    for number in (1, 6, 7, 8, 9):
        number_of[ord(SYMBOLS[number])] = number
    ends = np.cumsum(n_atoms)[:-1]
    positions = np.split(xyz.reshape(-1, 3), ends)
    numbers = np.split(number_of[np.frombuffer(symbols, np.uint8)], ends)
    order = np.argsort(np.array(columns["Index"], np.int64))
    molecules = [(positions[row], numbers[row]) for row in order]
    return MoleculeSet.from_list(molecules, "qm9", [columns["SMILES"][row] for row in order])


#: What numpy raises where the cache is missing or damaged.
_DAMAGED = (
    OSError, KeyError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


def _load_cache(path: Path) -> MoleculeSet | None:
    """The cached set; None if there is none, or if it cannot be read and must be built again."""
    try:
        with path.open("rb") as stream, np.load(stream) as arrays:
            smiles = tuple(arrays["smiles"].astype(str).tolist())
            return MoleculeSet(arrays["positions"], arrays["atomic_numbers"], "qm9", smiles)
    except _DAMAGED:
        return None


def _write_arrays(molecules: MoleculeSet, path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(
            stream,
            positions=molecules.positions,
            atomic_numbers=molecules.atomic_numbers,
            smiles=np.array(molecules.smiles, np.bytes_),
        )


def _try_to_cache(path: Path, write: Callable[[Path], object]) -> None:
    """A cache that cannot be written costs only time: warn and go on."""
    try:
        with replacing(path) as temporary:
            write(temporary)
    except WriteError as error:
        warnings.warn(f"QM9 is not cached: {error} Set GAGA_CACHE.", GAGAWarning, stacklevel=3)
