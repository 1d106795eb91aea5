"""EDM and GeoLDM by structure: `EnVariationalDiffusion` and `EnLatentDiffusion`.

    EDM      https://github.com/ehoogeboom/e3_diffusion_for_molecules  (MIT)
             diffuses [x / norm_values[0], (one-hot - norm_biases[1]) / norm_values[1],
             (Z - norm_biases[2]) / norm_values[2]], the last only with `include_charges`.
    GeoLDM   https://github.com/MinkaiXu/GeoLDM  (MIT)
             diffuses the mean of its encoder + sigma_0 eps; `norm_values` are never applied.

Both drop their last element class from samples where there are no charges (a slice `[:-1]` that is
meant for the charge channel); `fix_last_class` gives it back.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gaga_adapter.errors import StatsMismatchError
from gaga_adapter.layout import AtomLayout, Layout, MoleculeLayout

from .protocol import Adapter, Model, lacks, register
from .swap import Recipe

_ATTRIBUTES = (
    *("T", "gamma", "dynamics", "in_node_nf", "n_dims", "num_classes"),
    *("include_charges", "norm_values", "norm_biases"),
)
_METHODS = {
    "phi": ("x", "t"),
    "kl_prior": ("xh", "node_mask"),
    "sample_combined_position_feature_noise": ("n_samples", "n_nodes", "node_mask"),
    "sample": ("n_samples", "n_nodes", "node_mask", "edge_mask", "context"),
    "sample_p_xh_given_z0": ("z0", "node_mask"),
}


class EDM(Adapter):
    """`EnVariationalDiffusion` and what has its structure."""

    name = "edm"

    def reasons(self, model: Model) -> list[str]:
        """What an `EnVariationalDiffusion` has and this model has not."""
        reasons = lacks(model, _ATTRIBUTES, _METHODS)
        if not reasons and model.n_dims != 3:
            reasons.append(f"n_dims={model.n_dims}, not 3")
        if hasattr(model, "vae"):
            reasons.append("it has an autoencoder, so it is latent")
        return reasons

    def layout(self, model: Model, elements: tuple[str, ...] | None) -> Layout:
        """Positions, one-hot and charges, in the model's normalisation.

        Raises:
            StatsMismatchError: another number of elements.
        """
        _, bias_onehot, bias_charge = model.norm_biases
        if bias_onehot or (bias_charge and model.include_charges):
            return AtomLayout(int(model.in_node_nf))
        if elements is None:
            elements = tuple(f"class {i}" for i in range(model.num_classes))
        if len(elements) != model.num_classes:
            raise StatsMismatchError(
                f"the statistics have {len(elements)} elements ({', '.join(elements)}), the model "
                f"has {model.num_classes}. Fit again: fit_from(model, loader)."
            )
        positions, onehot, charge = map(float, model.norm_values)
        return MoleculeLayout(
            tuple(elements), positions, onehot, charge if model.include_charges else None
        )

    def faults(self, model: Model) -> list[str]:
        """The lost element class of models without charges."""
        return [] if model.include_charges else [_lost_class(model)]

    def extra_methods(self, base: type[Any]) -> dict[str, Any]:
        """Decoding of z_0 with all classes, if it is asked for."""
        method = base.sample_p_xh_given_z0

        @functools.wraps(method)
        def sample_p_xh_given_z0(
            self: Model,
            z0: Tensor,
            node_mask: Tensor,
            *args: Any,  # noqa: ANN401 - upstream's own
            **kwargs: Any,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401
            x, h = method(self, z0, node_mask, *args, **kwargs)
            if self._gaga.fix_last_class and not self.include_charges:
                h = {**h, "categorical": _classes(z0, node_mask, self.n_dims)}
            return x, h

        return {"sample_p_xh_given_z0": sample_p_xh_given_z0}


class GeoLDM(EDM):
    """`EnLatentDiffusion` and what has its structure."""

    name = "geoldm"

    def reasons(self, model: Model) -> list[str]:
        """What an `EnLatentDiffusion` has and this model has not."""
        reasons = lacks(model, (*_ATTRIBUTES, "vae"), _METHODS)
        if not reasons:
            reasons = lacks(model.vae, ("decoder", "include_charges"), {"encode": ("x", "h")})
            reasons = [f"vae: {reason}" for reason in reasons]
        return reasons

    def layout(self, model: Model, elements: tuple[str, ...] | None) -> Layout:
        """Positions and unnamed features of the latent."""
        return AtomLayout(int(model.in_node_nf))

    def faults(self, model: Model) -> list[str]:
        """The lost element class of autoencoders without charges."""
        return [] if model.vae.include_charges else [_lost_class(model)]

    def extra_methods(self, base: type[Any]) -> dict[str, Any]:
        """None: elements are decoded by the autoencoder, see `inner_swaps`."""
        return {}

    def inner_swaps(self, model: Model, fix_last_class: bool) -> list[tuple[nn.Module, Recipe]]:
        """The autoencoder, if its decoding is to be corrected."""
        wanted = fix_last_class and not model.vae.include_charges
        return [(model.vae, _all_classes)] if wanted else []


def _all_classes(base: type[Any]) -> Mapping[str, Any]:
    """Body of an autoencoder whose `decode` looks at every class of its decoder's output."""

    @functools.wraps(base.decode)
    def decode(
        self: Model,
        z_xh: Tensor,
        node_mask: Tensor,
        edge_mask: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Any:  # noqa: ANN401
        x, h = base.decode(self, z_xh, node_mask, edge_mask, context)
        _, features = self.decoder._forward(z_xh, node_mask, edge_mask, context)
        return x, {**h, "categorical": _classes(features, node_mask, 0)}

    return {"decode": decode}


def _classes(z: Tensor, node_mask: Tensor, first: int) -> Tensor:
    """The largest of all channels from `first` on, one-hot (B, N, K), 0 on padding."""
    scores = z[..., first:]
    return F.one_hot(scores.argmax(-1), scores.shape[-1]) * node_mask


def _lost_class(model: Model) -> str:
    return (
        f"samples of {type(model).__name__} without charges never have the last element class: "
        "upstream cuts it off before it takes the largest. "
        "apply_patch(..., fix_last_class=True) gives it back."
    )


register(GeoLDM())
register(EDM())
