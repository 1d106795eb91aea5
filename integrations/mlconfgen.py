"""mlconfgen by structure: `EquivariantDiffusion` (github.com/Membrizard/ml_conformer_generator).

An EDM that only samples. Its loops run over the tensor `time_steps` and divide by `T`; it diffuses

    [x / norm_values[0], one-hot / norm_values[1]].

`denoise` and `teach` take the noise of their caller, which would not be of the fitted Gaussian, and
fragments are merged and inpainted at absolute steps: these are refused. Samples never have the last
element class, by the same slice as in EDM; `fix_last_class` gives it back.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, ClassVar

from torch import Tensor

from gaga_adapter.errors import UnsupportedModelError

from .edm import all_classes, lost_class
from .protocol import Adapter, Model

# The model whose `forward` is about to denoise noise of its own.
_OWN_NOISE: ContextVar[Any] = ContextVar("gaga_own_noise", default=None)
_ABSOLUTE = "it blends fragments in at absolute steps"


class MLConfGen(Adapter):
    """`EquivariantDiffusion` and what has its structure."""

    name = "mlconfgen"
    attributes = ("time_steps", "dynamics", "n_dims", "num_classes", "norm_values")
    methods = ("denoise(z, node_mask)", "sample_p_xh_given_z0(z0, node_mask)")
    starts = ("forward", "animate")
    prior_term = None
    refused: ClassVar[Mapping[str, str]] = {
        "inpaint": _ABSOLUTE,
        "ifm_merge_fragments": _ABSOLUTE,
        "ifm_merge_fragments_with_injection": _ABSOLUTE,
        "teach": "it starts from noise of the caller, not of the fitted Gaussian",
    }

    def prepare(self, model: Model, method: str, arguments: dict[str, Any]) -> None:
        """Let `forward` denoise the noise that it draws itself."""
        _OWN_NOISE.set(model if method == "forward" else None)

    def faults(self, model: Model) -> list[str]:
        """The lost element class."""
        return [lost_class(model)]

    def draw(self, model: Model, node_mask: Tensor, edge_mask: Tensor) -> None:
        """Sample once; the context would only go to the network, which is stubbed."""
        model(node_mask, edge_mask, None)

    def extra_methods(self, base: type[Any]) -> dict[str, Any]:
        """The steps up to t*, denoising of the model's own noise, and decoding of all classes."""

        @functools.wraps(base.denoise)
        def denoise(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            if _OWN_NOISE.get() is not self:
                raise UnsupportedModelError(
                    f"{base.__name__}.denoise cannot run truncated: its noise is the caller's, not "
                    "of the fitted Gaussian. Call the model, or remove_patch(model) first."
                )
            _OWN_NOISE.set(None)
            return base.denoise(self, *args, **kwargs)

        steps = property(lambda self: self.__dict__["time_steps"][-self.T :])
        return {"time_steps": steps, "denoise": denoise, "sample_p_xh_given_z0": all_classes(base)}
