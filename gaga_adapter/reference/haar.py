r"""Averages over all rotations of a Gaussian exponent, uniform rotations and uniform frames.

For symmetric 3×3 matrices with eigenvalues `s` and `p`, the average over Haar-random rotations

    Z(s, p) = ∫ exp(-1/2 tr(diag(s) R diag(p) R')) dR

has no elementary form. Write `r` for the third column of R. Of the other two columns only the angle
around `r` is left; the form restricted to the plane orthogonal to `r` has trace `T = tr s - r'sr`
and eigenvalue gap `g = sqrt(T² - 4 det)`, `det = r_1² s_2 s_3 + r_2² s_3 s_1 + r_3² s_1 s_2`, and
the angle integrates to a modified Bessel function:

    Z = ∫_sphere exp(-1/2 [p_3 r'sr + (p_1 + p_2) T / 2]) I_0((p_2 - p_1) g / 4) dr.

Only squares of `r` occur, so one octant of the sphere is enough. The integrand is largest on the
edge `z = 0`, at or along which it may be as narrow as `1 / sqrt(range)`, `range` being that of the
exponents. So `z` and the angle `phi` are hyperbolic sines of Gauss-Legendre nodes: as dense as that
near 0, and of one density per octave beyond. Their number grows with the logarithm of the range. An
axis needs 19 of them at a range of 10³ and 64 at 10¹², and gets no more than `MOST_NODES`.

With the least eigenvalues subtracted (d_i = s_i - s_1, q_i = p_i - p_1) the exponent below its
highest value `-1/2 (s_3 p_1 + s_2 p_2 + s_1 p_3)` is a sum of terms of one sign, so that nothing
large cancels: with `A = d_3 (x + y)`, `B = d_2 (x + z)` of the squares (x, y, z) of r,

    g² = (A - B)² + 4 d_2 d_3 y z,   along = d_2 y + d_3 z,
    exponent = -1/2 [(p_3 - p_2) along + q_2 (s_3 - s_2) (d_3 z + (g - A + B) / 2) / (g + along)].
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

#: Most nodes per axis. They are enough for exponents that vary by 10²²; beyond, the rounding of the
#: exponents themselves is larger than what they miss.
MOST_NODES = 128
_TINY = 1e-300
_CHUNK = 2**21  # numbers in the largest temporary of one group of rows


def log_haar_average(s: Tensor, p: Tensor) -> Tensor:
    """`log Z(s, p)` (B, K), at most 0, of non-negative eigenvalues s (B, 3), p (K, 3), float64.

    The error is at most 1e-6, and the rounding of the exponents, 2e-16 of their range.
    """
    s, p = s.sort(-1).values, p.sort(-1).values
    spread = _spread(s) * _spread(p)
    squares, weight = _octant(n_nodes(spread), spread, s.device)
    x, y, z = squares.T
    d_2, d_3 = s[:, 1:2] - s[:, :1], s[:, 2:] - s[:, :1]
    difference = d_3 * (x + y) - d_2 * (x + z)  # A - B
    cross = 4 * d_2 * d_3 * y * z
    gap = (difference**2 + cross).sqrt()
    along = d_2 * y + d_3 * z
    # g - (A - B) without cancellation.
    rest = cross / (gap + difference.abs()).clamp(min=_TINY)
    rest = torch.where(difference >= 0, rest, gap - difference)
    tilt = (s[:, 2:] - s[:, 1:2]) * (d_3 * z + rest / 2) / (gap + along).clamp(min=_TINY)
    terms = torch.stack([along, tilt], -2)  # (B, 2, Q)
    parts = []
    for rows in torch.split(p, max(1, _CHUNK // max(1, gap.numel()))):
        q_2 = rows[:, 1] - rows[:, 0]
        slopes = torch.stack([rows[:, 2] - rows[:, 1], q_2], -1) / -2
        bessel = torch.special.i0e(q_2[:, None] * (gap / 4)[:, None])  # exp(-v) I_0(v), (B, k, Q)
        parts.append(((slopes @ terms).exp_() * bessel) @ weight)
    # Aligned axes (largest s with smallest p) give the highest exponent, measured from which it is.
    return torch.cat(parts, 1).log() - 0.5 * s.flip(-1) @ p.T


def n_nodes(exponent_range: float) -> int:
    """Nodes per axis for exponents that vary by this much: an error of `log Z` below 1e-6."""
    decades = math.log10(1 + exponent_range)
    return min(MOST_NODES, 6 + math.ceil(4 * decades + decades**2 / 15))


def _spread(eigenvalues: Tensor) -> float:
    """Largest difference within a row."""
    return float((eigenvalues[:, -1] - eigenvalues[:, 0]).max()) if len(eigenvalues) else 0.0


def _octant(n: int, exponent_range: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Squares of unit vectors (n², 3) and weights (n²,) of an average over the sphere."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(n))
    width = 3 / max(3.0, math.sqrt(exponent_range))
    octaves = math.asinh(1 / width)
    unit = width * torch.sinh(octaves * (nodes + 1) / 2)
    weight = width * octaves * torch.cosh(octaves * (nodes + 1) / 2) * weights / 2
    z2 = (unit**2)[:, None]
    angle = unit * (math.pi / 2)
    x2, y2 = ((1 - z2) * turned**2 for turned in (angle.cos(), angle.sin()))
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


def frames(u: Tensor, mask: Tensor) -> Tensor:
    """Haar-uniform frames (B, N, 3) of mean-free columns from uniform numbers (B, N, 3).

    They are Gaussian columns orthonormalised by Gram and Schmidt's method, twice against rounding.
    Padding is zero, and of n atoms only n - 1 columns are not.
    """
    columns = gaussians(u) * mask[..., None]
    n_atoms = mask.sum(1, keepdim=True)
    done = [mask / n_atoms.to(columns).sqrt()]
    for k, column in enumerate(columns.unbind(-1)):
        for _ in range(2):
            for other in done:
                column = column - (other * column).sum(1, keepdim=True) * other
            column = column / column.square().sum(1, keepdim=True).sqrt()
        done.append(torch.where(n_atoms > k + 1, column, 0))
    return torch.stack(done[1:], -1)


def gaussians(u: Tensor) -> Tensor:
    """Standard normal numbers (...) from uniform numbers (...) in [0, 1), by the inverse of Phi."""
    largest = 1 - 2.0**-53  # the last number below 1
    normal: Tensor = torch.special.ndtri((u + 2.0**-54).clamp(max=largest))
    return normal
