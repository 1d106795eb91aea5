"""Several processes of one run, on `torch.distributed`: ranks, shares and common results.

Processes work apart on their shares, then merge their results, in the order of the ranks, so that
the whole does not depend on who was faster:

    processes = Processes.of_the_run()
    with processes.in_step(report) as tick:          # a failure of one is raised on all
        for done, batch in enumerate(share, 1): ...; tick(done)
    whole = processes.merged(mine, merge)            # on the first process
    result = processes.by_first(lambda beat: conclude(whole))

No process waits longer for another than a batch, or what lies between two beats, takes: data of
uneven length, or a slow criterion, run into no timeout of the group. A process that raises tells
the others at the next meeting, within a second of work; the connection to one that was killed
breaks, and that is an error on those who wait for it. What travels is pickled: the processes of a
run trust one another.

Without an initialised process group there is one process, and everything here is the identity.
"""

from __future__ import annotations

import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gaga_adapter import errors
from gaga_adapter.errors import AlreadyReportedError, GAGAError, GAGAWarning, ProcessError

T = TypeVar("T")
#: Called now and then with how much of its share a process has done.
Tick = Callable[[int], None]
#: Called on the first process with the name of the work, how much of it is done, and how much there
#: is in all (`None` where that is unknown).
Progress = Callable[[str, int, int | None], None]

_EVERY = 1.0  # seconds of work between two meetings
_LAUNCHED = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what a launcher sets beside WORLD_SIZE
_PATIENCE = timedelta(seconds=10)  # for the words of another process that fails, too
_SETTLING = 0.1  # seconds in which threads finish what they are about to do
_TIMEOUT = timedelta(minutes=30)  # of one message, in groups that are started here


def process_index() -> int:
    """Rank of this process; 0 where there is one."""
    return dist.get_rank() if _is_group() else 0


def n_processes() -> int:
    """Number of processes in the run; 1 without a process group."""
    return dist.get_world_size() if _is_group() else 1


def gathered(tensor: Tensor) -> Tensor:
    """The tensors (B, ...) of all processes as one (W B, ...), in the order of the ranks.

    They have one shape and dtype. One process gets its own tensor back.
    """
    if n_processes() == 1:
        return tensor
    sent = tensor.detach().to(_device_of_the_group(tensor.device)).contiguous()
    parts = [torch.empty_like(sent) for _ in range(n_processes())]
    with _in_contact():
        dist.all_gather(parts, sent)
    return torch.cat(parts).to(tensor.device)


@contextmanager
def started() -> Iterator[None]:
    """The processes of a launcher as one run: `accelerate launch`, `torchrun`.

    They talk over gloo, wherever their models are. However the run ends, the group and its threads
    end with it. Where no launcher is found, or a group exists, nothing is started.

    Raises:
        ProcessError: If the others do not come, or the launcher does not say where they are.
        AlreadyReportedError: If this process ends with a `GAGAError` of the same words as the first
            one of its machine, which raises its own.
    """
    if _is_group() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if "ACCELERATE_USE_CPU" in os.environ and not torch.cuda.is_available():
            warnings.warn(
                "without a GPU, `accelerate launch` starts one process, whatever --num_processes "
                "says. For several add --multi_gpu, which needs no GPU, or take `torchrun "
                "--nproc-per-node 2 -m gaga_adapter ...`.",
                GAGAWarning,
                stacklevel=3,
            )
        yield
        return
    missing = [name for name in _LAUNCHED if not os.environ.get(name)]
    if missing:
        raise ProcessError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} asks for several processes, but "
            f"{', '.join(missing)} is not set. Start them with torchrun or accelerate launch, or "
            "unset WORLD_SIZE to work alone."
        )
    # The functions of `torch.distributed.nn` have the group of the moment as their default. If
    # diffusers imported them later, they would hold our group, and its threads, until the
    # interpreter ends; a thread that then frees a last tensor aborts the process.
    with suppress(ImportError):
        from torch.distributed.nn import functional  # noqa: F401
    with _in_contact():
        dist.init_process_group("gloo", timeout=_TIMEOUT)
    is_alone = False
    try:
        yield
    except ProcessError:
        is_alone = True  # the launcher will end this process soon: it has to speak before
        raise
    except GAGAError as error:
        if _is_reported_by_first(error):
            raise AlreadyReportedError(str(error)) from error
        raise
    finally:
        # A thread of the group may be about to free the last tensors, for which it needs the
        # interpreter's lock. Versions such as torch 2.3 hold that lock while they wait for the
        # thread, and neither would ever go on.
        if not is_alone:
            time.sleep(_SETTLING)
        dist.destroy_process_group()  # waits for nobody but its own threads


