"""What every command does on screen.

Results go to stdout, as tables for people. Everything else goes to stderr: progress, and prose by
`say`. So `gaga show qm9 > table.txt` holds the table alone. Two options change this. Every command
has both: it declares `--json`, and gets `--quiet` by itself (see `flatten` of this folder).

    def run(..., as_json: Json = False) -> None:
        with progress_bar() as progress: ...     # obeys --quiet by itself
        if as_json:
            print_json(document)                 # exactly one json document on stdout
        else:
            out.print(table)
        say(f"wrote {file}")                     # obeys --quiet by itself

`--json` prints one document and no table; a figure that is not finite is null in it. `--quiet`
silences progress and prose, not results, warnings and errors.

Names of files, provenance and reasons come from elsewhere. Nothing in them is read as markup, and
what would steer the terminal is written out (`gaga_adapter.files.visible`), wherever it is printed.

Whatever may take two seconds reports progress. On a terminal that is a bar with the rate and the
time left, which disappears at the end; elsewhere (a log, a batch job) one plain line every
30 seconds, so that short runs leave none.
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gaga_adapter.files import STEERING, visible

if TYPE_CHECKING:
    from gaga_adapter.distributed import Progress
    from gaga_adapter.molecules.metrics.estimate import Estimate
    from gaga_adapter.molecules.metrics.evaluate import MoleculeMetrics


def bold(text: object) -> Text:
    """Text from elsewhere in bold."""
    return Text(visible(text), "bold")


class _Console(Console):
    """A console on which a string is what it says: no markup, no emoji, no commands."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - rich's own
        """All strings pass here, also those in tables."""
        return super().render_str(visible(text), **options)


out = _Console()
err = _Console(stderr=True)
#: A mistake on the command line. Typer takes click along, under names that depend on its version.
UsageError: Any = typer.BadParameter.__bases__[0]
_EVERY = 30.0  # seconds between two lines of progress where stderr is no terminal


def _set_quiet(value: bool) -> bool:
    err.quiet = value
    return value


Json = Annotated[
    bool, typer.Option("--json", help="Print one json document on stdout instead of tables.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress and no prose on stderr.", callback=_set_quiet),
]


class Interrupted(Exception):
    """Ctrl-C with a sentence about what is kept; typer would drop the words of its own."""

    @classmethod
    @contextmanager
    def told(cls) -> Iterator[None]:
        """Let the words of a `KeyboardInterrupt` reach the user."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            if not interrupt.args:
                raise
            raise cls(*interrupt.args) from interrupt


def say(text: str) -> None:
    """A sentence to the user, on stderr; nothing with --quiet."""
    err.print(text, soft_wrap=True)


def print_json(document: Mapping[str, Any]) -> None:
    """The result of a command as one json document on stdout; NaN and infinities are null."""
    is_ascii = "utf" not in (getattr(sys.stdout, "encoding", None) or "utf").lower()
    text = json.dumps(_finite(document), indent=2, allow_nan=False, ensure_ascii=is_ascii)
    print(STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _finite(value: Any) -> Any:  # noqa: ANN401 - any json value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


@contextmanager
def progress_bar(title: str = "") -> Iterator[Progress]:
    """A callback (what, done, total) that shows one bar per `what`, with rate and time left.

    Where stderr is no terminal it writes a plain line every 30 seconds; with --quiet nothing.
    """
    began: dict[str, float] = {}

    def pace(what: str, done: int, total: int | None) -> str:
        now = time.monotonic()
        return _pace(done, total, now - began.setdefault(what, now))

    if not err.is_terminal or err.quiet:
        last = time.monotonic()

        def line(what: str, done: int, total: int | None) -> None:
            nonlocal last
            rate = pace(what, done, total)
            if time.monotonic() - last >= _EVERY:
                last = time.monotonic()
                name = f"{title}: {what}" if title else what
                of = "" if total is None else f" of {total:,}"
                say(f"gaga: {name} {done:,}{of}" + (f", {rate}" if rate else ""))

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    with Bars(*columns, console=err, transient=True, redirect_stdout=False) as bars:
        tasks: dict[str, Any] = {}

        def bar(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                name = f"{title}: {what}" if title else what
                tasks[what] = bars.add_task(visible(name), total=total, pace="")
            bars.update(tasks[what], completed=done, total=total, pace=pace(what, done, total))

        yield bar


def _pace(done: int, total: int | None, seconds: float) -> str:
    """Rate and time left, such as `410/s, 3 min 20 s left`; empty in the first half second."""
    if done <= 0 or seconds < 0.5:
        return ""
    rate = done / seconds
    pace = (
        f"{rate:,.0f}/s" if rate > 10 else f"{rate:.1f}/s" if rate > 1 else f"{1 / rate:.1f} s each"
    )
    if total is None or done >= total:
        return pace
    return f"{pace}, {duration((total - done) / rate)} left"


def duration(seconds: float) -> str:
    """A time for people: `42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def quiet_loading() -> None:
    """Leave out diffusers' bar over the two components of a pipeline; sampling keeps its own.

    With --quiet the bars of downloads are left out, too.
    """
    from diffusers.utils import logging

    logging.disable_progress_bar()
    if err.quiet:
        from huggingface_hub.utils import disable_progress_bars

        with warnings.catch_warnings():  # the user's own variable for them comes first
            warnings.simplefilter("ignore")
            disable_progress_bars()


def table(title: str, *headings: str) -> Table:
    """An empty table: names on the left, figures on the right."""
    grid = Table(title=title or None)
    for place, heading in enumerate(headings):
        grid.add_column(heading, justify="right" if place else "left")
    return grid


def metric_texts(metrics: MoleculeMetrics) -> dict[str, str]:
    """Figures of a set of molecules as text, by what they are called in tables."""
    shape = metrics.shape
    return {
        "atom stability %": percent(metrics.atom_stability),
        "molecule stability %": percent(metrics.molecule_stability),
        "validity %": percent(metrics.validity),
        "uniqueness %": percent(metrics.uniqueness),
        "novelty %": percent(metrics.novelty),
        "connected %": percent(shape.connected),
        "v_x, angstrom²": figure(shape.v_x),
        "spread of v_x, angstrom²": figure(shape.v_x_spread),
        "anisotropy": figure(shape.anisotropy),
        **{f"share of {z} %": percent(share) for z, share in shape.element_shares.items()},
    }


def percent(estimate: Estimate | None) -> str:
    """A share as a percentage with its standard error."""
    return figure(estimate, digits=1, scale=100)


def figure(estimate: Estimate | None, digits: int = 3, scale: float = 1) -> str:
    """A figure with its standard error."""
    if estimate is None:
        return "-"
    error = "" if estimate.std_error is None else f" ± {scale * estimate.std_error:.{digits}f}"
    return f"{scale * estimate.value:.{digits}f}{error}"
