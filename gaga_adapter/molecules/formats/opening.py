"""The bytes of a source: a file, a FIFO, or standard input, decompressed on the way.

What a source begins with says how it is compressed, whatever its name is. A pipe gives its bytes
once. Whoever needs several passes calls `keep` before the first of them: the bytes then go into a
temporary file, which disappears with the source.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import lzma
import os
import shutil
import sys
import tempfile
import weakref
from io import BufferedReader, RawIOBase, TextIOWrapper
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from gaga_adapter.distributed import n_processes
from gaga_adapter.errors import DataError, MissingExtraError

#: Suffix of each compression, and the bytes that such a file begins with.
COMPRESSIONS = {
    ".gz": b"\x1f\x8b",
    ".bz2": b"BZh",
    ".xz": b"\xfd7zXZ\x00",
    ".zst": b"\x28\xb5\x2f\xfd",
}
STANDARD_INPUT = "-"
_ENCODINGS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_ZSTD_BYTES = 4096  # read at a time; a hostile file may hold 30,000 times as many


class Input:
    """One source of bytes.

    Attributes:
        name: The name for messages.
        path: The file; `-` is standard input.
        is_pipe: Whether the bytes come once, so that they cannot be looked up in any order.
    """

    def __init__(self, path: Path) -> None:
        is_standard = os.fspath(path) == STANDARD_INPUT
        self.name = "standard input" if is_standard else str(path)
        self.path = path
        self.is_pipe = is_standard or path.is_fifo() or path.is_char_device()
        self._is_standard = is_standard
        self._is_read = False
        self._kept: Path | None = None
        self._is_kept = False

    def keep(self) -> None:
        """Prepare for several passes; a file needs nothing."""
        self._is_kept = self.is_pipe

    def open(self) -> BinaryIO:
        """The bytes from the first one on, decompressed.

        Raises:
            DataError: If a pipe was read before and is not kept, or several processes would share
                it; if standard input is a terminal or closed; or if the bytes are not compressed
                as the name says.
            MissingExtraError: If the package is not installed that decompresses them.
        """
        return self._decompressed(self._raw())

    def text(self) -> IO[str]:
        """The same as text: UTF-8, or UTF-16 with its mark; other bytes are replaced."""
        stream = cast(BufferedReader, self.open())
        encoding = _ENCODINGS.get(stream.peek(2)[:2], "utf-8-sig")
        return TextIOWrapper(stream, encoding=encoding, errors="replace")

    def _raw(self) -> BufferedReader:
        if not self.is_pipe:
            return self.path.open("rb")
        if n_processes() > 1:
            raise DataError(
                f"{self.name} is a pipe, which several processes cannot share. Save it in a file, "
                "or start one process."
            )
        if self._kept is not None:
            return self._kept.open("rb")
        if self._is_read:
            raise DataError(
                f"{self.name} is a pipe, which can be read once, and it has been read. Save it in "
                "a file."
            )
        self._is_read = True
        stream = _standard_input() if self._is_standard else self.path.open("rb")
        if not self._is_kept:
            return stream
        handle, name = tempfile.mkstemp(prefix="gaga-")
        weakref.finalize(self, _forget, Path(name))
        with stream, os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(stream, file)
        self._kept = Path(name)
        return self._kept.open("rb")

    def _decompressed(self, raw: BufferedReader) -> BinaryIO:
        head = raw.peek(8)
        for suffix, magic in COMPRESSIONS.items():
            if head.startswith(magic):
                return _decompressor(raw, suffix)
        suffix = self.path.suffix.lower()
        if suffix in COMPRESSIONS and head:
            raw.close()
            raise DataError(
                f"{self.name} ends in {suffix}, but does not begin like such a file. If it is not "
                f"compressed, rename it to {self.path.stem}."
            )
        return raw


def _forget(copy: Path) -> None:
    """Remove the copy of a pipe; on Windows that fails while somebody reads it."""
    with contextlib.suppress(OSError):
        copy.unlink(missing_ok=True)


def _standard_input() -> BufferedReader:
    try:
        if not sys.stdin.isatty():
            return open(sys.stdin.fileno(), "rb", closefd=False)
    except (AttributeError, OSError, ValueError) as error:  # closed, or replaced by an object
        raise DataError("there is no standard input to read from. Name a file.") from error
    raise DataError("standard input is the terminal. Pipe molecules into it, or name a file.")


def _decompressor(raw: BufferedReader, suffix: str) -> BinaryIO:
    if suffix == ".zst":
        return BufferedReader(_ZstdReader(raw))
    kinds: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    stream = kinds[suffix](raw)
    weakref.finalize(stream, raw.close)  # it is not closed with the stream
    return cast(BinaryIO, stream)


class _ZstdReader(RawIOBase):
    """The frames of a .zst file, one after the other; one that is cut off is an error."""

    def __init__(self, raw: BufferedReader) -> None:
        self._raw = raw
        try:
            import zstandard
        except ImportError as error:
            self.close()
            raise MissingExtraError("zstandard", "zstd") from error
        self._errors = zstandard.ZstdError
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        while not self._ready:
            rest = b"" if self._frame is None or not self._frame.eof else self._frame.unused_data
            if self._frame is not None and self._frame.eof:
                self._frame = None
            data = rest or self._raw.read(_ZSTD_BYTES)
            if not data:
                if self._frame is not None:
                    raise EOFError("the file ends within a zstd frame")
                return 0
            if self._frame is None:
                self._frame = self._new_frame()
            try:
                self._ready = self._frame.decompress(data)
            except self._errors as error:
                raise OSError(f"damaged zstd data: {error}") from error
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n

    def close(self) -> None:
        self._raw.close()
        super().close()
