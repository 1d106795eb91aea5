"""The gradient of the prior term where the noise schedule is learned."""

import torch
from gaga_adapter.integrations.patching.prior import at_gamma, divergence

from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference import make_reference
from gaga_adapter.reference.refined.tilt import Tilt, n_invariants
from gaga_adapter.reference.refined.tilted import TiltedReference
from gaga_adapter.subspace import project


def test_a_tilt_does_not_break_the_gradient():
    """At the level of the tilt its term jumps: by the gain, here half a nat, over a tiny step."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(20, 4, 1)
    x = project(torch.randn(20, 4, 4, generator=generator, dtype=torch.float64), mask[..., 0] > 0)
    moments = ExchangeableMoments(1, table_size=8)
    moments.update(x, mask[..., 0] > 0)
    coefficients = torch.zeros(n_invariants(1), dtype=torch.float64)
    cells = torch.full((1, 4), 1.0, dtype=torch.float64)
    tilt = Tilt(1.0, 1.0, 1.0, coefficients, 0.5, 4.0, 16, torch.tensor([4]), cells)
    tilted, plain = TiltedReference(moments, None, tilt), make_reference(moments, "shape")

    gamma = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    nats = divergence(tilted, gamma, x, mask)
    (slope,) = torch.autograd.grad(nats.sum(), gamma)
    gain = at_gamma(plain, -1.0).kl_from_posterior(x) - nats.detach()
    assert float(gain.mean()) > 0.3
    up, down = (at_gamma(plain, -1.0 + step).kl_from_posterior(x).sum() for step in (0.01, -0.01))
    torch.testing.assert_close(slope, (up - down) / 0.02, rtol=1e-2, atol=1e-2)
