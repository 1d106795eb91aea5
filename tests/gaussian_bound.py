"""The bound of a model whose data are Gaussian and whose network is exact, in closed form.

Ten atoms of one element, positions N(0, v P): everything in the bound is then known,

    KL at t*   = 1/2 d [log(1 + a² v / b²)]                      (the data are the reference)
    L_t        = 1/2 (SNR_s / SNR_t - 1) d a² v / (a² v + b²)
    L_0        = 1/2 d [a_0² v / (a_0² v + b_0²) + gamma_0 + log 2 pi]

with d = 3 (10 - 1), the element being constant and therefore free. The entropy of the data,
1/2 d log(2 pi e v), bounds all proper bounds from below. `measured` asks the unmodified class, with
every time drawn equally often; the few first steps carry most of L_t, so the deviation of their
squared error from its expectation, whose mean is known to be zero, is taken off every loss.
"""

import math
from unittest import mock

import torch
from gaga_adapter.integrations import apply_patch, remove_patch

from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.stats import GAGAStats

N_ATOMS = 10
DIMENSION = 3 * (N_ATOMS - 1)
VARIANCE = 1.905
ENTROPY = 0.5 * DIMENSION * math.log(2 * math.pi * math.e * VARIANCE)
ONEHOT_SCALE = 4.0


def closed_form(gamma, t_star):
    """KL at t*, the terms beyond t*, and the bound, in nats; gamma (T + 1,) of the model."""
    gamma = gamma.double()
    share = VARIANCE / (VARIANCE + gamma.exp())  # a² v / (a² v + b²)
    terms = 0.5 * torch.expm1(gamma[1:] - gamma[:-1]) * DIMENSION * share[1:]
    kl = 0.5 * DIMENSION * torch.log1p(VARIANCE * (-gamma[t_star]).exp())
    kl_end = 0.5 * DIMENSION * torch.log1p(VARIANCE * (-gamma[-1]).exp())
    last = 0.5 * DIMENSION * (share[0] + gamma[0] + math.log(2 * math.pi))
    dropped = terms[t_star:].sum() + kl_end
    return float(kl), float(dropped), float(kl + terms[:t_star].sum() + last)


class ExactDenoiser(torch.nn.Module):
    """E[eps | z_t] for those data, as the dynamics of an EDM model."""

    def __init__(self, gamma):
        super().__init__()
        self.level = torch.nn.Parameter(gamma.clone(), requires_grad=False)
        self.seen = []

    def _forward(self, t, xh, node_mask, edge_mask, context):
        step = torch.round(t.flatten() * (len(self.level) - 1)).long()
        self.seen.append((step, xh[..., :3]))
        gamma = self.level[step][:, None, None]
        a, b = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
        x = b / (a**2 * VARIANCE + b**2) * xh[..., :3]
        return torch.cat([x, (xh[..., 3:] - a / ONEHOT_SCALE) / b], -1)

    def surprise(self, x):
        """L_t of each molecule (B,) minus its expectation, for the first call since the last."""
        step, z = self.seen[0]
        self.seen.clear()
        gamma, x, z = self.level.double(), x.double(), z.double()
        weight = 0.5 * torch.expm1(gamma[step] - gamma[step - 1])
        a2, b2 = torch.sigmoid(-gamma[step]), torch.sigmoid(gamma[step])
        signal, noise = a2 * VARIANCE / (a2 * VARIANCE + b2), b2.sqrt()[:, None, None]
        eps = (z - a2.sqrt()[:, None, None] * x) / noise
        error = eps - (1 - signal)[:, None, None] / noise * z
        return weight * (error.square().sum((1, 2)) - DIMENSION * signal)


def data(n_molecules):
    """Positions (B, 10, 3) of exactly the variance v per degree of freedom."""
    x = torch.randn(n_molecules, N_ATOMS, 3, generator=torch.Generator().manual_seed(0)).double()
    x = x - x.mean(1, keepdim=True)
    v = x.square().sum() / (DIMENSION * n_molecules)
    return (x * (VARIANCE / v).sqrt()).float()


def gamma_of(model):
    steps = torch.arange(model.T + 1)[:, None] / model.T
    with torch.no_grad():
        return model.gamma(steps).flatten()


def measured(model, t_star):
    """The mean evaluation loss of a patched EDM model: of its bound, to about 0.06 nats.

    That is what L_0 leaves, `sqrt(d / 2 / B)`; the other terms are taken exactly.
    """
    x = data(t_star * math.ceil(4000 / t_star))
    model.dynamics = ExactDenoiser(gamma_of(model))
    apply_patch(model.eval(), stats_of(x), t_star=t_star, reference="size", fix_last_class=True)
    try:
        return float(_losses(model, x).mean())
    finally:
        remove_patch(model)


def stats_of(x):
    molecules = torch.cat([x, torch.full_like(x[..., :1], 1 / ONEHOT_SCALE)], -1)
    moments = ExchangeableMoments(1)
    moments.update(molecules, torch.ones(molecules.shape[:2], dtype=torch.bool))
    return GAGAStats(MoleculeLayout(("C",), 1.0, ONEHOT_SCALE), moments, 0.0)


def equally(low, high, size, device=None):
    """A `randint` that draws every number equally often."""
    return (low + torch.arange(size[0]) % (high - low)).view(size)


def _losses(model, x):
    """Losses (B,) with every time 1 to t* drawn equally often."""
    node_mask = torch.ones(len(x), N_ATOMS, 1)
    h = {"categorical": node_mask, "integer": torch.zeros(0)}
    torch.manual_seed(1)  # not the seed of the data: the noise would be the data
    with torch.no_grad(), mock.patch.object(torch, "randint", equally):
        losses = model(x, h, node_mask, torch.ones(len(x) * N_ATOMS**2, 1), None).double()
    return losses - model.T * model.dynamics.surprise(x)
