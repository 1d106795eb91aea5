"""Further criteria for a page: curves of given data against the reference that was fitted.

Unlike in `fitting.compare` the moments are those of the artefact. So data that were held out say
what the start is worth on data it has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from gaga_adapter.criteria import Criterion
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import DataError, TruncationError
from gaga_adapter.fitting import DEFAULT_LOG_SNR, Verdict
from gaga_adapter.report.histograms import HeldOut
from gaga_adapter.selection import bootstrap, select
from gaga_adapter.stats import GAGAStats


def verdicts(
    stats: GAGAStats,
    held_out: HeldOut,
    judges: Sequence[Criterion],
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Verdict]:
    """Ask criteria about data and the fitted start; one that cannot judge says why.

    The levels, the kind of the reference and the tolerance are those of the stored curve, if the
    statistics hold one; a refinement of the start is left out, as it was there. Each criterion
    starts from the same seed.
    """
    chosen = stats.selection
    levels = DEFAULT_LOG_SNR if chosen is None else chosen.curve.log_snr
    # The stored curve is of the plain start, and so are these.
    reference = stats.reference("plain")
    answers = {}
    for judge in judges:
        generator = torch.Generator().manual_seed(seed)
        same_unit = chosen is not None and chosen.curve.unit == judge.unit
        tolerance = chosen.tolerance if chosen is not None and same_unit else None
        curve = selection = None
        try:
            curve = judge.curve(
                held_out.x,
                held_out.mask,
                reference,
                torch.tensor(levels, dtype=torch.float64),
                generator=generator,
                progress=progress,
            )
            selection = select(curve, tolerance)
            if curve.contributions is not None:
                interval = bootstrap(curve, tolerance, generator=generator)
                selection = replace(selection, interval=interval)
            reason = selection.reason
        except (DataError, TruncationError) as error:
            reason = str(error)
        answers[judge.name] = Verdict(curve, selection, reason)
    return answers
