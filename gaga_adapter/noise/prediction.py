"""What a network must return so that a diffusers scheduler steps right.

A denoiser that predicts the clean data `x_0` can serve every scheduler: all that the scheduler's
`prediction_type` asks for is a linear combination of `x_0` and the network's input. The input is
what `scheduler.scale_model_input` returned, `a x_0 + b eps` with

- variance preserving tables: a = sqrt(abar_t), b = sqrt(1 - abar_t), also for the sigma-space
  solvers, whose `scale_model_input` divides by sqrt(1 + sigma^2);
- flow matching: a = 1 - s, b = s with s = timestep / num_train_timesteps;
- Karras-EDM preconditioning (Karras et al. 2022, Table 1): a = c_in, b = c_in sigma.

A timestep says sigma = b / a as an index of the table, as ln(sigma) / 4 (Karras-EDM, and Euler for
continuous v-prediction), or as atan(sigma) 2 / pi (the cosine schedule of Stable Audio).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaga_adapter.errors import UnsupportedSchedulerError

_TABLE_PREDICTIONS = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True)
class NetworkView:
    """How one scheduler presents noisy data to the network and what it wants back.

    Attributes:
        family: "table", "flow" or "karras".
        prediction_type: the scheduler's own word for the network's output.
        clock: how a timestep says sigma: "index", "quarter_log" or "arctangent".
        log_sigma: ln(b / a) of the training table, float64 (T,); only for "index".
        num_train_timesteps: T; only for "flow".
        sigma_data: data scale of the preconditioning; only for "karras".
    """

    family: str
    prediction_type: str
    clock: str = "index"
    log_sigma: Tensor | None = None
    num_train_timesteps: int = 1000
    sigma_data: float = 0.5

    @classmethod
    def of(cls, scheduler: Any) -> NetworkView:  # noqa: ANN401 - any diffusers scheduler
        """Read the conventions off a diffusers scheduler.

        Raises:
            UnsupportedSchedulerError: the scheduler has a convention of its own.
        """
        config = scheduler.config
        name = type(scheduler).__name__
        prediction = config.get("prediction_type", "epsilon")
        if hasattr(scheduler, "precondition_inputs"):
            clock = "arctangent" if "Cosine" in name else "quarter_log"
            return cls("karras", prediction, clock, sigma_data=float(config.sigma_data))
        if "FlowMatch" in name or prediction == "flow_prediction":
            return cls(
                "flow", "flow_prediction", num_train_timesteps=int(config.num_train_timesteps)
            )
        table = getattr(scheduler, "alphas_cumprod", None)
        if table is None or prediction not in _TABLE_PREDICTIONS:
            raise UnsupportedSchedulerError(
                f"{name} (prediction_type={prediction!r}) has no rule to turn a clean prediction "
                f"into its model output. Known: schedulers with alphas_cumprod and one of "
                f"{', '.join(_TABLE_PREDICTIONS)}; flow matching; Karras-EDM."
            )
        if config.get("timestep_type") == "continuous" and prediction == "v_prediction":
            return cls("table", prediction, "quarter_log")
        abar = torch.as_tensor(table).double().cpu()
        return cls("table", prediction, log_sigma=0.5 * (torch.log1p(-abar) - torch.log(abar)))

    def level(self, timestep: Tensor | float) -> tuple[float, float]:
        """(a, b) of the network's input at one timestep; a = 0 for pure noise.

        Fractional timesteps of a table are linear in ln(sigma), as diffusers' own conversion is.
        """
        t = float(timestep)
        if self.family == "flow":
            s = t / self.num_train_timesteps
            return 1 - s, s
        sigma = self._sigma(t)
        a = 1 / math.hypot(sigma, self.sigma_data if self.family == "karras" else 1.0)
        return a, sigma * a if math.isfinite(sigma) else 1.0

    def _sigma(self, t: float) -> float:
        if self.clock == "quarter_log":
            return math.exp(4 * t)
        if self.clock == "arctangent":
            return math.tan(t * math.pi / 2)
        assert self.log_sigma is not None
        log_sigma = np.interp(t, np.arange(len(self.log_sigma)), self.log_sigma.numpy())
        return math.exp(log_sigma)

    def output(self, clean: Tensor, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """The model output that says `clean`, same shape as `sample`.

        Args:
            clean: predicted x_0.
            sample: the network's input, `a x_0 + b eps`.
            timestep: the entry of `scheduler.timesteps` that the loop is at.
        """
        a, b = self.level(timestep)
        if self.family == "karras":
            sigma = b / a
            total = sigma**2 + self.sigma_data**2
            c_out = sigma * self.sigma_data / total**0.5
            sign = -1 if self.prediction_type == "v_prediction" else 1
            c_skip = self.sigma_data**2 / total
            preconditioned: Tensor = (clean - c_skip * sample / a) / (sign * c_out)
            return preconditioned
        if self.prediction_type == "sample":
            return clean
        noise = (sample - a * clean) / max(b, 1e-12)
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            return a * noise - b * clean
        return noise - clean
