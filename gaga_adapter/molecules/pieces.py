"""Any number of molecules into one SDF file: in pieces on disk, shared between processes.

A piece is four batches. It draws its sizes and its noise from a generator of its own, and piece p
of a run has the seed

    (hash(seed) + p) mod 2^32,

since torch's CPU generator reads 32 bits of a seed: no two pieces share one. The samples thus
depend on the seed, the number of molecules and the batch size, but not on the number of processes;
process r of W makes every W-th missing piece.

Each piece is a file in `OUT.parts` as soon as it is made, and memory holds one piece. A run that
was killed goes on with the pieces that are there. In the end they become `OUT`, in order. The
caller says whether they may take the place of a file that is there.

The folder is locked while a run works in it, so that a second one with the same output is refused.
A folder of that name with anything in it that no run of ours has written is refused, too, and
nothing but our own files is ever removed. Into a pipe or a device the pieces go one by one, as they
are made, and there is no such folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gaga_adapter.distributed import Processes, Progress, Tick
from gaga_adapter.errors import (
    DataError,
    GAGAError,
    ProcessError,
    WriteError,
    check_seed,
    whole_number,
)
from gaga_adapter.files.atomic import (
    already_there,
    file_behind,
    is_draft,
    is_stream,
    locked,
    replacing,
    stream_into,
)
from gaga_adapter.hashing import splitmix64
from gaga_adapter.molecules.formats import sdf_text
from gaga_adapter.molecules.pipeline import MoleculePipeline
from gaga_adapter.sampling.grid import wanted_grid

_BATCHES = 4  # in a piece: more waste less padding, fewer lose less work to a kill
_PIECE = re.compile(r"\d{8,}-[0-9a-f]{16}\.sdf")
_LOCK = ".gaga-lock"


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
    num_inference_steps: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | None = None,
    processes: Processes | None = None,
    replace_file: bool = True,
) -> Sampled:
    """Sample molecules into an SDF file, which appears whole at the end, or into a pipe.

    Args:
        pipeline: The model and its scheduler, the same on all processes.
        out: The file. The folder `OUT.parts` lives beside it while the run does, and all processes
            must see it. Pipes and devices, such as `/dev/stdout`, get the molecules as they are
            made.
        n_molecules: Number of molecules.
        num_inference_steps: Number of steps that `scheduler.set_timesteps` gets; by default as
            in a call of the pipeline.
        seed: Seed of everything random.
        batch_size: Number of molecules in one network call.
        progress: Function that is called after each network call; with several processes once a
            second, on the first one.
        processes: The processes that share the work: by default all of the run, with `Processes()`
            this one alone.
        replace_file: Whether a file that is there may be replaced. If not, it is refused before
            anything is sampled, unless pieces of this run are there: then it was begun with leave.

    Returns:
        What was done, the same on all processes.

    Raises:
        DataError: If no molecule is asked for, or `OUT.parts` holds pieces of a run with other
            settings.
        WriteError: If a file cannot be written or replaced, another run writes it, or `OUT.parts`
            holds something else than pieces.
        ProcessError: If another process failed or is gone, or writes to another disk.
        StatsMismatchError: If the statistics of the scheduler describe other channels.
        TruncationError: If the scheduler refuses the number of steps, or starts too noisy.
        KeyboardInterrupt: If the user interrupts it; its text says what is kept.
    """
    n_molecules = whole_number("n_molecules", n_molecules)
    steps = wanted_grid(pipeline.scheduler, num_inference_steps).n_steps
    batch_size, seed = whole_number("batch_size", batch_size), check_seed(seed)
    processes = Processes.of_the_run() if processes is None else processes
    if processes.count > 1 and is_stream(out):
        raise WriteError(
            f"{processes.count} processes cannot write into {out} together. Name a file, or start "
            "one process."
        )
    digest = _digest(pipeline, (n_molecules, steps, seed, batch_size))
    if len(set(processes.everyones(digest))) > 1:
        raise ProcessError(
            "the processes of this run sample with different models, schedulers or settings. "
            "Give all of them the same."
        )
    plan, calls = _Plan(n_molecules, _BATCHES * batch_size), _Calls()
    kind = _Stream if is_stream(out) else _Folder
    with kind(Path(out), plan, digest, processes) as pieces:
        missing = processes.by_first(lambda beat: pieces.missing(replace_file))
        n_batches = {piece: -(-plan.size(piece) // batch_size) for piece in missing}

        def report(done: int) -> None:
            if progress is not None and calls.per_molecule:
                progress("network calls", done, sum(n_batches.values()) * calls.per_molecule)

        try:
            with processes.in_step(report) as tick:
                for piece in missing[processes.index :: processes.count]:
                    molecules = pipeline(
                        plan.size(piece),
                        num_inference_steps=steps,
                        generator=piece_generator(seed, piece),
                        batch_size=batch_size,
                        progress=calls.of_piece(n_batches[piece], tick),
                    ).molecules
                    pieces.keep(piece, sdf_text(replace(molecules, name=f"piece {piece} molecule")))
            processes.by_first(pieces.join)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(pieces.kept()) from interrupt
    n_found = n_molecules - sum(map(plan.size, missing))
    return Sampled(n_molecules, n_found, max(processes.everyones(calls.per_molecule)) or None)


@dataclass(frozen=True)
class _Plan:
    """How many molecules each piece has."""

    n_molecules: int  # in all of them
    full: int  # molecules of every piece but the last one

    def __len__(self) -> int:
        return -(-self.n_molecules // self.full)

    def size(self, piece: int) -> int:
        """Molecules of a piece."""
        return min(self.full, self.n_molecules - piece * self.full)


class _Folder(contextlib.ExitStack):
    """The pieces as files in `OUT.parts`, which this run has for itself."""

    def __init__(self, out: Path, plan: _Plan, digest: str, processes: Processes) -> None:
        super().__init__()
        self.out, self.plan, self.digest, self.processes = out, plan, digest, processes
        self.folder = out.with_name(f"{out.name}.parts")

    def __enter__(self) -> _Folder:
        self.processes.by_first(lambda beat: self._lock())
        return self

    def _lock(self) -> None:
        file_behind(self.out)  # refuses a place that cannot be written
        try:
            self._refuse_what_is_not_ours()
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = self.enter_context(locked(self.folder / _LOCK))
        except BlockingIOError as error:
            who = ""
            with contextlib.suppress(OSError):
                who = f" ({(self.folder / _LOCK).read_text(encoding='utf-8')})"
            raise WriteError(
                f"another run{who} is writing {self.out}. Wait for it, stop it, or choose another "
                "--out."
            ) from error
        except OSError as error:
            if isinstance(error, WriteError):
                raise
            raise WriteError(
                f"cannot write {self.folder}: {error.strerror or error}. Choose another --out."
            ) from error
        self.callback(self._leave)
        if descriptor >= 0:
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())

    def _refuse_what_is_not_ours(self) -> None:
        if not self.folder.exists() and not self.folder.is_symlink():
            return
        if not self.folder.is_dir():
            raise WriteError(
                f"{self.folder} is in the way: the pieces of {self.out} go into a folder of that "
                "name. Rename it, or choose another --out."
            )
        names = sorted(file.name for file in self.folder.iterdir() if not _is_ours(file.name))
        if names:
            raise WriteError(
                f"{self.folder} holds {', '.join(names[:3])}{', ...' if names[3:] else ''}, which "
                f"no run of gaga wrote. The pieces of {self.out} go into a folder of that name: "
                "rename it, or choose another --out."
            )

    def _leave(self) -> None:
        """Remove the lock, and the folder if nothing else is in it."""
        with contextlib.suppress(OSError):
            (self.folder / _LOCK).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def file(self, piece: int) -> Path:
        return self.folder / f"{piece:08d}-{self.digest}.sdf"

    def missing(self, replace_file: bool) -> list[int]:
        """Pieces that are still to be made."""
        present = self._present()
        mine = [self.file(piece) for piece in range(len(self.plan))]
        foreign = present.difference(mine)
        if foreign:
            raise DataError(
                f"{self.folder} holds pieces of a run with other settings ({len(foreign)}), such "
                "as another seed, number or statistics, or of another model. Repeat that run to "
                "finish it, delete the folder, or choose another --out."
            )
        if not (replace_file or present) and self.out.is_file() and self.out.stat().st_size:
            raise already_there(
                self.out,
                _content(self.out),
                "Choose another --out, or pass --force (replace_file=True)",
            )
        return [piece for piece, file in enumerate(mine) if file not in present]

    def _present(self) -> set[Path]:
        return {file for file in self.folder.iterdir() if _PIECE.fullmatch(file.name)}

    def kept(self) -> str:
        """What an interrupted run leaves on disk, and how to go on."""
        n_kept = sum(self.plan.size(p) for p in range(len(self.plan)) if self.file(p).is_file())
        if not n_kept:
            return (
                f"no molecule is kept, since no piece was finished. A piece is {_BATCHES} batches, "
                f"here {self.plan.size(0):,} molecules: a smaller --batch-size makes smaller ones."
            )
        return (
            f"{n_kept:,} of {self.plan.n_molecules:,} molecules are kept in {self.folder}. The "
            "same command goes on from there."
        )

    def keep(self, piece: int, text: str) -> None:
        """Store the text of a piece."""
        with replacing(self.file(piece)) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")  # alike on every system

    def join(self, beat: Callable[[], None]) -> None:
        """Make the file of all pieces, and remove them."""
        files = [self.file(piece) for piece in range(len(self.plan))]
        with replacing(self.out) as draft, draft.open("wb") as whole:
            for file in files:
                beat()
                if not file.is_file():
                    raise self._lost(file)
                with file.open("rb") as part:
                    shutil.copyfileobj(part, whole)
        for file in files:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)

    def _lost(self, file: Path) -> GAGAError:
        if self.processes.count == 1:
            return WriteError(f"{file} was removed while this run went on. Start it again.")
        return ProcessError(
            f"{file} was written by another process and is not here. All processes need one "
            "shared folder: choose an --out on a shared disk."
        )


class _Stream(contextlib.ExitStack):
    """The pieces one by one into a pipe or a device."""

    def __init__(self, out: Path, plan: _Plan, digest: str, processes: Processes) -> None:
        super().__init__()
        self.plan, self.n_written = plan, 0
        self.stream = self.enter_context(stream_into(out))

    def __enter__(self) -> _Stream:
        return self

    def missing(self, replace_file: bool) -> list[int]:
        """All pieces; a stream has no file that could be replaced."""
        return list(range(len(self.plan)))

    def keep(self, piece: int, text: str) -> None:
        """Write the text of a piece."""
        self.stream.write(text.encode())
        self.stream.flush()
        self.n_written += self.plan.size(piece)

    def join(self, beat: Callable[[], None]) -> None:
        """Nothing is left to do."""

    def kept(self) -> str:
        """What an interrupted run leaves: what the reader of the stream has kept."""
        return f"{self.n_written:,} of {self.plan.n_molecules:,} molecules were written."


def _content(file: Path) -> str:
    """How many molecules a file of SDF holds, for people."""
    with file.open("rb") as stream:
        n_molecules = sum(line.startswith(b"$$$$") for line in stream)
    return f"{n_molecules:,} molecules" if n_molecules else f"{file.stat().st_size:,} bytes"


def _is_ours(name: str) -> bool:
    return name == _LOCK or is_draft(name) or _PIECE.fullmatch(name) is not None


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
