"""The grid that a caller asks a scheduler for: a number of steps, or a list of levels.

The arguments are those of diffusers' pipelines (`retrieve_timesteps`): `timesteps` or `sigmas`, in
the scheduler's own units and from noise to data, take the place of `num_inference_steps`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gaga_adapter.errors import GAGAError, TruncationError, whole_number
from gaga_adapter.few_step import FewStepScheduler
from gaga_adapter.noise.conventions import Convention
from gaga_adapter.sampling import DEFAULT_STEPS, FEW_STEPS
from gaga_adapter.scheduler.options import OWN_LEVELS

#: What callers may list levels in.
Levels = Sequence[float] | Tensor | np.ndarray[Any, Any]

_WITHOUT_A_LIST = ("max_timesteps", "intermediate_timesteps")


class Grid(NamedTuple):
    """What `set_timesteps` of a scheduler is asked for.

    Attributes:
        n_steps: Number of steps, or of entries of the list.
        kind: Name of the list, `timesteps` or `sigmas`; `None` if there is none.
        entries: List of levels, if there is one.
    """

    n_steps: int
    kind: str | None = None
    entries: tuple[float, ...] = ()

    def make(self, scheduler: Any, at: Convention, device: torch.device) -> None:  # noqa: ANN401
        """Call `set_timesteps` of a scheduler.

        Args:
            scheduler: Diffusers scheduler.
            at: Convention of it.
            device: Device of the timesteps.

        Raises:
            TruncationError: If the scheduler takes no such list, or refuses the list or the number.
        """
        name, parameters = type(scheduler).__name__, _arguments(scheduler)
        arguments: dict[str, Any] = dict(at.row.grid_arguments(self.n_steps))
        if self.kind is None:
            arguments["num_inference_steps"] = self.n_steps
        else:
            _check_kind(scheduler, self.kind)
            if parameters["num_inference_steps"].default is inspect.Parameter.empty:
                arguments["num_inference_steps"] = self.n_steps - at.row.tail
            # SCM refuses a list beside the defaults of what it makes without one
            arguments |= {name: None for name in _WITHOUT_A_LIST if name in parameters}
        asked = self.kind or f"{self.n_steps} steps"
        try:
            self._call(scheduler, {"device": device, **arguments})
        except GAGAError:
            raise
        except ValueError as error:
            raise TruncationError(f"{name} refuses {asked}: {error}") from error
        if self.kind is not None and bool((at.grid().diff() > 0).any()):
            raise TruncationError(
                f"the {self.kind} given to {name} do not fall from noise to data. Pass them in "
                "descending noise."
            )

    def _call(self, scheduler: Any, arguments: dict[str, Any]) -> None:  # noqa: ANN401
        """Call `set_timesteps`; classes differ in what they calculate with."""
        if self.kind is None:
            scheduler.set_timesteps(**arguments)
            return
        for container in (list, np.array):
            try:
                scheduler.set_timesteps(**{**arguments, self.kind: container(self.entries)})
            except (TypeError, AttributeError):
                continue
            return
        scheduler.set_timesteps(**{**arguments, self.kind: torch.tensor(self.entries)})


def wanted_grid(
    scheduler: Any,  # noqa: ANN401 - any diffusers scheduler
    num_inference_steps: int | None = None,
    timesteps: Levels | None = None,
    sigmas: Levels | None = None,
    default: int = DEFAULT_STEPS,
) -> Grid:
    """The grid that these arguments of a pipeline ask for.

    Args:
        scheduler: Scheduler that is to make it.
        num_inference_steps: Number of steps; it does not count if there is a list.
        timesteps: Timesteps (n,), from noise to data.
        sigmas: Sigmas (n,), from noise to data.
        default: Number of steps if nothing is asked for, unless the scheduler is one of few steps.

    Raises:
        TruncationError: If the number is no whole one of 1 or more, or both lists are given, or one
            is empty, or no list of finite numbers, or none that the scheduler takes; or if its
            spacing is `log_snr`, `fitted` or `auto`.
    """
    lists = {"timesteps": timesteps, "sigmas": sigmas}
    given = {kind: levels for kind, levels in lists.items() if levels is not None}
    if len(given) > 1:
        raise TruncationError("got timesteps and sigmas. Pass one of them.")
    for kind, levels in given.items():
        _check_kind(scheduler, kind)
        spacing = getattr(scheduler, "spacing", None)
        if spacing in OWN_LEVELS:
            raise TruncationError(
                f"got {kind}, and the spacing {spacing} of this {type(scheduler).__name__} chooses "
                "its own. Pass num_inference_steps, or wrap the scheduler with "
                'spacing="suffix", which cuts the list at t*.'
            )
        entries = _numbers(kind, levels)
        return Grid(len(entries), kind, entries)
    if num_inference_steps is None:
        num_inference_steps = FEW_STEPS if isinstance(scheduler, FewStepScheduler) else default
    return Grid(whole_number("num_inference_steps", num_inference_steps, error=TruncationError))


def _arguments(scheduler: Any) -> dict[str, inspect.Parameter]:  # noqa: ANN401
    return dict(inspect.signature(scheduler.set_timesteps).parameters)


def _check_kind(scheduler: Any, kind: str) -> None:  # noqa: ANN401
    """Refuse a list that a scheduler does not take, and say which it takes."""
    parameters = _arguments(scheduler)
    taken = [k for k in ("timesteps", "sigmas") if k in parameters]
    if kind not in taken:
        advice = f"Pass {taken[0]}" if taken else "Pass num_inference_steps"
        raise TruncationError(
            f"{type(scheduler).__name__} takes no list of {kind}. {advice}, or take "
            "FewStepScheduler.from_scheduler(scheduler), which takes both."
        )


def _numbers(kind: str, levels: Levels) -> tuple[float, ...]:
    """The entries of a list as Python's numbers, whole ones as such."""
    try:
        found = torch.as_tensor(levels)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = torch.empty(0, 0)
    if found.ndim != 1 or found.is_complex() or found.dtype == torch.bool or not len(found):
        raise TruncationError(
            f"{kind} must be a list of one number or more, from noise to data, got {levels!r}."
        )
    if not all(math.isfinite(number) for number in found.tolist()):
        raise TruncationError(f"{kind} hold a number that is not finite: {found.tolist()[:8]}.")
    if isinstance(levels, Tensor | np.ndarray):
        return tuple(levels.tolist())
    return tuple(n.item() if hasattr(n, "item") else n for n in levels)
