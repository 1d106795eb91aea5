r"""The fitted Gaussian as the start and the prior term of models of the EDM lineage.

Their schedule gives `gamma = -log SNR`, their path is variance preserving, so

    a² = sigmoid(-gamma),    b² = sigmoid(gamma).

Their tensors are (B, N, 3 + F), `[positions, features]`, with a float mask (B, N, 1); noise has
positions of zero centre of mass and padding exactly 0. Nothing else is assumed of them. References
are at the level of the data, and `gamma` is one number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.reference.refined.tilted import TiltedReference

_STEP = 1e-4  # of gamma, for a central difference in float64: error about 1e-8


def at_gamma(reference: ReferenceGaussian, gamma: float) -> ReferenceGaussian:
    """The reference at the level of `gamma = -log SNR` of a variance preserving path."""
    exact = torch.tensor(gamma, dtype=torch.float64)
    return reference.at(torch.sigmoid(-exact).sqrt(), torch.sigmoid(exact).sqrt())


def start(reference: ReferenceGaussian, gamma: Tensor, z: Tensor, node_mask: Tensor) -> Tensor:
    """Unit noise z, as the model drew it, sent to the reference; no random number is drawn."""
    return at_gamma(reference, float(gamma.detach())).transport(z, _bool_mask(node_mask, z))


def divergence(
    reference: ReferenceGaussian, gamma: Tensor, xh: Tensor, node_mask: Tensor
) -> Tensor:
    """`KL(N(a xh, b² P) || reference)` in nats (B,), dtype and device of `xh`.

    Where the schedule is learned, the gradient with respect to `gamma` is a central difference in
    float64. The term of a tilted reference jumps at the level of its tilt, so there it is that of
    the mixture without the tilt.
    """
    mask = _bool_mask(node_mask, xh)

    def nats_at(level: float, law: ReferenceGaussian) -> Tensor:
        return at_gamma(law, level).kl_from_posterior(xh, mask).to(xh.device)

    here = float(gamma.detach())
    nats = nats_at(here, reference)
    if torch.is_grad_enabled() and gamma.requires_grad:
        with torch.no_grad():
            smooth = reference.plain() if isinstance(reference, TiltedReference) else reference
            rise = nats_at(here + _STEP, smooth) - nats_at(here - _STEP, smooth)
            slope = rise / (2 * _STEP)
        nats = nats + slope * (gamma - gamma.detach()).sum()
    return nats.to(xh.dtype)


def _bool_mask(node_mask: Tensor, x: Tensor) -> Tensor:
    """Mask (B, N), bool; a mask of one molecule serves the batch."""
    return (node_mask[..., 0] > 0).expand(x.shape[:2])
