"""QM9 as one array file of 14 MB, for a machine that has neither the network nor qm9pack.

    python benchmarks/qm9_array.py qm9.npz                  # where QM9 is
    python benchmarks/qm9_array.py qm9.npz --cache FOLDER   # where it is not: for GAGA_CACHE=FOLDER

Positions about the centre of each molecule are multiples of 0.25 mÅ in 16-bit integers, so they
are off by at most 0.125 mÅ. (In half precision, which takes as much, they would be off by up to
2 mÅ, half of what good samples differ from the data in the lengths of their bonds.)
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import numpy as np

from gaga_adapter.errors import DataError, GAGAError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.qm9.data import Split, load_qm9, split_indices, write_cache

STEP = 2.5e-4  # angstrom
_PARTS = ("positions", "atomic_numbers", "n_atoms", "smiles")


def pack(path: Path, molecules: MoleculeSet | None = None) -> None:
    """Write all of QM9, or other molecules, into one file.

    Raises:
        DataError: If a molecule reaches further than 8 Å from its centre.
    """
    molecules = load_qm9() if molecules is None else molecules
    real = molecules.mask
    centre = molecules.positions.sum(1, dtype=np.float64) / molecules.n_atoms[:, None]
    steps = np.rint((molecules.positions - centre[:, None])[real] / STEP)
    most = int(np.abs(steps).max())
    if most > np.iinfo(np.int16).max:
        raise DataError(
            f"{molecules.name}: an atom lies {most * STEP:.2f} Å from the centre of its molecule, "
            f"and the file reaches to {np.iinfo(np.int16).max * STEP:.2f} Å. Leave it out."
        )
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            positions=steps.astype(np.int16),
            atomic_numbers=molecules.atomic_numbers[real],
            n_atoms=molecules.n_atoms.astype(np.uint16),
            smiles=np.array(molecules.smiles or [], np.bytes_),
        )


def load(path: Path) -> MoleculeSet:
    """The molecules of a file, in their order.

    Raises:
        DataError: If there is no such file, or it is of another kind.
    """
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            positions, numbers, n_atoms, smiles = (file[name] for name in _PARTS)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is no array file of molecules ({error}). Write it where QM9 is: python "
            f"benchmarks/qm9_array.py {path}"
        ) from error
    real = np.arange(n_atoms.max()) < n_atoms[:, None]
    padded = np.zeros((*real.shape, 3), np.float32)
    padded[real] = positions * STEP
    kinds = np.zeros(real.shape, np.uint8)
    kinds[real] = numbers
    stated = tuple(smiles.astype(str).tolist()) or None
    return MoleculeSet(padded, kinds, "qm9", stated)


def load_split(path: Path, split: Split) -> MoleculeSet:
    """One split of QM9, in the order that `load_qm9` has it.

    Raises:
        DataError: If there is no such file, or it does not hold all of QM9.
    """
    everything = load(path)
    rows = split_indices(split)
    if len(everything) <= rows.max():
        raise DataError(f"{path} holds {len(everything)} molecules, not all of QM9.")
    return everything.subset(rows)


def main() -> None:
    """Write the file, or the cache that `load_qm9` reads."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--cache", type=Path, default=None, help="folder to unpack the file into")
    args = parser.parse_args()
    try:
        if args.cache is not None:
            write_cache(load(args.file), args.cache)
            return
        pack(args.file)
    except GAGAError as error:
        raise SystemExit(f"qm9_array: {error}") from error
    print(f"{args.file}: {args.file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
