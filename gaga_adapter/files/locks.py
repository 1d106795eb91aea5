"""Locks on files that end with the process that holds them, however it ends.

The system's own (`flock`): it holds between processes, and on shared disks between machines. Where
there is none (Windows, some network disks) nothing is locked, and nothing counts as anybody's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_HAS_LOCKS = True
try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows
    _HAS_LOCKS = False


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int]:
    """The descriptor of a file that is made if there is none, and locked where the system can.

    Raises:
        BlockingIOError: If somebody else has locked it, and we are not to wait.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _HAS_LOCKS:
                try:
                    flock(descriptor, LOCK_EX | (0 if wait else LOCK_NB))
                except BlockingIOError:
                    raise
                except OSError:  # a disk without locks
                    pass
            if not _is_open_as(descriptor, path):
                continue  # whoever had it before has removed it meanwhile
            if not _HAS_LOCKS:  # there, an open file cannot be replaced
                os.close(descriptor)
                descriptor = -1
            yield descriptor
            return
        finally:
            if descriptor >= 0:
                os.close(descriptor)


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Whether an existing file was locked by nobody, and is now by us until the end."""
    if not _HAS_LOCKS:
        yield False
        return
    with path.open("rb") as stream:
        try:
            flock(stream, LOCK_EX | LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
