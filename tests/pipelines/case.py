"""One pipeline with random weights and the arguments of one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch


@dataclass(frozen=True)
class Case:
    """A pipeline class, how to build a tiny one, and a call of it.

    Attributes:
        pipeline: Name of the class in diffusers.
        kind: Kind of its output, as the table of the documentation has it.
        build: Function that makes it.
        call: Arguments of its call.
        start: What its loop starts from: `noise`, or `data` that the loop noises.
        variant: Argument of the loop that is on trial, as a user writes it.
        count: Number of steps, and the name of its argument.
        front: Number of channels that the network is given before the latents.
        rows: First and last share of the rows (or tokens) that the loop does not paint over.
        event: Shape of one start, where it is not that of the sample of `scheduler.step`.
    """

    pipeline: str
    kind: str
    build: Callable[[], Any]
    call: Mapping[str, Any] = field(default_factory=dict)
    start: str = "noise"
    variant: str = ""
    count: int = 6
    count_name: str = "num_inference_steps"
    event: tuple[int, ...] | None = None
    front: int = 0
    rows: tuple[float, float] = (0.0, 1.0)

    @property
    def name(self) -> str:
        return f"{self.pipeline}-{self.variant}" if self.variant else self.pipeline

    @property
    def is_known(self) -> bool:
        """Whether the installed diffusers has the class, and what the class imports is there."""
        try:
            return getattr(diffusers, self.pipeline, None) is not None
        except RuntimeError:  # of diffusers; its cause is often a transformers that is too old
            return False


def assemble(name: str, **parts: Any) -> Any:
    """A pipeline of these parts; those that are not given are `None`."""
    kind = getattr(diffusers, name)
    torch.manual_seed(0)
    made = {
        key: part() if callable(part) and not isinstance(part, torch.nn.Module) else part
        for key, part in parts.items()
    }
    for key, parameter in inspect.signature(kind.__init__).parameters.items():
        if key != "self" and parameter.default is parameter.empty:
            made.setdefault(key, None)
    pipe = kind(**made)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def numbers(*shape: int, seed: int = 7) -> torch.Tensor:
    """Normal numbers that are the same every time, for embeddings and images."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(size: int = 32, channels: int = 3) -> torch.Tensor:
    """An image (1, channels, size, size) in [0, 1]."""
    return numbers(1, channels, size, size).sigmoid()
