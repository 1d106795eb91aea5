r"""Uniform draws that pick the noise levels of one training batch.

Over a batch they are *stratified*: one random offset, then equal steps through [0, 1) (Kingma et
al. 2021, appendix I.1),

    u_i = frac(u + i / B),

which leaves every u_i uniform and takes most of the variance out of the batch mean. Under
`torch.distributed` the processes share one global batch: process r of W takes
`frac(u + (i + r / W) / B)`, so that they never draw the same numbers, whether their generators
agree or not.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gaga_adapter.distributed import n_processes, process_index
from gaga_adapter.errors import DataError


def batch_uniforms(
    batch_size: int,
    generator: Generator | None = None,
    stratified: bool = True,
    sharded: bool = True,
) -> Tensor:
    """Numbers (B,) in [0, 1), float64, for the B examples of this process.

    They are independent if not `stratified`. If not `sharded`, the batch is a global one by itself.
    """
    if batch_size < 1:
        raise DataError(f"batch_size={batch_size}, need at least one example.")
    home = torch.device("cpu") if generator is None else generator.device
    # Apple's GPUs have no float64: they draw the numbers, and the CPU does the arithmetic.
    has_double = home.type != "mps"
    work = home if has_double else torch.device("cpu")
    rank, world = (process_index(), n_processes()) if sharded else (0, 1)
    count = 1 if stratified else batch_size * world
    dtype = torch.float64 if has_double else torch.float32
    uniforms = torch.rand(count, generator=generator, dtype=dtype, device=home)
    uniforms = uniforms.to(work, torch.float64)
    if not stratified:
        return uniforms[rank::world]
    place = torch.arange(batch_size, dtype=torch.float64, device=work) + rank / world
    return (uniforms + place / batch_size) % 1


def entries(table: Tensor, u: Tensor) -> Tensor:
    """Entry `floor(u K)` of a table (K,) for each u in [0, 1], on the device of u.

    A u of 1 has the last entry.
    """
    k = len(table)
    return table.to(u.device)[(u * k).long().clamp(max=k - 1)]
