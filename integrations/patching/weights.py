"""The weights of a model, and whether a backward pass trains them.

Guidance differentiates the network by its input. That calls the network's backward as training
does, but no parameter gets a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def when_trained(output: Tensor, model: nn.Module, note: Callable[[], None]) -> None:
    """Call `note` in each backward pass from an output that gives the model's weights a gradient.

    Args:
        output: Output of a network that has a gradient.
        model: Model whose parameters count, such as a data-parallel replica.
        note: Function to call, once in a backward pass.
    """

    def begin(gradient: Tensor) -> None:
        weights = [weight for weight in weights_of(model) if weight.requires_grad]
        if not all(type(weight) in (Tensor, nn.Parameter) for weight in weights):
            note()  # gradients of sharded parameters go other ways
            return
        handles: list[Any] = []

        def arrived(gradient: Tensor) -> None:
            if handles:
                end()
                note()

        def end() -> None:
            while handles:
                handles.pop().remove()

        handles += [weight.register_hook(arrived) for weight in weights]  # type: ignore[no-untyped-call]
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(end)

    output.register_hook(begin)  # type: ignore[no-untyped-call]


def weights_of(model: nn.Module) -> Iterator[Tensor]:
    """The parameters of a model, or what stands for them in a data-parallel replica."""
    for module in model.modules():
        own = {**getattr(module, "_former_parameters", {}), **module._parameters}
        yield from (weight for weight in own.values() if weight is not None)
