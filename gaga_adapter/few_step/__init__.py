"""Sampling in few network calls: where the steps are, and what a step does.

`FewStepScheduler` is an ordinary diffusers scheduler. It makes ancestral steps while the form of a
sample is decided and re-noises its clean prediction afterwards (`scheduler.py`), on levels that
are even in log-SNR (`levels.py`), and it gives back the spread that a predicted mean lacks
(`matching.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaga_adapter.few_step.scheduler import FewStepScheduler

__all__ = ["FewStepScheduler"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """The scheduler loads when it is asked for, since it loads diffusers.

    Diffusers looks for it here, by the module that the class says, and for its base beside it.
    """
    if name not in ("FewStepScheduler", "SchedulerMixin"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gaga_adapter.few_step import scheduler

    return getattr(scheduler, name)
