"""EEGSDE by structure (github.com/gracezhao1997/EEGSDE): EDMs that an energy guides as they sample.

Two of the three classes have no loss. The network of an energy (`guidance`, `guidance2`) gets the
time of the step that is taken, so while the model is patched it gets the time that it was trained
with, as the denoiser does.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ..edm import EDM
from ..protocol import Model

_STRENGTHS = ("l", "l2")


class EEGSDE(EDM):
    """`EnVariationalDiffusion` with `sample(..., guidance, l)`."""

    name = "eegsde"
    methods = ("sample(guidance, l)",)

    def prepare(self, model: Model, method: str, arguments: dict[str, Any]) -> None:
        """Give the energies the times that they were trained with."""
        super().prepare(model, method, arguments)
        for name in {"guidance", "guidance2"} & arguments.keys():
            if not isinstance(arguments[name], _AbsoluteEnergy | None):
                arguments[name] = _AbsoluteEnergy(arguments[name], model._gaga.absolute)

    def options(self, model: Model, method: str, n_samples: int) -> dict[str, Any]:
        """A flat energy of strength 0, and the context that it reads."""
        if method == self.loss:
            return {}
        strengths = set(_STRENGTHS) & inspect.signature(type(model).sample).parameters.keys()
        context = model.buffer.new_zeros(n_samples, 2, 1)
        return {"context": context, "guidance": _FlatEnergy, **dict.fromkeys(strengths, 0)}

    def draw(self, model: Model, node_mask: Tensor, edge_mask: Tensor) -> None:
        """Sample once; the gradient of the energy is taken even where it is not used."""
        with torch.enable_grad():
            super().draw(model, node_mask, edge_mask)


class _AbsoluteEnergy:
    """An energy that is asked for relative times."""

    def __init__(self, energy: Any, absolute: Any) -> None:  # noqa: ANN401 - upstream's own
        self.energy, self.absolute = energy, absolute

    def phi(self, z: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return self.energy.phi(z, self.absolute(t), *args, **kwargs)


class _FlatEnergy:
    """An energy for the self-check."""

    @staticmethod
    def phi(z: Tensor, t: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        return z.flatten(1).sum(1, keepdim=True)
