"""What a user may ask of a run, and how a run talks back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from gaga_adapter.distributed import Progress

#: Reports one line.
Say = Callable[[str], None]
#: Opens the display of a fit's progress.
ProgressBar = Callable[[], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Options:
    """How the models of a script start; the names are those of `apply_patch` and `fit_from`.

    `stats` may be `auto`: the statistics beside the model, fitted from the script's own loader
    where there are none; `none`: N(0, I) at `t_star`; or a folder, a hub id, an embedded name.
    """

    stats: str = "auto"
    t_star: int | None = None  # chosen by the criterion if None
    reference: str = "auto"
    fix_last_class: bool = False
    criterion: str = "two_sample"
    tolerance: float | None = None
    refit: bool = False  # fit although there are statistics beside the model
