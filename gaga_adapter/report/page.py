"""`report`: one page of html that says what was fitted, how Gaussian it is, and what that saves.

The page is one file without scripts: it asks nothing of the network (its content policy forbids
it), looks right on a phone, a desk and paper, in light and dark, and holds the numbers behind it as
json. The same arguments give the same page, byte for byte.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gaga_adapter.files.atomic import replacing
from gaga_adapter.fitting import Verdict
from gaga_adapter.report.facts import (
    HeldOut,
    Histogram,
    Samples,
    Saving,
    Start,
    as_molecules,
    fact_dict,
    histograms,
    metric_rows,
    savings,
    starts,
)
from gaga_adapter.report.figures import Judged
from gaga_adapter.stats import GAGAStats

#: Version of the json in the page.
REPORT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Facts:
    """Everything that a page says.

    Attributes:
        stats: what was fitted.
        judged: curves; the first one is that of the statistics, if they hold one.
        unjudged: why other criteria gave no t*, by name.
        starts: t* under the named schedules.
        savings: network calls.
        histograms: of the channels at t*.
        held_out: name and number of the data that were compared with.
        samples: molecules, if there are any.
        metrics: rows of `metric_rows`.
        written: when the statistics were written, if known.
    """

    stats: GAGAStats
    judged: tuple[Judged, ...]
    unjudged: Mapping[str, str]
    starts: tuple[Start, ...]
    savings: tuple[Saving, ...]
    histograms: tuple[Histogram, ...]
    held_out: tuple[str, int] | None
    samples: Samples | None
    metrics: list[dict[str, Any]]
    written: str | None

    def to_dict(self) -> dict[str, Any]:
        """The json of the page; a figure that is not finite is null in it."""
        document = {
            "report_version": REPORT_VERSION,
            "stats": self.stats.to_dict(),
            "written": self.written,
            "t_star": [fact_dict(start) for start in self.starts],
            "criteria": {
                one.name: {
                    "curve": one.curve.to_dict(),
                    "log_snr_star": one.selection and one.selection.log_snr_star,
                    "interval": one.selection and one.selection.interval,
                    "tolerance": one.selection and one.selection.tolerance,
                }
                for one in self.judged
            },
            "not_judged": dict(self.unjudged),
            "network_calls": [fact_dict(saving) for saving in self.savings],
            "data": self.held_out and {"name": self.held_out[0], "count": self.held_out[1]},
            "histograms": [fact_dict(histogram) for histogram in self.histograms],
            "samples": self.samples
            and {
                "source": self.samples.source,
                "count": len(self.samples.molecules),
                "network_calls": self.samples.network_calls,
                "metrics": self.metrics,
            },
        }
        plain: dict[str, Any] = _plain(document)
        return plain


def facts(
    stats: GAGAStats,
    held_out: HeldOut | None = None,
    verdicts: Mapping[str, Verdict] | None = None,
    samples: Samples | None = None,
    written: str | None = None,
    seed: int = 0,
) -> Facts:
    """Work out everything that a page says; arguments as in `report`."""
    generator = torch.Generator().manual_seed(seed)
    judged, unjudged = [], {}
    if stats.selection is not None:
        judged.append(
            Judged(stats.selection.curve.criterion, stats.selection.curve, stats.selection)
        )
    for name, verdict in (verdicts or {}).items():
        label = f"{name}, these data" if any(one.name == name for one in judged) else name
        if verdict.curve is not None:
            judged.append(Judged(label, verdict.curve, verdict.selection))
        if verdict.selection is None:
            unjudged[label] = verdict.reason
    metrics = []
    if samples is not None:
        from gaga_adapter.molecules.metrics.evaluate import evaluate

        truth = None if held_out is None else as_molecules(stats.layout, held_out)
        metrics = metric_rows(
            evaluate(samples.molecules), None if truth is None else evaluate(truth)
        )
    return Facts(
        stats,
        tuple(judged),
        unjudged,
        starts(stats.log_snr_star),
        savings(stats),
        histograms(stats, held_out, generator),
        None if held_out is None else (held_out.name, len(held_out.x)),
        samples,
        metrics,
        written,
    )


def report(
    stats: GAGAStats,
    held_out: HeldOut | None = None,
    verdicts: Mapping[str, Verdict] | None = None,
    samples: Samples | None = None,
    written: str | None = None,
    seed: int = 0,
) -> str:
    """The page.

    Args:
        stats: what was fitted.
        held_out: data for the histograms; without them the page says what the moments alone say.
        verdicts: of further criteria, by name, such as `compare(...).verdicts`.
        samples: molecules to show and judge; their metrics stand beside those of `held_out`.
        written: when the statistics were written, as text.
        seed: of the noise and the draws in the histograms.

    Returns:
        html.

    Raises:
        StatsMismatchError: data with other channels than the statistics.
        DataError: molecules of elements whose valences nobody knows.
    """
    from gaga_adapter.report.page_html import page

    return page(facts(stats, held_out, verdicts, samples, written, seed))


def write_report(file: str | Path, found: Facts) -> None:
    """Write a page; the file appears whole or not at all.

    Args:
        file: to write.
        found: of `facts`.

    Raises:
        WriteError: the file cannot be written.
    """
    from gaga_adapter.report.page_html import page

    text = page(found)
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def embedded_json(document: Mapping[str, Any]) -> tuple[str, str]:
    """A document as the content of a script element, and as the address of a download.

    In a script element `<` could end it or open a comment, so it is written as its escape.
    """
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    packed = base64.b64encode(text.encode()).decode()
    return text.replace("<", "\\u003c"), f"data:application/json;base64,{packed}"


def _plain(value: Any) -> Any:  # noqa: ANN401 - any json value
    """The value without tuples and without numbers that json does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
