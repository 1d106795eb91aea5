r"""How the Gaussian gets into a loop that draws its own unit noise.

A sampling loop draws unit noise `z` and knows nothing of a reference. Somewhere between
`set_timesteps` and the first `step` the scheduler has to turn `z` into `reference.transport(z)`.
There are four places:

- `init`: the loop multiplies `z` by `scheduler.init_noise_sigma`. That is an object which, when
  multiplied, maps. No extra network call; image-to-image loops do not multiply, and are left
  alone.
- `step`: one timestep more at the front; its `step` maps and nothing else. Works in every loop,
  costs one network call.
- `scale`: the first `scale_model_input` maps, for the network, and the first `step` maps again.
  No extra call.
- `hook`: the network itself is watched (`scheduler.attach(pipe)`); its first input is mapped, and
  the first `step` maps again. No extra call.

`auto` watches all of them, and adds the extra timestep only where the loop may have no other
place: where the scheduler is of the flow kind, whose pipelines never scale their noise, and where
`set_timesteps` was called without a device, as bare loops and the pipelines of DDPM and DDIM do.
A start that has been mapped once is never mapped again; one that nobody mapped is an error at the
first step. A start made of noised data (`add_noise`, `scale_noise`, a start inside of the grid)
is not noise and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gaga_adapter.errors import HandoverError
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.scheduler.grid import Cut

#: Unit noise has a root mean square of one; beyond this factor the loop itself has scaled it.
SCALED = 2.0
#: Fewest numbers on which that can be decided.
ENOUGH = 100
_MULTIPLY = "multiply the noise by scheduler.init_noise_sigma after set_timesteps"


@dataclass(frozen=True)
class Handover:
    """Where one mode takes the noise of a loop, and what to do if the loop never comes there."""

    name: str
    advice: str  # for the user whose loop hands nothing over
    takes_init: bool = False  # whether `init_noise_sigma` maps
    takes_scale: bool = False  # whether the first input of the network is mapped
    leads_bare: bool = False  # whether the grid gets a timestep more if the loop takes bare noise
    leads_always: bool = False  # whether the grid gets one more timestep in every loop

    def leads(self, noise_is_bare: bool) -> bool:
        """Whether the grid gets one more timestep at the front."""
        return self.leads_always or (self.leads_bare and noise_is_bare)


HANDOVERS: dict[str, Handover] = {
    mode.name: mode
    for mode in (
        Handover("auto", _MULTIPLY, takes_init=True, takes_scale=True, leads_bare=True),
        Handover("init", _MULTIPLY, takes_init=True),
        Handover("step", "loop over all of scheduler.timesteps", leads_always=True),
        Handover("scale", "call scheduler.scale_model_input before the network", takes_scale=True),
        Handover("hook", "call scheduler.attach(pipe) first", takes_init=True, takes_scale=True),
    )
}


@dataclass
class Start:
    """The start of one run, between `set_timesteps` and its first step."""

    reference: ReferenceGaussian  # Gaussian at the level of the first entry
    noise_scale: float  # standard deviation that the loop gives to its unit noise by itself
    first: float  # timestep of the first entry
    lead: float | None  # extra timestep before the first entry, if there is one
    cut: Cut  # the truncation, with the whole grid for solvers that get it back in the loop
    awaits_lead: bool = False  # whether the loop may still come to the extra timestep
    is_extended: bool = False  # whether the extra timestep stands in `scheduler.timesteps`
    is_placed: bool = False  # whether the solver has its place in the whole grid
    is_mapped: bool = False  # whether `init_noise_sigma` or the extra timestep mapped the sample
    is_data: bool = False  # whether the loop starts from noised data
    has_run: bool = False  # whether a run has begun from here
    noise: Tensor | None = None  # unit noise, if the network saw it mapped and the sample is not
    shown: Tensor | None = None  # result of the mapping, for the network or `init_noise_sigma`

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be mapped."""
        return self.is_mapped or self.is_data

    def is_lead(self, timestep: float | None) -> bool:
        """Whether this is the extra timestep; `None` is, while the grid begins with it."""
        here = self.is_extended if timestep is None else timestep == self.lead
        return self.awaits_lead and here

    def reset(self) -> None:
        """Prepare for the next run, now that one begins."""
        self.is_mapped = self.is_data = False
        self.awaits_lead = self.lead not in (None, self.first)
        self.noise = self.shown = None
        self.has_run = True

    def transport(self, noise: Tensor, scale: float = 1.0) -> Tensor:
        """Unit noise (B, ...), times `scale`, to the reference; same shape, dtype and device."""
        noise = noise if scale == 1.0 else noise / scale
        entries = noise.detach().float()
        count = int((entries != 0).sum())  # padding rows of molecules are zero
        rms = float(entries.square().sum().div(max(count, 1)).sqrt())
        if count >= ENOUGH and not 1 / SCALED < rms < SCALED:
            raise HandoverError(
                f"the start has a root mean square of {rms:.3g}; the Gaussian start is made of "
                "unit noise. Scale it by scheduler.init_noise_sigma once, and by nothing else."
            )
        return self.reference.transport(noise)

    def map_for_network(self, noise: Tensor) -> Tensor:
        """What the network is to see; `sample_for_step` then finds the sample again."""
        self.noise = noise
        return self.transport(noise, self.noise_scale)

    def sample_for_step(self, sample: Tensor) -> Tensor:
        """The mapped start, whether the loop passes its noise or what the network saw."""
        if self.shown is not None and is_same(sample, self.shown):
            return sample
        if self.noise is not None and is_same(sample, self.noise):
            return self.transport(sample, self.noise_scale)
        raise HandoverError(
            "the sample of the first step is neither the noise that the network saw nor its mapped "
            'start. Multiply the noise by scheduler.init_noise_sigma, or use handover="step".'
        )


