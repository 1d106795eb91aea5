"""The code of the GAGA paper by structure (github.com/QuJX/GAGA): an EDM of centred features.

Its `EnVariationalDiffusion` is EDM's, with three differences. Noise and data of the features have
zero mean over the atoms of a molecule, as positions have, and the model asserts it; so one-hot and
charges are centred before they are fitted, and the Gaussian is then of zero mean by itself.
`forward(..., max_t)` draws its times up to an argument, not up to the number of steps: up to t*
here. And `sample_shortcut` starts at a step from scaled noise of its caller: while the model is
patched it is `sample`, which starts at t* from the fitted Gaussian, so the paper's own scripts run.

Its checkpoints do not say how far they were trained. `trained_to(model, args.max_t)` says it, after
the weights are loaded; the launcher starts at `max_t` by itself.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from gaga_adapter.errors import TruncationError

from ..edm import EDM
from ..protocol import Model


class PaperGAGA(EDM):
    """`EnVariationalDiffusion` with `sample_shortcut` and `forward(..., max_t)`."""

    name = "paper"
    methods = ("sample_shortcut(z, start_point)", "forward(max_t)")
    features = "in_node_nf"
    centred_features = True
    no_pipeline = "its features have zero mean over the atoms, the noise of a scheduler has not"

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

    def extra_methods(self, base: type[Any]) -> dict[str, Any]:
        """`sample_shortcut` that starts at t* from the fitted Gaussian, as `sample` does."""
        signature = inspect.signature(base.sample_shortcut)

        @functools.wraps(base.sample_shortcut)
        def sample_shortcut(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            given = signature.bind(self, *args, **kwargs)
            given.apply_defaults()
            step = given.arguments.pop("start_point")
            stride = given.arguments.pop("sampling_step_size", 1)
            if step < self.T or stride != 1:
                raise TruncationError(
                    f"sample_shortcut(start_point={step}, sampling_step_size={stride}) does not "
                    f"start at t* = {self.T}, or leaves steps out. Patch with t_star=start_point, "
                    "or call remove_patch(model) first."
                )
            del given.arguments["z"]
            return self.sample(*given.args[1:], **given.kwargs)

        return {**super().extra_methods(base), "sample_shortcut": sample_shortcut}
