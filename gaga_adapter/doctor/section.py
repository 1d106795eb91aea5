"""One part of what `gaga doctor` finds, and how it is written for an issue that others read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    from os import getuid as _user_number
    from pwd import getpwuid as _entry_of
except ImportError:  # Windows has neither
    _entry_of = None  # type: ignore[assignment]

#: Tokens of the hub, which no message should hold and none shall show.
_TOKEN = re.compile(r"\bhf_\w{4,}")
#: Names and passwords in addresses, such as those of proxies.
_USER = re.compile(r"(?<=://)[^/\s@]+@")


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
    """A text without the name of the home folder, tokens and passwords; also texts in a value."""
    if isinstance(value, str):
        for home in _homes():
            value = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w-]|\.\w)", "~", value)
        return _USER.sub("...@", _TOKEN.sub("hf_...", value))
    if isinstance(value, Mapping):
        return {presentable(key): presentable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [presentable(entry) for entry in value]
    return value


def _homes() -> list[str]:
    """Spellings of the home folder; none where it is the root of the disk.

    HOME may name another folder than the system does, and both are hidden.
    """
    homes = [os.path.expanduser("~")]
    if _entry_of is not None:
        with suppress(KeyError):  # the system knows no such user, as in some containers
            homes.append(_entry_of(_user_number()).pw_dir)
    places = {Path(one) for home in homes for one in (home, os.path.realpath(home))}
    # Messages of the system write the separator of Windows twice.
    spelt = {
        spelling
        for place in places
        if place.is_absolute()
        for spelling in (str(place), place.as_posix(), str(place).replace("\\", "\\\\"))
    }
    return sorted((one for one in spelt if len(Path(one).parts) > 1), key=len, reverse=True)


def first_line(error: BaseException) -> str:
    """The kind and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
