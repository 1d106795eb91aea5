"""Where commands write: tried when the command line is read, before the work begins.

As callbacks of options: `out: Annotated[Path, typer.Option(help=..., callback=writable_file)]`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer

from gaga_adapter.errors import WriteError


def writable_file(context: typer.Context, path: Path | None) -> Path | None:
    """A file that can be made or replaced; no option is no question.

    Raises:
        WriteError: it cannot be, and why.
    """
    if path is not None and not context.resilient_parsing:
        if path.is_dir():
            raise WriteError(f"cannot write {path}: it is a folder. Name a file in it.")
        _try(path, path.parent)
    return path


def writable_folder(context: typer.Context, path: Path | None) -> Path | None:
    """A folder that can be made, or written into; no option is no question.

    Raises:
        WriteError: it cannot be, and why.
    """
    if path is not None and not context.resilient_parsing:
        _try(path, path)
    return path


def _try(path: Path, folder: Path) -> None:
    """Make a file in the nearest folder that exists, and remove it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise WriteError(f"cannot write {path}: {folder} is a file. Choose another place.")
    try:
        with tempfile.NamedTemporaryFile(prefix=".gaga-", dir=folder):
            pass
    except OSError as error:
        raise WriteError(
            f"cannot write {path}: {folder}: {error.strerror or error}. Choose another place."
        ) from error
