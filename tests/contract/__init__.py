"""What `apply_patch` promises of every codebase it knows: one list of checks.

A codebase gives a `Case`: how one of its models is made, sampled and trained. `CHECKS` holds the
checks by name, those of each file in its order; each takes the case and raises `AssertionError`, or
`NotApplicable` where the codebase has no such thing. The checks import nothing of pytest, so that
they also run in a process whose working directory is somebody else's repository.
"""

from . import copies, lifecycle, refusals, sampling, training, unchanged
from .case import SIZES, Case, NotApplicable, raises, same

CHECKS = {
    name: check
    for module in (unchanged, sampling, training, copies, lifecycle, refusals)
    for name, check in vars(module).items()
    if getattr(check, "__module__", "") == module.__name__ and not name.startswith("_")
}

__all__ = ["CHECKS", "SIZES", "Case", "NotApplicable", "raises", "same"]
