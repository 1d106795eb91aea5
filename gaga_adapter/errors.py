"""One family of errors: what was got, what is allowed, what to do.

The command line turns every `GAGAError` into one line on stderr and exit code 2. Numbers that a
caller passes are refused in one way, by `whole_number` and `plain_number`.
"""

from __future__ import annotations

import inspect
import operator
import warnings
from contextlib import suppress
from numbers import Real
from typing import Any


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


class AlreadyReportedError(ProcessError):
    """The mistake that the first process of this machine reports, in the same words."""


class MissingExtraError(GAGAError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'needs {package}: pip install "gaga-adapter[{extra}]"')


class GAGAWarning(UserWarning):
    """Something was estimated, assumed or left out that the user may want to know."""


#: Modules that a warning does not point at: this package, and torch's decorators around it.
_NOT_THE_CALLER = ("gaga_adapter.", "torch.utils._contextlib")


def warn(message: str) -> None:
    """Issue a `GAGAWarning` that points at the first line outside of this package."""
    depth, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_NOT_THE_CALLER):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, GAGAWarning, stacklevel=depth)


# -- numbers that a caller passes ------------------------------------------------------------------

#: Largest seed that all generators behind the package take.
LARGEST_SEED = 2**63 - 1


def whole_number(
    name: str,
    value: Any,  # noqa: ANN401 - whatever a caller passed
    least: int = 1,
    most: int | None = None,
    error: type[GAGAError] = DataError,
) -> int:
    """A whole number as an int: Python's, numpy's or torch's, but no bool and no float.

    Args:
        name: Name of the argument, for the message.
        value: Value that the caller passed.
        least: Smallest number that is allowed.
        most: Largest number that is allowed; `None` for no limit.
        error: Kind of the error.

    Raises:
        GAGAError: If it is of another type, or out of bounds.
    """
    allowed = f"{least} or more" if most is None else f"{least} to {most}"
    try:
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        number = None
    if number is None or _is_truth(value):
        raise error(f"{name}={value!r} is no whole number. Pass one, {allowed}.")
    if number < least or (most is not None and number > most):
        raise error(f"{name}={number} is out of range. Pass a whole number, {allowed}.")
    return number


def plain_number(
    name: str,
    value: Any,  # noqa: ANN401 - whatever a caller passed
    advice: str,
    error: type[GAGAError] = TruncationError,
) -> float:
    """A finite number as Python has it, also from a tensor or an array of one entry.

    Args:
        name: Name of the argument in messages.
        value: Number that was passed.
        advice: Sentence that ends the message of the error.
        error: Kind of the error.

    Raises:
        GAGAError: If it is a truth value, a text or anything else that is no finite number.
    """
    entry: Any = value
    with suppress(AttributeError, RuntimeError, ValueError):  # a number, or several of them
        entry = value.item()
    is_number = isinstance(entry, Real) and not isinstance(entry, bool)
    if not is_number or not -1e300 < entry < 1e300:
        shown = repr(value).replace("\n", " ")
        shown = shown if len(shown) <= 60 else f"{shown[:56]} ..."
        raise error(f"{name}={shown} is no finite number. {advice}")
    return int(entry) if isinstance(entry, int) else float(entry)


def check_seed(seed: Any) -> int:  # noqa: ANN401 - whatever a caller passed
    """A seed as an int.

    Raises:
        DataError: If it is no whole number from 0 to `LARGEST_SEED`.
    """
    return whole_number("seed", seed, 0, LARGEST_SEED)


def _is_truth(value: Any) -> bool:  # noqa: ANN401 - whatever a caller passed
    """Whether it is a bool of Python, numpy or torch, all of which count as 0 or 1."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
