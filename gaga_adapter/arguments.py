"""Numbers that a caller passes: whole ones, of any library, within bounds."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from gaga_adapter.errors import DataError, GAGAError

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
    if number is None or isinstance(value, bool | np.bool_) or _is_truth(value):
        raise error(f"{name}={value!r} is no whole number. Pass one, {allowed}.")
    if number < least or (most is not None and number > most):
        raise error(f"{name}={number} is out of range. Pass a whole number, {allowed}.")
    return number


def check_seed(seed: Any) -> int:  # noqa: ANN401 - whatever a caller passed
    """A seed as an int.

    Raises:
        DataError: If it is no whole number from 0 to `LARGEST_SEED`.
    """
    return whole_number("seed", seed, 0, LARGEST_SEED)


def _is_truth(value: Any) -> bool:  # noqa: ANN401 - whatever a caller passed
    """Whether it is a bool of torch, which counts as 0 or 1 there."""
    return str(getattr(value, "dtype", "")) == "torch.bool"
