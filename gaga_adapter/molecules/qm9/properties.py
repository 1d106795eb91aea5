"""The computed properties of QM9 (Ramakrishnan et al. 2014, table 3), by the names of its files.

They come from the csv files of `qm9pack`, in the units that QM9 states: GHz, debye, bohr³, hartree,
bohr², cal/(mol K), and 1/cm for `omega1`, the highest harmonic frequency.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.molecules.qm9.data import qm9pack_rows

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
        MissingExtraError: If `qm9pack` is not installed.
        DataError: If its files are not the QM9 they should be.
    """
    index: list[int] = []
    rows: list[list[float]] = []
    for row in qm9pack_rows():
        index.append(int(row["Index"]))
        frequencies = row["Harmonic_Freq_cmi"].strip("[]").split(",")
        values = [float(row[column]) for column in _COLUMNS.values()]
        rows.append([*values, max(map(float, frequencies))])
    order = np.argsort(index)
    table = np.array(rows, np.float32)[order]
    columns = zip((*_COLUMNS, "omega1"), table.T, strict=True)
    return {"index": np.array(index, np.int64)[order], **dict(columns)}


def atom_reference_sums(atomic_numbers: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """What the atoms of each molecule have on their own (M,), by the names of `ATOM_REFERENCES`.

    Args:
        atomic_numbers: Atomic numbers (M, Nmax) of elements of QM9, 0 on padding.
    """
    tables = {}
    for name, references in ATOM_REFERENCES.items():
        by_number = np.zeros(256)
        by_number[list(references)] = list(references.values())
        tables[name] = by_number[atomic_numbers].sum(axis=1)
    return tables
