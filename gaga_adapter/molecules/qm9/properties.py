"""The computed properties of QM9 (Ramakrishnan et al. 2014, table 3), by the names of its files.

They come from the csv files of `qm9pack`, in the units that QM9 states: GHz, debye, bohr³, hartree,
bohr², cal/(mol K), and 1/cm for `omega1`, the highest harmonic frequency.
"""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.errors import DataError, MissingExtraError
from gaga_adapter.molecules.qm9.data import N_MOLECULES

_COLUMNS = {
    "A": "RotA_GHz",
    "B": "RotB_GHz",
    "C": "RotC_GHz",
    "mu": "Dipole_debye",
    "alpha": "Polarizability_bohr3",
    "homo": "HOMO_au",
    "lumo": "LUMO_au",
    "gap": "HOMO_LUMO_gap_au",
    "r2": "R2_bohr2",
    "zpve": "ZPVE_au",
    "U0": "InternalEnergy_0K_au",
    "U": "InternalEnergy_298K_au",
    "H": "Enthalphy_298K_au",
    "G": "GibbsFreeEnergy_298K_au",
    "Cv": "Heatcapacity_Cv_cal_mol_K",
}

#: Thermochemical energies of single atoms, by property and atomic number: `atomref.txt` of QM9.
ATOM_REFERENCES: dict[str, dict[int, float]] = {
    "zpve": {1: 0.0, 6: 0.0, 7: 0.0, 8: 0.0, 9: 0.0},
    "U0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
    "U": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
    "H": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
    "G": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
    "Cv": {1: 2.981, 6: 2.981, 7: 2.981, 8: 2.981, 9: 2.981},
}


def qm9_properties() -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """Properties (M,) by name, in the order of `load_qm9()`; `index` is QM9's own number.

    Raises:
        MissingExtraError: `qm9pack` is not installed.
        DataError: its files are not the QM9 they should be.
    """
    spec = find_spec("qm9pack")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("qm9pack", "data")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    index: list[int] = []
    rows: list[list[float]] = []
    for file in sorted(folder.glob("qm9_part*.csv")):
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                index.append(int(row["Index"]))
                frequencies = row["Harmonic_Freq_cmi"].strip("[]").split(",")
                values = [float(row[column]) for column in _COLUMNS.values()]
                rows.append([*values, max(map(float, frequencies))])
    if len(index) != N_MOLECULES:
        raise DataError(
            f"{folder}: {len(index)} molecules. QM9 has {N_MOLECULES}; reinstall qm9pack."
        )
    order = np.argsort(index)
    table = np.array(rows, np.float32)[order]
    columns = zip((*_COLUMNS, "omega1"), table.T, strict=True)
    return {"index": np.array(index, np.int64)[order], **dict(columns)}


def atom_reference_sums(atomic_numbers: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """What the atoms of each molecule have on their own (M,), by the names of `ATOM_REFERENCES`.

    Args:
        atomic_numbers: (M, Nmax), 0 on padding; elements of QM9.
    """
    tables = {}
    for name, references in ATOM_REFERENCES.items():
        by_number = np.zeros(256)
        by_number[list(references)] = list(references.values())
        tables[name] = by_number[atomic_numbers].sum(axis=1)
    return tables
