"""Boltz-2 and Boltz-1 by structure: `AtomDiffusion` (github.com/jwohlwend/boltz).

`sample` walks down `sample_schedule(num_sampling_steps)` from `sigmas[0]` times unit noise, and
centres, turns and moves its state before each step. It adds noise, from sigma to (1 + gamma) sigma,
before it asks the network, so that its first call is at that level: 1.8 times the first sigma of
the list in Boltz-2. (Boltz-1 adds less noise than that; what it adds counts.) `num_sampling_steps`
stays the length of the whole list, of which the last part is walked.

Steering needs that number: its weights are functions of `step_idx / num_sampling_steps`, and the
last step, which chooses among particles, would never come. It is refused. Contact guidance, which
`boltz predict` always asks for, passes where there is no contact or template to be forced.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from gaga_adapter.errors import UnsupportedModelError

from .predictor import Cut, Predictor, Sampler


class Boltz(Predictor):
    """`AtomDiffusion` of both versions."""

    name = "boltz"
    known_by: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sample_schedule": ("num_sampling_steps",),
        "sample": ("atom_mask", "num_sampling_steps", "steering_args"),
        "preconditioned_network_forward": ("noised_atom_coords", "sigma"),
    }

    def methods(self, sampler: Sampler, cut: Cut) -> Mapping[str, Callable[..., Any]]:
        """A schedule that is cut, and a sampler that refuses to steer by it."""
        schedule, sample = sampler.sample_schedule, sampler.sample
        signature = inspect.signature(sample)

        @functools.wraps(schedule)
        def sample_schedule(self: Any, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
            sigmas = schedule(self, *args, **kwargs)
            later = torch.cat([sigmas[1:], sigmas[-1:]])
            gammas = torch.where(later > self.gamma_min, self.gamma_0, 0.0)
            added = min(1.0, self.noise_scale) ** 2 * ((1 + gammas) ** 2 - 1)
            return cut(sigmas, sigmas * (1 + added).sqrt(), self.rho)

        @functools.wraps(sample)
        def checked(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            given = signature.bind(*args, **kwargs)
            steers = given.arguments.get("steering_args") or {}
            _check_steering(steers, given.arguments.get("network_condition_kwargs", {}))
            return sample(*args, **kwargs)

        return {"sample_schedule": sample_schedule, "sample": checked}


def _check_steering(steering: Mapping[str, Any], conditions: Mapping[str, Any]) -> None:
    """Refuse potentials that act.

    Raises:
        UnsupportedModelError: If one does.
    """
    acting = [name for name in ("fk_steering", "physical_guidance_update") if steering.get(name)]
    features = conditions.get("feats", {})
    if steering.get("contact_guidance_update"):
        for name in ("contact_pair_index", "template_force"):
            forced = features.get(name)
            if forced is not None and forced.numel() and (name[0] == "c" or bool(forced.any())):
                acting.append(f"contact_guidance_update with {name}")
    if acting:
        raise UnsupportedModelError(
            f"steering ({', '.join(acting)}) cannot run on a shortened list: its weights depend "
            "on step_idx / num_sampling_steps, which mean steps of the whole list. Turn potentials "
            "off, or remove_patch(AtomDiffusion) first."
        )
