"""Docstrings as the pages of the API need them: in Markdown the star of `t*` would be emphasis."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_STAR = re.compile(r"(`[^`]*`)|(?<![\w*])((?:log_|log-)?(?:[tTsS]|SNR|snr|sigma))\*(?!\w)")


class Stars(Extension):
    """Escapes the star of `t*`, `T*`, `sigma*` and `log-SNR*` outside of code."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:  # noqa: ANN401 - of griffe
        """One module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = _STAR.sub(lambda m: m[1] or rf"{m[2]}\*", obj.docstring.value)
