r"""Formulas as MathML, made when the site is built: browsers draw it without a script.

`pymdownx.arithmatex` marks `$...$` and `$$...$$` in a page; here the marked TeX is translated, and
what the translation says of spaces around bars, signs and functions is put right.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)

_TIGHT = 'stretchy="false" lspace="0" rspace="0"'
#: TeX that is translated to a letter of the private area, and what stands for it at the end.
_DELIMITERS = {
    r"\lvert": ("\ue000", f'<mo form="prefix" {_TIGHT}>|</mo>'),
    r"\rvert": ("\ue001", f'<mo form="postfix" {_TIGHT}>|</mo>'),
    r"\lVert": ("\ue002", f'<mo form="prefix" {_TIGHT}>‖</mo>'),
    r"\rVert": ("\ue003", f'<mo form="postfix" {_TIGHT}>‖</mo>'),
    r"\sim": ("\ue004", '<mo form="infix">∼</mo>'),
}
_MINUS = "(?:&#x02212;|&#x2212;|−)"
_REPAIRS = (
    # A minus after a relation, a comma or an opening bracket is a sign.
    (
        rf"(<mo[^>]*>(?:=|&#x0003D;|\(|&#x00028;|\[|&#x0005B;|,|≤|&#x02264;|≥|&#x02265;)</mo>"
        rf"(?:<mspace[^>]*/>)*)<mo>({_MINUS})</mo>",
        r'\1<mo form="prefix" lspace="0" rspace="0">\2</mo>',
    ),
    (rf"(<math[^>]*><mrow>)<mo>({_MINUS})</mo>", r'\1<mo form="prefix">\2</mo>'),
    (r"<mo>(/|&#x0002F;)</mo>", r'<mo lspace="0" rspace="0">\1</mo>'),
    # A function and what it is applied to stand apart, unless there is a bracket.
    (
        r"<mi>(log|exp|det)</mi>(?=<m)(?!<mo[^>]*>(?:\(|&#x00028;|=|&#x0003D;|\+|&#x0002B;))"
        r"(?!<mspace)",
        r'<mi>\1</mi><mspace width="0.17em"/>',
    ),
)


def with_mathml(page: str) -> str:
    """The html of a page with every marked formula drawn.

    Raises:
        ValueError: a formula that cannot be read.
    """
    page = _DISPLAY.sub(lambda m: f'<div class="math">{_drawn(m[1], "block")}</div>', page)
    return _INLINE.sub(lambda m: _drawn(m[1], "inline"), page)


def _drawn(tex: str, display: str) -> str:
    tex = html.unescape(tex).strip()
    source = tex
    for command, (letter, _) in _DELIMITERS.items():
        source = re.sub(rf"{re.escape(command)}(?![A-Za-z])", letter, source)
    try:
        drawn = convert(source, display=display)
    except Exception as error:
        raise ValueError(f"cannot read the formula {tex!r}: {error!r}") from error
    unknown = re.search(r"<m[io]>\\[a-zA-Z]+</m[io]>", drawn)
    if unknown:
        raise ValueError(f"the formula {tex!r} has an unknown command {unknown[0]}")
    for letter, element in _DELIMITERS.values():
        drawn = re.sub(f"<m[ion]>(?:{letter}|&#x0?{ord(letter):X};)</m[ion]>", element, drawn)
    for pattern, repaired in _REPAIRS:
        drawn = re.sub(pattern, repaired, drawn)
    if re.search("[\ue000-\ue0ff]", drawn):
        raise ValueError(f"the formula {tex!r} has a bar that was not drawn: {drawn}")
    return drawn
