"""`report`: one page of html that says what was fitted, how Gaussian it is, and what that saves.

The page is one file without scripts: it asks nothing of the network (its content policy forbids
it), looks right on a phone, a desk and paper, in light and dark, and holds the numbers behind it as
json. The same arguments give the same page, byte for byte. Its words are in `page.html.j2`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gaga_adapter.files.atomic import replacing
from gaga_adapter.layout import AtomLayout, DenseLayout, Layout
from gaga_adapter.moments import DenseMoments
from gaga_adapter.report import figures
from gaga_adapter.report.curves import panels
from gaga_adapter.report.facts import Facts, Samples, curve_rows, report_facts, versions_text
from gaga_adapter.report.histograms import MOST_CHANNELS, HeldOut
from gaga_adapter.report.templates import read, render
from gaga_adapter.stats import GAGAStats

if TYPE_CHECKING:
    from gaga_adapter.fitting import Verdict

_MOST_PICTURES = 16


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
    """Write a page; the file appears whole or not at all.

    Args:
        file: File to write.
        facts: Everything that the page says, as `report_facts` gives it.

    Raises:
        WriteError: If the file cannot be written.
    """
    html = page(facts)
    with replacing(file) as temporary:
        temporary.write_text(html, encoding="utf-8")


def page(facts: Facts) -> str:
    """The whole document."""
    layout = facts.stats.layout
    shown: dict[str, Any] = {}
    if facts.samples is not None:
        from gaga_adapter.report import molecules

        first = facts.samples.molecules.subset(slice(_MOST_PICTURES))
        shown = {
            "pictures": molecules.pictures(first),
            "gradients": molecules.gradients(first),
            "picture_size": molecules.SIZE,
        }
    document, address = _embedded_json(facts.to_dict())
    values = {
        "facts": facts,
        "name": _text(facts.stats.provenance.get("data", "these data")),
        "is_dense": isinstance(layout, DenseLayout),
        "panels": panels(facts.curves),
        "styles": {one.name: k % 5 for k, one in enumerate(facts.curves)},
        "figures": figures,
        "curve_rows": curve_rows,
        "first_channels": MOST_CHANNELS
        if layout.n_channels > MOST_CHANNELS and not hasattr(layout, "elements")
        else None,
        "provenance": _provenance(facts),
        "css": read("page.css"),
        "json": document,
        "address": address,
    }
    return render("page.html.j2", values | shown)


def _provenance(facts: Facts) -> list[tuple[str, str]]:
    """Rows of the table that says what was fitted."""
    stats = facts.stats
    provenance = dict(stats.provenance)
    versions = provenance.pop("versions", {})
    rows = [
        ("data", provenance.pop("data", "not recorded")),
        ("items", f"{stats.moments.count:,}"),
        ("channels", _channels(stats.layout)),
        ("moments", _moments(stats)),
    ]
    provenance.pop("count", None)
    written = provenance.pop("date", facts.written)
    rows += [] if written is None else [("written", written)]
    rows += [(key.replace("_", " "), value) for key, value in provenance.items()]
    rows += [("versions", versions_text(versions))] if versions else []
    return [(key, _text(value)) for key, value in rows]


def _channels(layout: Layout) -> str:
    if isinstance(layout, (DenseLayout, AtomLayout)):
        return layout.describe()
    parts = [
        f"positions in Å / {layout.position_scale:g}",
        f"one-hot of {', '.join(layout.elements)} / {layout.onehot_scale:g}",
    ]
    if layout.charge_scale is not None:
        parts.append(f"atomic number / {layout.charge_scale:g}")
    return "; ".join(parts)


def _moments(stats: GAGAStats) -> str:
    moments = stats.moments
    if isinstance(moments, DenseMoments):
        return f"{moments.kind} covariance, order {moments.max_order}"
    sizes = moments.sizes
    return (
        f"per size, {int(sizes.min())} to {int(sizes.max())} atoms, order {moments.max_order}; up "
        f"to {moments.table_size} molecules of each size kept"
    )


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
