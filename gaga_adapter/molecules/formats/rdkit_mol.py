"""Geometries by rdkit, for molecules that are only a graph and for hydrogens that are implied.

Geometries of graphs come from ETKDG (Riniker and Landrum 2015), without relaxation. The seed of a
molecule follows from the run's seed and its place in the source, so that its geometry depends
neither on what else was read nor on how many processes read.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from typing import Any

from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.record import NotEmbedded

_SEEDS = 2**31 - 1  # rdkit takes a C int
_STAMP = re.compile(r"^\[\d\d:\d\d:\d\d\] *")
_STRIDE = 1_000_003  # a prime, so that neighbouring seeds do not share their streams soon


class _Notes(logging.Handler):
    """The messages of a logger in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def complaint(fail: Callable[[], object]) -> str:
    """What rdkit logs when something fails again, as the end of a sentence; empty if nothing.

    rdkit returns None for what it cannot read, and says why in its log alone.
    """
    from rdkit import rdBase

    silenced = re.findall(r"(\S+):disabled", rdBase.LogStatus())
    logger, notes = logging.getLogger("rdkit"), _Notes()
    handlers, logger.handlers = logger.handlers, [notes]
    rdBase.LogToPythonLogger()
    try:
        fail()
    finally:
        logger.handlers = handlers
        # rdkit cannot be asked where its log went. Notebooks send it to Python's stderr.
        if "rdkit.Chem.Draw.IPythonConsole" in sys.modules:
            rdBase.LogToPythonStderr()
        else:
            rdBase.LogToCppStreams()
        for name in silenced:
            rdBase.DisableLog(name)
    stamped = [text for text in notes.texts if _STAMP.sub("", text).strip()]
    lines = [" ".join(_STAMP.sub("", text).split()) for text in stamped]
    said = [line for line in lines if line.strip("*")]
    sentence = said[0] if said else ""
    if len(said) > 1 and lines[0].strip("*") == "":  # a broken invariant, with its stack
        has_summary = _STAMP.match(stamped[-1]) is not None
        sentence = said[-1] if has_summary else f"{said[0]}: {said[1]}"
    return f": {sentence}" if sentence else ""


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
