"""Docstrings as the pages of the API need them: in Markdown the star of `t*` would be emphasis."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_STAR = re.compile(r"(`[^`]*`)|(?<![\w*])((?:log_|log-)?(?:[tTsS]|SNR|snr|sigma))\*(?!\w)")
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")


class Stars(Extension):
    """Escapes the star of `t*`, `T*`, `sigma*` and `log-SNR*` outside of code."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:  # noqa: ANN401 - of griffe
        """One module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = escaped(obj.docstring.value)


def escaped(docstring: str) -> str:
    """The docstring with these stars escaped; what is indented outside of a section is code."""
    lines, in_section = docstring.split("\n"), False
    for number, line in enumerate(lines):
        if line and not line.startswith("    "):
            in_section = bool(_SECTION.match(line))
        if in_section or not line.startswith("    "):
            lines[number] = _STAR.sub(lambda m: m[1] or rf"{m[2]}\*", line)
    return "\n".join(lines)
