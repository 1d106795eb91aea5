"""The folder in which parsed data are kept: `$GAGA_CACHE`, or else `~/.cache/gaga-adapter`."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the cache, which need not exist yet.

    Args:
        cache_dir: Folder that the caller chose, which comes before `$GAGA_CACHE`.
    """
    usual = Path.home() / ".cache" / "gaga-adapter"
    return Path(cache_dir or os.environ.get("GAGA_CACHE") or usual)
