"""Ordinary loops over a wrapped scheduler, on statistics with another spread in each channel."""

import torch

from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments import DenseMoments
from gaga_adapter.scheduler import GAGAScheduler
from gaga_adapter.stats import GAGAStats

SHAPE = (3, 6, 6)
#: Arguments of the classes that cannot be made, or not truncated, without any.
OPTIONS = {
    "HeliosScheduler": {"stages": 1, "stage_range": [0, 1]},
    "RFD4ProteinaScheduler": {
        "schedule_mode": "log",
        "noise_mode": "1/t",
        "tsr_k": 1.0,
        "tsr_sigma": 1.0,
    },
}


def dense_stats(log_snr_star=-1.0):
    generator = torch.Generator().manual_seed(0)
    moments = DenseMoments(SHAPE, kind="channel")
    scale = torch.tensor([0.6, 0.2, 1.1]).reshape(3, 1, 1)
    moments.update(0.5 + scale * torch.randn(200, *SHAPE, generator=generator))
    return GAGAStats(DenseLayout(SHAPE), moments, log_snr_star)


STATS = dense_stats()


def wrap(base, **options):
    return GAGAScheduler.from_pretrained(base, stats=STATS, **options)


def noise(batch=4, seed=1):
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed))


def run(scheduler, x, multiply=True, scale=True, n=20, device="cpu", network=lambda x, t: 0.1 * x):
    """An ordinary loop; returns the sample and what the network saw."""
    seen = []
    scheduler.set_timesteps(n, device=device)
    if multiply:
        x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t) if scale else x
        seen.append(given)
        x = scheduler.step(network(given, t), t, x).prev_sample
    return x, seen
