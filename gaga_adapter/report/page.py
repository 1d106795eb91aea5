"""`report`: one page of html that says what was fitted, how Gaussian it is, and what that saves.

The page is one file without scripts: it asks nothing of the network (its content policy forbids
it), looks right on a phone, a desk and paper, in light and dark, and holds the numbers behind it as
json. The same arguments give the same page, byte for byte. Its words are in
`templates/page.html.j2`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gaga_adapter.files.atomic import replacing
from gaga_adapter.layout import DenseLayout, MoleculeLayout
from gaga_adapter.report import figures, molecules
from gaga_adapter.report.curves import panels
from gaga_adapter.report.facts import Facts, Samples, report_facts, versions_text
from gaga_adapter.report.histograms import MOST_CHANNELS, HeldOut
from gaga_adapter.report.templates import render
from gaga_adapter.selection import curve_rows
from gaga_adapter.stats import GAGAStats

if TYPE_CHECKING:
    from gaga_adapter.fitting import Verdict


def report(
    stats: GAGAStats,
    held_out: HeldOut | None = None,
    verdicts: Mapping[str, Verdict] | None = None,
    samples: Samples | None = None,
    written: str | None = None,
    seed: int = 0,
) -> str:
    """Make the page of fitted statistics.

    Args:
        stats: Fitted statistics.
        held_out: Data for the histograms; without them the page shows what the moments alone say.
        verdicts: Verdicts of further criteria by name, such as `compare(...).verdicts`.
        samples: Molecules to show and to measure; their metrics stand beside those of `held_out`.
        written: Day on which the statistics were written, as text.
        seed: Seed of the noise and the draws in the histograms.

    Returns:
        The html of the page.

    Raises:
        StatsMismatchError: If the data have other channels than the statistics.
        DataError: If the molecules have elements whose valences are not known.
    """
    return page(report_facts(stats, held_out, verdicts, samples, written, seed))


def write_report(file: str | Path, facts: Facts) -> None:
    """Write a page; the file appears whole or not at all."""
    html = page(facts)
    with replacing(file) as temporary:
        temporary.write_text(html, encoding="utf-8")


def page(facts: Facts) -> str:
    """The whole document."""
    layout, provenance = facts.stats.layout, facts.stats.provenance
    own_rows = ("data", "count", "date", "versions")
    document, address = _embedded_json(facts.to_dict())
    values = {
        "facts": facts,
        "data": _text(provenance.get("data", "")),
        "written": _text(provenance.get("date", facts.written or "")),
        "versions": versions_text(provenance.get("versions")),
        "is_dense": isinstance(layout, DenseLayout),
        "is_molecules": isinstance(layout, MoleculeLayout),
        "panels": panels(facts.curves),
        "styles": {one.name: k % 5 for k, one in enumerate(facts.curves)},
        "figures": figures,
        "molecules": molecules,
        "curve_rows": curve_rows,
        "most_channels": MOST_CHANNELS,
        "provenance": {k: _text(value) for k, value in provenance.items() if k not in own_rows},
        "json": document,
        "address": address,
    }
    return render("page.html.j2", values)


def _text(value: object) -> str:
    """A string as it is, and json of anything else that provenance holds."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _embedded_json(document: Mapping[str, Any]) -> tuple[Markup, str]:
    """A document as the content of a script element, and as the address of a download.

    In a script element `<` could end it or open a comment, so it is written as its escape.
    """
    content = json.dumps(document, allow_nan=False, separators=(",", ":"))
    packed = base64.b64encode(content.encode()).decode()
    return Markup(content.replace("<", "\\u003c")), f"data:application/json;base64,{packed}"
