"""The templates of page and card, and how they write numbers.

Everything that a template prints is escaped, unless it is `Markup` of our own: names of files,
provenance and reasons come from elsewhere, and must never be read as html or markdown, nor steer
the terminal that shows a card.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2
from markupsafe import Markup

from gaga_adapter.files import visible


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template that lies beside this file; nothing in the result steers a terminal."""
    return visible(_environment().get_template(template).render(values))


def number(value: float, digits: int = 6) -> str:
    """A number as people write it: a true minus sign, no exponent for common sizes."""
    value = float(f"{value:.{digits}g}")
    text = f"{value:g}" if value == 0 or 1e-4 <= abs(value) < 1e5 else f"{value:.2g}"
    return text.replace("-", "−")


def signed(value: float) -> str:
    """Two decimals and a true minus sign."""
    return f"{value:.2f}".replace("-", "−")


def measured(value: float) -> str:
    """Three digits of a measurement that may have failed."""
    return "not computable" if math.isnan(value) else f"{value:.3g}"


def plain(value: object) -> Markup:
    """Text from elsewhere on one line, without anything that markdown or html would read.

    A dot or a colon that would make an address of it, and a mark at its start that would make a
    list or a rule, are written as html knows them.
    """
    line = " ".join(visible(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", line)
    line = re.sub(r"(?i)\b(https?|ftp|mailto|xmpp):", r"\1&#58;", line)
    line = re.sub(r"(?i)\bwww\.", "www&#46;", line)
    line = re.sub(r"^([-+=])|(?<=^\d)[.)](?= )", lambda found: f"&#{ord(found[0])};", line)
    return Markup(line)


def code(value: object) -> Markup:
    """Text from elsewhere between two backticks, in a table or out of one."""
    line = " ".join(visible(value).split()).replace("`", "'").replace("|", "¦")
    return Markup(f"`{line}`")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__name__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for function in (number, signed, measured, plain, code):
        environment.filters[function.__name__] = function
    environment.globals["signed"] = signed
    return environment
