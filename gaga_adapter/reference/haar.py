r"""Averages over all rotations of a Gaussian exponent, and uniform rotations.

For symmetric 3×3 matrices with eigenvalues `s` and `p`, the average over Haar-random rotations

    Z(s, p) = ∫ exp(-1/2 tr(diag(s) R diag(p) R')) dR

has no elementary form. Write `r` for the third column of R. Of the other two columns only the angle
around `r` is left; the form restricted to the plane orthogonal to `r` has trace `T = tr s - r'sr`
and eigenvalue gap `g = sqrt(T² - 4 det)`, `det = r_1² s_2 s_3 + r_2² s_3 s_1 + r_3² s_1 s_2`, and
the angle integrates to a modified Bessel function:

    Z = ∫_sphere exp(-1/2 [p_3 r'sr + (p_1 + p_2) T / 2]) I_0((p_2 - p_1) g / 4) dr.

Only squares of `r` occur, so one octant of the sphere is enough, with Gauss-Legendre nodes in
`cos theta` and `phi`. The exponent peaks at the octant's corners, where those nodes are densest;
their number grows as the fourth root of the exponent's range.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def log_haar_average(s: Tensor, p: Tensor) -> Tensor:
    """`log Z(s, p)` (B, K), at most 0, of non-negative eigenvalues s (B, 3), p (K, 3), float64."""
    s, p = s.sort(-1).values, p.sort(-1).values
    squares, weight = _octant(n_nodes(_spread(s) * _spread(p)), s.device)
    # Aligned axes (largest s with smallest p) give the highest exponent; measure from there.
    top = -0.5 * s.flip(-1) @ p.T

    along = s @ squares.T  # r'sr (B, Q)
    plane = s.sum(-1, keepdim=True) - along
    minors = torch.stack([s[:, 1] * s[:, 2], s[:, 2] * s[:, 0], s[:, 0] * s[:, 1]], -1)
    gap = (plane**2 - 4 * (minors @ squares.T)).clamp(min=0).sqrt()

    mean, half_gap = (p[:, 1] + p[:, 0]) / 2, (p[:, 1] - p[:, 0]) / 2
    argument = half_gap[:, None] * (gap / 2)[:, None]  # (B, K, Q)
    exponent = torch.stack([-p[:, 2], -mean, half_gap], -1) @ torch.stack([along, plane, gap], -2)
    bessel = torch.special.i0e(argument)  # exp(-argument) I_0(argument); the exponent has the rest
    average: Tensor = ((exponent / 2 - top[..., None]).exp_() * bessel) @ weight
    return top + average.log()


def n_nodes(exponent_range: float) -> int:
    """Nodes per axis for exponents that vary by this much: an error of `log Z` below 1e-6."""
    return max(6, math.ceil(6 * math.sqrt(math.sqrt(exponent_range))))


def _spread(eigenvalues: Tensor) -> float:
    """Largest difference within a row."""
    return float((eigenvalues[:, -1] - eigenvalues[:, 0]).max()) if len(eigenvalues) else 0.0


def _octant(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Squares of unit vectors (n², 3) and weights (n²,) of an average over the sphere."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(n))
    unit, weight = (nodes + 1) / 2, weights / 2
    z2 = (unit**2)[:, None]
    cos2 = torch.cos(unit * math.pi / 2)[None] ** 2
    x2, y2 = (1 - z2) * cos2, (1 - z2) * (1 - cos2)
    squares = torch.stack([x2, y2, z2.expand(n, n)], -1).reshape(-1, 3)
    return squares.to(device), torch.outer(weight, weight).flatten().to(device)


def rotations(u: Tensor) -> Tensor:
    """Haar-uniform rotations (..., 3, 3) from uniform numbers (..., 3), by unit quaternions.

    The numbers lie in [0, 1) (Shoemake 1992).
    """
    radius_1, radius_2 = (1 - u[..., 0]).sqrt(), u[..., 0].sqrt()
    angle_1, angle_2 = 2 * math.pi * u[..., 1], 2 * math.pi * u[..., 2]
    x, y = radius_1 * angle_1.sin(), radius_1 * angle_1.cos()
    z, w = radius_2 * angle_2.sin(), radius_2 * angle_2.cos()
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, -1).reshape(*u.shape[:-1], 3, 3)
