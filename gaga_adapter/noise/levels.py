"""When a noise level counts as reached: one tolerance, and one first step at or beyond a log-SNR.

Paths, tables of timesteps, lists of sigmas, sampling grids and patched models all ask here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError, plain_number

#: Two log-SNRs this close are one. Codebases keep their tables and sigmas in float32, which leaves
#: about 1e-6 of a log-SNR undecided, and a t* that was read off a table must be found in it again;
#: neighbouring steps of a thousand lie 5e-3 apart or more.
TOLERANCE = 1e-5
#: Log-SNRs from minus to plus this are plausible: no schedule goes further.
MOST_LOG_SNR = 60.0


def check_log_snr(name: str, value: Any) -> float:  # noqa: ANN401 - what a user passed
    """A log-SNR as a plain number.

    Raises:
        TruncationError: If it is no number, or not from -60 to 60.
    """
    advice = "Pass a log-SNR from -60 to 60, such as 0.0 where signal and noise are equal."
    number = plain_number(name, value, advice)
    if abs(number) > MOST_LOG_SNR:
        raise TruncationError(f"{name}={number:g} is not a plausible log-SNR. {advice}")
    return number


def coefficients(log_snr: float) -> tuple[float, float]:
    """Variance preserving (a, b): `a² = sigmoid(log_snr)`, `b² = sigmoid(-log_snr)`."""
    a2, b2 = torch.tensor([log_snr, -log_snr], dtype=torch.float64).sigmoid().tolist()
    return math.sqrt(a2), math.sqrt(b2)


def is_beyond(levels: Tensor, log_snr_star: float) -> Tensor:
    """Whether log-SNRs (...) are at or beyond a point, towards noise; bool."""
    return levels <= log_snr_star + TOLERANCE


def first_beyond(levels: Tensor, log_snr_star: float) -> int:
    """Place of the first of falling log-SNRs (n,) that is at or beyond a point; n if none is."""
    return int((~is_beyond(levels, log_snr_star)).sum())
