"""What a start at t* saves and costs on the reference model: same seeds, same network.

    python benchmarks/sampling.py --group main references solvers
    python benchmarks/sampling.py --shard 0/2 & python benchmarks/sampling.py --shard 1/2
    python benchmarks/sampling.py --merge            only judge what was sampled, print the table

Every cell of the table below is sampled in chunks of molecules, each with a seed of its own that
is the same in all cells. A chunk is kept under `runs/sampling` as soon as it is finished, so that
a kill costs one chunk; shards share the chunks of a cell. A cell whose chunks are all there is
judged (`verdicts.py`) and written to `benchmarks/results/sampling.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from chunks import Chunk, add_arguments, chunk_files, digest
from diffusers import DDPMScheduler
from provenance import provenance
from verdicts import HeldOut, compare, judged, table

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.files.atomic import locked, replacing
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.pipeline import EMBEDDED, MoleculePipeline
from gaga_adapter.sampling.solvers import scheduler_named
from gaga_adapter.stats import EMBEDDED as EMBEDDED_STATS

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "sampling.json"
KEYS = ("setting", "held_out", "cells", "pooled")  # behind the provenance
CHUNKS = ROOT / "runs" / "sampling"


@dataclass(frozen=True)
class Cell:
    """One row of the table.

    Attributes:
        solver: a name of `gaga_adapter.sampling.solvers`.
        steps: what `set_timesteps` gets.
        t_star: first timestep of 1000; None for the full trajectory.
        reference: the Gaussian start at t*.
        spacing: `suffix` or `respace`.
    """

    solver: str
    steps: int
    t_star: int | None = None
    reference: str | None = None
    spacing: str | None = None

    @property
    def name(self) -> str:
        """Such as `ddpm 200, shape at 400, suffix`."""
        start = "full"
        if self.t_star is not None:
            start = f"{self.reference} at {self.t_star}, {self.spacing}"
        return f"{self.solver} {self.steps}, {start}"


# -- the table, the most important rows first ------------------------------------------------------

FITTED = 525
REFERENCES = ("shape", "size", "channel", "paper", "unit")
FEW_STEPS = (
    ("sde-dpm++-karras", 50),
    ("sde-dpm++-karras", 20),
    ("sde-dpm++", 50),
    ("sde-dpm++", 20),
    ("ddpm", 50),
    ("euler-a", 50),
    ("dpm++", 50),
    ("dpm++", 20),
    ("ddim", 50),
    ("heun", 20),
    ("unipc", 20),
)
GROUPS: dict[str, list[Cell]] = {
    "main": [
        Cell("ddpm", 1000),
        Cell("ddpm", 1000, 400, "shape", "suffix"),
        Cell("ddpm", 1000, FITTED, "shape", "suffix"),
        Cell("ddpm", 1000, 300, "shape", "suffix"),
        Cell("ddpm", 1000, 400, "paper", "suffix"),
        Cell("ddpm", 1000, 400, "unit", "suffix"),
    ],
    "references": [
        Cell("ddpm", 200),
        *(
            Cell("ddpm", 200, t_star, reference, "suffix")
            for t_star in (400, FITTED, 300, 200)
            for reference in REFERENCES
        ),
    ],
    "solvers": [
        Cell(solver, steps, *start)
        for start in (
            (400, "shape", "respace"),
            (300, "shape", "respace"),
            (None, None, None),
            (400, "shape", "suffix"),
        )
        for solver, steps in FEW_STEPS
    ],
}
ORDER = [cell.name for group in GROUPS.values() for cell in group]


# -- the run --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sampler:
    """Samples the chunks of cells with one model and one set of statistics.

    Attributes:
        pipeline: the model.
        base: its scheduler, whose noise table the others are made on.
        stats: the fitted statistics.
        setting: what decides the molecules of a cell, besides the cell.
        folder: keeps the chunks.
    """

    pipeline: MoleculePipeline
    base: DDPMScheduler
    stats: GAGAStats
    setting: dict[str, Any]
    folder: Path

    def chunks(self, cell: Cell, n: int) -> list[tuple[int, int, Path]]:
        """Seed, number of molecules and file of each chunk."""
        return chunk_files(self.folder, cell.name, asdict(cell), self.setting, n)

    def sample(self, cell: Cell, seed: int, count: int) -> Chunk:
        """The molecules of one seed."""
        scheduler = scheduler_named(cell.solver, self.base)
        if cell.t_star is not None:
            scheduler = GAGAScheduler.from_pretrained(
                scheduler,
                stats=self.stats,
                t_star=cell.t_star,
                reference=cell.reference,
                spacing=cell.spacing,
            )
        pipeline = self.pipeline
        pipeline.scheduler = scheduler
        return Chunk.sampled(pipeline, count, cell.steps, self.setting, seed)


# -- the results file ------------------------------------------------------------------------------


@contextmanager
def results(file: Path, setting: dict[str, Any], replace: bool) -> Iterator[dict[str, Any]]:
    """The results under a lock; what the caller changed is written at the end, whole or not at all.

    Raises:
        SystemExit: the file has results of other weights or settings, and is not to be replaced.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    CHUNKS.mkdir(parents=True, exist_ok=True)
    with locked(CHUNKS / f"{file.name}.lock", wait=True):
        found: dict[str, Any] = {"setting": setting, "cells": {}}
        if file.exists():
            old = json.loads(file.read_text(encoding="utf-8"))
            if old["setting"] == setting:
                found = old
            elif not replace:
                sys.exit(
                    f"{file} is of {old['setting']}, not of {setting}. "
                    "Pass --replace to discard it, or --out for another file."
                )
        before = json.dumps(found)
        yield found
        if json.dumps(found) != before:
            found = provenance() | {k: found[k] for k in KEYS if k in found}
            with replacing(file) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def judge_finished(
    sampler: Sampler, cells: Sequence[Cell], args: argparse.Namespace, held_out: HeldOut
) -> None:
    """Write every cell whose chunks are all there, and what follows from all cells together."""
    with results(args.out, sampler.setting, args.replace) as found:
        known = {name: cell["n"] for name, cell in found["cells"].items()}
    for cell in cells:
        files = [file for _, _, file in sampler.chunks(cell, args.n)]
        if known.get(cell.name, 0) >= args.n or not all(file.exists() for file in files):
            continue
        chunks = [Chunk.read(file) for file in files]
        record = asdict(cell) | {
            "n": args.n,
            "network_calls": chunks[0].network_calls,
            "cpu_seconds": sum(chunk.cpu_seconds for chunk in chunks),
            "wall_seconds": sum(chunk.wall_seconds for chunk in chunks),
            "devices": sorted({chunk.device for chunk in chunks}),
        }
        molecules = MoleculeSet.concatenate([chunk.molecules for chunk in chunks], cell.name)
        record |= judged(molecules, held_out)
        with results(args.out, sampler.setting, args.replace) as found:
            there = found["cells"] | {cell.name: record}
            found["cells"] = {name: there[name] for name in ORDER if name in there}
            found["held_out"] = held_out.record
            found |= compare(found)
    with results(args.out, sampler.setting, args.replace) as found:
        if found["cells"]:
            found |= compare(found)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=1024, help="molecules a cell")
    parser.add_argument("--group", nargs="*", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--only", default="", help="cells whose name contains this")
    add_arguments(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="qm9", help="folder of a pipeline")
    parser.add_argument("--stats", default="qm9", help="folder of fitted statistics")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--chunks", type=Path, default=CHUNKS, help="keeps the chunks")
    parser.add_argument("--replace", action="store_true", help="discard results of other settings")
    return parser.parse_args()


def main() -> None:
    """Sample the missing chunks, judge and write each finished cell, print the table."""
    args = arguments()
    torch.set_num_threads(args.threads)
    diffusers.utils.logging.disable_progress_bar()
    shard, n_shards = (int(part) for part in args.shard.split("/"))
    cells = [cell for group in args.group for cell in GROUPS[group] if args.only in cell.name]
    model = EMBEDDED.get(args.model, Path(args.model))
    artefact = EMBEDDED_STATS.get(args.stats, Path(args.stats))
    setting = {
        "weights": digest(model / "denoiser" / "diffusion_pytorch_model.safetensors"),
        "statistics": digest(artefact / "gaga_stats.safetensors"),
        "seed": args.seed,
        "chunk": args.chunk,
        "batch_size": args.batch_size,
    }
    pipeline = MoleculePipeline.load(args.model).to(args.device)
    stats = GAGAStats.from_pretrained(args.stats)
    sampler = Sampler(pipeline, pipeline.scheduler, stats, setting, args.chunks)
    held_out = HeldOut()
    with results(args.out, setting, args.replace) as found:
        known = {name: cell["n"] for name, cell in found["cells"].items()}
    if not args.merge:
        for cell in cells:
            if known.get(cell.name, 0) >= args.n:
                continue
            for seed, count, file in sampler.chunks(cell, args.n):
                if seed % n_shards != shard or file.exists():
                    continue
                pipeline.set_progress_bar_config(
                    desc=f"{cell.name} #{seed}", leave=False, disable=not sys.stderr.isatty()
                )
                chunk = sampler.sample(cell, seed, count)
                chunk.write(file)
                print(
                    f"{time.strftime('%H:%M:%S')} {cell.name} #{seed}: {count} molecules, "
                    f"{chunk.network_calls} calls, {chunk.wall_seconds:.0f} s",
                    flush=True,
                )
            if not args.sample_only:
                judge_finished(sampler, cells, args, held_out)
    if not args.sample_only:
        judge_finished(sampler, cells, args, held_out)
        with results(args.out, setting, args.replace) as found:
            print(table(found))


if __name__ == "__main__":
    main()
