"""Molecules of one seed, kept as a file as soon as they are sampled.

A benchmark samples its rows in chunks, each with a seed of its own that is the same in all rows. A
kill then costs one chunk, and several processes share the chunks of a row.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet


@dataclass(frozen=True, eq=False)
class Chunk:
    """Molecules of one seed, and what they cost."""

    molecules: MoleculeSet
    network_calls: int
    cpu_seconds: float
    wall_seconds: float
    device: str

    @classmethod
    def sampled(
        cls,
        pipeline: Any,  # noqa: ANN401 - a pipeline of molecules
        count: int,
        steps: int,
        setting: dict[str, Any],
        seed: int,
        timesteps: tuple[int, ...] | None = None,
    ) -> Chunk:
        """The molecules of one seed, by a pipeline under its own scheduler.

        Args:
            pipeline: Pipeline of molecules.
            count: Number of molecules.
            steps: Number of steps.
            setting: Seed of the first chunk and size of a batch.
            seed: Number of the chunk.
            timesteps: Timesteps in place of a number of steps.
        """
        generator = torch.Generator().manual_seed(setting["seed"] + seed)
        cpu, wall = time.process_time(), time.perf_counter()
        made = pipeline(
            count,
            num_inference_steps=steps,
            generator=generator,
            batch_size=setting["batch_size"],
            **({} if timesteps is None else {"timesteps": timesteps}),
        )
        return cls(
            made.molecules,
            made.network_calls,
            time.process_time() - cpu,
            time.perf_counter() - wall,
            pipeline.device.type,
        )

    @classmethod
    def read(cls, file: Path) -> Chunk:
        """One that `write` wrote."""
        with np.load(file) as found:
            molecules = MoleculeSet(found["positions"], found["atomic_numbers"], file.stem)
            cost = json.loads(str(found["cost"]))
        return cls(molecules, **cost)

    def write(self, file: Path) -> None:
        """The whole file or none."""
        cost = {key: value for key, value in vars(self).items() if key != "molecules"}
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                positions=self.molecules.positions,
                atomic_numbers=self.molecules.atomic_numbers,
                cost=np.array(json.dumps(cost)),
            )


def chunk_files(
    folder: Path, name: str, cell: dict[str, Any], setting: dict[str, Any], n: int
) -> list[tuple[int, int, Path]]:
    """Seed, number of molecules and file of each chunk of `n` molecules of a row.

    Args:
        folder: Keeps the chunks.
        name: Name of the row.
        cell: What the row is.
        setting: What else decides its molecules.
        n: Number of molecules.
    """
    text = json.dumps([setting, cell], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = folder / f"{name.replace(', ', '_').replace(' ', '-')}_{key}"
    starts = range(0, n, setting["chunk"])
    counts = [min(setting["chunk"], n - start) for start in starts]
    return [(k, count, folder / f"{k}-{count}.npz") for k, count in enumerate(counts)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of a benchmark says of its chunks."""
    parser.add_argument("--shard", default="0/1", help="i/k: this process samples chunks i, i+k...")
    parser.add_argument("--merge", action="store_true", help="judge what is sampled, and no more")
    parser.add_argument("--sample-only", action="store_true", help="leave the judging to --merge")
    parser.add_argument("--seed", type=int, default=0, help="of the first chunk; +1 for each")
    parser.add_argument("--chunk", type=int, default=128, help="molecules of one seed")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)


def digest(file: Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
