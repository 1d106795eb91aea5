"""When a noise level counts as reached: one tolerance, and one first step at or beyond a log-SNR.

Paths, tables of timesteps, lists of sigmas, sampling grids and patched models all ask here.
"""

from __future__ import annotations

from torch import Tensor

#: Two log-SNRs this close are one. Codebases keep their tables and sigmas in float32, which leaves
#: about 1e-6 of a log-SNR undecided, and a t* that was read off a table must be found in it again;
#: neighbouring steps of a thousand lie 5e-3 apart or more.
TOLERANCE = 1e-5


def is_beyond(levels: Tensor, log_snr_star: float) -> Tensor:
    """Whether log-SNRs (...) are at or beyond a point, towards noise; bool."""
    return levels <= log_snr_star + TOLERANCE


def first_beyond(levels: Tensor, log_snr_star: float) -> int:
    """Place of the first of falling log-SNRs (n,) that is at or beyond a point; n if none is."""
    return int((~is_beyond(levels, log_snr_star)).sum())
