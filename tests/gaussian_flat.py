"""Samples of a model on flat batches whose data are Gaussian and whose network is exact.

Molecules of 4 and of 7 atoms with positions N(0, v P) and Gaussian features: of mean `m`, with
covariance `W` among the atoms of a molecule and `B` of sqrt(N) times their mean. Then
`E[eps | z] = b (a² C + b²)^-1 (z - a mu)` on each of these parts, every step of the sampler is
linear, and the variance of what it gives follows by a recursion of one line,

    V_s = (1 - v_ts / (a_t² c + b_t²))² V_t / r² + v_ts b_s² / b_t²,    r = a_t / a_s,
    v_ts = b_t² - r² b_s²,

for each eigenvalue `c` of C, from `V = a² c + b²` at t*. The statistics `scores` are sums of
squares and means of samples over their standard errors: standard normal where the sampler is right.
"""

import torch

from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.stats import GAGAStats

SIZES = (4, 7)
#: Of 28 statistics, the chance that a standard normal one is beyond is below 1e-6 in all.
MOST = 6.0


def data_stats(layout):
    """Statistics of molecules of these sizes, whose moments are the truth from here on."""
    n_features, generator = layout.n_features, torch.Generator().manual_seed(0)
    moments = ExchangeableMoments(n_features)
    mix = torch.eye(n_features) + 0.4 * torch.randn(n_features, n_features, generator=generator)
    for n in SIZES:
        x = torch.randn(2000, n, 3 + n_features, generator=generator)
        x[..., :3] *= 1 + n / 5
        shared = torch.randn(2000, 1, n_features, generator=generator)
        x[..., 3:] = 0.3 * (x[..., 3:] + 0.7 * shared) @ mix + torch.linspace(-0.3, 0.4, n_features)
        moments.update(x, torch.ones(x.shape[:2], dtype=torch.bool))
    return GAGAStats(layout, moments, 0.0)


class ExactDenoiser(torch.nn.Module):
    """E[eps | z_t] of these data, as a network of GCDM."""

    def __init__(self, stats, gamma):
        super().__init__()
        self.gamma = torch.nn.Parameter(gamma.float(), requires_grad=False)
        self.laws = {n: stats.moments.at_size(n) for n in SIZES}
        self.last = None

    def forward(self, batch, xh, t, **kwargs):
        self.last = xh, batch.batch
        step = int(torch.round(t[0] * (len(self.gamma) - 1)))
        a2, b2 = (float(torch.sigmoid(sign * self.gamma[step])) for sign in (-1, 1))
        eps = torch.zeros_like(xh)
        for n, law in self.laws.items():
            mine = torch.bincount(batch.batch)[batch.batch] == n
            z = xh[mine].view(-1, n, xh.shape[-1]).double()
            eye = torch.eye(xh.shape[-1] - 3, dtype=torch.float64)
            mean = z[..., 3:].mean(1, keepdim=True)
            within = torch.linalg.inv(a2 * law.within + b2 * eye)
            between = torch.linalg.inv(a2 * law.between + b2 * eye)
            h = (z[..., 3:] - mean) @ within + (mean - a2**0.5 * law.feature_mean) @ between
            both = torch.cat([z[..., :3] / (a2 * law.v_x + b2), h], -1)
            eps[mine] = (b2**0.5 * both).to(xh).view(-1, xh.shape[-1])
        return batch, eps


def sampled_variance(gamma, t_star, c):
    """Variance of z_0 in directions of the data's variances c, by the recursion."""
    a2, b2 = torch.sigmoid(-gamma), torch.sigmoid(gamma)
    variance = a2[t_star] * c + b2[t_star]
    for t in range(t_star, 0, -1):
        s = t - 1
        ratio = a2[t] / a2[s]
        v_ts = b2[t] - ratio * b2[s]
        gain = (1 - v_ts / (a2[t] * c + b2[t])) ** 2 / ratio
        variance = gain * variance + v_ts * b2[s] / b2[t]
    return variance


def scores(stats, gamma, t_star, z, index):
    """How many standard errors the samples z (atoms, 3 + F) at step 0 are off, a list."""
    gamma, found = gamma.double(), []
    a_0 = torch.sigmoid(-gamma[0]).sqrt()
    for n in SIZES:
        law = stats.moments.at_size(n)
        mine = z[torch.bincount(index)[index] == n].view(-1, n, z.shape[-1]).double()
        parts = [(mine[..., :3], torch.full((3,), float(law.v_x)).double(), (n - 1) * len(mine))]
        mean = mine[..., 3:].mean(1)
        for values, matrix, count in (
            (mine[..., 3:] - mean[:, None], law.within, (n - 1) * len(mine)),
            (n**0.5 * (mean - a_0 * law.feature_mean), law.between, len(mine)),
        ):
            c, axes = torch.linalg.eigh(matrix)
            parts.append((values @ axes, c, count))
        for values, c, count in parts:
            variance = sampled_variance(gamma, t_star, c.clamp(min=0))
            squares = (values.square() / variance).flatten(0, -2).sum(0)
            found += ((squares - count) / (2 * count) ** 0.5).tolist()
        sums = (values / variance.sqrt()).sum(0) / len(mine) ** 0.5  # of the mean, the last part
        found += sums.tolist()
    return found
