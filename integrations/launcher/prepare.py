"""Data files of QM9 in the form that EDM and GeoLDM read, so that they download nothing.

They look for `qm9/temp/qm9/{train,valid,test}.npz` and for pickled lists of SMILES in `qm9/temp`,
with which they compare generated molecules. Either all files appear or none.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.errors import DataError
from gaga_adapter.files.atomic import already_there, replacing
from gaga_adapter.molecules.data import MoleculeSet

SPLITS = ("train", "valid", "test")
#: Data sets with a list of SMILES; the second half trains conditional models, and models of QM9
#: without hydrogens (--remove_h) are compared with the heavy atoms alone.
SMILES = ("qm9", "qm9_second_half", "qm9_noH")

Arrays = Mapping[str, NDArray[Any]]


def qm9_files(checkout: Path) -> list[Path]:
    """The files of `SPLITS`, then those of `SMILES`."""
    folder = checkout / "qm9" / "temp"
    return [
        *(folder / "qm9" / f"{name}.npz" for name in SPLITS),
        *(folder / f"{name}_smiles.pickle" for name in SMILES),
    ]


def require_room(checkout: Path, files: Sequence[Path], force: bool = False) -> None:
    """Refuse to replace files of a checkout that are there, unless `force` is given."""
    found = [file for file in files if file.exists()]
    if found and not force:
        names = ", ".join(str(file.relative_to(checkout)) for file in found)
        raise already_there(checkout, names, "Pass --force")


def second_half(n_train: int) -> NDArray[np.int64]:
    """Rows of the training split that upstream calls `qm9_second_half`, in its order."""
    permutation = np.random.RandomState(42).permutation(n_train)  # upstream's own
    return permutation[n_train // 2 :].astype(np.int64)


def without_hydrogens(molecules: MoleculeSet) -> MoleculeSet:
    """The heavy atoms of molecules, in their order, as upstream's loader gives them."""
    every = (molecules.molecule(index) for index in range(len(molecules)))
    heavy = [(positions[numbers > 1], numbers[numbers > 1]) for positions, numbers in every]
    return MoleculeSet.from_list(heavy, "heavy atoms")


def edm_arrays(
    positions: NDArray[np.float32], atomic_numbers: NDArray[np.uint8], properties: Arrays
) -> dict[str, NDArray[Any]]:
    """One split under upstream's names: positions (M, N, 3) in angstrom, atomic numbers (M, N).

    Padding is 0 and comes last; `properties` are more arrays (M,), to condition on.
    """
    charges = atomic_numbers.astype(np.int64)
    num_atoms = (charges > 0).sum(axis=1)
    return {"num_atoms": num_atoms, "charges": charges, "positions": positions, **properties}


def write_data(
    checkout: Path,
    splits: Mapping[str, Arrays],
    smiles: Mapping[str, Sequence[str]],
    force: bool = False,
) -> list[Path]:
    """Write the data files of a checkout, and return their paths.

    `splits` has the arrays of `SPLITS`, as `edm_arrays` makes them. Upstream refuses splits that
    differ in arrays or elements, and so does this.
    """
    files = qm9_files(checkout)
    require_room(checkout, files, force)
    parts: dict[str, dict[str, Any]] = {name: dict(splits[name]) for name in SPLITS}
    for what, of_each in (
        ("arrays", {name: sorted(part) for name, part in parts.items()}),
        ("elements", {name: np.unique(part["charges"]).tolist() for name, part in parts.items()}),
    ):
        if any(of_each[name] != of_each["train"] for name in SPLITS):
            raise DataError(f"every split needs the same {what}; got {of_each}.")
    with ExitStack() as stack:
        temporary = [stack.enter_context(replacing(file)) for file in files]
        for part, path in zip(parts.values(), temporary, strict=False):
            with path.open("wb") as stream:
                np.savez_compressed(stream, **part)
        for name, path in zip(SMILES, temporary[len(SPLITS) :], strict=True):
            with path.open("wb") as stream:
                pickle.dump(list(smiles[name]), stream)
    return files
