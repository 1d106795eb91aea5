"""Drug-like molecules in 3D, made from the SMILES of the MOSES set, in EDM's layout of GEOM-DRUGS.

    pip download --no-deps molsets
    python benchmarks/drug_like.py molsets-0.3.1-py3-none-any.whl --into FOLDER -n 30000

MOSES (Polykovskiy et al. 2020) has 1.6 million molecules of ZINC with the elements C, N, O, S,
F, Cl, Br and H. The wheel holds their SMILES; its table is read out of it, and none of its code
runs. Molecule k is row k of one shuffled order of the training split. It gets all its hydrogens,
one conformer by ETKDGv3 whose seed follows from `--seed` and k, and a relaxation in MMFF94. The
molecules thus depend neither on how many processes work nor on interruptions.

They are made in chunks, each of them a file as soon as it is finished (EDM's npz, which
`gaga fit` reads); a run that is stopped and started again makes those that are missing. Molecules
without a geometry are left out, counted and named. The end puts the chunks together in FOLDER/geom.

    python benchmarks/drug_like.py WHEEL --into FOLDER -n 300 --small tests/molecules/drugs.npz

writes the file of the tests, too: EDM's npz with half the digits.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import multiprocessing
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaga_adapter.integrations.launcher.prepare_geom import geom_files, write_geom

from gaga_adapter.errors import DataError, GAGAError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats import read_molecules, stream_molecules
from gaga_adapter.molecules.formats.rdkit_mol import embed
from gaga_adapter.molecules.formats.record import record_of

MEMBER = "moses/dataset/data/train.csv.gz"
SUMMARY = "summary.json"
DOWNLOAD = "pip download --no-deps molsets"
#: Steps of the relaxation. Of 50 molecules half converge in 200 steps, and all of them in 500.
MOST_STEPS = 1000


@dataclass(frozen=True)
class Recipe:
    """What decides the molecules, apart from their number.

    Attributes:
        table: The first digits of the SHA-256 of the table of SMILES.
        seed: Seed of the order and of the conformers.
        chunk: Number of molecules in one file.
        most_steps: Largest number of steps of the relaxation.
        rdkit: Version of rdkit.
    """

    table: str
    seed: int
    chunk: int
    most_steps: int
    rdkit: str

    @property
    def folder(self) -> str:
        """A name for the chunks of this recipe."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"chunks-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def moses_smiles(wheel: Path) -> tuple[list[str], str]:
    """The SMILES of the training split, and digits that tell its table from others.

    Raises:
        DataError: If there is no wheel, or it holds no such table.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            table = gzip.decompress(archive.read(MEMBER))
    except FileNotFoundError as error:
        raise DataError(f"there is no {wheel}. Fetch it: {DOWNLOAD}") from error
    except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{wheel} is not the wheel of molsets, which holds {MEMBER}: {error}. Fetch it: "
            f"{DOWNLOAD}"
        ) from error
    rows = csv.DictReader(io.StringIO(table.decode()))
    smiles = [row["SMILES"] for row in rows if row.get("SMILES")]
    if not smiles:
        raise DataError(f"{wheel}: {MEMBER} has no column SMILES. Fetch it anew: {DOWNLOAD}")
    return smiles, hashlib.sha256(table).hexdigest()[:16]


def shuffled(smiles: list[str], n: int, seed: int) -> list[str]:
    """The first n of all molecules in an order that the seed decides."""
    order = np.random.RandomState(seed).permutation(len(smiles))[:n]  # its stream never changes
    return [smiles[row] for row in order]


def conformer(smiles: str, seed: int, index: int, most_steps: int) -> tuple[Any, bool]:
    """One molecule as a record, and whether its relaxation came to an end.

    Raises:
        DataError: If it has no geometry; the message continues a sentence.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdForceFieldHelpers as helpers

    with rdBase.BlockLogs():
        graph = Chem.MolFromSmiles(smiles)
        if graph is None:
            raise DataError("cannot be read by rdkit")
        whole = embed(graph, seed, index)
        if not helpers.MMFFHasAllMoleculeParams(whole):
            raise DataError("has atoms that MMFF94 does not know")
        status = helpers.MMFFOptimizeMolecule(whole, maxIters=most_steps)
        if status < 0:
            raise DataError("has no force field of MMFF94")
        return record_of(whole, smiles), status == 0


