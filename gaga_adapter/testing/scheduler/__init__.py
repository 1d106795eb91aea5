"""What `GAGAScheduler` promises of every scheduler, as one list of checks.

`check_scheduler(MyScheduler())` runs them all.
"""

from __future__ import annotations

from gaga_adapter.testing.report import Check, Report, report_of, sentences
from gaga_adapter.testing.scheduler import identity, truncation
from gaga_adapter.testing.scheduler.case import Scheduler, SchedulerCase

#: Checks of schedulers by name.
SCHEDULER_CHECKS: dict[str, Check] = sentences(identity, truncation)


def check_scheduler(scheduler: Scheduler | SchedulerCase, n_steps: int = 20) -> Report:
    """Run every check on a diffusers scheduler, such as a subclass of your own.

    Args:
        scheduler: Scheduler to check; it is copied. A `SchedulerCase` says more: the loop that it
            needs, or that its network is a consistency model.
        n_steps: Number of steps of a full run.

    Returns:
        A verdict on each check. `report.assert_passed()` raises if one has failed.

    Raises:
        UnsupportedSchedulerError: If schedulers of this kind cannot be truncated.
    """
    case = scheduler
    if not isinstance(case, SchedulerCase):
        case = SchedulerCase(scheduler, n_steps)
    case.wrapped()
    return report_of(case.name, SCHEDULER_CHECKS, case)


__all__ = ["SCHEDULER_CHECKS", "SchedulerCase", "check_scheduler"]
