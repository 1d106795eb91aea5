"""Commands that are imported when they are asked for.

`gaga --help`, `gaga --version` and the completion of a command's name know the names and summaries
alone; torch loads with the file of the command that is meant.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
import typer.core
import typer.main


class LazyCommand(typer.core.TyperCommand):
    """Stands for `run` of the file of its name beside this one, until it is called."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: Any = None,  # noqa: ANN401 - a context, whose class typer keeps to itself
        **extra: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """A context of the real command."""
        return self.loaded().make_context(info_name, args, parent, **extra)

    def loaded(self) -> Any:  # noqa: ANN401 - a command, likewise
        """The real command."""
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(self.name)(import_module(f"gaga_adapter.cli.{self.name}").run)
        return typer.main.get_command(alone)
