"""Any diffusers scheduler, cut at t* and started from the fitted Gaussian.

    scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats="my-stats")

`families` says what a cut has to repair in each class, `grid` cuts, `handover` is the table of what
a loop may do before its first step, `start` does it, `watch` sees a pipeline, `fractions` reads
what a pipeline says in fractions of its loop, `run` follows a loop to its first step, `options` are
saved on disk, `wrapper` puts it together. `gaga_adapter.noise.conventions` says where noise levels
live. The generated classes, such as `GAGADDIMScheduler`, are attributes of this package: pickle and
diffusers find them by name.
"""

from __future__ import annotations

from typing import Any

from gaga_adapter.errors import HandoverError
from gaga_adapter.scheduler.wrapper import GAGAScheduler, class_named

__all__ = ["GAGAScheduler", "HandoverError"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name == "SchedulerMixin":  # diffusers looks in the module of a class for how to load it
        from diffusers import SchedulerMixin

        return SchedulerMixin
    return class_named(name)
