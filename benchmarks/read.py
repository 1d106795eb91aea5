"""How fast molecules are read, format by format.

    python benchmarks/read.py

Molecules of QM9 are written once in every format, in the order of the test split, then read in
batches of 2048 by one process. `read` is all work up to the padded arrays; `skip` is what a process
pays for the batches of others (it only cuts the file into molecules); `encode` and `moments` are
what `gaga fit` does with a molecule afterwards, whatever it came from. `others` are rdkit's and
ase's readers of the same files in the same run, each with what it takes to have positions and
atomic numbers in arrays, and rdkit's once more without that. Rates are molecules per second of
processor time, the median of several passes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from provenance import provenance
from rdkit import rdBase
from rich.console import Console
from rich.table import Table

from gaga_adapter.errors import GAGAWarning
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.formats import sdf_text, stream_molecules
from gaga_adapter.molecules.metrics.chemistry import to_rdkit
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.moments import ExchangeableMoments

BATCH = 2048


def write_all(molecules: MoleculeSet, folder: Path, n_embedded: int) -> dict[str, tuple[Any, int]]:
    """Every format: what `stream_molecules` takes, and how many molecules are in it."""
    from ase import Atoms
    from ase.db import connect
    from ase.io import write
    from rdkit import Chem

    n = len(molecules)
    text = sdf_text(molecules)
    (folder / "a.sdf").write_text(text)
    (folder / "a.sdf.gz").write_bytes(gzip.compress(text.encode(), 6))
    blocks = [Chem.MolToV3KMolBlock(mol, kekulize=False) for mol in to_rdkit(molecules)]
    (folder / "v3000.sdf").write_text("".join(f"{block}$$$$\n" for block in blocks))
    pairs = [molecules.molecule(index) for index in range(n)]
    frames = [Atoms(numbers=z, positions=x) for x, z in pairs]
    write(folder / "a.xyz", frames, format="xyz")
    write(folder / "a.extxyz", frames, format="extxyz")
    with connect(folder / "a.db") as database:
        for frame in frames:
            database.write(frame)
    arrays = {"charges": molecules.atomic_numbers, "positions": molecules.positions}
    np.savez(folder / "a.npz", num_atoms=molecules.n_atoms, **arrays)
    np.savez_compressed(folder / "small.npz", num_atoms=molecules.n_atoms, **arrays)
    assert molecules.smiles is not None
    (folder / "a.smi").write_text("\n".join(molecules.smiles[:n_embedded]))
    data = [SimpleNamespace(pos=torch.tensor(x), z=torch.tensor(z)) for x, z in pairs]
    found: dict[str, tuple[Any, int]] = {
        "SDF, V2000": (folder / "a.sdf", n),
        "SDF, V2000, .gz": (folder / "a.sdf.gz", n),
        "SDF, V3000": (folder / "v3000.sdf", n),
        "XYZ": (folder / "a.xyz", n),
        "extended XYZ": (folder / "a.extxyz", n),
        "ASE database": (folder / "a.db", n),
        "npz of EDM": (folder / "a.npz", n),
        "npz of EDM, compressed": (folder / "small.npz", n),
        "objects with pos and z": (data, n),
        "SMILES, embedded": (folder / "a.smi", n_embedded),
    }
    return found


def rate(n: int, work: Callable[[], object], passes: int) -> float:
    """Molecules per second of processor time."""
    rates = []
    for _ in range(passes):
        began = time.process_time()
        work()
        rates.append(n / (time.process_time() - began))
    return statistics.median(rates)


def other_readers(folder: Path) -> dict[str, Callable[[], object]]:
    """The same files through rdkit and ase, by what is said to them."""
    from ase.io import iread
    from rdkit import Chem

    off: dict[str, Any] = {"sanitize": False, "removeHs": False}
    sdf, xyz = str(folder / "a.sdf"), str(folder / "a.xyz")

    def arrays(mols: Iterable[Any]) -> None:
        for mol in mols:
            if mol is not None:
                mol.GetConformer().GetPositions()
                [atom.GetAtomicNum() for atom in mol.GetAtoms()]

    def forward(**how: Any) -> Iterable[Any]:  # noqa: ANN401
        with open(sdf, "rb") as stream:
            yield from Chem.ForwardSDMolSupplier(stream, **how)

    return {
        "SDMolSupplier": lambda: drained_mols(Chem.SDMolSupplier(sdf)),
        "SDMolSupplier, sanitising off": lambda: drained_mols(Chem.SDMolSupplier(sdf, **off)),
        "ForwardSDMolSupplier": lambda: drained_mols(forward()),
        "ForwardSDMolSupplier, sanitising off": lambda: drained_mols(forward(**off)),
        "SDMolSupplier, sanitising off, arrays": lambda: arrays(Chem.SDMolSupplier(sdf, **off)),
        "ForwardSDMolSupplier, sanitising off, arrays": lambda: arrays(forward(**off)),
        "ase, XYZ": lambda: drained_mols(iread(xyz, ":", format="xyz")),
    }


def drained_mols(mols: Iterable[object]) -> int:
    """Pass over the molecules of another reader, keeping nothing."""
    return sum(mol is not None for mol in mols)


def peak(work: Callable[[], object]) -> float:
    """Most megabytes that Python and numpy held at once."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return most


def drained(batches: Iterable[MoleculeSet]) -> int:
    """Pass over a stream, keeping nothing."""
    return sum(len(batch) for batch in batches)


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10_000, help="molecules")
    parser.add_argument("--embedded", type=int, default=300, help="molecules from SMILES")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "read.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", GAGAWarning)  # molecules that ETKDG cannot embed
    molecules = load_qm9("test").subset(slice(options.n))
    layout = MoleculeLayout()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (source, n) in write_all(molecules, Path(folder), options.embedded).items():
            is_graph = name.startswith("SMILES")
            stream = stream_molecules(source, BATCH, embed=is_graph)
            unread = stream.shared(1 << 40, (1 << 40) + 1)  # a share without a batch
            passes = 1 if is_graph else options.passes
            rows[name] = {
                "n": n,
                "read_per_s": rate(n, lambda s=stream: drained(s), passes),
                "skip_per_s": rate(n, lambda s=unread: drained(s), passes),
                "peak_mb": peak(lambda s=stream: drained(s)),
                "bytes": source.stat().st_size if isinstance(source, Path) else None,
            }
        with rdBase.BlockLogs():  # molecules of QM9 that it cannot sanitise with these bonds
            others_per_s = {
                name: rate(len(molecules), work, options.passes)
                for name, work in other_readers(Path(folder)).items()
            }
    batches = list(molecules.batches(BATCH))
    encoded = [encode(batch, layout) for batch in batches]

    def moments() -> None:
        found = ExchangeableMoments(layout.n_features)
        for x, mask in encoded:
            found.update(x, mask)

    n = len(molecules)
    afterwards = {
        "encode_per_s": rate(n, lambda: [encode(one, layout) for one in batches], options.passes),
        "moments_per_s": rate(n, moments, options.passes),
    }
    record = {
        **provenance(),
        "batch_size": BATCH,
        "formats": rows,
        "others_per_s": others_per_s,
        "afterwards": afterwards,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    table = Table("format", "read/s", "skip/s", "peak MB", "10 million, hours")
    for name, row in rows.items():
        hours = 1e7 / row["read_per_s"] / 3600
        table.add_row(
            name,
            *(f"{row[key]:,.0f}" for key in ("read_per_s", "skip_per_s", "peak_mb")),
            f"{hours:.2f}",
        )
    Console().print(table, others_per_s, afterwards)


if __name__ == "__main__":
    main()
