"""EDPO by structure (github.com/ZhijianZhou/EDPO): an EDM whose samplers take the number of steps.

Every sampler sets `T = timestep`, and leaves it so. So the number of steps that the model was
trained with is that of its table of levels; a learned schedule has none, and T is taken as it is.

While the model is patched, `timestep` is no more than t*, so that a run of all steps takes t*
steps, and a run that asks for fewer takes these, from t* on. The samplers of the fine-tuning return
their steps to a trainer, which divides them by the number that it asked for: that must be t* or
less.
"""

from __future__ import annotations

import inspect
from typing import Any

from gaga_adapter.errors import TruncationError

from ..edm import EDM
from ..protocol import Model


class EDPO(EDM):
    """`EnVariationalDiffusion` with `sample_edpo` and `sample(..., timestep)`."""

    name = "edpo"
    methods = ("sample(timestep)", "sample_edpo(timestep)", "sample_ddim(timestep)")
    starts = ("sample", "sample_chain", "sample_edpo", "sample_ddim", "sample_ddim_edpo")
    frames = (*EDM.frames, "timestep")

    def n_steps(self, model: Model) -> int:
        """Steps of the model; before it is cut, those of its table, as a sampler leaves its own."""
        cut = hasattr(getattr(model, "_gaga", None), "t_star")
        n_steps = None if cut else getattr(self.schedule(model), "timesteps", None)
        return super().n_steps(model) if n_steps is None else int(n_steps)

    def prepare(self, model: Model, method: str, arguments: dict[str, Any]) -> None:
        """Let a run take no more steps than t*; a trainer must ask for no more itself."""
        if method.endswith("_edpo"):
            parameter = inspect.signature(getattr(type(model), method)).parameters["timestep"]
            asked, t_star = arguments.get("timestep", parameter.default), self.n_steps(model)
            if asked > t_star:
                raise TruncationError(
                    f"{method}(timestep={asked}) returns its steps to a trainer that takes them as "
                    f"fractions of {asked}, and the model starts at t* = {t_star}. Pass "
                    f"timestep={t_star} (finetune.py --num_train_timesteps {t_star})."
                )
        super().prepare(model, method, arguments)
