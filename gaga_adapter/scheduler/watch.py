"""Watching a pipeline: the latents that it prepares, and what its networks see first.

A pipeline makes its noise in `prepare_latents`, one place for all its networks: a ControlNet, a
second expert, a refiner. The networks are watched besides, for pipelines without that method.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gaga_adapter.errors import HandoverError
from gaga_adapter.scheduler.white import is_white

#: Arguments by which a network that denoises is told from an encoder or decoder.
_TIMES = ("timestep", "timesteps", "timestep_ratio", "t", "r")
#: Names that pipelines give to such networks, whatever these call their arguments.
_NETWORKS = ("unet", "transformer", "prior", "decoder", "denoiser")
#: Names that networks give to their sample.
_SAMPLES = ("sample", "hidden_states", "x")
_PREPARE, _BAR = "prepare_latents", "progress_bar"


@dataclass
class Watch:
    """A watched pipeline, until it is left alone again."""

    pipe: Any
    handles: list[RemovableHandle] = field(default_factory=list)

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        return self  # some pipelines copy all that a scheduler has, once per window

    def remove(self) -> None:
        """Take the hooks off the networks, and give the pipeline its own methods back."""
        for handle in self.handles:
            handle.remove()
        for name in (_PREPARE, _BAR):
            vars(self.pipe).pop(name, None)


def watch(
    pipe: Any,  # noqa: ANN401 - any diffusers pipeline
    show: Callable[[Tensor, Tensor | None], Tensor],
    begin: Callable[[], None],
    prepare: Callable[[Tensor], Tensor],
    n_steps: Callable[[int], int],
) -> Watch:
    """Let latents and network inputs of a pipeline go through two mappings.

    Args:
        pipe: Pipeline of diffusers, or an object that holds its networks as attributes.
        show: Mapping of what a network is given, with the timesteps that it is given.
        begin: Function that is called before `prepare_latents`.
        prepare: Mapping of the noise that `prepare_latents` returns.
        n_steps: Steps that are left of as many as the pipeline's progress bar counts.

    Raises:
        HandoverError: If the pipeline has no network that takes a timestep.
    """
    networks = networks_of(pipe)
    if not hasattr(pipe, "scheduler") and any(n.endswith("_scheduler") for n in vars(pipe)):
        raise HandoverError(
            f"{type(pipe).__name__} has several schedulers. Assign the truncated one to the "
            'attribute that it replaces, with handover="step".'
        )

    def see(
        network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if torch.compiler.is_compiling():  # the graph is made once, and must not hold the start
            return args, kwargs
        times = next((kwargs[n] for n in _TIMES if isinstance(kwargs.get(n), Tensor)), None)
        if times is None and len(args) > 1 and isinstance(args[1], Tensor):
            times = args[1]
        if args and isinstance(args[0], Tensor):
            return (show(args[0], times), *args[1:]), kwargs
        for name in _SAMPLES:
            if isinstance(kwargs.get(name), Tensor):
                return args, {**kwargs, name: show(kwargs[name], times)}
        return args, kwargs

    result = Watch(pipe, [n.register_forward_pre_hook(see, with_kwargs=True) for n in networks])
    own = getattr(pipe, _PREPARE, None)
    if callable(own):

        @functools.wraps(own)
        def prepare_latents(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            begin()
            result = own(*args, **kwargs)
            is_tuple = isinstance(result, tuple)
            parts = list(result) if is_tuple else [result]
            # beside their noise, pipelines return data: conditions, masks, places
            place = next((i for i, part in enumerate(parts) if is_white(part)), None)
            if place is None:
                return result
            if any(parts[place] is given for given in (*args, *kwargs.values())):
                parts[place] = parts[place].clone()  # it is the caller's own
            parts[place] = prepare(parts[place])
            return tuple(parts) if is_tuple else parts[0]

        vars(pipe)[_PREPARE] = prepare_latents
    bar = getattr(pipe, _BAR, None)
    if callable(bar):

        @functools.wraps(bar)
        def progress_bar(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            total = kwargs.get("total")
            return bar(*args, **kwargs if total is None else {**kwargs, "total": n_steps(total)})

        vars(pipe)[_BAR] = progress_bar
    return result


def networks_of(pipe: Any) -> list[torch.nn.Module]:  # noqa: ANN401
    """The networks of a pipeline that take a timestep, such as `unet` and `controlnet`.

    Raises:
        HandoverError: If there is none.
    """
    networks = [n for name, n in _modules(pipe) if name in _NETWORKS or _takes_timestep(n)]
    if not networks:
        raise HandoverError(
            f"{type(pipe).__name__} has no network that takes a timestep, such as a unet or a "
            'transformer. Use handover="step".'
        )
    return networks


def _modules(pipe: Any) -> Iterator[tuple[str, torch.nn.Module]]:  # noqa: ANN401
    """Every module that a pipeline holds, once, under the first of its names."""
    held = set()
    for name, value in vars(pipe).items():
        for module in value if isinstance(value, list | tuple) else (value,):
            if isinstance(module, torch.nn.Module) and id(module) not in held:
                held.add(id(module))
                yield name, module


def _takes_timestep(network: torch.nn.Module) -> bool:
    """Whether a network, compiled or not, denoises."""
    plain = getattr(network, "_orig_mod", network)
    return bool(set(_TIMES) & set(inspect.signature(type(plain).forward).parameters))
