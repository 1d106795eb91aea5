"""One family of errors: what was got, what is allowed, what to do.

The command line turns every `GAGAError` into one line on stderr and exit code 2.
"""

from __future__ import annotations

import inspect
import warnings


class GAGAError(Exception):
    """Base of every error that a user of this package can cause."""


class DataError(GAGAError, ValueError):
    """The data cannot be used: empty, not finite, of unknown elements or of another shape."""


class TruncationError(GAGAError, ValueError):
    """A characteristic time or a number of steps that the path does not have."""


class StatsMismatchError(GAGAError, ValueError):
    """The fitted statistics describe other channels than the tensor they meet."""


class UnsupportedSchedulerError(GAGAError, TypeError):
    """A scheduler whose sampling loop has no place for a Gaussian start."""


class HandoverError(GAGAError, RuntimeError):
    """The sampling loop left no place for the Gaussian start, or offers it twice."""


class UnsupportedModelError(GAGAError, TypeError):
    """A model that no adapter can patch, or that does not predict the clean data from its input."""


class ArtefactError(GAGAError, ValueError):
    """A saved artefact that is missing, corrupt, or of a newer schema."""


class WriteError(GAGAError, OSError):
    """A file cannot be written; what was there before is intact."""


class ProcessError(GAGAError, RuntimeError):
    """Another process of the same run failed, or cannot be reached."""


class MissingExtraError(GAGAError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'needs {package}: pip install "gaga-adapter[{extra}]"')


class GAGAWarning(UserWarning):
    """Something was estimated, assumed or left out that the user may want to know."""


def warn(message: str) -> None:
    """Issue a `GAGAWarning` that points at the first line outside of this package."""
    depth, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("gaga_adapter."):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, GAGAWarning, stacklevel=depth)
