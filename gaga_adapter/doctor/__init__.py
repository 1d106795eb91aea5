"""What `gaga doctor` examines: the installation, the machine, statistics and schedulers.

Every part is one `Section` (`section.py`). Nothing here needs torch or diffusers at import time,
and a library that cannot be imported is a finding and no failure.
"""

from __future__ import annotations

from collections.abc import Callable

from gaga_adapter.doctor.section import Section, presentable

__all__ = ["Section", "examine", "presentable"]


def examine(
    stats: str | None = None,
    scheduler: str | None = None,
    steps: int = 50,
    tick: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Section, ...]:
    """Examine the installation, and what the user names.

    Args:
        stats: Statistics to examine: folder, hub id, or the name of an embedded artefact.
        scheduler: Scheduler to examine: folder or hub id, of a pipeline or of the scheduler alone.
        steps: Number of steps of the grid that is cut.
        tick: Function that is told how many of all parts are done.
    """
    from gaga_adapter.doctor import machine, packages

    parts: list[Callable[[], Section]] = [
        packages.package,
        packages.libraries,
        machine.devices,
        machine.places,
        packages.scheduler_classes,
    ]
    if stats is not None:
        parts.append(lambda: _statistics(stats))
    if scheduler is not None:
        parts.append(lambda: _scheduler(scheduler, stats, steps))
    sections = []
    for done, part in enumerate(parts):
        tick(done, len(parts))
        sections.append(part())
    return tuple(sections)


def _statistics(name: str) -> Section:
    try:
        from gaga_adapter.doctor.statistics import statistics
    except Exception as error:  # torch cannot be imported: the section of libraries says why
        return _not_examined("Statistics", error)
    return statistics(name)


def _scheduler(name: str, stats: str | None, steps: int) -> Section:
    try:
        from gaga_adapter.doctor.scheduler import scheduler
        from gaga_adapter.noise.conventions import exported_schedulers

        exported_schedulers()  # diffusers is imported late
    except Exception as error:  # the section of libraries says why
        return _not_examined("Scheduler", error)
    return scheduler(name, stats, steps)


def _not_examined(title: str, error: Exception) -> Section:
    """What stands for a section where a library that it needs cannot be imported."""
    reason = f"{type(error).__name__}: {error}"
    return Section(title, (("examined", f"no, {reason}"),), {"examined": False, "reason": reason})
