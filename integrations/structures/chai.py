"""Chai-1 by structure: `InferenceNoiseSchedule` (github.com/chaidiscovery/chai-lab).

`run_folding_on_context` asks `get_schedule` for sigmas, starts from `sigmas[0]` times unit noise,
and centres, turns and moves its state before each step of Heun's method: two network calls a step.
Its churn is a share of `num_diffn_timesteps`, which stays the length of the whole list, and acts
below 80 angstrom only, where it is not counted: the list is cut at sigma* itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from .predictor import Cut, Predictor, Sampler


class Chai(Predictor):
    """`InferenceNoiseSchedule`."""

    name = "chai"
    known_by: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "get_schedule": ("device", "num_timesteps"),
        "get_noise_for_times": ("times",),
    }

    def methods(self, sampler: Sampler, cut: Cut) -> Mapping[str, Callable[..., Any]]:
        """A schedule that is cut."""
        schedule = sampler.get_schedule

        @functools.wraps(schedule)
        def get_schedule(self: Any, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
            return cut(schedule(self, *args, **kwargs), rho=self.p)

        return {"get_schedule": get_schedule}
