"""The table of pipelines in the documentation.

    python -m pipelines.table           in `tests`: measure, and write the table into its page

It takes a minute. `test_zoo.py` measures every line again.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import diffusers
import torch

from . import flows, images, others, transformers, videos
from .case import Case
from .measure import MODES, Bare, Verdict, measure

CASES: list[Case] = [
    case for family in (images, flows, transformers, videos, others) for case in family.CASES
]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "pipelines.md"
_BEGIN = "<!-- pipelines: written by tests/pipelines/table.py with diffusers "
_END = "<!-- end of pipelines -->"


def verdicts(case: Case) -> dict[str, Verdict]:
    """The verdict on a case in every mode."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # what diffusers says of its own configurations
        bare = Bare(case, case.build())
        return {mode: measure(bare, mode) for mode in MODES}


def row(case: Case, found: dict[str, Verdict]) -> str:
    """The line of the table for one case."""
    name = f"{case.pipeline}, `{case.variant}`" if case.variant else case.pipeline
    cells = [name, case.kind, str(found["auto"].before)]
    for mode in MODES:
        verdict = found[mode]
        ran = verdict.word in ("exact", "warned")
        cells.append(f"{verdict.word}, {verdict.calls}" if ran else verdict.word)
    return f"| {' | '.join(cells)} |"


def notes(case: Case, found: dict[str, Verdict]) -> list[str]:
    """The words of warnings and refusals, each once."""
    by_words: dict[str, list[str]] = {}
    for mode, verdict in found.items():
        if verdict.word in ("warned", "refused"):
            by_words.setdefault(verdict.reason.split(": ", 1)[-1], []).append(f"`{mode}`")
    name = f"{case.pipeline}, `{case.variant}`" if case.variant else case.pipeline
    return [f"- {name} with {', '.join(modes)}: “{words}”" for words, modes in by_words.items()]


def lines_of_page() -> list[str]:
    """The rows of the table and the notes below it, as they stand in the documentation."""
    text = PAGE.read_text(encoding="utf-8")
    block = text[text.index(_BEGIN) : text.index(_END)]
    return [line for line in block.splitlines() if line.startswith(("| ", "- "))][1:]


def version_of_page() -> str:
    """The release of diffusers with which the table was measured."""
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index(_BEGIN) + len(_BEGIN) :].split(" ", 1)[0]


def _lines() -> Iterator[str]:
    known = [(case, verdicts(case)) for case in CASES if case.is_known]
    yield f"{_BEGIN}{diffusers.__version__} -->"
    yield ""
    yield "| pipeline | makes | calls before | `auto` | `attach(pipe)` | `step` |"
    yield "|---|---|---|---|---|---|"
    for case, found in known:
        yield row(case, found)
    yield ""
    yield "The words of the warnings and refusals:"
    yield ""
    for case, found in known:
        yield from notes(case, found)
    yield ""
    yield _END


def main() -> None:
    """Measure, and write the table."""
    torch.set_num_threads(1)
    text = PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(_BEGIN)], text[text.index(_END) + len(_END) :]
    PAGE.write_text(before + "\n".join(_lines()) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
