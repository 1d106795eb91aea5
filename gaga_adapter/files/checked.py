"""What was read from a file, checked before anything is made of it.

An artefact may be damaged, edited by hand, or made to do harm, and its digest can be right all the
same. So every entry of its configuration is taken through `Fields`, and every tensor through
`Tensors`: they check type, range and shape, and an `ArtefactError` names the entry, what it is and
what is allowed.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from gaga_adapter.errors import ArtefactError

#: Most bytes of a configuration that is read. One that is written may have a quarter of them.
MOST_BYTES = 2**22
#: Most characters of a text.
_MOST_CHARACTERS = 4096
#: Largest whole number that float64 can count to.
MOST_COUNTED = 2**53
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format, lone surrogate, separators of lines


def to_json(value: Mapping[str, Any], indent: int | None = None) -> str:
    """A document as JSON that `from_json` reads back.

    Raises:
        ArtefactError: If it holds something that JSON does not have, or is too large.
    """
    try:
        text = json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtefactError(
            f"a configuration cannot be written as JSON ({error}). Give it texts, finite numbers, "
            "lists and dictionaries only."
        ) from error
    if len(text) > MOST_BYTES // 4:
        raise ArtefactError(
            f"a configuration of {len(text):,} bytes cannot be written; it may have "
            f"{MOST_BYTES // 4:,}. Shorten its provenance."
        )
    return text


def from_json(content: str | bytes, where: str, infinite: bool = False) -> Any:  # noqa: ANN401
    """The value of a JSON text, with the standard's own strictness.

    Keys that occur twice, texts that are no Unicode and numbers that are not finite are refused.
    Diffusers writes infinite ones into its configurations; `infinite` says whether to allow them.

    Raises:
        ArtefactError: If it is no such JSON, or larger than a configuration ever is.
    """
    if len(content) > MOST_BYTES:
        raise ArtefactError(
            f"{where} has {len(content):,} bytes, and a configuration has {MOST_BYTES:,} at most."
        )
    try:
        value = json.loads(content, object_pairs_hook=_without_duplicates)
        json.dumps(value, ensure_ascii=False, allow_nan=infinite).encode()
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{where} is no valid JSON ({error}).") from error
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return found


def printable(value: Any) -> Any:  # noqa: ANN401 - any json value
    r"""A JSON value in which control characters are written as their escapes, such as `\x1b`."""
    if isinstance(value, str):
        return value if value.isprintable() else "".join(map(_escaped, value))
    if isinstance(value, Mapping):
        return {printable(key): printable(entry) for key, entry in value.items()}
    return list(map(printable, value)) if isinstance(value, list | tuple) else value


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode()


def _shown(value: object) -> str:
    """A value in a message: short, and without control characters."""
    text = repr(value) if not isinstance(value, str) else repr(value[:80])
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _name(name: str) -> str:
    """The name of an entry in a message; it can come from the file as well."""
    return str(printable(name[:60]))


class Fields:
    """The entries of a JSON object, each of which is checked when it is taken.

    Args:
        data: Object as JSON gave it.
        where: Name of the object in messages, such as `the layout`.

    Raises:
        ArtefactError: If it is no object, or a method finds that an entry is missing or is not what
            it was asked for.
    """

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise ArtefactError(f"{where} is {_shown(data)}, and must be an object with entries.")
        self.data = data
        self.where = where

    def refuse(self, name: str, allowed: str) -> ArtefactError:
        """The error of one entry."""
        got = _shown(self.data[name]) if name in self.data else "missing"
        return ArtefactError(f"{_name(name)} of {self.where} is {got}, and must be {allowed}.")

    def only(self, names: Sequence[str]) -> Fields:
        """The same entries, if each of them has one of these names."""
        unknown = [_shown(name) for name in self.data if name not in names]
        if unknown:
            raise ArtefactError(
                f"{self.where} has an unknown entry {unknown[0]}. Known: {', '.join(names)}."
            )
        return self

    def names(self) -> tuple[str, ...]:
        """The names of the entries, if each is a short text."""
        if not all(map(_is_text, self.data)):
            raise ArtefactError(f"the entries of {self.where} must have short texts as names.")
        return tuple(self.data)

    def is_given(self, name: str) -> bool:
        """Whether an entry is there and not null."""
        return self.data.get(name) is not None

    def fields(self, name: str) -> Fields:
        """An entry that is an object."""
        if not isinstance(self.data.get(name), Mapping):
            raise self.refuse(name, "an object with entries")
        return Fields(self.data[name], f"{_name(name)} of {self.where}")

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number from `low` to `high`."""
        value = self.data.get(name)
        if not _is_number(value) or not low <= value <= high or not -1e300 < value < 1e300:
            ends = "a finite number" if math.isinf(high) else f"a number from {low:g} to {high:g}"
            raise self.refuse(name, ends)
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self.data.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.refuse(name, f"a whole number from {low} to {high}")
        return value

    def text(self, name: str, allowed: Sequence[str] = ()) -> str:
        """A short text without control characters; one of those allowed, if there are any."""
        value = self.data.get(name)
        if not _is_text(value) or (allowed and value not in allowed):
            kinds = f"one of {', '.join(allowed)}" if allowed else "a short text"
            raise self.refuse(name, kinds)
        return str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of short texts."""
        value = self.data.get(name)
        if not isinstance(value, list) or not all(map(_is_text, value)):
            raise self.refuse(name, "a list of short texts")
        return tuple(value)

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """A list of whole numbers from `low` to `high`."""
        value = self.data.get(name)
        if not isinstance(value, list):
            raise self.refuse(name, "a list of whole numbers")
        where = f"{_name(name)} of {self.where}"
        entries = Fields({f"entry {k}": entry for k, entry in enumerate(value)}, where)
        return tuple(entries.integer(place, low, high) for place in entries.data)

    def numbers(
        self, name: str, low: float, high: float, or_null: bool = False
    ) -> tuple[float, ...]:
        """A list of numbers from `low` to `high`; a null that is allowed becomes NaN."""
        value = self.data.get(name)
        if not isinstance(value, list):
            raise self.refuse(name, "a list of numbers")
        for place, number in enumerate(value):
            if number is None and or_null:
                continue
            if not _is_number(number) or not low <= number <= high:
                raise ArtefactError(
                    f"entry {place} of {name} of {self.where} is {_shown(number)}, and must be a "
                    f"number from {low:g} to {high:g}{' or null' if or_null else ''}."
                )
        return tuple(math.nan if number is None else float(number) for number in value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MOST_CHARACTERS and printable(value) == value


class Tensors:
    """Tensors by name, each of which is checked when it is taken.

    Args:
        tensors: Tensors as the file has them.
        where: Name of the whole in messages, such as `the moments`.

    Raises:
        ArtefactError: If a method finds that a tensor is missing or is not what was asked for.
    """

    def __init__(self, tensors: Mapping[str, Tensor], where: str) -> None:
        self.tensors = tensors
        self.where = where

    def only(self, names: Sequence[str]) -> Tensors:
        """The same tensors, if each of them has one of these names."""
        unknown = [_shown(name) for name in self.tensors if name not in names]
        if unknown:
            raise ArtefactError(
                f"{self.where} have an unknown tensor {unknown[0]}. Known: {', '.join(names)}."
            )
        return self

    def length(self, name: str) -> int:
        """Length of the first axis of a tensor."""
        return int(self._named(name).shape[0]) if self._named(name).dim() else 0

    def take(self, name: str, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        """A copy of a tensor of this type and shape."""
        tensor = self._named(name)
        if tensor.dtype != dtype or list(tensor.shape) != list(shape):
            raise ArtefactError(
                f"tensor {name!r} of {self.where} has shape {list(tensor.shape)} and holds "
                f"{_kind(tensor.dtype)}; it must have {list(shape)} and {_kind(dtype)}."
            )
        return tensor.clone()

    def within(self, name: str, numbers: Tensor, low: float, high: float) -> None:
        """Refuse numbers of a tensor that are not finite or outside of [low, high]."""
        bad = ~(torch.isfinite(numbers) & (numbers >= low) & (numbers <= high))
        if bool(bad.any()):
            raise ArtefactError(
                f"tensor {name!r} of {self.where} holds {float(numbers[bad][0]):g}, and its "
                f"numbers must be finite, from {low:g} to {high:g}."
            )

    def require(self, name: str, holds: Tensor | bool, claim: str) -> None:
        """Refuse a tensor of which a claim does not hold."""
        if not bool(holds):
            raise ArtefactError(f"tensor {name!r} of {self.where} is not valid: {claim}.")

    def _named(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ArtefactError(f"tensor {name!r} of {self.where} is missing.")
        return self.tensors[name]


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def read_json(file: Path, infinite: bool = False) -> Fields:
    """The object in a small JSON file, see `from_json`.

    Raises:
        ArtefactError: If it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ArtefactError(f"cannot read {file}: {error.strerror or error}.") from error
    return Fields(from_json(content, file.name, infinite), file.name)
