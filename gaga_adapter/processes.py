"""Several processes of one run, on `torch.distributed`: who this one is, and what all of them hold.

Without an initialised process group there is one process, and everything here is the identity.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process_index() -> int:
    """Rank of this process; 0 where there is one."""
    return dist.get_rank() if _is_group() else 0


def n_processes() -> int:
    """How many processes the run has; 1 without a process group."""
    return dist.get_world_size() if _is_group() else 1


def gathered(tensor: Tensor) -> Tensor:
    """The tensors of all processes, one after the other along the first axis.

    Args:
        tensor: (B, ...), of one shape and dtype on all processes.

    Returns:
        (W B, ...) in the order of the ranks, on the device of `tensor`; `tensor` itself where there
        is one process.
    """
    if n_processes() == 1:
        return tensor
    sent = tensor.detach().to(_device_of_the_group(tensor.device)).contiguous()
    parts = [torch.empty_like(sent) for _ in range(n_processes())]
    dist.all_gather(parts, sent)
    return torch.cat(parts).to(tensor.device)


def _is_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _device_of_the_group(home: torch.device) -> torch.device:
    """`home` if the group's backends can send from there, else a device of theirs."""
    kinds = [pair.split(":")[0] for pair in dist.get_backend_config().split(",")]
    if home.type in kinds:
        return home
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], getattr(torch, kinds[0]).current_device())
