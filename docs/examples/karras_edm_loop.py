"""A Karras-EDM loop (NVlabs/edm's `edm_sampler`, Karras et al. 2022, algorithm 1), cut at sigma*.

The denoiser is exact, that of a mixture of two Gaussians. In your own loop lines 1 and 2 change.
"""

from itertools import pairwise

import torch

from gaga_adapter import fit, truncate_sigmas

SHAPE, WIDTH = (3, 4, 4), 0.1
generator = torch.Generator().manual_seed(0)
modes = 0.25 * torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
calls = 0


def data(n):
    which = torch.randint(2, (n,), generator=generator)
    return modes[which] + WIDTH * torch.randn((n, *SHAPE), generator=generator).double()


def denoiser(x, sigma):
    """E[x_0 | x] of the mixture, in place of `net(x, sigma)`."""
    global calls
    calls += 1
    var = WIDTH**2 + sigma**2
    away = x[:, None] - modes  # from each mode (B, 2, 3, 4, 4)
    weight = (-away.square().sum((2, 3, 4)) / (2 * var)).softmax(1)
    return torch.einsum("bk,bkchw->bchw", weight, modes + WIDTH**2 / var * away)


def heun(x, t_steps):
    for t, below in pairwise(t_steps):
        slope = (x - denoiser(x, t)) / t
        ahead = x + (below - t) * slope
        if below > 0:
            slope = (slope + (ahead - denoiser(ahead, below)) / below) / 2
            ahead = x + (below - t) * slope
        x = ahead
    return x


ramp = torch.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 40, dtype=torch.float64) ** 7
t_steps = torch.cat([ramp, torch.zeros(1, dtype=torch.float64)])
latents = torch.randn((2000, *SHAPE), generator=generator, dtype=torch.float64)
full, full_calls, calls = heun(latents * t_steps[0], t_steps), calls, 0

stats = fit([data(4000)], criterion="cumulant", covariance="full")
t_steps, start = truncate_sigmas(t_steps, stats)  # 1
short = heun(start.transport(latents), t_steps)  # 2: was latents * t_steps[0]

print(f"sigma* = {stats.sigma_star:.2f}: {calls} network calls instead of {full_calls}")
for name, x in (("data", data(2000)), ("full", full), ("from sigma*", short)):
    near = (x[:, None] - modes).flatten(2).square().mean(2).min(1)
    share, width = near.indices.double().mean(), near.values.mean().sqrt()
    print(f"{name:>12}: {share:.3f} at the second mode, width {width:.4f}")
