"""Rows of figures beside those of the data."""

import numpy as np

from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.report.quality import metric_rows


def of_elements(*numbers):
    positions = np.arange(3.0 * len(numbers)).reshape(-1, 3) ** 1.5
    return MoleculeSet.from_list([(positions, np.array(numbers))] * 4, "toy")


def test_elements_of_either_side_have_a_row():
    """An element that the samples never have is the news, so it is not left out."""
    rows = metric_rows(of_elements(6, 1), of_elements(6, 16))
    shares = {
        row["name"]: (row["samples"][0], row["data"][0])
        for row in rows
        if row["name"].endswith(" atoms")
    }
    assert shares == {"H atoms": (50.0, 0.0), "C atoms": (50.0, 50.0), "S atoms": (0.0, 50.0)}
