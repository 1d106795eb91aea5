"""What a network should see, worked out from a plain scheduler and not from the package.

`Bare` is a run of a pipeline with its plain scheduler. Its first input is the unit noise of the
loop, times a number that follows from the scheduler's class, so the same noise can be mapped here:
at a level `(a, b)` entry `e` of the mapped start is `a mu_e + sqrt(a² s_e² + b²) z_e`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_EXPLODING = ("Euler", "Heun", "LMS", "KDPM2", "DPMSolverSDE")
_KARRAS = ("EDM", "Cosine", "CMStochastic")


@dataclass(frozen=True)
class Entry:
    """One entry of a plain grid.

    Attributes:
        timestep: Entry of `scheduler.timesteps`.
        a: Signal coefficient of the sample.
        b: Standard deviation of the sample's noise.
        seen: Factor of `scale_model_input`.
    """

    timestep: float
    a: float
    b: float
    seen: float

    @property
    def log_snr(self) -> float:
        if not self.a or not self.b:
            return math.inf if self.a else -math.inf
        return 2 * math.log(self.a / self.b)


def entries(scheduler: object) -> list[Entry]:
    """The entries of the grid of a plain scheduler, after `set_timesteps`, each of them once."""
    config = scheduler.config
    name = config.get("noise_class", type(scheduler).__name__)  # whose levels a few-step one has
    found = []
    for index, timestep in enumerate(scheduler.timesteps.tolist()):
        sigma = float(scheduler.sigmas[index]) if hasattr(scheduler, "sigmas") else None
        if name == "DDPMWuerstchenScheduler":
            abar = float(scheduler._alpha_cumprod(torch.tensor([timestep]), "cpu"))
            level = (math.sqrt(abar), math.sqrt(1 - abar), 1.0)
        elif name == "IPNDMScheduler":
            level = (float(scheduler.alphas[index]), float(scheduler.betas[index]), 1.0)
        elif name == "SCMScheduler":
            # Sana Sprint tells its network a share of noise, and scales its input by it.
            cos, sin = math.cos(timestep), math.sin(timestep)
            seen = 1 / (cos + sin) / config.sigma_data
            level = (cos, sin * config.sigma_data, seen)
        elif name.startswith(("FlowMatch", "LTXEuler")) or config.get("use_flow_sigmas"):
            noise = 1 - sigma if config.get("invert_sigmas") else sigma
            level = (1 - noise, noise, 1.0)
        elif name.startswith(_KARRAS):
            level = (1.0, sigma, 1 / math.hypot(sigma, config.sigma_data))
        elif name.startswith(_EXPLODING):
            level = (1.0, sigma, 1 / math.hypot(sigma, 1))
        elif sigma is not None:
            level = (1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma), 1.0)
        else:
            abar = float(scheduler.alphas_cumprod[int(timestep)])
            level = (math.sqrt(abar), math.sqrt(1 - abar), 1.0)
        if not found or timestep != found[-1].timestep:  # two-stage solvers list entries twice
            found.append(Entry(timestep, *level))
    return found


def fitted(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, far from 0 and 1, of the entries of an event."""
    count = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    return 2 + torch.sin(0.7 * count), 0.3 + 0.1 * torch.cos(1.3 * count)


def mapped(noise: Tensor, entry: Entry) -> Tensor:
    """Unit noise (B, ...) as the fitted Gaussian at a level, as a network sees it."""
    mean, std = fitted(tuple(noise.shape[1:]))
    spread = (entry.a**2 * std**2 + entry.b**2).sqrt()
    return (entry.seen * (entry.a * mean + spread * noise.double())).to(noise.dtype)
