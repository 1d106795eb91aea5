"""Molecules from files and into them. Coordinates are in angstrom throughout.

- `stream_molecules(sources, batch_size, ...)`: batches of any number of molecules, in the memory of
  one batch;
- `read_molecules(sources, ...)`: all of them at once;
- `write_sdf`, `sdf_text`: an SDF file.

Sources are QM9 by name, .sdf, .xyz and .extxyz (also compressed), EDM's .npz, ASE's .db, SMILES,
folders and patterns of such files, and molecules of other packages in memory; one file each here.
Every reader names the file and the molecule that it cannot read.
"""

from __future__ import annotations

from gaga_adapter.molecules.formats.record import Hydrogens, Record
from gaga_adapter.molecules.formats.sdf import sdf_text, write_sdf
from gaga_adapter.molecules.formats.streaming import (
    MoleculeStream,
    read_molecules,
    stream_molecules,
)
from gaga_adapter.molecules.formats.tally import Tally

__all__ = [
    "Hydrogens",
    "MoleculeStream",
    "Record",
    "Tally",
    "read_molecules",
    "sdf_text",
    "stream_molecules",
    "write_sdf",
]
