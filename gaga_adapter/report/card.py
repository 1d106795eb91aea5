"""The card of an artefact: the README.md that the hub shows.

What stands between two markers is generated, anew at every push. All else, the yaml header and the
title among it, is written once and then belongs to whoever edits it. The curve is a picture beside
the card where matplotlib is installed, else a table.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from gaga_adapter.errors import ArtefactError, MissingExtraError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.files.hub import CARD, check_license
from gaga_adapter.layout import DenseLayout, MoleculeLayout
from gaga_adapter.report.curves import DEFAULT_PATH, check_picture, save_curves
from gaga_adapter.report.facts import Start, starts
from gaga_adapter.selection import MARGIN
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
    """Write the card, and the picture of the curve, into a folder.

    Args:
        stats: fitted statistics.
        folder: where they are.
        repo_id: how the card tells others to load them.
        existing: a card whose own text is to stay.
        license: Licence identifier as the hub spells it, such as `cc0-1.0`.

    Raises:
        ArtefactError: the existing card has one marker of two, or several.
        DataError: If the licence is no identifier of the hub's.
        WriteError: the folder cannot be written.
    """
    chosen, drawn = stats.selection, False
    if chosen is not None:
        name = chosen.curve.criterion
        try:
            check_picture(folder / PICTURE)
            schedule = "ddpm/linear" if isinstance(stats.layout, DenseLayout) else DEFAULT_PATH
            save_curves(folder / PICTURE, {name: chosen.curve}, {name: chosen}, path_name=schedule)
            drawn = True
        except MissingExtraError:
            pass  # the card has the table instead
    text = merged(generated(stats, repo_id, drawn), repo_id, existing, license)
    with replacing(folder / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")


def merged(
    section: str, repo_id: str, existing: str | None = None, license: str | None = None
) -> str:
    """A card with this generated section, and every other line of the existing one.

    A card without markers gets the section at its end. A header that is there stays, but for a
    licence that is given.

    Args:
        section: what `generated` gave.
        repo_id: the title of a new card is its last part.
        existing: the card as it is.
        license: Licence identifier as the hub spells it.

    Raises:
        ArtefactError: one marker of two, or several.
        DataError: If the licence is no identifier of the hub's.
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


def generated(stats: GAGAStats, repo_id: str, drawn: bool) -> str:
    """The section between the markers, in markdown.

    Args:
        stats: fitted statistics.
        repo_id: how to load them.
        drawn: whether the picture of the curve lies beside the card.
    """
    return "\n\n".join(
        [
            "Statistics for starting a diffusion or flow sampler at t\\*, the step from which on "
            "noised data are Gaussian, with the Gaussian to start from. For gaga-adapter.",
            _facts(stats),
            "## Where sampling starts",
            _starts(stats),
            "## How Gaussian the noised data are",
            _curve(stats, drawn),
            "## Use",
            _use(stats, repo_id),
            "## Limits",
            _limits(stats),
        ]
    )


def _facts(stats: GAGAStats) -> str:
    chosen = stats.selection
    rows = [
        ("data", _plain(stats.provenance.get("data", "not recorded"))),
        ("items", f"{stats.moments.count:,}"),
        ("layout", _plain(stats.layout.describe())),
        ("log-SNR\\*", f"**{stats.log_snr_star:.3f}**"),
    ]
    if chosen is not None:
        curve = chosen.curve
        if chosen.interval is not None:
            low, high = chosen.interval
            rows.append(("90 % interval", f"{low:.3f} to {high:.3f}"))
        rows += [
            ("criterion", f"`{curve.criterion}`, on {curve.n_samples:,} items"),
            ("start judged", f"the `{curve.reference}` reference"),
            ("tolerance", f"{chosen.tolerance:g} {curve.unit}"),
        ]
    rows.append(("sigma\\*", f"{stats.sigma_star:.4g} (noise over signal at t\\*)"))
    if chosen is not None and chosen.by_size:
        sizes = sorted(chosen.by_size)
        ends = ", ".join(f"{n} atoms: {chosen.by_size[n]:.2f}" for n in (sizes[0], sizes[-1]))
        rows.append(("per size", f"log-SNR\\* of {len(sizes)} sizes ({ends})"))
    versions = stats.provenance.get("versions", {})
    if isinstance(versions, dict) and versions:
        rows.append(("made with", _plain(", ".join(f"{k} {v}" for k, v in versions.items()))))
    return _table(("", ""), rows)


