"""Statistics: what kind they are, whether they load, and what to know before they are used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaga_adapter.doctor.packages import installed_version
from gaga_adapter.doctor.section import Section
from gaga_adapter.errors import ArtefactError, GAGAError
from gaga_adapter.files.checked import read_json
from gaga_adapter.files.hub import download
from gaga_adapter.layout import layout_to_dict
from gaga_adapter.noise.paths import starts
from gaga_adapter.report.facts import cautions, versions_text
from gaga_adapter.stats import (
    CONFIG_NAME,
    EMBEDDED,
    PARTS_OF_COMPLEXES,
    GAGAStats,
    holds_states,
)

_TITLE = "Statistics"


def statistics(name: str) -> Section:
    """The statistics that a user names, whatever kind they are.

    Args:
        name: Folder, hub id, or the name of an embedded artefact.
    """
    try:
        if holds_states(name):
            return _of_states(name)
        parts = [Path(name) / part for part in PARTS_OF_COMPLEXES]
        if all((part / CONFIG_NAME).is_file() for part in parts):
            return _of_complexes(name, parts)
        return _of_data(name, GAGAStats.from_pretrained(name))
    except GAGAError as error:
        lines = (("named", name), ("loads", "no"))
        facts = {"named": name, "loads": False, "error": str(error)}
        return Section(_TITLE, lines, facts, (f"Statistics {name}: {error}",))


def _of_data(name: str, stats: GAGAStats) -> Section:
    """Statistics of data, as `gaga fit` writes them."""
    chosen = stats.selection
    about = {**stats.to_dict(), **_on_disk(name)}
    lines = [
        ("named", name),
        ("loads", "yes"),
        ("kind", "statistics of data (`gaga fit`)"),
        ("data", str(stats.provenance.get("data", "not recorded"))),
        ("items", f"{stats.moments.count:,}"),
        ("layout", stats.layout.describe()),
        ("schema", str(about["schema_version"])),
        ("digest", about["digest"]),
        ("start", stats.reference().kind),
    ]
    facts: dict[str, Any] = {
        "named": name,
        "loads": True,
        "kind": "data",
        "data": stats.provenance.get("data"),
        "count": stats.moments.count,
        "layout": layout_to_dict(stats.layout),
        "schema_version": about["schema_version"],
        "digest": about["digest"],
        "reference": stats.reference().kind,
        "log_snr_star": stats.log_snr_star,
    }
    if stats.refinement is not None:
        lines.append(("refined", stats.refinement.describe()))
    spread = ""
    if chosen is not None:
        curve = chosen.curve
        judge = f"{curve.criterion} on {curve.n_samples:,} items, tolerance {chosen.tolerance:g}"
        lines.append(("criterion", f"{judge} {curve.unit}, {curve.reference} reference"))
        facts["criterion"] = {
            "name": curve.criterion,
            "n_items": curve.n_samples,
            "tolerance": chosen.tolerance,
            "unit": curve.unit,
            "reference": curve.reference,
            "interval": chosen.interval and list(chosen.interval),
        }
        if chosen.interval is not None:
            spread = ", 90 % interval {:.3f} to {:.3f}".format(*chosen.interval)
    lines.append(("log-SNR*", f"{stats.log_snr_star:.3f}{spread}"))
    places = starts(stats.log_snr_star, discrete_types=stats.has_discrete_types)
    for start in places:
        share = "" if start.share is None else f", {start.share_text} of the path"
        lines.append((f"t* on {start.schedule}", f"{start.text}{share}"))
    facts["t_star"] = {start.schedule: start.value for start in places}
    if stats.levels:
        numbers = ", ".join(str(one.n_calls) for one in stats.levels)
        lines.append(("fitted levels", f"for {numbers} network calls"))
    facts["levels"] = [one.n_calls for one in stats.levels]
    versions = stats.provenance.get("versions")
    lines.append(("made with", versions_text(versions) or "not recorded"))
    notes = [*cautions(stats), *_newer(versions)]
    facts["cautions"] = notes
    return Section(_TITLE, tuple(lines), facts, (), tuple(notes))


def _of_states(name: str) -> Section:
    """Statistics of noised states, as `fit_states` writes them."""
    from gaga_adapter.noised_states.artefact import CONFIG_NAME as STATES_CONFIG
    from gaga_adapter.noised_states.artefact import FittedStates

    states = FittedStates.from_pretrained(name)
    here, about = states.at(states.level_star), states.to_dict()
    schema = read_json(Path(name) / STATES_CONFIG).data["schema_version"]
    lines = (
        ("named", name),
        ("loads", "yes"),
        ("kind", "statistics of noised states (`fit_states`), for a loop of their codebase"),
        ("data", str(states.provenance.get("data", "not recorded"))),
        ("items", f"{here.moments.count + here.n_held_out:,} at the level of the start"),
        ("layout", states.layout.describe()),
        ("schema", str(schema)),
        ("digest", about["digest"]),
        ("start", f"{states.reference}, at level {states.level_star:g}"),
        ("criterion", f"two_sample, tolerance {states.tolerance:g} nats"),
        ("there", f"{here.value:.3f} ± {here.std_error:.3f} nats"),
        ("levels", f"{len(states.measured)}, time rises towards {states.towards}"),
        ("made with", versions_text(states.provenance.get("versions")) or "not recorded"),
    )
    notes = _newer(states.provenance.get("versions"))
    facts = {
        "named": name,
        "loads": True,
        "kind": "states",
        "data": states.provenance.get("data"),
        "count": here.moments.count + here.n_held_out,
        "layout": layout_to_dict(states.layout),
        "schema_version": schema,
        "digest": about["digest"],
        "reference": states.reference,
        "level_star": states.level_star,
        "tolerance": states.tolerance,
        "cautions": list(notes),
    }
    return Section(_TITLE, lines, facts, (), notes)


def _of_complexes(name: str, parts: list[Path]) -> Section:
    """Statistics of complexes: those of their parts, of which the noisiest t* counts."""
    lines = [
        ("named", name),
        ("loads", "yes"),
        ("kind", "statistics of complexes (`fit_joint`), an artefact for each part"),
    ]
    notes, facts, stars = [], {}, []
    for part in parts:
        found = _of_data(str(part), GAGAStats.from_pretrained(part))
        shown = dict(found.lines)
        text = ", ".join(f"{shown[one]} {one}" for one in ("items", "start"))
        lines.append((part.name, f"{text}, {shown['layout']}, log-SNR* {shown['log-SNR*']}"))
        notes += [f"Of the part {part.name}: {note}" for note in found.notes]
        facts[part.name] = found.facts
        stars.append(found.facts["log_snr_star"])
    lines.append(("log-SNR*", f"{min(stars):.3f}, that of the part that is last to be Gaussian"))
    document = {"named": name, "loads": True, "kind": "complexes", "log_snr_star": min(stars)}
    return Section(_TITLE, tuple(lines), {**document, **facts}, (), tuple(notes))


def _on_disk(name: str) -> Mapping[str, Any]:
    """The configuration as it is in its file: what was read of an older one is newer than it.

    It is empty if the file cannot be found again.
    """
    folder = Path(name)
    if name in EMBEDDED and not os.path.isfile(folder / CONFIG_NAME):
        folder = EMBEDDED[name]
    try:
        if not folder.is_dir():
            folder = download(name, [CONFIG_NAME], "", local_files_only=True)
        return read_json(folder / CONFIG_NAME).data
    except ArtefactError:
        return {}


def _newer(versions: object) -> tuple[str, ...]:
    """A note if the statistics were made by a newer version of this package."""
    made = versions.get("gaga-adapter") if isinstance(versions, Mapping) else None
    here = installed_version("gaga-adapter")
    try:
        from packaging.version import Version

        if made is None or here is None or Version(str(made)) <= Version(here):
            return ()
    except (ImportError, ValueError):  # no such library, or no such version
        return ()
    return (
        f"They were made with gaga-adapter {made}, which is newer than the {here} here. Upgrade: "
        "pip install -U gaga-adapter",
    )
