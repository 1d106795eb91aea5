"""GeoLDM by structure: `EnLatentDiffusion` (github.com/MinkaiXu/GeoLDM).

It diffuses the mean of its encoder + sigma_0 eps, positions and unnamed features; `norm_values` are
never applied. Statistics belong to one autoencoder: the fit records where it sends a fixed
molecule, and they are refused once it sends it elsewhere. Autoencoders without charges drop their
last element class from samples, by the same slice as EDM; `fix_last_class` gives it back.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.subspace import project

from .edm import EDM, Molecules, largest_class
from .patching.subclass import Recipe
from .protocol import Model, lacks

AUTOENCODER = ("encoder", "decoder", "num_classes", "include_charges")


class GeoLDM(EDM):
    """`EnLatentDiffusion` and what has its structure."""

    name = "geoldm"
    attributes = ("vae",)
    features = "in_node_nf"
    latent = True

    def reasons(self, model: Model) -> list[str]:
        """What an `EnLatentDiffusion` has and this model lacks."""
        reasons, methods = super().reasons(model), {"encode": ("x", "h")}
        return reasons or [f"vae: {reason}" for reason in lacks(model.vae, AUTOENCODER, methods)]

    def atom_model(self, model: Model) -> Model:
        """The autoencoder."""
        return model.vae

    def encode(
        self, model: Model, molecules: Molecules, context: Tensor | None, generator: Generator
    ) -> Tensor:
        """A sample of the latent, `mean + sigma_0 eps`."""
        n_context = _n_context(model.vae)
        if n_context and context is None:
            raise DataError(
                f"the encoder takes a context of {n_context} channels. Pass context=..., a "
                "function that makes it of a batch, as the training script does."
            )
        mean = _latent_mean(model.vae, *molecules, context)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        sigma_0 = torch.sigmoid(model.gamma(mean.new_zeros(1, 1))).sqrt()
        return mean + sigma_0 * project(noise, molecules[2][..., 0] > 0)

    def provenance(self, model: Model) -> dict[str, Any]:
        """Where the autoencoder sends a fixed molecule."""
        return {"latent": _latent_of_a_helix(model.vae).tolist()}

    def stale(self, model: Model, provenance: Mapping[str, Any]) -> str | None:
        """The reason if the autoencoder or its weights changed since the fit.

        One that is being trained moves all the time: then this is only a `GAGAWarning`.
        """
        if "latent" not in provenance:
            return None
        then = torch.tensor(provenance["latent"], dtype=torch.float64)
        now = _latent_of_a_helix(model.vae)
        if then.shape == now.shape and float((now - then).norm()) <= 0.01 * float(then.norm()):
            return None
        reason = (
            "these statistics are of another latent: the autoencoder is not the one they were "
            "fitted with, or its weights were loaded or trained since."
        )
        if not getattr(model, "trainable_ae", False):
            return reason
        advice = f"{reason} Fit again when it matters: fit_from(model, loader)."
        warnings.warn(advice, GAGAWarning, stacklevel=2)
        return None

    def no_context(self, model: Model, node_mask: Tensor) -> Tensor | None:
        """Zeros for an encoder that takes a context."""
        width = _n_context(model.vae)
        return node_mask.new_zeros(*node_mask.shape[:2], width) if width else None

    def extra_methods(self, base: type[Any]) -> dict[str, Any]:
        """None: elements are decoded by the autoencoder, see `inner_swaps`."""
        return {}

    def inner_swaps(self, model: Model, fix_last_class: bool) -> list[tuple[nn.Module, Recipe]]:
        """The autoencoder, if its decoding is to be corrected."""
        return [(model.vae, all_class_decoder)] if fix_last_class and self.faults(model) else []


def all_class_decoder(base: type[Any]) -> Mapping[str, Any]:
    """Body of an autoencoder whose `decode` looks at every class of its decoder's output."""

    @functools.wraps(base.decode)
    def decode(self: Model, z_xh: Tensor, node_mask: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        x, h = base.decode(self, z_xh, node_mask, *args, **kwargs)
        _, features = self.decoder._forward(z_xh, node_mask, *args, **kwargs)
        return x, {**h, "categorical": largest_class(features, node_mask, 0)}

    return {"decode": decode}


def _latent_mean(
    vae: Model, x: Tensor, h: dict[str, Tensor], node_mask: Tensor, context: Tensor | None
) -> Tensor:
    """The encoder's mean (B, N, 3 + F).

    The mode of the autoencoder is left alone: upstream replaces its `train` by a function that
    breaks `eval()`.
    """
    pairs = node_mask * node_mask.mT
    eye = torch.eye(pairs.shape[-1], dtype=pairs.dtype, device=pairs.device)
    z_x, _, z_h, _ = vae.encode(x, h, node_mask, (pairs * (1 - eye)).view(-1, 1), context)
    return torch.cat([z_x, z_h], -1)


def _latent_of_a_helix(vae: Model) -> Tensor:
    """The encoder's mean (N, 3 + F), float64, for a fixed molecule of six atoms."""
    like = next(vae.parameters())
    i = torch.arange(6, device=like.device)
    positions = torch.stack([torch.cos(1.7 * i), torch.sin(1.7 * i), 0.6 * i], -1)[None].to(like)
    one_hot = F.one_hot(i % vae.num_classes, vae.num_classes)[None].to(like)
    charges = (i % 8 + 1)[None, :, None].to(like) if vae.include_charges else like.new_zeros(0)
    n_context = _n_context(vae)
    context = like.new_zeros(1, 6, n_context) if n_context else None
    x, h = positions - positions.mean(1, keepdim=True), {"categorical": one_hot, "integer": charges}
    with torch.no_grad():
        mean = _latent_mean(vae, x, h, like.new_ones(1, 6, 1), context)
    return mean[0].cpu().double()


def _n_context(vae: Model) -> int:
    """Channels of the context that the encoder takes."""
    return int(getattr(vae.encoder, "context_node_nf", 0))
