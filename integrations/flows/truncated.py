r"""The methods of a flow that starts at t*: generated ones around its own.

- the first noise of a sample goes to the mixed reference at t*; every later one stays as it is;
- the schedule of a sample is walked from t* on;
- random times of the loss are those of the model's own law, given that they lie in [t*, 1];
- a model that is trained says so in its state dict, and starts no sample at a noisier level;
- a call of the network before t* is refused: guided samplers bring noise and times of their own.

Time runs from noise, t = 0, to data, t = 1, and is the level a = t, b = 1 - t in units of the
noise, whose standard deviation the interpolant of the coordinates says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gaga_adapter.errors import TruncationError, UnsupportedModelError
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.trained import (
    Extent,
    check_trained,
    last_source,
    record_training,
    recorded,
    trained_extent,
)

from ..patching.subclass import swap, swap_back
from ..patching.truncated import STATE
from ..patching.weights import when_trained
from ..protocol import Model

_SLACK = 1e-6  # times are float32


def noise_of(model: Model) -> dict[str, Any]:
    """What the statistics depend on of a model; JSON-able."""
    coords = model.coords_interpolant
    by_size = bool(coords.scale_noise_by_log_num_atoms)
    return {"noise_scale": float(coords.noise_scale), "noise_scale_by_log_size": by_size}


def noise_std(model: Model, mask: Tensor) -> Tensor:
    """Standard deviation (B, 1, 1) of the noise of positions; 1 for a single atom."""
    noise, n_atoms = noise_of(model), mask.sum(1)[:, None, None].float()
    scale = n_atoms.log() if noise["noise_scale_by_log_size"] else torch.ones_like(n_atoms)
    return torch.where(scale > 0, scale * noise["noise_scale"], 1.0)


@dataclass(frozen=True, eq=False)
class FlowTruncation:
    """How a flow is cut. It never changes, so copies of a model share it.

    Attributes:
        t_star: Time where the model starts, 0 for noise.
        spacing: Word `suffix` or `respace`.
        reference: Mixed reference at the level of t*; `None` for the model's own noise.
    """

    t_star: float
    spacing: str
    reference: ReferenceGaussian | None

    def __deepcopy__(self, memo: dict[int, Any]) -> FlowTruncation:
        return self

    def install(self, model: Model) -> None:
        """Cut an unpatched model."""
        model.__dict__[STATE] = self
        swap(model, truncated_flow)

    def uninstall(self, model: Model) -> None:
        """Undo `install`; what says how far the model was trained stays."""
        swap_back(model)
        del model.__dict__[STATE]

    @property
    def log_snr(self) -> float:
        """Log-SNR at t*, in units of the noise."""
        return -math.inf if self.t_star == 0 else 2 * math.log(self.t_star / (1 - self.t_star))

    def times(self, schedule: Tensor) -> Tensor:
        """The part of a schedule (n,), rising from 0 to 1, that is walked."""
        if self.t_star == 0:
            return schedule
        if self.spacing == "respace":
            return self.t_star + (1 - self.t_star) * schedule
        rest = schedule[schedule > self.t_star + _SLACK]
        return torch.cat([schedule.new_tensor([self.t_star]), rest])

    def start(self, model: Model, noise: Any) -> Any:  # noqa: ANN401 - a batch of the codebase
        """The model's own noise, sent to the reference at t*; padding stays as it is."""
        if self.reference is None:
            return noise
        mask = ~noise["padding_mask"].bool()
        sigma, types = noise_std(model, mask), noise["atomics"]
        z = torch.cat([noise["coords"] / sigma, types.to(noise["coords"])], -1)
        x = self.reference.transport(torch.where(mask[..., None], z, 0), mask)
        noise["coords"] = x[..., :3] * sigma
        own = F.one_hot(x[..., 3:].argmax(-1), types.shape[-1]).to(types)
        noise["atomics"] = torch.where(mask[..., None], own, types)
        return noise


# -- the generated methods -------------------------------------------------------------------------


@dataclass
class _Run:
    """A sample that is being drawn."""

    model: Model
    has_started: bool = False
    has_times: bool = False


