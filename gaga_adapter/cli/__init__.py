"""The `gaga` command: one file per command, errors in one line on stderr with exit code 2."""

from __future__ import annotations

import sys
import warnings
from typing import TextIO

import typer

from gaga_adapter.cli import criteria, demo, evaluate, fit, prepare, run, sample, show
from gaga_adapter.errors import GAGAError, GAGAWarning

app = typer.Typer(
    name="gaga",
    help="Start diffusion and flow sampling where the data are already Gaussian.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command("fit")(fit.run)
app.command("criteria")(criteria.run)
app.command("show")(show.run)
app.command("sample")(sample.run)
app.command("evaluate")(evaluate.run)
app.command("demo")(demo.run)
app.command("run")(run.run)
app.command("prepare")(prepare.run)


def main() -> None:
    """Entry point of the `gaga` console script."""
    warnings.showwarning = _show_warning
    try:
        app()
    except GAGAError as error:
        print(f"gaga: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings in one line; those of others as Python shows them."""
    if issubclass(category, GAGAWarning):
        text = f"gaga: warning: {message}\n"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)
