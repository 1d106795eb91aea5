"""Any number of molecules into one SDF file: in pieces on disk, shared between processes.

A piece is four batches. It draws its sizes and its noise from a generator of its own, and piece p
of a run has the seed

    (hash(seed) + p) mod 2^32,

since torch's CPU generator reads 32 bits of a seed: no two pieces share one. The samples thus
depend on the seed, the number of molecules and the batch size, but not on the number of processes;
process r of W makes every W-th missing piece.

Each piece is a file in `OUT.parts` as soon as it is made, and memory holds one piece. A run that
was killed goes on with the pieces that are there. In the end they become `OUT`, in order.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gaga_adapter.distributed import Processes, Progress, Tick
from gaga_adapter.errors import DataError, ProcessError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.hashing import splitmix64
from gaga_adapter.molecules.formats import sdf_text
from gaga_adapter.molecules.pipeline import MoleculePipeline
from gaga_adapter.sampling import DEFAULT_STEPS

_BATCHES = 4  # in a piece: more waste less padding, fewer lose less work to a kill


@dataclass(frozen=True)
class Sampled:
    """The outcome of `sample_sdf`.

    Attributes:
        n_molecules: Molecules in the file.
        n_found: Molecules among them that an earlier, interrupted run had made.
        network_calls: Network calls per molecule; `None` if all molecules were found.
    """

    n_molecules: int
    n_found: int
    network_calls: int | None


def piece_generator(seed: int, piece: int) -> torch.Generator:
    """The CPU generator of everything random in one piece."""
    start = int(splitmix64(torch.tensor(seed)))
    return torch.Generator().manual_seed((start + piece) % 2**32)


def sample_sdf(
    pipeline: MoleculePipeline,
    out: str | Path,
    n_molecules: int,
    num_inference_steps: int = DEFAULT_STEPS,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> Sampled:
    """Sample molecules into an SDF file, which appears whole at the end.

    Args:
        pipeline: The model and its scheduler, the same on all processes.
        out: The file. The folder `OUT.parts` lives beside it while the run does, and all processes
            must see it.
        n_molecules: Number of molecules.
        num_inference_steps: Number of steps that `scheduler.set_timesteps` gets.
        seed: Seed of everything random.
        batch_size: Number of molecules in one network call.
        progress: Function that is called after each network call; with several processes once a
            second, on the first one.
        processes: The processes that share the work: by default all of the run, with `Processes()`
            this one alone.

    Returns:
        What was done, the same on all processes.

    Raises:
        DataError: If no molecule is asked for, or `OUT.parts` holds pieces of a run with other
            settings.
        WriteError: If a file cannot be written.
        ProcessError: If another process failed or is gone, or writes to another disk.
        StatsMismatchError: If the statistics of the scheduler describe other channels.
        TruncationError: If the scheduler refuses the number of steps, or starts too noisy.
    """
    if n_molecules < 1:
        raise DataError(f"n_molecules={n_molecules}: ask for one molecule or more.")
    processes = Processes.of_the_run() if processes is None else processes
    settings = (n_molecules, num_inference_steps, seed, batch_size)
    pieces = _Pieces(Path(out), n_molecules, _BATCHES * batch_size, _digest(pipeline, settings))
    if len(set(processes.everyones(pieces.digest))) > 1:
        raise ProcessError(
            "the processes of this run sample with different models, schedulers or settings. "
            "Give all of them the same."
        )
    missing = processes.by_first(lambda beat: pieces.missing())
    n_batches = {piece: -(-pieces.size(piece) // batch_size) for piece in missing}
    calls = _Calls()

    def report(done: int) -> None:
        if progress is not None and calls.per_molecule:
            progress("network calls", done, sum(n_batches.values()) * calls.per_molecule)

    with processes.in_step(report) as tick:
        for piece in missing[processes.index :: processes.count]:
            molecules = pipeline(
                pieces.size(piece),
                num_inference_steps=num_inference_steps,
                generator=piece_generator(seed, piece),
                batch_size=batch_size,
                progress=calls.of_piece(n_batches[piece], tick),
            ).molecules
            text = sdf_text(replace(molecules, name=f"piece {piece} molecule"))
            with replacing(pieces.file(piece)) as draft:
                draft.write_text(text, encoding="utf-8")
    processes.by_first(pieces.join)
    n_found = n_molecules - sum(map(pieces.size, missing))
    return Sampled(n_molecules, n_found, max(processes.everyones(calls.per_molecule)) or None)


@dataclass(frozen=True)
class _Pieces:
    """The files of the pieces of a run."""

    out: Path  # what they become
    n_molecules: int  # in all of them
    full: int  # molecules of every piece but the last one
    digest: str  # of the run's settings

    @property
    def folder(self) -> Path:
        return self.out.with_name(f"{self.out.name}.parts")

    def __len__(self) -> int:
        return -(-self.n_molecules // self.full)

    def size(self, piece: int) -> int:
        """Molecules of a piece."""
        return min(self.full, self.n_molecules - piece * self.full)

    def file(self, piece: int) -> Path:
        return self.folder / f"{piece:08d}-{self.digest}.sdf"

    def missing(self) -> list[int]:
        """Pieces that are still to be made."""
        present = set(self.folder.glob("*.sdf"))
        mine = [self.file(piece) for piece in range(len(self))]
        foreign = present.difference(mine)
        if foreign:
            raise DataError(
                f"{self.folder} holds {len(foreign)} pieces of a run with other settings, or of "
                "another model. Repeat that run to finish it, delete the folder, or choose another "
                "--out."
            )
        return [piece for piece, file in enumerate(mine) if file not in present]

    def join(self, beat: Callable[[], None]) -> None:
        """Make the file of all pieces, and leave nothing else."""
        with replacing(self.out) as draft, draft.open("wb") as whole:
            for piece in range(len(self)):
                beat()
                if not self.file(piece).is_file():
                    raise ProcessError(
                        f"{self.file(piece)} was written by another process and is not here. All "
                        "processes need one shared folder: choose an --out on a shared disk."
                    )
                with self.file(piece).open("rb") as part:
                    shutil.copyfileobj(part, whole)
        shutil.rmtree(self.folder)


class _Calls:
    """Network calls of this process through all of its pieces."""

    def __init__(self) -> None:
        self.done = self.per_molecule = 0  # `per_molecule` is 0 before the first call

    def of_piece(self, n_batches: int, tick: Tick) -> Progress:
        """A counter of the calls of one piece, whose scheduler alone knows their total."""
        before = self.done

        def count(what: str, done: int, total: int | None) -> None:
            self.done, self.per_molecule = before + done, (total or 0) // n_batches
            tick(self.done)

        return count


def _digest(pipeline: MoleculePipeline, settings: tuple[int, ...]) -> str:
    """A digest of what decides on the molecules: weights, scheduler on disk, and settings."""
    digest = hashlib.sha256(repr((settings, pipeline.config.size_counts)).encode())
    with tempfile.TemporaryDirectory() as folder:
        pipeline.scheduler.save_pretrained(folder)
        for file in sorted(Path(folder).iterdir()):
            digest.update(file.name.encode())
            digest.update(file.read_bytes())
    for name, weights in pipeline.denoiser.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
