"""`gaga explain`: what statistics are, in plain words, and what to type next."""

from __future__ import annotations

from gaga_adapter.cli.console import Json, bold, out, print_json
from gaga_adapter.cli.options import Statistics
from gaga_adapter.stats import GAGAStats, holds_states


def run(
    stats: Statistics = "qm9",
    as_json: Json = False,
) -> None:
    """Explain fitted statistics in plain words, and what to type next.

    For readers who know their data and not diffusion models: where sampling can
    start, how sure that is, what it saves, and what it does not tell. The tables
    behind the sentences are those of gaga show.

      gaga explain stats/
    """
    from gaga_adapter.report.explanation import explain, explain_states

    if holds_states(stats):
        from gaga_adapter.noised_states import FittedStates

        told = explain_states(FittedStates.from_pretrained(stats), stats)
    else:
        told = explain(GAGAStats.from_pretrained(stats), stats)
    if as_json:
        print_json({"stats": stats, **told.to_dict()})
        return
    out.print(bold(told.title))
    for heading, text in told.paragraphs:
        out.print()
        out.print(bold(heading))
        out.print(text)
    out.print()
    out.print(bold("What to type next"))
    for line in told.code:
        out.print(f"  {line}", soft_wrap=True)
