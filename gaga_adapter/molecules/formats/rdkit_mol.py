"""Geometries by rdkit, for molecules that are only a graph and for hydrogens that are implied.

Geometries of graphs come from ETKDG (Riniker and Landrum 2015), without relaxation. The seed of a
molecule follows from the run's seed and its place in the source, so that its geometry depends
neither on what else was read nor on how many processes read.
"""

from __future__ import annotations

from typing import Any

from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.record import NotEmbedded

_SEEDS = 2**31 - 1  # rdkit takes a C int
_STRIDE = 1_000_003  # a prime, so that neighbouring seeds do not share their streams soon


def sanitise(mol: Any) -> Any:  # noqa: ANN401  # rdkit has no types
    """Sanitise an rdkit molecule in place, and return it; `DataError` if that fails."""
    from rdkit import Chem

    try:
        Chem.SanitizeMol(mol)
    except ValueError as error:  # rdkit's AtomValenceException, KekulizeException, ...
        raise DataError(f"cannot be sanitised by rdkit: {error}") from error
    return mol


def embed(mol: Any, seed: int, index: int) -> Any:  # noqa: ANN401
    """A sanitised graph with all hydrogens and one conformer; `index` is its place in the source.

    `NotEmbedded` if ETKDG finds no geometry, from distances or from random coordinates.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    whole = Chem.AddHs(mol)
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = (seed * _STRIDE + index) % _SEEDS
    for random_coordinates in (False, True):
        parameters.useRandomCoords = random_coordinates
        try:
            if rdDistGeom.EmbedMolecule(whole, parameters) >= 0:
                return whole
        except (RuntimeError, ValueError):  # a force field without parameters, an impossible bound
            break
    raise NotEmbedded("was not embedded by ETKDG")


def add_hydrogens(mol: Any) -> Any:  # noqa: ANN401
    """A sanitised rdkit molecule with the hydrogens that its bonds imply, and their coordinates."""
    from rdkit import Chem

    try:
        return Chem.AddHs(mol, addCoords=True)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"gets no hydrogens from rdkit: {error}") from error