def make_chunk(file: Path, smiles: list[str], start: int, recipe: Recipe) -> None:
    """Write one chunk: molecules `start` and after, those that have no geometry, and the cost."""
    began = time.process_time()
    records, rows, failures, unfinished = [], [], {}, 0
    for index, text in enumerate(smiles, start):
        try:
            record, is_relaxed = conformer(text, recipe.seed, index, recipe.most_steps)
        except DataError as error:
            failures[index] = f"{text} {error}"
            continue
        records.append(record)
        rows.append(index)
        unfinished += not is_relaxed
    if not records:
        raise DataError(f"none of the {len(smiles):,} molecules from {start:,} on has a geometry")
    made = MoleculeSet.from_list([(one.positions, one.atomic_numbers) for one in records])
    about = {
        "failures": failures,
        "unfinished": unfinished,
        "cpu_seconds": time.process_time() - began,
    }
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            num_atoms=made.n_atoms,
            charges=made.atomic_numbers,
            positions=made.positions,
            index=np.array(rows),
            smiles=np.array([one.smiles for one in records]),
            about=np.array(json.dumps(about)),
        )


def chunks(
    folder: Path, smiles: list[str], recipe: Recipe
) -> Iterator[tuple[Path, list[str], int]]:
    """File, SMILES and first number of every chunk."""
    for start in range(0, len(smiles), recipe.chunk):
        some = smiles[start : start + recipe.chunk]
        yield folder / recipe.folder / f"{start:07}-{len(some)}.npz", some, start


def make_all(folder: Path, smiles: list[str], recipe: Recipe, processes: int) -> list[Path]:
    """Make the chunks that are missing, and return the files of all of them in order."""
    every = list(chunks(folder, smiles, recipe))
    missing = [job for job in every if not job[0].exists()]
    print(f"{len(every) - len(missing)} of {len(every)} chunks are there", flush=True)
    if processes == 1:
        for job in missing:
            make_chunk(*job, recipe)
            print(job[0].name, flush=True)
        return [file for file, _, _ in every]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(make_chunk, *job, recipe): job[0].name for job in missing}
        try:
            for done in as_completed(jobs):
                done.result()
                print(jobs[done], flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [file for file, _, _ in every]


def summary(files: list[Path]) -> dict[str, Any]:
    """What came of all chunks: counts, failures by their cause, and CPU seconds."""
    found: dict[str, Any] = {"conformers": 0, "failed": 0, "unfinished": 0, "cpu_seconds": 0.0}
    causes: Counter[str] = Counter()
    examples: list[str] = []
    for file in files:
        with np.load(file) as chunk:
            about = json.loads(str(chunk["about"]))
            found["conformers"] += len(chunk["num_atoms"])
        found["unfinished"] += about["unfinished"]
        found["cpu_seconds"] += about["cpu_seconds"]
        for text in about["failures"].values():
            causes[text.partition(" ")[2]] += 1
            examples.append(text)
    return found | {"failed": len(examples), "causes": dict(causes), "examples": examples[:10]}


def write_small(file: Path, molecules: MoleculeSet) -> None:
    """Molecules in EDM's npz with about three decimals, which take a fifth of the space."""
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            num_atoms=molecules.n_atoms.astype(np.uint8),
            charges=molecules.atomic_numbers,
            positions=molecules.positions.astype(np.float16),
        )


def main() -> None:
    """Make what is missing, put the chunks together, say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wheel", type=Path, help=f"of molsets; to fetch it: {DOWNLOAD}")
    parser.add_argument("--into", type=Path, required=True, help="folder of the files")
    parser.add_argument("-n", type=int, default=30_000, help="molecules")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=500, help="molecules in one file")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--small", type=Path, help="file for all molecules in half precision")
    args = parser.parse_args()
    try:
        import rdkit

        smiles, table = moses_smiles(args.wheel)
        recipe = Recipe(table, args.seed, args.chunk, MOST_STEPS, rdkit.__version__)
        files = make_all(args.into, shuffled(smiles, args.n, args.seed), recipe, args.processes)
        targets = [args.into / "geom" / file.name for file in geom_files(args.into)]
        write_geom(targets, stream_molecules(files))
        with replacing(args.into / "geom" / SUMMARY) as temporary:
            found = {"recipe": asdict(recipe), "asked": args.n, **summary(files)}
            text = json.dumps(found, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
        print(text)
        if args.small is not None:
            write_small(args.small, read_molecules(files))
    except GAGAError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