def is_same(sample: Tensor, seen: Tensor) -> bool:
    """Whether both are equal, in the precision of `seen`, which may hold copies for guidance."""
    if sample is seen:
        return True
    if sample.shape[1:] != seen.shape[1:] or len(sample) > len(seen):
        return False
    return torch.equal(sample.to(seen.dtype), seen[: len(sample)])


class NoiseMap:
    """What `init_noise_sigma` is while a start is to be mapped: multiplied by noise, it maps.

    As a number it is one, since the noise is to arrive with its unit variance.
    """

    __array_priority__ = 1000.0

    def __init__(self, mapping: Callable[[Tensor], Tensor]) -> None:
        self._mapping = mapping

    def __mul__(self, noise: Tensor) -> Tensor:
        return self._mapping(noise)

    __rmul__ = __mul__

    def __float__(self) -> float:
        return 1.0

    def __repr__(self) -> str:
        return "init_noise_sigma(maps unit noise to the Gaussian start)"

    def to(self, *args: object, **kwargs: object) -> NoiseMap:
        """Itself: the mapping follows the device and dtype of the noise."""
        return self

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Products with tensors, spelled in any of torch's ways."""
        if function.__name__.strip("_") in ("mul", "rmul", "imul", "multiply") and len(args) == 2:
            noise, own = args if isinstance(args[1], cls) else args[::-1]
            result = own * noise
            in_place = function.__name__ in ("mul_", "__imul__", "multiply_")
            return noise.copy_(result) if in_place else result
        raise HandoverError(
            f"init_noise_sigma was used in {function.__name__}. While the start is to be mapped it "
            'can only be multiplied by the noise; use handover="step" for this loop.'
        )


#: Names that networks give to their sample.
_SAMPLES = ("sample", "hidden_states", "x")


def watch(pipe: Any, mapping: Callable[[Tensor], Tensor]) -> RemovableHandle:  # noqa: ANN401
    """Let every input sample of a pipeline's network go through a mapping."""

    def see(
        network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args and isinstance(args[0], Tensor):
            return (mapping(args[0]), *args[1:]), kwargs
        for name in _SAMPLES:
            if isinstance(kwargs.get(name), Tensor):
                return args, {**kwargs, name: mapping(kwargs[name])}
        return args, kwargs

    return watched_network(pipe).register_forward_pre_hook(see, with_kwargs=True)


#: Names that pipelines give to their network.
_NETWORKS = ("unet", "transformer", "prior", "decoder", "denoiser")


def watched_network(pipe: Any) -> torch.nn.Module:  # noqa: ANN401 - any diffusers pipeline
    """The network of a pipeline."""
    for name in _NETWORKS:
        network = getattr(pipe, name, None)
        if isinstance(network, torch.nn.Module):
            return network
    raise HandoverError(
        f"{type(pipe).__name__} has no network under the names {', '.join(_NETWORKS)}. "
        'Use handover="step".'
    )
