"""The html of the page: sections in the order in which a reader asks.

Whatever comes from outside (names, provenance, reasons) passes `escape` on its way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.layout import AtomLayout, DenseLayout, Layout
from gaga_adapter.moments import DenseMoments
from gaga_adapter.noise.paths import NAMED_PATHS, named_path
from gaga_adapter.report.facts import MOST_CHANNELS, Start
from gaga_adapter.report.figures import (
    Judged,
    calls_bar,
    curve_plot,
    histogram_legend,
    histogram_plot,
    legend,
    meter,
    size_plot,
)
from gaga_adapter.report.page import Facts, embedded_json
from gaga_adapter.report.page_plot import number
from gaga_adapter.report.page_style import STYLE
from gaga_adapter.selection import Selection

_WIDE, _NARROW = 880, 340  # pixels
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_MOST_PICTURES = 16
_KINDS = {
    "unit": "N(0, I)",
    "paper": "one Gaussian with a single variance, as published",
    "channel": "one Gaussian per channel",
    "size": "one Gaussian per molecule size",
    "shape": "a mixture of Gaussians around the shapes and compositions of single molecules",
    "element": "one Gaussian per entry",
    "low_rank": "a Gaussian with a low-rank covariance",
    "full": "a Gaussian with the full covariance",
}


def page(facts: Facts) -> str:
    """The whole document."""
    name = _data_name(facts)
    sections = [
        _header(facts),
        _curves(facts),
        _by_size(facts),
        _savings(facts),
        _histograms(facts),
        _molecules(facts),
        _metrics(facts),
        _fitted(facts),
        _numbers(facts),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}: Gaussianity report</title>\n"
        f'<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n'
        + "\n".join(section for section in sections if section)
        + "\n</main>\n<footer><p>Made by <code>gaga report</code>. This page is one file: it loads "
        "nothing and runs no scripts.</p></footer>\n</body>\n</html>\n"
    )


# -- sections --------------------------------------------------------------------------------------


def _header(facts: Facts) -> str:
    stats = facts.stats
    home = _home(facts)
    name = escape(_data_name(facts))
    if home.value is None:
        title = f"{name} never count as Gaussian on {home.schedule}"
    else:
        title = f"{name}: sampling can start at step {home.value:.0f} of 1000"
    sigma = stats.sigma_star
    chosen = _chosen(facts)
    item = "item" if isinstance(stats.layout, DenseLayout) else "molecule"
    where = (
        f"At log-SNR {_signed(stats.log_snr_star)} the noise has {sigma:.2f} times the scale of "
        "the signal."
    )
    if chosen is None:
        lead = f"{where} This start was given, not chosen on a curve."
    else:
        kind = _KINDS.get(chosen.curve.reference, escape(chosen.curve.reference))
        judge = escape(chosen.curve.criterion.replace("_", "-"))
        close = (
            f"within {chosen.tolerance:g} nats per {item} of {kind}, by the {judge} criterion"
            if chosen.curve.unit == "nats"
            else f"not told from {kind} by the {judge} criterion, at a false-alarm rate of "
            f"{chosen.tolerance:g}"
        )
        lead = (
            f"{where} From there on towards noise the noised data are {close}. That start has a "
            "closed form, so a sampler can begin with a draw from it and leaves out every network "
            "call before."
        )
    keys = [_key("log-SNR at t*", _signed(stats.log_snr_star), _interval(facts))]
    keys.append(_key("noise over signal, σ*", f"{sigma:.3f}", "b / a at t*, for Karras models"))
    keys.append(_key(f"start on {home.schedule}", _start_text(home), _step_interval(facts, home)))
    best = next((s for s in facts.savings if s.kept is not None), None)
    if best is not None and best.kept is not None:
        share = 100 * (1 - best.kept / best.full)
        keys.append(
            _key("network calls saved", f"{share:.0f} %",
                 f"{best.kept} instead of {best.full}, {best.solver}")
        )  # fmt: skip
    return (
        f'<header><p class="kicker">Gaussianity report</p><h1>{title}</h1>'
        f'<p class="lead">{lead}</p><dl class="key">{"".join(keys)}</dl></header>'
    )


def _curves(facts: Facts) -> str:
    if not facts.judged:
        return _section(
            "How Gaussian, at which noise",
            '<p class="note">These statistics hold no curve: their t* was given. Fit again, or '
            "pass <code>--data</code> to have one drawn here.</p>" + _unjudged(facts),
        )
    styles = {one.name: k % 5 for k, one in enumerate(facts.judged)}
    schedule = _home(facts).schedule
    figures = ""
    for unit in ("nats", "p-value"):
        judged = [one for one in facts.judged if one.curve.unit == unit]
        if not judged:
            continue
        wide, narrow = (curve_plot(judged, unit, schedule, w, styles) for w in (_WIDE, _NARROW))
        has_interval = any(one.selection and one.selection.interval for one in judged)
        told = (
            "Bands are two standard errors; open dots lie below the lower edge. "
            if unit == "nats"
            else "The larger the more Gaussian. The tolerance is shared by all levels of a curve. "
        )
        told += "Vertical lines are t*; on the tinted side the data count as Gaussian. "
        told += "Around t* stands its 90 % bootstrap interval. " if has_interval else ""
        if facts.held_out is not None and len(facts.judged) > _n_stored(facts):
            told += f"What the statistics do not hold was judged on {escape(facts.held_out[0])}."
        figures += (
            f'<figure>{legend(judged, styles)}<div class="wide">{wide}</div>'
            f'<div class="narrow">{narrow}</div><figcaption>{told}</figcaption></figure>'
        )
    reasons = "".join(
        f'<p class="note">{escape(_reason(one.name, one.selection.reason))}</p>'
        for one in facts.judged
        if one.selection is not None
    )
    return _section(
        "How Gaussian, at which noise",
        "<p>How far the noised data are from the fitted start, from clean data on the left to "
        "noise on the right. Only the signal-to-noise ratio matters, so the curve holds for every "
        f"schedule.</p>{figures}{_tables_of_curves(facts.judged)}{reasons}{_unjudged(facts)}",
    )


def _by_size(facts: Facts) -> str:
    chosen = facts.stats.selection
    if chosen is None or len(chosen.by_size) < 2:
        return ""
    wide, narrow = (size_plot(chosen.by_size, chosen.log_snr_star, w) for w in (_WIDE, _NARROW))
    return _section(
        "t* by molecule size",
        "<p>A batch of one size can start at its own t*, by <code>stats.at_size(n)</code>.</p>"
        f'<figure><div class="wide">{wide}</div><div class="narrow">{narrow}</div><figcaption>The '
        "higher the log-SNR, the closer to the data sampling can start.</figcaption></figure>",
    )


def _savings(facts: Facts) -> str:
    rows = []
    for saving in facts.savings:
        kept = "not reached" if saving.kept is None else str(saving.kept)
        share = "–" if saving.kept is None else f"{100 * (1 - saving.kept / saving.full):.0f} %"
        rows.append(
            f'<tr><th scope="row">{escape(saving.schedule)}<br>'
            f'<span class="note">{escape(saving.solver)}, {saving.n_steps} steps</span></th>'
            f'<td class="wide-cell">{calls_bar(saving.full, saving.kept)}</td>'
            f'<td class="number">{kept} <span class="note">of {saving.full}</span></td>'
            f'<td class="number">{share}</td></tr>'
        )
    table = (
        '<table class="calls"><caption>Network calls from t* on, of those of the full trajectory, '
        "counted on diffusers schedulers with the spacing <code>suffix</code>; some need one call "
        "to take in the start.</caption><thead><tr>"
        '<th scope="col">schedule and solver</th><th scope="col">calls</th>'
        '<th scope="col" class="number">calls left</th>'
        f'<th scope="col" class="number">saved</th></tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table>"
    )
    starts = "".join(
        f'<tr><th scope="row">{escape(start.schedule)}</th>'
        f'<td class="number">{_start_text(start)}</td>'
        f'<td class="number">{"–" if start.share is None else f"{100 * start.share:.0f} %"}</td>'
        "</tr>"
        for start in facts.starts
    )
    where = (
        "<table><caption>Where t* lies under the named schedules, of 1000 training steps.</caption>"
        '<thead><tr><th scope="col">schedule</th><th scope="col" class="number">start at</th>'
        '<th scope="col" class="number">of the path</th></tr></thead>'
        f"<tbody>{starts}</tbody></table>"
    )
    return _section(
        "What it saves",
        "<p>The same statistics serve every schedule; each maps the log-SNR to its own first step "
        f"at or beyond.</p><figure>{table}</figure><figure>{where}</figure>",
    )


def _histograms(facts: Facts) -> str:
    layout = facts.stats.layout
    panels = "".join(
        f"<div><h3>{escape(h.name)}</h3>{histogram_plot(h)}</div>" for h in facts.histograms
    )
    has_data = facts.held_out is not None
    if facts.held_out is not None:
        name, count = facts.held_out
        lead = (
            f"<p>The noised data ({escape(name)}, {count:,} items) beside draws of the fitted "
            "start, one channel at a time.</p>"
        )
    else:
        lead = (
            "<p>No data were given, so this is what the moments alone say: draws of the fitted "
            "start beside N(0, I). Pass <code>--data</code> to compare them with the noised data."
            "</p>"
        )
    more = ""
    if layout.n_channels > MOST_CHANNELS and not hasattr(layout, "elements"):
        more = f" The first {MOST_CHANNELS} channels are shown."
    molecules = "" if isinstance(layout, DenseLayout) else (
        " The size of a molecule is v_x = |x|² / (3 (N − 1)): no channel alone shows it."
    )  # fmt: skip
    sigma = facts.stats.sigma_star
    return _section(
        "The start against the data at t*" if has_data else "The start at t*",
        f"{lead}<figure>{histogram_legend(has_data)}"
        f'<div class="panels">{panels}</div><figcaption>Axes are x_t / a: data plus noise of '
        f"σ* = {sigma:.3f} in the model's units. Densities are per unit of the axis."
        f"{molecules}{more}</figcaption></figure>{_table_of_histograms(facts)}",
    )


def _molecules(facts: Facts) -> str:
    samples = facts.samples
    if samples is None:
        return ""
    from gaga_adapter.report.molecules import gradients, molecule_cards

    shown = samples.molecules.subset(slice(_MOST_PICTURES))
    calls = "" if samples.network_calls is None else f", {samples.network_calls} network calls"
    total = len(samples.molecules)
    count = f"All {total}." if total == len(shown) else f"The first {len(shown)} of {total:,}."
    ring = (
        " An orange ring marks an atom whose bonds sum to a valence that its element does not "
        "allow."
        if "not stable" in (cards := molecule_cards(shown))
        else ""
    )
    return _section(
        "Sampled molecules",
        f"<p>{escape(samples.source)}{calls}. {count}</p>"
        f'<figure>{gradients(shown)}<ul class="molecules">{cards}</ul>'
        f"<figcaption>All on one scale, turned to their principal axes. Bonds follow from "
        f"distances by EDM's rule.{ring}</figcaption></figure>",
    )


def _metrics(facts: Facts) -> str:
    if not facts.metrics or facts.samples is None:
        return ""
    has_data = any(row["data"] for row in facts.metrics)
    rows = ""
    for row in facts.metrics:
        tops = [v + 2 * (e or 0) for v, e in filter(None, (row["samples"], row["data"]))]
        high = 100.0 if row["unit"] == "%" else 1.15 * max([*tops, 1e-9])
        unit = f' <span class="note">{row["unit"]}</span>' if row["unit"] else ""
        data = f'<td class="number">{_figure(row["data"], row["unit"])}</td>' if has_data else ""
        rows += (
            f'<tr><th scope="row">{escape(row["name"])}{unit}</th>'
            f'<td class="wide-cell">{meter(row["samples"], row["data"], high)}</td>'
            f'<td class="number">{_figure(row["samples"], row["unit"])}</td>{data}</tr>'
        )
    heading = '<th scope="col" class="number">data</th>' if has_data else ""
    bar = " The bar is the data's own figure." if has_data else ""
    table = (
        f'<table class="metrics"><caption>{len(facts.samples.molecules):,} molecules; ± is one '
        f"standard error, the line around a dot two. Percentages on a scale to 100.{bar}</caption>"
        '<thead><tr><th scope="col">figure</th><th scope="col" class="wide-cell">from 0</th>'
        f'<th scope="col" class="number">samples</th>{heading}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    return _section(
        "Metrics",
        "<p>Stability cannot see a wrong start: compact, alike molecules are no less stable. "
        f"Read it beside size, spread and anisotropy.</p><figure>{table}</figure>",
    )


def _fitted(facts: Facts) -> str:
    stats = facts.stats
    provenance = dict(stats.provenance)
    versions = provenance.pop("versions", {})
    rows = [
        ("data", provenance.pop("data", "not recorded")),
        ("items", f"{stats.moments.count:,}"),
        ("channels", _channels(stats.layout)),
        ("moments", _moments(facts)),
    ]
    provenance.pop("count", None)
    written = provenance.pop("date", facts.written)
    if written is not None:
        rows.append(("written", written))
    rows += [(key.replace("_", " "), value) for key, value in provenance.items()]
    if isinstance(versions, Mapping):
        rows.append(("versions", ", ".join(f"{k} {v}" for k, v in versions.items())))
    body = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(_text(value))}</td></tr>'
        for key, value in rows
    )
    return _section(
        "What was fitted",
        f'<figure><table class="facts"><caption>Provenance of the statistics.</caption>'
        f"<tbody>{body}</tbody></table></figure>",
    )


def _numbers(facts: Facts) -> str:
    text, address = embedded_json(facts.to_dict())
    return _section(
        "The numbers",
        "<p>All figures of this page are in it as json, in the element <code>gaga-report</code>"
        f'<span class="screen">; <a download="gaga-report.json" href="{address}">download them'
        "</a></span>.</p>"
        f'<script type="application/json" id="gaga-report">{text}</script>',
    )


# -- tables behind pictures ------------------------------------------------------------------------


def _tables_of_curves(judged: Sequence[Judged]) -> str:
    return "".join(
        f"<details><summary>{escape(one.name)} as a table</summary>"
        f'<div class="scroll" tabindex="0"><table><caption>{escape(one.curve.criterion)} against '
        f"the {escape(one.curve.reference)} reference.</caption><thead><tr>"
        '<th scope="col" class="number">log-SNR</th>'
        f'<th scope="col" class="number">{one.curve.unit}</th>'
        '<th scope="col" class="number">± s.e.</th><th scope="col">counts as</th></tr></thead>'
        f"<tbody>{_curve_rows(one.curve, one)}</tbody></table></div></details>"
        for one in judged
    )


def _curve_rows(curve: CriterionCurve, one: Judged) -> str:
    rows = ""
    for level, value, error in zip(curve.log_snr, curve.value, curve.std_error, strict=True):
        counts = one.selection is not None and level <= one.selection.log_snr_star + 1e-9
        told = "not computable" if value != value else number(float(f"{value:.3g}"))
        plus = "–" if error != error or value != value else number(float(f"{error:.2g}"))
        rows += (
            f'<tr><td class="number">{number(level)}</td><td class="number">{told}</td>'
            f'<td class="number">{plus}</td><td>{"Gaussian" if counts else ""}</td></tr>'
        )
    return rows


def _table_of_histograms(facts: Facts) -> str:
    columns = [("data", "noised data"), ("reference", "fitted start"), ("unfitted", "N(0, I)")]
    columns = [c for c in columns if any(c[0] in h.moments for h in facts.histograms)]
    heads = "".join(f'<th scope="col" class="number">{title}</th>' for _, title in columns)
    rows = ""
    for histogram in facts.histograms:
        cells = ""
        for key, _ in columns:
            pair = histogram.moments.get(key)
            told = "–" if pair is None else f"{number(pair[0])} ± {number(pair[1])}"
            cells += f'<td class="number">{told}</td>'
        rows += (
            f'<tr><th scope="row">{escape(histogram.name)} '
            f'<span class="note">{escape(histogram.unit)}</span></th>{cells}</tr>'
        )
    return (
        '<details><summary>Mean and spread of each as a table</summary><div class="scroll" '
        'tabindex="0"><table><caption>x_t / a at t*: mean ± standard deviation.</caption>'
        f'<thead><tr><th scope="col">channel</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        "</div></details>"
    )


def _unjudged(facts: Facts) -> str:
    return "".join(
        f'<p class="note">{escape(name)} gave no t*: {escape(reason)}</p>'
        for name, reason in facts.unjudged.items()
    )


# -- words -----------------------------------------------------------------------------------------


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _key(term: str, value: str, small: str) -> str:
    note = f"<small>{small}</small>" if small else ""
    return f"<div><dt>{term}</dt><dd>{value}{note}</dd></div>"


def _data_name(facts: Facts) -> str:
    return _text(facts.stats.provenance.get("data", "these data"))


def _home(facts: Facts) -> Start:
    """t* on the schedule that these data usually meet."""
    dense = isinstance(facts.stats.layout, DenseLayout)
    name = "ddpm/linear" if dense else "edm/polynomial_2"
    assert name in NAMED_PATHS
    return next(start for start in facts.starts if start.schedule == name)


def _start_text(start: Start) -> str:
    if start.value is None:
        return "not reached"
    if start.kind == "timestep":
        return f"t = {start.value:.0f}"
    return f"{'s' if start.kind == 'time' else 'σ'} = {start.value:.3f}"


def _interval(facts: Facts) -> str:
    chosen = _chosen(facts)
    if chosen is None or chosen.interval is None:
        return "larger is closer to the data"
    noise, data = chosen.interval
    return f"90 % interval {_signed(noise)} to {_signed(data)}"


def _step_interval(facts: Facts, home: Start) -> str:
    chosen = _chosen(facts)
    if home.share is None:
        return ""
    if chosen is None or chosen.interval is None:
        return f"{100 * home.share:.0f} % of the path, from data"
    path = named_path(home.schedule)
    late, early = (float(path.time_at_log_snr(level)) * 1000 for level in chosen.interval)
    return f"90 % interval {early:.0f} to {late:.0f}"


def _reason(name: str, reason: str) -> str:
    told = reason if reason.startswith(name) else f"{name}: {reason}"
    return f"{told}.".replace("<=", "≤").replace(">=", "≥").replace(" -", " −")


def _chosen(facts: Facts) -> Selection | None:
    """The choice behind t*; none where another t* was put in its place."""
    chosen = facts.stats.selection
    if chosen is None or chosen.log_snr_star != facts.stats.log_snr_star:
        return None
    return chosen


def _n_stored(facts: Facts) -> int:
    return 0 if facts.stats.selection is None else 1


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _figure(pair: tuple[float, float | None] | None, unit: str) -> str:
    if pair is None:
        return "–"
    value, error = pair
    digits = 1 if unit == "%" else 3
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


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


def _moments(facts: Facts) -> str:
    moments = facts.stats.moments
    if isinstance(moments, DenseMoments):
        return f"{moments.kind} covariance"
    sizes = moments.sizes
    return (
        f"per size, {int(sizes.min())} to {int(sizes.max())} atoms; up to {moments.table_size} "
        "molecules of each size kept"
    )


def _text(value: Any) -> str:  # noqa: ANN401 - whatever provenance holds
    return value if isinstance(value, str) else json.dumps(value, default=str)
