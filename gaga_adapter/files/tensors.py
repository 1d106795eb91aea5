"""A safetensors file, read through one open file.

`safetensors.safe_open` opens a file twice, for the header and for the numbers. If another process
renames a new file into its place in between, the numbers are not those that the header describes.
Here both come from one file, whatever has its name by then.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gaga_adapter.errors import ArtefactError
from gaga_adapter.files.checked import MOST_BYTES, Fields, from_json

_METADATA = "__metadata__"
#: What moments are kept in.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
}


class TensorFile(NamedTuple):
    """Content of a safetensors file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


class _Place(NamedTuple):
    """Where in a file the numbers of a tensor are."""

    begin: int
    end: int
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


def read_tensors(file: Path) -> TensorFile:
    """The tensors of a file, and the texts in its header.

    The header is checked against the size of the file before anything is allocated by it.

    Raises:
        ArtefactError: If it is no such file, or is damaged.
        OSError: If it cannot be read.
    """
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, MOST_BYTES):
            raise ArtefactError(f"{file.name} is cut off, or is no safetensors file.")
        where = f"the header of {file.name}"
        header = Fields(from_json(stream.read(length), where), where)
        places = _places(header, size - 8 - length, file.name)
        tensors = {}
        for place in places:
            numbers = bytearray(stream.read(place.end - place.begin))
            if len(numbers) < place.end - place.begin:
                raise ArtefactError(f"{file.name} is cut off.")
            flat = torch.frombuffer(numbers, dtype=place.dtype) if numbers else torch.empty(0)
            tensors[place.name] = flat.to(place.dtype).reshape(place.shape)
    return TensorFile(tensors, _texts(header))


def _places(header: Fields, n_bytes: int, name: str) -> list[_Place]:
    """The tensors of a header, in their order, if they fill the rest of the file without gaps."""
    places = []
    for tensor in header.data.keys() - {_METADATA}:
        entry = header.fields(tensor)
        dtype = _DTYPES[entry.text("dtype", tuple(_DTYPES))]
        shape = entry.integers("shape", 0, 2**53)
        offsets = entry.integers("data_offsets", 0, n_bytes)
        if len(shape) > 8 or math.prod(n for n in shape if n) > 2**53:
            raise entry.refuse("shape", "8 axes at most, and of a size that can be counted")
        if len(offsets) != 2 or offsets[1] - offsets[0] != dtype.itemsize * math.prod(shape):
            raise entry.refuse(
                "data_offsets", "the begin and end of as many bytes as its shape has"
            )
        places.append(_Place(*offsets, tensor, dtype, shape))
    places.sort()
    ends = [0, *(place.end for place in places)]
    if [place.begin for place in places] != ends[:-1] or ends[-1] != n_bytes:
        raise ArtefactError(f"{name} is damaged: its tensors do not fill the file one by one.")
    return places


def _texts(header: Fields) -> dict[str, str]:
    if _METADATA not in header.data:
        return {}
    texts = header.fields(_METADATA).data
    if not all(isinstance(text, str) for text in texts.values()):
        raise header.refuse(_METADATA, "texts by name")
    return dict(texts)
