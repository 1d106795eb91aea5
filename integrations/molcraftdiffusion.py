"""MolCraftDiffusion's EDM by structure (github.com/pregHosh/MolCraftDiffusion).

Its `EnVariationalDiffusion` is EDM's, with samplers for guidance, inpainting and outpainting around
it, which start at and return to absolute steps: these are refused. Its GeoLDM classes are GeoLDM's,
and are recognised as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from gaga_adapter.errors import UnsupportedModelError

from .edm import EDM
from .protocol import Model, lacks


class MolCraftDiffusion(EDM):
    """`EnVariationalDiffusion` with `sample_guidance`, and what has its structure."""

    name = "molcraftdiffusion"
    refused: ClassVar[Mapping[str, str]] = {
        "sample_guidance": "it starts and stops guidance at absolute steps",
        "sample_ddim": "it starts at the level of step T - 1, not of T",
        "phi_pyg": "the time of the network is inside of the graph",
        "phi_distillation": "the teacher of a distillation knows absolute times only",
    }

    def reasons(self, model: Model) -> list[str]:
        """What MolCraftDiffusion's `EnVariationalDiffusion` has and this model lacks."""
        conditions = ("condition_tensor", "condition_mode", "n_frames", "n_retrys")
        methods = {"sample": conditions, **dict.fromkeys(self.refused, ())}
        return super().reasons(model) + lacks(model, ("extra_norm_values",), methods)

    def prepare(self, model: Model, method: str, arguments: dict[str, Any]) -> None:
        """Refuse conditions and retries, and allow no more frames than steps."""
        super().prepare(model, method, arguments)
        conditions = ("condition_tensor", "condition_mode", "silvr_cfgs")
        absolute = [name for name in conditions if arguments.get(name) is not None]
        absolute += ["n_retrys"] if arguments.get("n_retrys") else []
        if absolute:
            raise UnsupportedModelError(
                f"sample({', '.join(absolute)}) cannot run truncated: conditions and retries mean "
                "absolute steps. Call remove_patch(model) first."
            )
        if arguments.get("n_frames"):
            arguments["n_frames"] = min(arguments["n_frames"], self.n_steps(model))

    def draw(self, model: Model, node_mask: Tensor, edge_mask: Tensor) -> None:
        """Sample once, and remove the attributes that `sample` leaves behind."""
        before = dict(model.__dict__)
        try:
            super().draw(model, node_mask, edge_mask)
        finally:
            model.__dict__.clear()
            model.__dict__.update(before)
