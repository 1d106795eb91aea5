"""Text from elsewhere that is shown: names of files, provenance, reasons.

A terminal obeys some characters and hides others, and a page or a card may be read in one. So these
are written out wherever such text is shown: on screen, in pages, cards and pictures.
"""

from __future__ import annotations

import re

#: C0 but the end of a line, C1, marks without a width or of the direction of writing, and the bytes
#: of a file name that are no text.
STEERING = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: object) -> str:
    r"""The text with every such character as its escape, such as `\x1b`."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))
