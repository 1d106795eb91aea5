"""EDM by structure: `EnVariationalDiffusion` (github.com/ehoogeboom/e3_diffusion_for_molecules).

It diffuses

    [x / norm_values[0], (one-hot - norm_biases[1]) / norm_values[1],
     (Z - norm_biases[2]) / norm_values[2]],

the last only with `include_charges`. Samples of models without charges never have the last element
class: a slice `[:-1]` that is meant for the charges cuts it off; `fix_last_class` gives it back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.layout import AtomLayout, Layout
from gaga_adapter.subspace import remove_mean

from .protocol import Adapter, Batch, Model

# Positions (B, N, 3) without centre of mass, features by name, and node mask (B, N, 1).
Molecules = tuple[Tensor, dict[str, Tensor], Tensor]


class EDM(Adapter):
    """`EnVariationalDiffusion` and what has its structure."""

    name = "edm"
    attributes: ClassVar[tuple[str, ...]] = (
        *("dynamics", "in_node_nf", "n_dims", "num_classes"),
        *("include_charges", "norm_values", "norm_biases"),
    )
    methods: ClassVar[tuple[str, ...]] = (
        "sample(n_samples, n_nodes)",
        "sample_p_xh_given_z0(z0, node_mask)",
    )
    #: Whether it diffuses the latent of an autoencoder.
    latent: ClassVar[bool] = False
    #: Whether noise and data of the features have zero mean over the atoms, as positions have.
    centred_features: ClassVar[bool] = False
    #: Why `as_pipeline` is refused; empty where it is not.
    no_pipeline: ClassVar[str] = ""

    def reasons(self, model: Model) -> list[str]:
        """What an `EnVariationalDiffusion` has and this model lacks."""
        reasons = super().reasons(model)
        if getattr(model, "extra_norm_values", ()):
            reasons.append("it diffuses extra features (extra_norm_values)")
        if not self.latent and hasattr(model, "vae"):
            reasons.append("it has an autoencoder, so it is latent")
        return reasons

    def layout(self, model: Model, elements: tuple[str, ...] | None) -> Layout:
        """Positions, one-hot and charges, in the model's normalisation."""
        _, bias_onehot, bias_charge = model.norm_biases
        if self.features is None and (bias_onehot or (bias_charge and model.include_charges)):
            return AtomLayout(int(model.in_node_nf))
        return super().layout(model, elements)

    def elements(self, loader: Iterable[Any]) -> tuple[str, ...] | None:
        """Symbols from the atomic numbers that QM9's and GEOM's loaders keep."""
        data = getattr(loader, "dataset", None)
        numbers = getattr(data, "included_species", None)
        if numbers is None:
            numbers = getattr(getattr(data, "transform", None), "atomic_number_list", None)
        if numbers is None:
            return None
        return tuple(SYMBOLS[int(number)] for number in torch.as_tensor(numbers).flatten())

    def atom_model(self, model: Model) -> Model:
        """The part that takes atoms and gives them back: the model, or its autoencoder."""
        return model

    def encode(
        self, model: Model, molecules: Molecules, context: Tensor | None, generator: Generator
    ) -> Tensor:
        """Positions, one-hot and charges, normalised by the model itself."""
        x, h, node_mask = molecules
        if self.centred_features:
            mask = node_mask[..., 0] > 0
            h = {k: remove_mean(v, mask) if v.numel() else v for k, v in h.items()}
        x, h, *_ = model.normalize(x, h, node_mask)
        return torch.cat([x, h["categorical"], h["integer"]], -1)

    def diffused(
        self, model: Model, batch: Batch, context: Tensor | None, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """The encoded molecules of a batch."""
        molecules = read_molecules(batch, self.atom_model(model))
        return self.encode(model, molecules, context, generator), molecules[2][..., 0] > 0

    def draw_loss(self, model: Model, node_mask: Tensor, edge_mask: Tensor) -> None:
        """The loss of molecules of atoms on a line, of all elements in turn."""
        atoms = self.atom_model(model)
        n_molecules, n_nodes = node_mask.shape[:2]
        index = torch.arange(n_nodes, device=node_mask.device)
        positions = torch.stack([index, 0 * index, 0 * index], -1).expand(n_molecules, -1, -1)
        one_hot = F.one_hot(index % atoms.num_classes, atoms.num_classes) * node_mask
        charges = (index[:, None] + 1) * node_mask if atoms.include_charges else node_mask[:0, 0, 0]
        mask = node_mask[..., 0] > 0
        x, h = remove_mean(positions.to(node_mask), mask), {"categorical": one_hot}
        if self.centred_features:
            h = {"categorical": remove_mean(one_hot, mask)}
            charges = remove_mean(charges, mask) if atoms.include_charges else charges
        context = self.no_context(model, node_mask)
        options = self.options(model, self.loss, n_molecules)
        model(x, {**h, "integer": charges}, node_mask, edge_mask, context, **options)

    def no_context(self, model: Model, node_mask: Tensor) -> Tensor | None:
        """A context for the loss of the self-check, in which the network takes none."""
        return None

    def faults(self, model: Model) -> list[str]:
        """The lost element class of models without charges."""
        return [] if self.atom_model(model).include_charges else [lost_class(model)]

    def extra_methods(self, base: type[Any]) -> dict[str, Any]:
        """A last step that counts all classes, if the patch is to fix them."""
        return {"sample_p_xh_given_z0": all_classes(base)}


def read_molecules(batch: Batch, model: Model) -> Molecules:
    """The molecules of a batch of an EDM loader, for the module that takes the atoms."""
    needed = ["positions", "one_hot", "atom_mask", *(["charges"] if model.include_charges else [])]
    if not isinstance(batch, Mapping) or not set(needed) <= set(batch):
        form = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise DataError(f"a batch is {form}; it must be a dict with {', '.join(needed)}.")
    like = next(model.parameters())
    positions, one_hot = batch["positions"].to(like), batch["one_hot"].to(like)
    mask = batch["atom_mask"].to(like.device) > 0
    if one_hot.shape[-1] != model.num_classes:
        raise StatsMismatchError(
            f"the loader has {one_hot.shape[-1]} elements, the model {model.num_classes}. "
            "Pass the loader that trains this model."
        )
    unknown = (mask & (one_hot.sum(-1) != 1)).nonzero()
    if len(unknown):
        molecule, atom = unknown[0].tolist()
        raise DataError(
            f"atom {atom} of molecule {molecule} of a batch is none of the {model.num_classes} "
            f"elements of the model; {len(unknown)} atoms of the batch are not. Leave these "
            "molecules out, or pass the loader that trains this model."
        )
    charges = batch["charges"].to(like) if model.include_charges else like.new_zeros(0)
    h = {"categorical": one_hot, "integer": charges}
    return remove_mean(positions, mask), h, mask[..., None].to(like)


# -- the last element class ------------------------------------------------------------------------


def lost_class(model: Model) -> str:
    """The warning about the last element class."""
    return (
        f"samples of {type(model).__name__} without charges never have the last element class: "
        "upstream cuts it off before it takes the largest. "
        "apply_patch(..., fix_last_class=True) gives it back."
    )


def largest_class(z: Tensor, node_mask: Tensor, first: int) -> Tensor:
    """The largest of all channels from `first` on, one-hot (B, N, K), 0 on padding."""
    scores = z[..., first:]
    return F.one_hot(scores.argmax(-1), scores.shape[-1]) * node_mask


def all_classes(base: type[Any]) -> Callable[..., Any]:
    """`sample_p_xh_given_z0` that looks at all classes, if the patch is to fix them."""

    @functools.wraps(base.sample_p_xh_given_z0)
    def decode(self: Model, z0: Tensor, node_mask: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        x, h, *more = base.sample_p_xh_given_z0(self, z0, node_mask, *args, **kwargs)
        if self._gaga.fix_last_class and self._gaga.adapter.faults(self):
            one_hot = largest_class(z0, node_mask, self.n_dims)
            h = {**h, "categorical": one_hot} if isinstance(h, dict) else one_hot
        return x, h, *more

    return decode