def _is_reported_by_first(error: GAGAError) -> bool:
    """Whether the first process of this machine ends with the same error.

    It leaves its words in the store of the group, where the others look for them. Who has an error
    of its own finds none there, or other words; meanwhile its connections stay open, so that nobody
    ends the run before it has spoken.
    """
    local, machine = os.environ.get("LOCAL_RANK"), os.environ.get("GROUP_RANK", "0")
    key, words = f"gaga: error on machine {machine}", f"{type(error).__name__}: {error}"
    with suppress(RuntimeError):  # nothing was left in time, or the store is gone
        store = dist.distributed_c10d._get_default_store()
        if local == "0":
            store.set(key, words)
        elif local is not None:
            store.wait([key], _PATIENCE)
            return bool(store.get(key) == words.encode())
    return False


@dataclass(frozen=True)
class Processes:
    """The processes that share a piece of work, seen from one of them.

    Attributes:
        index: Rank of this process.
        count: Number of processes.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def of_the_run(cls) -> Processes:
        """All processes of the process group; this one alone without a group."""
        return cls(process_index(), n_processes())

    def everyones(self, value: T) -> list[T]:
        """The values that all processes pass here, in the order of the ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _in_contact():
            dist.all_gather_object(values, value)
        return values

    def merged(self, value: T, merge: Callable[[T, T], T]) -> T | None:
        """The values of all processes merged, on the first process; `None` on the others.

        Neighbours merge first, then pairs of pairs: `log2(W)` rounds, and no process holds more
        than two values. `merge` gets the values of lower and of higher ranks, and may change them;
        its exceptions are raised on all processes.

        Raises:
            ProcessError: If another process is gone.
        """
        whole = self._merged_pairwise(value, merge)

        def check(beat: Callable[[], None]) -> None:
            _or_raise(whole)

        self.by_first(check)
        return _or_raise(whole)

    def _merged_pairwise(self, value: T, merge: Callable[[T, T], T]) -> T | Exception | None:
        whole: T | Exception = value
        step = 1
        while step < self.count:
            if self.index % (2 * step):
                _send(whole, self.index - step)
                return None
            if self.index + step < self.count:
                other: T | Exception = _receive(self.index + step)
                try:
                    whole = merge(_or_raise(whole), _or_raise(other))
                except Exception as error:  # travels on: the first process raises it
                    whole = error
            step *= 2
        return whole

    def by_first(self, work: Callable[[Callable[[], None]], T]) -> T:
        """The result of the first process's work, on all processes; its failure, too.

        `work` gets a function `beat` and calls it now and then: those who wait hear from it.
        """
        if self.count == 1:
            return work(lambda: None)
        if self.index:
            answer: Any = _broadcast(None)
            while isinstance(answer, _Waiting):
                answer = _broadcast(None)
            if isinstance(answer, _Failure):
                raise answer.error(self.count)
            received: T = answer
            return received
        last = time.monotonic()

        def beat() -> None:
            nonlocal last
            if time.monotonic() - last > _EVERY:
                _broadcast(_Waiting())
                last = time.monotonic()

        try:
            result = work(beat)
        except Exception as error:
            with suppress(ProcessError):
                _broadcast(_Failure.of(error, 0))
            raise
        _broadcast(result)
        return result

    @contextmanager
    def in_step(self, report: Tick = lambda done: None) -> Iterator[Tick]:
        """Work apart, and end together or not at all.

        It yields a function to call after each piece of work, with what this process has done so
        far. `report` is called on the first process, with what all have done together.

        Raises:
            GAGAError: If another process raised it; the cause says which one.
            ProcessError: If another process raised something else, or is gone.
        """
        meeting = _Meeting(self, report)
        try:
            yield meeting.tick
            while not meeting.meet(finished=True):
                pass
        except Exception as error:
            if not meeting.is_over:
                with suppress(ProcessError):
                    meeting.meet(failure=_Failure.of(error, self.index))
            raise
        self.by_first(lambda beat: report(meeting.done_by_all))


