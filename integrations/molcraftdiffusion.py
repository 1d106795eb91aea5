"""MolCraftDiffusion's EDM by structure (github.com/pregHosh/MolCraftDiffusion).

Its `EnVariationalDiffusion` is EDM's, with samplers for guidance, inpainting and outpainting around
it, which start at and return to absolute steps: these are refused. Its GeoLDM classes are GeoLDM's,
and are recognised as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from .edm import EDM
from .protocol import Model


class MolCraftDiffusion(EDM):
    """`EnVariationalDiffusion` with `sample_guidance`, and what has its structure."""

    name = "molcraftdiffusion"
    attributes = ("extra_norm_values",)
    refused: ClassVar[Mapping[str, str]] = {
        "sample_guidance": "it starts and stops guidance at absolute steps",
        "sample_ddim": "it starts at the level of step T - 1, not of T",
        "phi_pyg": "the time of the network is inside of the graph",
        "phi_distillation": "the teacher of a distillation knows absolute times only",
    }
    refused_arguments = ("condition_tensor", "condition_mode", "silvr_cfgs", "n_retrys")
    methods = ("sample(condition_tensor, condition_mode, n_frames, n_retrys)", *refused)
    frames = ("keep_frames", "n_frames")

    def draw(self, model: Model, node_mask: Tensor, edge_mask: Tensor) -> None:
        """Sample once, and remove the attributes that `sample` leaves behind."""
        before = dict(model.__dict__)
        try:
            super().draw(model, node_mask, edge_mask)
        finally:
            model.__dict__.clear()
            model.__dict__.update(before)
