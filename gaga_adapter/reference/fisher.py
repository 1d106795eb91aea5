r"""The average of exp(tr F'R) over all rotations: the matrix Fisher distribution's normaliser.

For a 3×3 matrix F with proper singular values `s_1 >= s_2 >= |s_3|` (the last has the sign of
det F) an integral over one coordinate is left (Wood 1993; Lee 2018):

    c(F) = ∫ exp(tr F'R) dR
         = 1/2 ∫_0^2 I_0[(s_1 - s_2) w / 2] I_0[(s_1 + s_2) (2 - w) / 2] exp(s_3 (1 - w)) dw.

The exponent of the integrand falls from `s_1 + s_2 + s_3` at w = 0 with slope `s_2 + s_3`, and the
two Bessel functions leave roots that are as narrow as `1 / (s_1 - s_2)` at w = 0 and
`1 / (s_1 + s_2)` at w = 2. So each half of [0, 2] has its own Gauss-Legendre nodes, which are
hyperbolic sines: as dense as these widths at the end, and of one density per octave beyond.

For small F, `log c = |F|² / 6 + det F / 6 + O(|F|⁴)`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .haar import n_nodes

_CHUNK = 2**20  # numbers in the largest temporary


def log_fisher_normaliser(matrices: Tensor) -> Tensor:
    """`log c(F)` (...) for matrices F (..., 3, 3), float64; the error is at most 1e-6."""
    flat = matrices.reshape(-1, 3, 3)
    s = torch.linalg.svdvals(flat)
    handed = torch.where(torch.linalg.det(flat) < 0, -1.0, 1.0)
    largest = 2 * float(s.amax()) if s.numel() else 0.0
    w, weight = _nodes(n_nodes(largest), largest, flat.device)
    rows = max(1, _CHUNK // len(w))
    parts = [
        _log_integral(some, sign, w, weight)
        for some, sign in zip(torch.split(s, rows), torch.split(handed, rows), strict=True)
    ]
    return torch.cat(parts).reshape(matrices.shape[:-2])


def _log_integral(s: Tensor, sign: Tensor, w: Tensor, weight: Tensor) -> Tensor:
    """`log c` (B,) from singular values (B, 3), falling, and the sign of the last one (B,)."""
    first, second, third = s[:, 0, None], s[:, 1, None], (s[:, 2] * sign)[:, None]
    bessel = torch.special.i0e((first - second) * w / 2)
    bessel = bessel * torch.special.i0e((first + second) * (2 - w) / 2)
    average: Tensor = (bessel * (-(second + third) * w).exp()) @ weight / 2
    return average.log() + (first + second + third)[:, 0]


def _nodes(n: int, exponent_range: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes in [0, 2] and their weights (2 n,), denser towards both ends."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(n))
    width = 3 / max(3.0, exponent_range)
    octaves = math.asinh(1 / width)
    angle = octaves * (nodes + 1) / 2
    near = width * angle.sinh()
    weight = width * octaves / 2 * angle.cosh() * weights
    return torch.cat([near, 2 - near]).to(device), weight.repeat(2).to(device)
