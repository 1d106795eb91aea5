"""The code of the GAGA paper by structure (github.com/QuJX/GAGA): an EDM of centred features.

Its `EnVariationalDiffusion` is EDM's, with two differences. Noise and data of the features have
zero mean over the atoms of a molecule, as positions have, and the model asserts it; so one-hot and
charges are centred before they are fitted, and the Gaussian is then of zero mean by itself. And
`forward(..., max_t)` draws its times up to an argument, not up to the number of steps: up to t*
here. `sample_shortcut` takes the noise of its caller and is refused: `sample` starts at t*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Generator, Tensor

from gaga_adapter.errors import TruncationError
from gaga_adapter.layout import AtomLayout, Layout
from gaga_adapter.subspace import remove_mean

from .edm import EDM, Molecules
from .protocol import Model, lacks


class PaperGAGA(EDM):
    """`EnVariationalDiffusion` with `sample_shortcut` and `forward(..., max_t)`."""

    name = "paper"
    centred_features = True
    refused: ClassVar[Mapping[str, str]] = {
        "sample_shortcut": "it starts from noise of the caller; `sample` starts at t* by itself"
    }

    def reasons(self, model: Model) -> list[str]:
        """What the paper's `EnVariationalDiffusion` has and this model lacks."""
        methods = {"sample_shortcut": ("z", "start_point"), "forward": ("max_t",)}
        return super().reasons(model) + lacks(model, (), methods)

    def layout(self, model: Model, elements: tuple[str, ...] | None) -> Layout:
        """Positions and centred features, which are not one-hot."""
        return AtomLayout(int(model.in_node_nf))

    def encode(
        self, model: Model, molecules: Molecules, context: Tensor | None, generator: Generator
    ) -> Tensor:
        """Positions, one-hot and charges, centred and normalised by the model itself."""
        x, h, node_mask = molecules
        mask = node_mask[..., 0] > 0
        h = {k: remove_mean(v, mask) if v.numel() else v for k, v in h.items()}
        return super().encode(model, (x, h, node_mask), context, generator)

    def prepare(self, model: Model, method: str, arguments: dict[str, Any]) -> None:
        """Let the loss draw its times up to t*, and allow no more frames than steps."""
        super().prepare(model, method, arguments)
        if method == "forward":
            n_steps = self.n_steps(model)
            if arguments.get("max_t", n_steps) < n_steps:
                raise TruncationError(
                    f"max_t={arguments['max_t']} is closer to the data than t* = {n_steps}: the "
                    "steps between would never be trained. Patch with t_star=max_t "
                    "(gaga run --t-star), or raise --max_t."
                )
            arguments["max_t"] = n_steps
