"""UniGEM by structure (github.com/fengshikun/UniGEM): an EDM that diffuses positions alone.

With `atom_type_pred` elements and charges do not start from noise: the network sees ones in their
place and predicts them, and is trained for that at the steps up to `prediction_threshold_t`. That
is a step of the whole path, and stays one while the model is patched: steps are counted as ever,
only from t*. A loss that draws some of its times up to the threshold (`half_noisy_node`,
`only_noisy_node`, `unnormal_time_step`) needs a t* there or beyond; with `sep_noisy_node` a batch
is split at the threshold, and t* must be beyond it.
`sample(pesudo_context=...)` guides at the last hundred of a thousand steps, which it reckons from
the time relative to the first step, so it is refused.
Flows of Bayes (`bfn_schedule`), a second diffusion of properties (`uni_diffusion`), bonds and two
networks in turn have loops of their own, and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Generator, Tensor

from gaga_adapter.layout import AtomLayout, Layout

from ..edm import EDM, Molecules
from ..protocol import Model

#: Options with which a loss draws some or all of its times up to the threshold.
_UP_TO_THRESHOLD = ("half_noisy_node", "only_noisy_node", "unnormal_time_step")


class UniGEM(EDM):
    """`EnVariationalDiffusion` with `prediction_threshold_t`."""

    name = "unigem"
    attributes = ("prediction_threshold_t", "atom_type_pred", "property_pred", "sep_noisy_node")
    must_not = ("bfn_schedule", "uni_diffusion", "bond_pred", "relay_sampling")
    refused_arguments = ("annel_l", "condition_generate_x", "pesudo_context")
    no_pipeline = "its network gives more than epsilon"

    def layout(self, model: Model, elements: tuple[str, ...] | None) -> Layout:
        """Positions alone, where the elements are predicted."""
        return AtomLayout(0) if model.atom_type_pred else super().layout(model, elements)

    def encode(
        self, model: Model, molecules: Molecules, context: Tensor | None, generator: Generator
    ) -> Tensor:
        """Normalised positions, and features where they are diffused."""
        xh = super().encode(model, molecules, context, generator)
        return xh[..., :3] if model.atom_type_pred else xh

    def faults(self, model: Model) -> list[str]:
        """None, where the elements are predicted: the largest of all classes is taken then."""
        return [] if model.atom_type_pred else super().faults(model)

    def least_step(self, model: Model) -> int:
        """The threshold, if times are drawn up to it, and the next step if the rest lies beyond."""
        threshold = int(model.prediction_threshold_t)
        if model.sep_noisy_node:
            return threshold + 1
        return threshold if any(getattr(model, name, False) for name in _UP_TO_THRESHOLD) else 1

    def stub(self, model: Model, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Epsilon, and a property of each molecule where these are predicted."""
        x = arguments["x"]
        return (x.clone(), x.new_zeros(len(x))) if model.property_pred else x.clone()

    def options(self, model: Model, method: str, n_samples: int) -> dict[str, Any]:
        """The label that the loss wants where a property is predicted."""
        wanted = method == self.loss and model.property_pred
        return {"property_label": model.buffer.new_zeros(n_samples)} if wanted else {}
