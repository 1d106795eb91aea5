"""Pickles of plain values, read so that nothing in them can run.

Beside its weights a checkpoint of EDM or GeoLDM has `args.pickle`, a pickled `argparse.Namespace`.
A pickle may name any function of any module and have it called. This reader knows the few names
that such a file needs, looks none up, and refuses a pickle at the first other one, before anything
is imported or called.
"""

from __future__ import annotations

import argparse
import functools
import io
import pickle
import pickletools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO, Any

import torch

from gaga_adapter.errors import ArtefactError

from .hooks import replace_attribute

#: What a pickle may name: classes that only hold values. Python 2 called `builtins` otherwise.
PLAIN_CLASSES: dict[tuple[str, str], type[Any]] = {
    (module, kind.__name__): kind
    for module in ("builtins", "__builtin__")
    for kind in (set, frozenset, complex)
} | {("torch", "device"): torch.device}
#: What classes and containers raise of values that are not theirs.
_DAMAGED = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
#: Arguments of operations that state their own length.
_COUNTED = {
    pickletools.TAKEN_FROM_ARGUMENT1,
    pickletools.TAKEN_FROM_ARGUMENT4,
    pickletools.TAKEN_FROM_ARGUMENT4U,
    pickletools.TAKEN_FROM_ARGUMENT8U,
}


def load_plain(file: IO[bytes], **options: Any) -> Any:  # noqa: ANN401 - whatever the file holds
    """`pickle.load`, with its options, of plain values and `argparse.Namespace` alone.

    A pickle that is cut off or is none fails as it does with `pickle.load`.

    Raises:
        ArtefactError: If it names anything else, is damaged, or asks for more memory than it fills.
    """
    start = file.tell() if file.seekable() else None
    source = str(getattr(file, "name", "the pickle"))
    content = _within_memory(file.read(), source)
    reader = _PlainUnpickler(content, source, **options)
    try:
        value = reader.load()
    except (EOFError, pickle.UnpicklingError, ArtefactError):
        raise
    except _DAMAGED as error:
        raise ArtefactError(
            f"{source} is damaged ({type(error).__name__}: {error}). Copy or download it again."
        ) from error
    if start is not None:
        file.seek(start + content.tell())
    for namespace in reader.namespaces:
        namespace.__class__ = argparse.Namespace
    return value


def _within_memory(content: bytes, source: str) -> IO[bytes]:
    """The pickle, up to the first operation that Python's own disassembler does not know.

    The reader makes room for what a pickle announces before it looks whether that is there: for
    data of a stated length, and for all places of the memo below the one that is named.
    """
    stream, end = io.BytesIO(content), 0
    try:
        for operation, argument, _ in pickletools.genops(stream):
            end = stream.tell()
            if "PUT" in operation.name and isinstance(argument, int) and argument > len(content):
                raise ArtefactError(
                    f"{source} is damaged: it asks for {argument:,} places, and has "
                    f"{len(content):,} bytes. Copy or download it again."
                )
    except ArtefactError:
        raise
    except (ValueError, OverflowError) as error:  # cut off, or no pickle
        code = content[end : end + 1].decode("latin-1")
        kinds = [one.arg.n for one in pickletools.opcodes if one.code == code and one.arg]
        if kinds and kinds[0] in _COUNTED:
            raise pickle.UnpicklingError(f"{source} is cut off: {error}") from error
        content = content[: stream.tell()]
    return io.BytesIO(content)


def after_load(then: Callable[[IO[bytes], Any], None]) -> AbstractContextManager[None]:
    """`pickle.load` passes each file and its value to a function before it returns."""
    inner = pickle.load

    @functools.wraps(inner)
    def load(file: IO[bytes], **options: Any) -> Any:  # noqa: ANN401 - whatever the file holds
        value = inner(file, **options)
        then(file, value)
        return value

    return replace_attribute(pickle, "load", load)


class _PlainUnpickler(pickle.Unpickler):
    """Resolves every name by `PLAIN_CLASSES`, and `Namespace` by a class of its own.

    A pickle can set attributes of any object that it holds, also of a class. So it gets a class
    that is thrown away, and the instances become true `argparse.Namespace` objects afterwards.
    """

    def __init__(self, file: IO[bytes], source: str, **options: Any) -> None:  # noqa: ANN401
        super().__init__(file, **options)
        self.source = source
        self.namespaces: list[argparse.Namespace] = []
        instances = self.namespaces

        class Namespace(argparse.Namespace):
            def __new__(cls) -> Namespace:
                instances.append(super().__new__(cls))
                return instances[-1]  # type: ignore[return-value]

        self._classes = {("argparse", "Namespace"): Namespace, **PLAIN_CLASSES}

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class
        """The class that a pickle names, if it is admitted."""
        if (module, name) not in self._classes:
            known = ", ".join(sorted({f"{m}.{n}" for m, n in self._classes if m[0] != "_"}))
            raise ArtefactError(
                f"{self.source} is refused: it asks for {module}.{name}, and nothing of it was "
                f"run. Allowed: plain values and {known}. If you know where the file comes from, "
                "write its values to a new pickle of an argparse.Namespace."
            )
        return self._classes[module, name]
