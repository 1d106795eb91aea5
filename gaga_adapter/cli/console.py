"""What the commands share on screen: tables on stdout, progress on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from gaga_adapter.molecules.estimate import Estimate

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """A callback (what, done, total) that draws one bar per `what`, with rate and time left.

    Nothing is drawn where stderr is a file or a pipe.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks = {}
        began = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, rate="")
                began[what] = time.perf_counter()
            seconds = time.perf_counter() - began[what]
            rate = f"{done / seconds:,.0f}/s" if seconds > 0.5 and done / seconds > 10 else ""
            bars.update(tasks[what], completed=done, total=total, rate=rate)

        yield report


def quiet_loading() -> None:
    """Leave out diffusers' bar over the two components of a pipeline; sampling keeps its own."""
    from diffusers.utils import logging

    logging.disable_progress_bar()


def percent(estimate: Estimate | None) -> str:
    """A share as a percentage with its standard error."""
    if estimate is None:
        return "-"
    error = "" if estimate.std_error is None else f" ± {100 * estimate.std_error:.1f}"
    return f"{100 * estimate.value:.1f}{error}"


def figure(estimate: Estimate | None, digits: int = 3) -> str:
    """A figure with its standard error."""
    if estimate is None:
        return "-"
    error = "" if estimate.std_error is None else f" ± {estimate.std_error:.{digits}f}"
    return f"{estimate.value:.{digits}f}{error}"
