"""One part of what `gaga doctor` finds, and how it is written for an issue that others read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Tokens of the hub, which no message should hold and none shall show.
_TOKEN = re.compile(r"\bhf_\w{4,}")


@dataclass(frozen=True)
class Section:
    """One part.

    Attributes:
        title: Heading of the part.
        lines: Names and what was found, for people.
        facts: The same for programs, as values that JSON has.
        problems: Sentences on what is wrong, each of which says what to do.
        notes: Sentences on what is good to know, and is no fault.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def presentable(value: Any) -> Any:  # noqa: ANN401 - any json value
    """A text without the name of the home folder and without tokens; also all texts in a value."""
    if isinstance(value, str):
        for home in _homes():
            value = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w-]|\.\w)", "~", value)
        return _TOKEN.sub("hf_...", value)
    if isinstance(value, Mapping):
        return {presentable(key): presentable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [presentable(entry) for entry in value]
    return value


def _homes() -> list[str]:
    """Spellings of the home folder; none where it is the root of the disk."""
    try:
        home = Path.home()
    except RuntimeError:  # the user has none
        return []
    places = {home, Path(os.path.realpath(home))}
    spelt = {spelling for place in places for spelling in (str(place), place.as_posix())}
    return sorted((one for one in spelt if len(Path(one).parts) > 1), key=len, reverse=True)


def first_line(error: BaseException) -> str:
    """The kind and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
