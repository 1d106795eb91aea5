"""What the user reads when a command fails, and the exit code.

| what happened | message | exit code |
|---|---|---|
| a mistake of ours | traceback, and a line that asks for a report | 1 |
| the reader of stdout went away (`gaga show qm9` into `head -1`) | none | 1 |
| a mistake on the command line, or in the data; no file, no space, no memory | one line | 2 |
| `gaga doctor` found a fault | what it found, on stdout, and what to do | 2 |
| Ctrl-C | one line, which says what is kept where something is | 130 |

Of several processes on a machine the first one alone prints a mistake that all of them share. Each
prints an error of its own.
"""

from __future__ import annotations

import difflib
import os
import sys
import time
import traceback

import typer

from gaga_adapter.cli.console import Interrupted, UsageError
from gaga_adapter.errors import AlreadyReportedError, GAGAError
from gaga_adapter.files import visible

INTERRUPTED = 130
_NEAR = 0.65  # likeness to the option that was typed from which a name is advice
_PATIENCE = 10.0  # seconds that the first process has to report a mistake of all
_ISSUES = "https://github.com/gaga-adapter/gaga-adapter/issues"


def explain(error: BaseException) -> int:
    """Tell the user about a failure on stderr, and return the exit code."""
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _line("interrupted", INTERRUPTED)
    if isinstance(error, Interrupted):
        return _line(f"interrupted: {error}", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1
    is_shared = isinstance(error, AlreadyReportedError)
    if is_shared or (isinstance(error, UsageError) and _is_follower()):
        # When the first process has spoken and is gone, the launcher ends this one. If this one
        # were gone before, it would end the first one, and nobody would have spoken.
        try:
            time.sleep(_PATIENCE)
        except KeyboardInterrupt:
            return _line("interrupted", INTERRUPTED)
        if is_shared:
            return 2
    if isinstance(error, GAGAError):
        return _line(f"{type(error).__name__}: {error}")
    if isinstance(error, UsageError):
        return _line(_usage(error))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return _line(
            f"out of memory: {_first_line(error)} Pass fewer items or molecules at a time, or take "
            "smaller batches where the command has them."
        )
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        return _line(f"{where}{error.strerror or error}")
    traceback.print_exception(type(error), error, error.__traceback__)
    return _line(f"this should not happen. Please report it with the lines above: {_ISSUES}", 1)


def _is_follower() -> bool:
    """Whether another process of this machine was started with the same command line."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("LOCAL_RANK", "0") != "0"


def _line(message: str, code: int = 2) -> int:
    print("gaga:", visible(" ".join(message.split())), file=sys.stderr)
    return code


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else "the system gave no reason."


def _usage(error: Exception) -> str:
    """A mistake on the command line: what was wrong, a near name, and where to read on."""
    context, near = getattr(error, "ctx", None), getattr(error, "possibilities", None) or []
    # An unknown option has its near names apart; its own text would list them by the alphabet.
    message = str(error.message if near else error.format_message())  # type: ignore[attr-defined]
    options = [] if context is None else context.command.params
    hidden = {name for one in options if getattr(one, "hidden", False) for name in one.opts}
    near = [name for name in near if name not in hidden]  # an old name is no advice
    typed = getattr(error, "option_name", None)
    if typed:  # the parser calls --posebusters near to --skip-others
        begun = [name for name in near if name.startswith(typed)]
        near = begun or difflib.get_close_matches(typed, near, cutoff=_NEAR)
    if near:
        message += f". Did you mean {near[0]}?"
    stop = "" if message.endswith(("?", ".")) else "."
    path = "gaga" if context is None else context.command_path
    return f"{message[:1].lower()}{message[1:]}{stop} See {path} --help"
