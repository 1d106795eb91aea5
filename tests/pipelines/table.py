"""The table of pipelines in the documentation.

    python -m pipelines.table           in `tests`: measure, and write the table into its page

It takes a minute. `test_zoo.py` measures every row again.
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


def rows_of_page() -> list[str]:
    """The lines of the table as they stand in the documentation, without its head."""
    text = PAGE.read_text(encoding="utf-8")
    block = text[text.index(_BEGIN) : text.index(_END)]
    return [line for line in block.splitlines() if line.startswith("| ")][1:]


def version_of_page() -> str:
    """The release of diffusers with which the table was measured."""
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index(_BEGIN) + len(_BEGIN) :].split(" ", 1)[0]


def _lines() -> Iterator[str]:
    yield f"{_BEGIN}{diffusers.__version__} -->"
    yield ""
    yield "| pipeline | makes | calls before | `auto` | `attach(pipe)` | `step` |"
    yield "|---|---|---|---|---|---|"
    for case in CASES:
        if case.is_known:
            found = verdicts(case)
            yield row(case, found)
            for mode, verdict in found.items():
                print(f"{case.name:60} {mode:7} {verdict.word:7} {verdict.reason}")
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
