r"""Formulas as MathML, made when the site is built: browsers draw it without a script.

`pymdownx.arithmatex` marks `$...$` and `$$...$$` in a page; here the marked TeX is translated.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def with_mathml(page: str) -> str:
    """The html of a page with every marked formula drawn.

    Raises:
        ValueError: a formula that cannot be read.
    """
    page = _DISPLAY.sub(lambda m: f'<div class="math">{_drawn(m[1], "block")}</div>', page)
    return _INLINE.sub(lambda m: _drawn(m[1], "inline"), page)


def _drawn(tex: str, display: str) -> str:
    tex = html.unescape(tex).strip()
    try:
        drawn = convert(tex, display=display)
    except Exception as error:
        raise ValueError(f"cannot read the formula {tex!r}: {error!r}") from error
    unknown = re.search(r"<m[io]>\\[a-zA-Z]+</m[io]>", drawn)
    if unknown:
        raise ValueError(f"the formula {tex!r} has an unknown command {unknown[0]}")
    return drawn
