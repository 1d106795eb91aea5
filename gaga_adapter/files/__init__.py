"""Files on disk and on the hub, which are written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

#: Writes a card, from (statistics, folder, full id, the repository's card or `None`, licence).
CardWriter = Callable[[Any, Path, str, "str | None", "str | None"], None]
#: Where the card writer is, as (module, function). The package's root fills this in.
card_writer_home: tuple[str, str] | None = None


def card_writer() -> CardWriter:
    """The writer of cards that the package's root has named; its module loads now."""
    assert card_writer_home is not None, "gaga_adapter/__init__.py names the card writer"
    module, function = card_writer_home
    writer: CardWriter = getattr(import_module(module), function)
    return writer