# A context variable, so that threads that sample from one model do not meet.
_RUN: ContextVar[_Run | None] = ContextVar("gaga_flow_run", default=None)


def _running(model: Model) -> _Run | None:
    run = _RUN.get()
    return run if run is not None and run.model is model else None


def truncated_flow(base: type[Any]) -> dict[str, Callable[..., Any]]:
    """Recipe of the generated subclass, around upstream's own methods, which run as they are."""

    @functools.wraps(base.sample)
    def sample(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        state: FlowTruncation = self._gaga
        extent = trained_extent(self)
        if extent is not None:
            check_trained(extent, state.log_snr, 1 - state.t_star)
        run = _Run(self)
        token = _RUN.set(run)
        try:
            drawn = base.sample(self, *args, **kwargs)
        finally:
            _RUN.reset(token)
        if not (run.has_started and run.has_times):
            raise UnsupportedModelError(
                f"{base.__name__}.sample drew no noise, or asked for no schedule, by the methods "
                "that the patch knows. Call remove_patch(model) first."
            )
        return drawn

    @functools.wraps(base._sample_noise_like_batch)
    def _sample_noise_like_batch(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        noise, run = base._sample_noise_like_batch(self, *args, **kwargs), _running(self)
        if run is None or run.has_started:
            return noise
        run.has_started = True
        return self._gaga.start(self, noise)

    @functools.wraps(base._get_sample_schedule)
    def _get_sample_schedule(self: Model, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        schedule: Tensor = base._get_sample_schedule(self, *args, **kwargs)
        run = _running(self)
        if run is None:
            return schedule
        run.has_times = True
        state: FlowTruncation = self._gaga
        return state.times(schedule)

    create_path = signature(base._create_path)

    @functools.wraps(base._create_path)
    def _create_path(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        call = create_path.bind(self, *args, **kwargs)
        t_star = self._gaga.t_star
        if t_star > 0 and call.arguments.get("t") is None:
            x_1 = call.arguments["x_1"]
            times = _times_beyond(self.time_distribution, len(x_1["padding_mask"]), t_star)
            call.arguments["t"] = times.to(x_1.device)
        return base._create_path(*call.args, **call.kwargs)

    @functools.wraps(base._call_net)
    def _call_net(self: Model, batch: Any, t: Tensor) -> Any:  # noqa: ANN401
        state: FlowTruncation = self._gaga
        if not torch.compiler.is_compiling() and bool((t < state.t_star - _SLACK).any()):
            raise UnsupportedModelError(
                f"{base.__name__} asks its network for the time {float(t.min()):.4g}, noisier than "
                f"t* = {state.t_star:.4g}: this sampler (a guided one, or one with times of its "
                "own) does not follow the patch. Call remove_patch(model) first."
            )
        output = base._call_net(self, batch, t)
        coords = output["coords"]
        if coords.requires_grad:
            when_trained(coords, self, lambda: _note_training(self))
        return output

    methods = (sample, _sample_noise_like_batch, _get_sample_schedule, _create_path, _call_net)
    return {method.__name__: method for method in methods}


def _times_beyond(distribution: Any, n: int, t_star: float) -> Tensor:  # noqa: ANN401
    """Times (n,) of the model's own distribution, given that they lie in [t*, 1]."""
    times: Tensor = distribution.sample((n,))
    for _ in range(10_000):
        early = times < t_star
        if not bool(early.any()):
            return times
        times = torch.where(early, distribution.sample((n,)), times)
    raise TruncationError(
        f"the model's own distribution of times hardly ever reaches t* = {t_star:.4g}, so it "
        "cannot be trained there. Choose a smaller t_star."
    )


def _note_training(model: Model) -> None:
    """Write down that a model is trained in [t*, 1] only."""
    model = recorded(model)
    state: FlowTruncation = model._gaga
    if last_source(model) is state:
        return
    extent = Extent(state.log_snr, 1 - state.t_star) if state.t_star > 0 else None
    if extent is not None or trained_extent(model) is not None:
        record_training([model, model.net], extent, state)
