"""Samples of a model on given levels, from the same noise each time.

A rollout is the loop of any pipeline: the start at the first level, then network and step. Sizes
are those of held-out items, and the generator is seeded anew, so that two rollouts with as many
calls differ by their levels alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.criteria.certificate.denoisers import Denoiser
from gaga_adapter.few_step import FewStepScheduler
from gaga_adapter.few_step.levels import timesteps_at
from gaga_adapter.level_fitting.distance import batches_of_like_size
from gaga_adapter.noise.conventions import convention_of
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.subspace import project


@dataclass(frozen=True)
class Plan:
    """Levels of a run, and how its steps are made.

    Attributes:
        log_snrs: Log-SNRs (n,) of the calls, rising.
        n_renoised: Number of the last steps that re-noise.
    """

    log_snrs: tuple[float, ...]
    n_renoised: int


@dataclass(frozen=True, eq=False)
class Rollouts:
    """What all rollouts have in common.

    Attributes:
        denoiser: Model.
        scheduler: Scheduler of the few steps, with the moments that it matches.
        reference: Start.
        like: Held-out items (M, ...), for the shape of the samples.
        mask: Real atoms (M, N) of molecules.
        seed: Seed of the noise.
    """

    denoiser: Denoiser
    scheduler: FewStepScheduler
    reference: ReferenceGaussian
    like: Tensor
    mask: Tensor | None
    seed: int

    def first(self, n: int) -> Rollouts:
        """The rollouts of the first n items alone."""
        mask = None if self.mask is None else self.mask[:n]
        return Rollouts(
            self.denoiser, self.scheduler, self.reference, self.like[:n], mask, self.seed
        )

    @torch.no_grad()
    def sample(self, plan: Plan) -> Tensor:
        """Samples (M, ...) on the levels of a plan, clean; molecules have padding of zero."""
        result = torch.zeros_like(self.like)
        generator = torch.Generator().manual_seed(self.seed)
        for rows in batches_of_like_size(self.mask, len(self.like)):
            part, real = self.like[rows], None
            if self.mask is not None:
                real = self.mask[rows]
                width = int(real.sum(1).max())
                part, real = part[:, :width], real[:, :width]
                result[rows, :width] = self._batch(plan, part, real, generator)
            else:
                result[rows] = self._batch(plan, part, real, generator)
        return result

    def _batch(
        self, plan: Plan, like: Tensor, mask: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        scheduler, device = self.scheduler, like.device
        timesteps = plan_timesteps(scheduler, plan.log_snrs)
        scheduler.set_timesteps(timesteps=timesteps, device=device)
        scheduler.renoised = plan.n_renoised
        at = convention_of(scheduler)
        level = at.level(float(scheduler.ratios[0]))
        size: Any = like.shape if mask is None else mask.sum(1).cpu()
        start = self.reference.at(level.a, level.b)
        x = start.sample(size, generator=generator, dtype=like.dtype).to(device)
        for timestep in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, timestep)
            a, b = at.seen_level(timestep)
            clean = self.denoiser((seen / a), b / a, mask)
            output = at.output(clean, seen, timestep)
            step = scheduler.step(output, timestep, x, generator=generator, return_dict=False)
            x = step[0] if mask is None else project(step[0], mask, self.denoiser.n_positions)
        return x


def plan_timesteps(scheduler: FewStepScheduler, log_snrs: Sequence[float]) -> list[float]:
    """Timesteps (n,) of a scheduler for levels, as the wrapper takes them."""
    levels = torch.tensor(log_snrs, dtype=torch.float64)
    return timesteps_at(convention_of(scheduler), levels)
