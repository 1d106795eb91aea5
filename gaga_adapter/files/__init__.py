"""Files on disk and on the hub, which are written whole or not at all.

Names of files, provenance and reasons are text from elsewhere. A terminal obeys some characters and
hides others, so these are written out wherever such text is shown: on screen, in pages, cards and
pictures (`visible`).
"""

from __future__ import annotations

import re
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


#: C0 but the end of a line, C1, marks without a width or of the direction of writing, and the bytes
#: of a file name that are no text.
STEERING = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: object) -> str:
    r"""The text with every such character as its escape, such as `\x1b`."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))
