"""`gaga doctor`: what a report of a fault needs, and what somebody who is stuck needs."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gaga_adapter.cli.console import Json, out, print_json, progress_bar, say
from gaga_adapter.doctor import Section, examine, presentable

#: Exit code where something is wrong that the user can mend.
_WRONG = 2


def run(
    stats: Annotated[
        str | None,
        typer.Option(
            help="Statistics to examine: folder, hub id, or qm9.",
            autocompletion=lambda incomplete: [n for n in ("qm9",) if n.startswith(incomplete)],
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Scheduler to examine: folder or hub id, of it or of its pipeline, or its class. "
            "With --stats: what of it is cut."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of steps of its grid.", min=1)] = 50,
    as_json: Json = False,
) -> None:
    """Examine installation, devices, statistics and schedulers.

    Prints versions, devices, what statistics are and what is cut of a scheduler,
    as lines to paste into an issue: no name of a home folder, no token. What is
    wrong comes last, with what to do. Exit code 0 if nothing is wrong, else 2.

      gaga doctor
      gaga doctor --stats stats/ --scheduler my-pipeline/ --steps 50
    """
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes the first one speaks
    with progress_bar() as progress:
        sections = examine(stats, scheduler, steps, lambda d, n: progress("examined", d, n))
    problems = [problem for section in sections for problem in section.problems]
    if as_json:
        print_json(_document(sections, problems))
    else:
        _print(sections, problems)
        say(
            "These lines can be pasted into an issue: "
            "https://github.com/gaga-adapter/gaga-adapter/issues"
        )
    if problems:
        raise typer.Exit(_WRONG)


def _document(sections: tuple[Section, ...], problems: list[str]) -> dict[str, object]:
    notes = [note for section in sections for note in section.notes]
    found: dict[str, object] = {
        "is_well": not problems,
        "problems": presentable(problems),
        "notes": presentable(notes),
    }
    return found | {_key(one.title): presentable(one.facts) for one in sections}


def _key(title: str) -> str:
    """The name of a section in the document."""
    return title.lower().replace("-", "_").replace(" ", "_")


def _print(sections: tuple[Section, ...], problems: list[str]) -> None:
    """Plain lines without a frame, which no width cuts off."""
    for section in sections:
        _line(section.title)
        width = max(len(name) for name, _ in section.lines)
        for name, text in section.lines:
            _line(f"  {name:<{width}}  {text}")
        _line("")
    for title, sentences in (
        ("Good to know", [note for section in sections for note in section.notes]),
        ("What is wrong", problems),
    ):
        if sentences:
            _line(title)
            for sentence in sentences:
                _line(f"  - {' '.join(sentence.split())}")
            _line("")
    n_wrong = len(problems)
    faults = "1 fault" if n_wrong == 1 else f"{n_wrong} faults"
    _line(f"{faults} to mend, see above." if n_wrong else "Nothing is wrong.")


def _line(text: str) -> None:
    out.print(presentable(text), soft_wrap=True)
