"""Writes the --help texts of all commands to help/*.txt: `python tests/goldens/help.py`."""

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import typer.rich_utils

from gaga_adapter.cli import app

FOLDER = Path(__file__).parent / "help"


def commands():
    return [command.name for command in app.registered_commands]


def help_text(*command):
    """As on a terminal of 80 columns without colour, whatever the terminal is."""
    style = typer.rich_utils
    before = style.MAX_WIDTH, style.COLOR_SYSTEM, style.FORCE_TERMINAL
    style.MAX_WIDTH, style.COLOR_SYSTEM, style.FORCE_TERMINAL = 80, None, False
    try:
        with redirect_stdout(StringIO()) as page:
            app([*command, "--help"], standalone_mode=False, prog_name="gaga")
    finally:
        style.MAX_WIDTH, style.COLOR_SYSTEM, style.FORCE_TERMINAL = before
    lines = [line.rstrip() for line in page.getvalue().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def texts():
    """Name of the file and text, of `gaga --help` and of every command."""
    pages = {"gaga.txt": help_text()}
    return pages | {f"gaga_{name}.txt": help_text(name) for name in commands()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    pages = texts()
    for old in FOLDER.glob("*.txt"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"wrote {len(pages)} texts to {FOLDER}")