class _Meeting:
    """A place where processes that work apart say how far they are, and whether one failed."""

    def __init__(self, processes: Processes, report: Tick) -> None:
        self.processes, self.report = processes, report
        self.done = self.done_by_all = 0
        self.last = time.monotonic()
        self.is_over = False

    def tick(self, done: int) -> None:
        """Note how much is done; once a second the processes meet."""
        self.done = done
        if self.processes.count == 1:
            self.report(done)
        elif time.monotonic() - self.last > _EVERY:
            self.meet()

    def meet(self, finished: bool = False, failure: _Failure | None = None) -> bool:
        """Wait for all processes; returns whether all have finished."""
        self.is_over = True  # unless all goes well: nobody comes to a meeting after a failure
        states = self.processes.everyones((self.done, finished, failure))
        for _, _, theirs in states:
            if theirs is not None and failure is None:
                raise theirs.error(self.processes.count)
        self.is_over = failure is not None
        self.last = time.monotonic()
        self.done_by_all = sum(done for done, _, _ in states)
        ended = all(ended for _, ended, _ in states)
        if self.processes.index == 0 and not (ended or self.is_over):
            self.report(self.done_by_all)
        return ended


class _Waiting:
    """Sign that the first process is still at work."""


@dataclass(frozen=True)
class _Failure:
    """An error on its way to the other processes."""

    rank: int
    kind: str
    message: str

    @classmethod
    def of(cls, error: Exception, rank: int) -> _Failure:
        return cls(rank, type(error).__name__, str(error))

    def error(self, count: int) -> GAGAError:
        """The same error if it is one of this package; the cause names the process."""
        cause = ProcessError(f"process {self.rank} of {count}: {self.kind}: {self.message}")
        kind = getattr(errors, self.kind, None)
        if kind is None or kind is ProcessError:
            return cause
        error: GAGAError = kind.__new__(kind, self.message)
        error.__cause__ = cause
        return error


def _or_raise(value: T | Exception) -> T:
    if isinstance(value, Exception):
        raise value
    return value


def _broadcast(value: Any) -> Any:  # noqa: ANN401 - anything that pickles
    box = [value]
    with _in_contact():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def _send(value: Any, to: int) -> None:  # noqa: ANN401 - anything that pickles
    home = _device_of_the_group(torch.device("cpu"))
    content = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8).to(home)
    with _in_contact():
        dist.send(torch.tensor([len(content)], device=home), to)
        dist.send(content, to)


def _receive(sender: int) -> Any:  # noqa: ANN401 - anything that pickles
    home = _device_of_the_group(torch.device("cpu"))
    length = torch.zeros(1, dtype=torch.int64, device=home)
    with _in_contact():
        dist.recv(length, sender)
        content = torch.empty(int(length), dtype=torch.uint8, device=home)
        dist.recv(content, sender)
    return pickle.loads(content.cpu().numpy().tobytes())


@contextmanager
def _in_contact() -> Iterator[None]:
    """Turn a broken connection, in any message, into a `ProcessError`."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            f"lost contact with the other processes ({str(error).splitlines()[0]}). One of them "
            "has died, or hangs: its own message says why. Start the run again."
        ) from error


def _is_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _device_of_the_group(home: torch.device) -> torch.device:
    """`home` if the group's backends can send from there, else a device of theirs."""
    kinds = [pair.split(":")[0] for pair in dist.get_backend_config().split(",")]
    if home.type in kinds:
        return home
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], getattr(torch, kinds[0]).current_device())
