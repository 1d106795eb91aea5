"""Where a command runs a model."""

from __future__ import annotations

import os
from typing import Annotated

import torch
import typer

from gaga_adapter.cli import choices
from gaga_adapter.errors import GAGAError

Device = Annotated[
    str,
    typer.Option(
        help="Of the model: auto, cpu, cuda, cuda:1, mps. auto is a GPU of its own for each "
        "process of a machine, and the CPU where there is none.",
        autocompletion=choices.completed(choices.devices),
    ),
]


def torch_device(name: str) -> torch.device:
    """The device of this process.

    Args:
        name: what torch calls it, or `auto`: `cuda:LOCAL_RANK` where there is CUDA; processes
            beyond the number of GPUs share them in turn.

    Raises:
        GAGAError: there is no such device here.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", local % torch.cuda.device_count())
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise GAGAError(
            f"no device {name!r} here ({str(error).splitlines()[0]}). Pass auto, cpu, or cuda or "
            "mps where torch supports them."
        ) from error
    return device
