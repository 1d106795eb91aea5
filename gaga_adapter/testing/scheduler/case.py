"""One scheduler, the data that it is to make, and the loop that it is run in.

The data are sets of 64 atoms whose channels are independent and Gaussian: three of position, and
three features with an own mean and spread. So the fitted Gaussian is the exact law of noised data
at every level, the network is known in closed form, and what is left of an error is the solver's.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaga_adapter.errors import UnsupportedSchedulerError
from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments import DenseMoments
from gaga_adapter.noise.conventions import Convention, Level, convention_of
from gaga_adapter.sampling.loop import Network, served, walk
from gaga_adapter.scheduler import GAGAScheduler
from gaga_adapter.stats import GAGAStats
from gaga_adapter.testing.report import NotApplicable

Scheduler = Any  # a diffusers scheduler
#: From a scheduler whose steps are not set yet, unit noise, a network and a number of steps to the
#: sample.
Loop = Callable[[Scheduler, Tensor, Network, int], Tensor]

# Positions, whose centre of mass is removed, and three features.
MEAN = torch.tensor([0.0, 0.0, 0.0, 0.5, -0.3, 1.0], dtype=torch.float64)
STD = torch.tensor([0.8, 0.8, 0.8, 0.6, 0.2, 1.1], dtype=torch.float64)
N_ATOMS = 64
LOG_SNR_STAR = -1.0


class Run(NamedTuple):
    """Where a run ended, and how often it called the network.

    Attributes:
        sample: Tensor (B, 64, 6).
        n_calls: Number of network calls.
    """

    sample: Tensor
    n_calls: int


def walk_through(scheduler: Scheduler, noise: Tensor, network: Network, n_steps: int) -> Tensor:
    """The loop of this package: `set_timesteps`, `scale_model_input`, network, `step`."""
    mask = torch.ones(noise.shape[:2], dtype=torch.bool)
    return walk(scheduler, noise, mask, n_steps, network).sample


@dataclass
class SchedulerCase:
    """A scheduler, and how it is run.

    Attributes:
        scheduler: Scheduler to wrap; it is copied, and stays as it is.
        n_steps: Number of steps of a full run.
        loop: Loop to run it in; `None` for the package's own, `walk`.
        jumps: Whether its network jumps to the end of the probability flow, as a consistency model
            does, instead of predicting the mean of the data.
        n_rows: Number of sets of 64 atoms that the law of a run is judged by.
        tolerance: Error that a truncated run may add to that of the full run, in standard
            deviations of the data. A multistep solver begins without memory wherever it begins, and
            its first step shows.
        remains: Error that full runs keep however many steps they take, in standard deviations of
            the data: 0 but for schedulers whose last step leaves from a noisy level.
    """

    scheduler: Scheduler
    n_steps: int = 20
    loop: Loop | None = None
    jumps: bool = False
    n_rows: int = 256
    tolerance: float = 0.05
    remains: float = 0.0

    @property
    def name(self) -> str:
        """The name of the class."""
        return type(self.scheduler).__name__

    def bare(self) -> Scheduler:
        """A copy of the scheduler as it came."""
        return copy.deepcopy(self.scheduler)

    def stats(self, log_snr_star: float = LOG_SNR_STAR) -> GAGAStats:
        """Statistics with exactly the mean and variance of the data."""
        shape = (N_ATOMS, 6)
        moments = DenseMoments(shape, kind="channel", channels=-1)
        moments.update(torch.stack([MEAN - STD, MEAN + STD])[:, None].expand(2, *shape))
        return GAGAStats(DenseLayout(shape, channels=-1), moments, log_snr_star)

    def wrapped(self, share: float | None = None, **options: Any) -> Scheduler:  # noqa: ANN401
        """The scheduler, wrapped.

        Args:
            share: Place of t* on the way from the cleanest timestep to the noisiest; by default t*
                is that of the statistics.
            **options: Arguments of `GAGAScheduler.from_pretrained`.
        """
        options = {"stats": self.stats(), "handover": "init", **options}
        if share is not None:
            clean, noisy = convention_of(self.scheduler).ends
            t_star = clean + share * (noisy - clean)
            options["t_star"] = round(t_star) if isinstance(clean, int) else t_star
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return GAGAScheduler.from_pretrained(self.bare(), **options)

    def run(self, scheduler: Scheduler, n_rows: int = 1, n_steps: int | None = None) -> Run:
        """A seeded run with the exact network.

        Args:
            scheduler: Scheduler, bare or wrapped.
            n_rows: Number of sets of atoms.
            n_steps: Number of steps; by default that of the case.

        Raises:
            NotApplicable: If the loop cannot run this class.
        """
        if self.loop is None:
            try:
                served(scheduler)
            except UnsupportedSchedulerError as reason:
                raise NotApplicable(str(reason)) from reason
        n_calls = 0

        def network(seen: Tensor, timestep: Tensor | float, at: Convention) -> Tensor:
            nonlocal n_calls
            n_calls += 1
            level = at.seen_level(timestep)
            clean = self.clean(seen.double(), level)
            return at.output(clean, seen.double(), timestep).to(seen.dtype)

        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            noise = torch.randn(n_rows, N_ATOMS, 6)
            noise[..., :3] -= noise[..., :3].mean(1, keepdim=True)
            sample = (self.loop or walk_through)(scheduler, noise, network, n_steps or self.n_steps)
        return Run(sample, n_calls)

    def clean(self, x: Tensor, level: Level) -> Tensor:
        """What the exact network says of the data, for its input at a level."""
        a, b = level
        scale = (a**2 * STD**2 + b**2).sqrt()
        gain = STD / scale if self.jumps else a * STD**2 / scale**2
        return MEAN + gain * (x - a * MEAN)

    @property
    def chance(self) -> float:
        """What two errors differ by through chance alone: 4.9 standard errors of a spread each."""
        return 2 * 4.9 / math.sqrt(2 * self.n_rows * N_ATOMS)

    def error(self, sample: Tensor) -> float:
        """Distance in W2 of the worst feature from the data, in its standard deviations."""
        x = sample.double().flatten(0, 1)[:, 3:]
        mean, std = MEAN[3:], STD[3:]
        off = (x.mean(0) - mean) ** 2 + (x.std(0) - std) ** 2
        return float((off.sqrt() / std).max())
