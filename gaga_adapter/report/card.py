"""The card of an artefact: the README.md that the hub shows.

What stands between two markers is generated from `templates/card.md.j2`, anew at every push. All
else, the yaml header and the title among it, is written once and then belongs to whoever edits it.
The curve is a picture beside the card if matplotlib is installed, else a table.
"""

from __future__ import annotations

import re
from pathlib import Path

from gaga_adapter.errors import ArtefactError, MissingExtraError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.files.hub import CARD, check_license
from gaga_adapter.layout import DenseLayout, MoleculeLayout
from gaga_adapter.noise.paths import starts
from gaga_adapter.report.curves import save_curves
from gaga_adapter.report.facts import home_schedule, versions_text
from gaga_adapter.report.templates import render
from gaga_adapter.selection import MARGIN, curve_rows
from gaga_adapter.stats import GAGAStats

PICTURE = "gaga_curve.png"
BEGIN = "<!-- gaga:begin - made by gaga, anew at every push; write outside of these two lines -->"
END = "<!-- gaga:end -->"
_BEGIN = re.compile(r"^<!-- gaga:begin\b.*-->$", re.MULTILINE)
_END = re.compile(r"^<!-- gaga:end -->$", re.MULTILINE)


def write_card(
    stats: GAGAStats,
    folder: Path,
    repo_id: str,
    existing: str | None = None,
    license: str | None = None,
) -> None:
    """Write the card, and the picture of the curve, into the folder of the statistics.

    The card tells others to load them from `repo_id`; see `merge_card` for the rest.
    """
    chosen, has_picture = stats.selection, False
    if chosen is not None:
        name, schedule = chosen.curve.criterion, home_schedule(stats)
        try:
            save_curves(folder / PICTURE, {name: chosen.curve}, {name: chosen}, path_name=schedule)
            has_picture = True
        except MissingExtraError:
            pass  # the card has the table instead
    text = merge_card(card_section(stats, repo_id, has_picture), repo_id, existing, license)
    with replacing(folder / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")


def merge_card(
    section: str, repo_id: str, existing: str | None = None, license: str | None = None
) -> str:
    """A card with this generated section, and every other line of the existing one.

    A card without markers gets the section at its end. An existing header stays, except for the
    licence if one is given: an identifier of the hub's, such as `cc0-1.0`. The title of a new card
    is the last part of the hub id. A card with one marker of two, or several, is refused.
    """
    check_license(license)
    block = f"{BEGIN}\n\n{section.strip()}\n\n{END}"
    header, body = _split((existing or "").replace("\r\n", "\n"))
    if header is None:
        header = "library_name: gaga-adapter\ntags:\n- gaga\n- diffusion\n- sampling\n"
    if license is not None:
        header = re.sub(r"^license:.*\n", "", header, flags=re.MULTILINE) + f"license: {license}\n"
    begins, ends = list(_BEGIN.finditer(body)), list(_END.finditer(body))
    if len(begins) == len(ends) == 1 and begins[0].end() < ends[0].start():
        body = body[: begins[0].start()] + block + body[ends[0].end() :]
    elif begins or ends:
        raise ArtefactError(
            f"the card of {repo_id} has {len(begins)} lines `gaga:begin` and {len(ends)} lines "
            "`gaga:end`. Leave one of each around the generated part, in this order, or remove all."
        )
    elif body.strip():
        body = f"{body.rstrip()}\n\n{block}\n"
    else:
        body = f"\n# {repo_id.rpartition('/')[2]}\n\n{block}\n"
    return f"---\n{header}---\n{body}"


def _split(card: str) -> tuple[str | None, str]:
    """The lines of the yaml header, if there is one, and the rest."""
    header = re.match(r"---[ ]*\n(.*?)^---[ ]*(?:\n|\Z)", card, re.DOTALL | re.MULTILINE)
    return (header[1], card[header.end() :]) if header else (None, card)


def card_section(stats: GAGAStats, repo_id: str, has_picture: bool) -> str:
    """The section between the markers, with the picture of the curve or a table of it."""
    chosen, layout = stats.selection, stats.layout
    values = {
        "stats": stats,
        "repo_id": repo_id,
        "versions": versions_text(stats.provenance.get("versions")),
        "starts": starts(stats.log_snr_star, discrete_types=stats.has_discrete_types),
        "picture": PICTURE if has_picture else None,
        "rows": curve_rows(chosen.curve, stats.log_snr_star) if chosen is not None else [],
        "is_dense": isinstance(layout, DenseLayout),
        "has_table": getattr(stats.moments, "table_size", 0) > 0,
        "has_model": layout == MoleculeLayout(),  # the model that ships makes such molecules
        "margin": MARGIN,
    }
    return render("card.md.j2", values).rstrip("\n")
