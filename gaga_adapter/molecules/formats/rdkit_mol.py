"""Molecules of rdkit: their atoms, and geometries for those that are a graph alone.

Geometries come from ETKDG (Riniker and Landrum 2015), without relaxation. The seed of a molecule
follows from the run's seed and its place in the source, so that its geometry depends neither on
what else was read nor on how many processes read.
"""

from __future__ import annotations

from typing import Any

from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.record import NotEmbedded, Record

_SEEDS = 2**31 - 1  # rdkit takes a C int
_STRIDE = 1_000_003  # a prime, so that neighbouring seeds do not share their streams soon


def record_of(mol: Any, smiles: str | None = None) -> Record:  # noqa: ANN401  # rdkit has no types
    """The record of an rdkit molecule with a conformer.

    Args:
        mol: sanitised or not.
        smiles: as the source states it.

    Raises:
        DataError: no atoms, or no coordinates.
    """
    if not mol.GetNumConformers():
        raise DataError("has no coordinates" if mol.GetNumAtoms() else "has no atoms")
    # The iterator of rdkit is written in Python, and costs more than all else.
    atoms = [mol.GetAtomWithIdx(index) for index in range(mol.GetNumAtoms())]
    numbers = [atom.GetAtomicNum() for atom in atoms]
    is_bare = False
    if 1 not in numbers:
        mol.UpdatePropertyCache(strict=False)
        is_bare = any(atom.GetTotalNumHs() for atom in atoms)
    return Record.of(
        mol.GetConformer().GetPositions(),
        numbers,
        smiles,
        mol=mol,
        is_charged=any(atom.GetFormalCharge() for atom in atoms),
        is_bare=is_bare,
    )


def embedded(mol: Any, seed: int, index: int) -> Any:  # noqa: ANN401
    """A sanitised rdkit molecule with all hydrogens and one conformer.

    Args:
        mol: the graph, hydrogens explicit or implied.
        seed: of the run.
        index: place of the molecule in its source.

    Raises:
        NotEmbedded: ETKDG finds no geometry, from distances or from random coordinates.
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


def with_hydrogens(mol: Any) -> Any:  # noqa: ANN401
    """A sanitised rdkit molecule with the hydrogens that its bonds imply, and their coordinates.

    Raises:
        DataError: rdkit cannot place them.
    """
    from rdkit import Chem

    try:
        return Chem.AddHs(mol, addCoords=True)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"gets no hydrogens from rdkit: {error}") from error
