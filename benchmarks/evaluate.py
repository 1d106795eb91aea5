"""What judging molecules costs in time and memory, where one of them is larger than the others.

Bonds are looked for among near atoms alone (`Bonds.of`). Beside it stands what tensors of all
pairs cost, each batch padded to its largest molecule, as this package once did.

    python benchmarks/evaluate.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from fit import peak_mebibytes
from provenance import provenance

from gaga_adapter.molecules.data import MoleculeSet

RESULT = Path(__file__).parent / "results" / "evaluate.json"
#: Numbers of molecules by their number of atoms.
SETS = {
    "1000 of 3": {3: 1000},
    "1000 of 3, 1 of 200": {3: 1000, 200: 1},
    "12 of 2000": {2000: 12},
    "1 of 20000": {20_000: 1},
}
#: Pair tensors of 20000 atoms would need 14 GB.
NOT_PADDED = ("1 of 20000",)


def molecules_of(sizes: dict[int, int]) -> MoleculeSet:
    """Carbon and hydrogen on a cubic lattice of 1.6 angstrom, each atom a little off its place."""
    rng = np.random.default_rng(0)
    made = []
    for size, count in sizes.items():
        for _ in range(count):
            side = int(np.ceil(size ** (1 / 3)))
            places = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
            x = 1.6 * places[:size] + rng.normal(scale=0.1, size=(size, 3))
            made.append((x, rng.choice([1, 6], size=size)))
    return MoleculeSet.from_list(made, "made")


def by_padding(molecules: MoleculeSet) -> int:
    """The number of bonds, by tensors of all pairs of batches of 2048 molecules."""
    from gaga_adapter.molecules.metrics import bonds

    n_bonds = 0
    for part in molecules.batches(2048):
        z = part.atomic_numbers
        offsets = part.positions[:, :, None] - part.positions[:, None]
        distance = np.float32(100) * np.sqrt((offsets**2).sum(axis=-1))
        orders = np.zeros(distance.shape, np.uint8)
        for longest in bonds._LONGEST:
            orders += distance < longest[z[:, :, None], z[:, None, :]]
        n_bonds += int((np.triu(orders, 1) > 0).sum())
    return n_bonds


def by_neighbours(molecules: MoleculeSet) -> int:
    """The number of bonds, by `Bonds.of`."""
    from gaga_adapter.molecules.metrics.bonds import batches_with_bonds

    return sum(len(bonds.order) for _, bonds in batches_with_bonds(molecules))


def everything(molecules: MoleculeSet) -> int:
    """All that `gaga evaluate --against` works out; returns the number of molecules."""
    import torch

    from gaga_adapter.molecules.metrics.distances import distances
    from gaga_adapter.molecules.metrics.evaluate import evaluate

    distances(molecules, molecules, torch.Generator().manual_seed(0))
    return evaluate(molecules).n_molecules


WAYS = {"padded": by_padding, "neighbours": by_neighbours, "all figures": everything}


def measure(name: str, way: str) -> dict[str, float]:
    """Seconds, and growth of the largest memory of this process in MB."""
    molecules = molecules_of(SETS[name])
    WAYS[way](molecules_of({3: 2}))  # loads what is loaded once
    before = peak_mebibytes()
    began = time.perf_counter()
    result = WAYS[way](molecules)
    seconds = time.perf_counter() - began
    grown = peak_mebibytes() - before
    return {"result": result, "seconds": round(seconds, 3), "grown_mb": round(grown, 1)}


def main() -> None:
    """Measure each set in each way, in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    one = parser.parse_args().one
    if one:
        print(json.dumps(measure(*one)))
        return
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name in SETS:
        for way in WAYS:
            if way == "padded" and name in NOT_PADDED:
                continue
            words = [sys.executable, __file__, "--one", name, way]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            rows.setdefault(name, {})[way] = json.loads(done.stdout)
            print(name, way, rows[name][way])
    document = {**provenance(), "rows": rows}
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
