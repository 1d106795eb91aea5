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
    """How the models of a script are to start; as in `apply_patch` where nothing else is said.

    Attributes:
        stats: `auto`: those beside the model, fitted from the script's own loader where there are
            none; `none`: N(0, I) at `t_star`; or a folder, a hub id, an embedded name.
        t_star: Step to start at; chosen by the criterion if `None`.
        reference: Kind of the Gaussian.
        fix_last_class: Whether samples get their last element class.
        criterion: Criterion of Gaussianity by name, if t* is chosen here.
        tolerance: Nats that may remain at t*, or the least p-value.
        refit: Whether to fit although there are statistics beside the model.
    """

    stats: str = "auto"
    t_star: int | None = None
    reference: str = "auto"
    fix_last_class: bool = False
    criterion: str = "two_sample"
    tolerance: float | None = None
    refit: bool = False