def _starts(stats: GAGAStats) -> str:
    rows = [(f"`{one.schedule}`", _start(one), _share(one)) for one in starts(stats.log_snr_star)]
    return (
        "One log-SNR serves every schedule; each maps it to its own first step at or beyond "
        "(tables of 1000 steps):\n\n" + _table(("schedule", "t\\*", "of the path"), rows)
    )


def _start(one: Start) -> str:
    if one.value is None:
        return "never that noisy"
    if one.kind == "timestep":
        return f"timestep {one.value:.0f}"
    return f"{'sigma' if one.kind == 'sigma' else 's'} = {one.value:.3f}"


def _share(one: Start) -> str:
    return "–" if one.share is None else f"{100 * one.share:.0f} %"


def _curve(stats: GAGAStats, drawn: bool) -> str:
    chosen = stats.selection
    if chosen is None:
        return "log-SNR\\* was given by hand; no curve was drawn."
    reason = _plain(chosen.reason) + "."
    if drawn:
        alt = f"{chosen.curve.criterion} in {chosen.curve.unit} against log-SNR, with t*"
        return f"![{alt}]({PICTURE})\n\n{reason}"
    curve = chosen.curve
    rows = [
        (
            f"{level:.2f}",
            _number(curve.value[k]),
            _number(curve.std_error[k]),
            "Gaussian" if level <= stats.log_snr_star + 1e-9 else "",
        )
        for k, level in enumerate(curve.log_snr)
    ]
    return _table(("log-SNR", curve.unit, "± s.e.", ""), rows) + f"\n\n{reason}"


def _use(stats: GAGAStats, repo_id: str) -> str:
    layout = stats.layout
    lines = ["from gaga_adapter import GAGAScheduler, GAGAStats"]
    if layout == MoleculeLayout():
        lines += [
            "from gaga_adapter.molecules.pipeline import MoleculePipeline",
            "",
            "pipe = MoleculePipeline.load()  # or your own pipeline of such molecules",
        ]
    else:
        lines += ["", f"# pipe: your diffusers pipeline of such data, {layout.describe()}"]
    lines += [
        f'stats = GAGAStats.from_pretrained("{repo_id}")',
        "pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats=stats)",
    ]
    parts = ["```sh\npip install gaga-adapter\n```", _block("python", lines)]
    if isinstance(layout, DenseLayout):
        parts += [
            "In loops over sigmas, as NVlabs/edm and k-diffusion have them:",
            _block(
                "python",
                [
                    "from gaga_adapter.integrations import truncate_sigmas",
                    "",
                    "sigmas, start = truncate_sigmas(sigmas, stats)",
                    f"x = start.initial_sample({(16, *layout.shape)})  # not noise * sigmas[0]",
                ],
            ),
        ]
    shell = [f"gaga show {repo_id}"]
    if layout == MoleculeLayout():
        shell.append(f"gaga sample -n 64 --stats {repo_id} --out samples.sdf")
    return "\n\n".join([*parts, _block("sh", shell)])


def _limits(stats: GAGAStats) -> str:
    chosen, layout = stats.selection, stats.layout
    scale = (
        "Values are those of the data as fitted: a model that diffuses them at another scale needs "
        "a fit of its own, or `data_scale`."
        if isinstance(layout, DenseLayout)
        else "Other elements, scales or channels are refused."
    )
    found = [f"They describe {_plain(layout.describe())}. {scale}"]
    if chosen is None:
        found.append("How far the start is from the noised data was not measured.")
    elif chosen.curve.unit == "nats":
        found.append(
            f"At t\\* the start may differ from the noised data by {chosen.tolerance:g} nats per "
            f"item ({MARGIN:g} standard errors added), and what a network makes of the two by no "
            "more (data processing). A criterion measures what it can see; the true difference "
            "may be larger."
        )
    else:
        found.append(
            "t\\* was chosen by p-value: it says that the criterion could not tell the start from "
            "the noised data, not how far apart they are. More data give a noisier t\\*."
        )
    found.append(
        "They are of the whole data set. Under a condition (a class, a prompt) data differ from "
        "it; fit on data of the condition where that matters."
    )
    held = "The files hold averages over the data"
    if not isinstance(layout, DenseLayout):
        held += ", and sizes, axes and composition of some of the molecules, for the start's shapes"
    found.append(f"{held}; json and safetensors, nothing pickled.")
    return "\n".join(f"- {sentence}" for sentence in found)


def _block(language: str, lines: list[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _number(value: float) -> str:
    return "not computable" if math.isnan(value) else f"{value:.3g}"


def _plain(value: object) -> str:
    """Text from elsewhere, on one line, without what markdown or html would read."""
    text = " ".join(str(value).split())
    text = re.sub(r"([\\`*_\[\]|#])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
