"""Files that appear whole or not at all, and outputs that are no files.

A name may stand for more than a file, and what it stands for stays as it is:

- a symbolic link: the data land where it leads, and the link stays a link;
- a pipe, a terminal, `/dev/stdout` or another device: the data go into it when all of them are
  there, for nothing can take its place;
- a file that exists: its permissions, and where we may set them its owner and group, are those of
  the file that takes its place. Another hard link to it keeps the old content;
- a folder, a socket, a disk, or a file that is write-protected: it is refused by name.

A process that was killed leaves its draft behind. A draft is locked by its writer, and the system
takes the lock off a process that ends; so the next one that writes into the same folder knows
which drafts are nobody's any more, and removes them. Locks are the system's own (`flock`), which
hold between processes, and on shared disks between machines. Where there are none (Windows, some
network disks) nothing is locked, and nothing counts as nobody's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from gaga_adapter.errors import WriteError

_HAS_LOCKS = True
try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows
    _HAS_LOCKS = False

#: What `-` stands for on the command line; it is written like any other device.
STANDARD_OUTPUT = Path("/dev/stdout")
_STEM = 40  # characters of a name that a draft repeats; a file name has 255 bytes at most
_DRAFT = re.compile(r"\..*\.[0-9a-f]{16}\.gaga-draft", re.DOTALL)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft to write to, which takes the place of `path` at the end.

    After an error or an interrupt the old file is as it was and the draft is gone.

    Raises:
        WriteError: If the place cannot be written.
    """
    place = Path(path)
    try:
        if is_stream(place):
            with tempfile.TemporaryDirectory() as folder:
                draft = Path(folder) / "draft"
                yield draft
                with stream_into(place) as stream, draft.open("rb") as whole:
                    shutil.copyfileobj(whole, stream)
            return
        target = file_behind(place)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _draft_of(target) as draft:
            yield draft
            _take_over(target, draft)
            os.replace(draft, target)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _refusal(place, error, "What was there before is intact; ") from error


@contextlib.contextmanager
def stream_into(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """What a name of no file stands for (see `is_stream`), open for writing.

    A reader that goes away is a `BrokenPipeError`, as everywhere.

    Raises:
        WriteError: If it cannot be written.
    """
    place = Path(path)
    try:
        number = _descriptor(place)
        if number is None:
            number = os.open(place, os.O_WRONLY)  # waits for the reader of a pipe
        else:
            if sys.stdout is not None:
                sys.stdout.flush()  # what was printed before comes first
            number = os.dup(number)
        with os.fdopen(number, "wb") as stream:
            yield stream
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _refusal(place, error) from error


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether a name stands for a pipe, a terminal or a device, which no file can replace.

    Raises:
        WriteError: If it stands for a socket or for a disk.
    """
    place = Path(path)
    if _descriptor(place) is not None:
        return True
    try:
        mode = place.stat().st_mode
    except OSError:  # there is nothing yet, or nothing that we may see
        return False
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        kind = "a socket" if stat.S_ISSOCK(mode) else "a disk"
        raise WriteError(f"cannot write {place}: it is {kind}. Name a file.")
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_standard_output(path: str | os.PathLike[str]) -> bool:
    """Whether a name stands for the standard output of this process."""
    return _descriptor(Path(path)) == 1


def file_behind(path: str | os.PathLike[str]) -> Path:
    """The file that a name stands for, behind all links; it need not exist.

    Raises:
        WriteError: If it cannot be replaced: it is a folder, or write-protected, or somebody else's
            in a folder where everybody may write.
    """
    place = Path(path)
    target = Path(os.path.realpath(place))
    if target.is_symlink():
        raise WriteError(f"cannot write {place}: it is a link that leads back to itself.")
    try:
        found = target.stat()
    except (FileNotFoundError, NotADirectoryError):
        return target
    except OSError as error:
        raise _refusal(place, error) from error
    if stat.S_ISDIR(found.st_mode):
        raise WriteError(f"cannot write {place}: it is a folder. Name a file in it.")
    if not found.st_mode & 0o222 or not os.access(target, os.W_OK):
        raise WriteError(
            f"cannot write {place}: it is write-protected. Make it writable, or choose another "
            "place."
        )
    me, folder = getattr(os, "geteuid", lambda: 0)(), target.parent.stat()
    if folder.st_mode & stat.S_ISVTX and me not in (0, found.st_uid, folder.st_uid):
        raise WriteError(
            f"cannot write {place}: it belongs to somebody else, and {target.parent} lets nobody "
            "replace the files of others. Choose another place."
        )
    return target


def is_draft(name: str) -> bool:
    """Whether a file name is one that `replacing` gives to drafts."""
    return _DRAFT.fullmatch(name) is not None


def _descriptor(place: Path) -> int | None:
    """The open file of this process that `/dev/stdout`, `/dev/fd/3` and their like stand for.

    To open such a name anew would cut a file that the shell has opened for appending.
    """
    if place == STANDARD_OUTPUT:  # also on systems without such a name
        return 1
    own = ("/dev/fd", f"/proc/{os.getpid()}/fd")
    for _ in range(40):
        folder = os.path.realpath(place.parent)
        if folder in own and place.name.isdecimal():
            return int(place.name)
        if not place.is_symlink():
            return None
        place = Path(folder, os.readlink(place))
    return None


@contextlib.contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    """A new, locked file beside a target, which is gone in the end."""
    _sweep(target.parent)
    draft = target.with_name(f".{target.name[:_STEM]}.{secrets.token_hex(8)}.gaga-draft")
    try:
        with locked(draft, wait=True):  # for somebody who sweeps, and just looks at it
            yield draft
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


@lru_cache(maxsize=1024)  # once a process: to list a large folder takes time
def _sweep(folder: Path) -> None:
    """Remove the drafts of processes that were killed."""
    with contextlib.suppress(OSError):  # a folder that we may write and not list
        for draft in filter(lambda file: is_draft(file.name), folder.iterdir()):
            with contextlib.suppress(OSError), _try_lock(draft) as mine:
                if mine:
                    draft.unlink(missing_ok=True)


def _take_over(target: Path, draft: Path) -> None:
    """Give a draft the permissions of the file whose place it takes, if there is one."""
    try:
        found = target.stat()
    except FileNotFoundError:
        return
    with contextlib.suppress(OSError, AttributeError):  # not ours to give, or no such system
        os.chown(draft, found.st_uid, found.st_gid)
    os.chmod(draft, stat.S_IMODE(found.st_mode))


def _refusal(place: Path, error: OSError, intact: str = "") -> WriteError:
    if isinstance(error, WriteError):
        return error
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space or choose another place." if is_full else "choose another place."
    return WriteError(
        f"cannot write {place}: {error.strerror or error}. "
        + (f"{intact}{advice}" if intact else advice.capitalize())
    )


# -- locks ----------------------------------------------------------------------------------------


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
def _try_lock(path: Path) -> Iterator[bool]:
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


def already_there(place: Path, content: str, advice: str) -> WriteError:
    """The refusal to replace, without leave, what took somebody time to make.

    Args:
        place: File or folder that would be written.
        content: Words for what is in it.
        advice: Sentence on what to do, up to "to replace it".
    """
    return WriteError(
        f"{place} has {content} already, which would be replaced. {advice} to replace it."
    )


def check_writable(path: Path, folder: Path) -> None:
    """Make a file in the nearest folder that exists, and remove it.

    Args:
        path: Place that is to be written, as messages name it.
        folder: Folder in which the file is to appear.

    Raises:
        WriteError: If nothing can be written there.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise WriteError(f"cannot write {path}: {folder} is a file. Choose another place.")
    try:
        with tempfile.NamedTemporaryFile(prefix=".gaga-", dir=folder):
            pass
    except OSError as error:
        raise WriteError(
            f"cannot write {path}: {folder}: {error.strerror or error}. Choose another place."
        ) from error
