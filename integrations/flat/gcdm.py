"""GCDM by structure: `EquivariantVariationalDiffusion` on flat batches.

github.com/BioinfoMachineLearning/bio-diffusion. It diffuses EDM's channels, normalised as EDM
normalises them, of the atoms of all molecules in one tensor with `batch_index`. Its Lightning
module holds it as `ddpm`: patch that. Three things are its own:

- `mol_gen_sample(num_timesteps=k)` takes k even steps over the path that the model has, so a
  truncated model takes k steps from t* to 0, and t* of them where k is more;
- its Lightning module multiplies the terms of the bound by T, where the loss is no plain L2, and
  not by the steps that are drawn; so their weights are given to it times t* / T;
- a chain must keep a number of frames that divides the steps. Where it does not divide those that
  are left, the chain takes the next smaller number of steps that it divides.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from gaga_adapter.errors import DataError, StatsMismatchError, UnsupportedModelError, warn
from gaga_adapter.layout import AtomLayout, Layout, MoleculeLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference import ReferenceGaussian, make_reference
from gaga_adapter.subspace import project

from ..edm import EDM
from ..protocol import Adapter, Batch, Model, classes, lacks
from .batches import named, to_flat, to_padded
from .joint import UNITS

ATTRIBUTES = ("T", "gamma", "dynamics_network", "diffusion_cfg", "num_atom_types")
METHODS = {
    "sample_combined_position_feature_noise": ("batch_index", "node_mask"),
    "mol_gen_sample": ("num_samples", "num_nodes", "num_timesteps", "return_frames"),
    "compute_kl_prior": ("xh", "batch_index", "node_mask"),
    "normalize": ("x", "h", "node_mask"),
}


class GCDM(Adapter):
    """`EquivariantVariationalDiffusion` and what has its structure."""

    name = "gcdm"
    network = "dynamics_network"
    starts = ("mol_gen_sample",)
    prior_term = "compute_kl_prior"
    refused: ClassVar[Mapping[str, str]] = {
        "mol_gen_optimize": "it starts from molecules of the caller, not of the fitted Gaussian",
        "inpaint": "a part of the molecule is given, and the Gaussian is that of whole molecules",
    }

    def missing(self, model: Model) -> list[str]:
        """What an `EquivariantVariationalDiffusion` has and this model lacks."""
        return lacks(model, (*ATTRIBUTES, "include_charges", "num_nodes_distribution"), METHODS)

    def layout(self, model: Model, elements: tuple[str, ...] | None) -> Layout:
        """Positions, one-hot and charges, in the model's normalisation."""
        if _biased(model):
            return AtomLayout(int(model.num_node_scalar_features))
        positions, onehot, charge = map(float, model.diffusion_cfg.norm_values)
        names = classes(SimpleNamespace(num_classes=model.num_atom_types), elements)
        return MoleculeLayout(names, positions, onehot, charge if model.include_charges else None)

    def provenance(self, model: Model) -> dict[str, Any]:
        """The units of a model with biases, of which its layout says nothing."""
        config = model.diffusion_cfg
        return {UNITS: units(config.norm_values, config.norm_biases)} if _biased(model) else {}

    def stale(self, model: Model, provenance: Mapping[str, Any]) -> str | None:
        """The reason if a model with biases has other units than the one of the fit."""
        now = self.provenance(model)
        return other_units([provenance.get(UNITS)], now[UNITS]) if now else None

    def elements(self, loader: Iterable[Any]) -> tuple[str, ...] | None:
        """Symbols from the atomic numbers that QM9's and GEOM's loaders keep."""
        return EDM().elements(loader)

    def padded(self, z: Any, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """The atoms of `batch_index`, without those that `node_mask` leaves out."""
        atoms = arguments["xh"] if z is None else z
        x, mask = to_padded(atoms, arguments["batch_index"], arguments["node_mask"])
        return x, mask[..., None]

    def unpadded(self, x: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """The atoms in the order of `batch_index`."""
        return to_flat(x, arguments["batch_index"], arguments["node_mask"])

    def stub(self, model: Model, arguments: Mapping[str, Any]) -> tuple[Any, Tensor]:
        """The batch, and the atoms as a prediction of their noise."""
        return arguments["batch"], arguments["xh"].clone()

    def prepare(self, model: Model, method: str, arguments: dict[str, Any]) -> None:
        """Refuse noise that is no molecule's, and absolute times; let the frames divide the steps.

        Raises:
            UnsupportedModelError: If the call means one of these.
        """
        if method not in self.starts:
            return
        n_steps = self.n_steps(model)
        steps = no_more_steps(model, arguments, "num_timesteps", n_steps)
        refused = {
            "norm_with_original_timesteps": (steps != n_steps, "it starts at an absolute step"),
            "fix_noise": (True, "upstream centres that noise over the batch, not each molecule"),
            "generate_x_only": (True, "the Gaussian is that of positions and features"),
        }
        for name, (applies, why) in refused.items():
            if arguments.get(name) and applies and model._gaga.reference is not None:
                raise UnsupportedModelError(
                    f"mol_gen_sample({name}=True) cannot run truncated: {why}. Call "
                    "remove_patch(model) first."
                )
        if steps == n_steps:
            arguments.pop("norm_with_original_timesteps", None)  # which then means the same
        frames_divide_steps(arguments, "num_timesteps", steps)

    def unit_reference(self, model: Model) -> ReferenceGaussian:
        """N(0, I): of the variance of all features, upstream's prior term counts a single one."""
        return make_reference(ExchangeableMoments(int(model.num_node_scalar_features)), "unit")

    def finish_loss(self, model: Model, loss: Any) -> Any:  # noqa: ANN401
        """The terms of the bound with weights times t* / T, as the caller multiplies them by T."""
        return weights_for_a_caller(model, model.diffusion_cfg.loss_type, loss, 2)

    def diffused(
        self, model: Model, batch: Batch, context: Tensor | None, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """The atoms of a batch of its loader, normalised by the model itself."""
        like = next(model.parameters())
        part = partial(named, batch, advice="Pass the loader that trains this model.")
        real, index = part("mask").to(like.device), part("batch").to(like.device)
        x, one_hot = part("x").to(like), part("one_hot").to(like)
        if one_hot.shape[-1] != model.num_atom_types:
            raise StatsMismatchError(
                f"the loader has {one_hot.shape[-1]} elements, the model {model.num_atom_types}. "
                "Pass the loader that trains this model."
            )
        unknown = (real & (one_hot.sum(-1) != 1)).nonzero().flatten()
        if len(unknown):
            raise DataError(
                f"{len(unknown)} atoms of a batch, the first in molecule {int(index[unknown[0]])}, "
                f"are none of the {model.num_atom_types} elements of the model. Leave these "
                "molecules out, or pass the loader that trains this model."
            )
        charges = part("charges").to(like) if model.include_charges else like.new_zeros(0)
        x, h = model.normalize(x, {"categorical": one_hot, "integer": charges}, real)
        features = [h["categorical"], h["integer"].reshape(len(x), -1)]
        padded, mask = to_padded(torch.cat([x, *features], -1), index, real)
        return project(padded, mask), mask

    def draw(self, model: Model, node_mask: Tensor, edge_mask: Tensor) -> None:
        """Sample once; the context would only go to the network, which is stubbed."""
        sizes = node_mask.sum((1, 2)).long()
        model.mol_gen_sample(len(sizes), sizes, node_mask.device)

    def draw_loss(self, model: Model, node_mask: Tensor, edge_mask: Tensor) -> None:
        """The loss of molecules of atoms on a line, of a size that the model knows."""
        known = model.num_nodes_distribution.num_nodes
        size, n_molecules = int(known[known > 1].min()), len(node_mask)
        index = torch.arange(n_molecules, device=node_mask.device).repeat_interleave(size)
        place = torch.arange(size, device=node_mask.device).repeat(n_molecules)
        x = torch.stack([place - (size - 1) / 2, 0 * place, 0 * place], -1).to(node_mask)
        one_hot = F.one_hot(place % model.num_atom_types, model.num_atom_types)
        charges = place + 1 if model.include_charges else place[:0]
        graphs = getattr(sys.modules.get("torch_geometric.data"), "Batch", SimpleNamespace)
        batch = graphs(
            x=x,
            h={"categorical": one_hot.to(x), "integer": charges.to(x)},
            batch=index,
            mask=torch.ones_like(index, dtype=torch.bool),
            num_nodes_present=torch.full_like(index[:n_molecules], size),
            props_context=None,
            **({"num_graphs": n_molecules} if graphs is SimpleNamespace else {}),
        )
        model(batch)


def _biased(model: Model) -> bool:
    """Whether the model shifts its features, which no `MoleculeLayout` can say."""
    return any(model.diffusion_cfg.norm_biases[1:])


def units(values: Iterable[float], biases: Iterable[float | None]) -> list[list[float]]:
    """The normalisation of a model, as a fit records it."""
    return [[float(value) for value in values], [float(bias or 0) for bias in biases]]


def other_units(fitted: Iterable[Any], now: list[list[float]]) -> str | None:
    """The reason if statistics were fitted in other units than a model has; `None` is unknown."""
    for then in fitted:
        if then is not None and then != now:
            return (
                f"these statistics are in other units ({UNITS}): {then}, and the model has {now}."
            )
    return None


def no_more_steps(model: Model, arguments: dict[str, Any], name: str, n_steps: int) -> int:
    """How many steps a sample takes: no more than there are from t*, as none is taken twice.

    The model's own T, which evaluations pass, means every step that there is.
    """
    given, whole = arguments.get(name), model._gaga.n_steps
    if given is None:
        return n_steps
    if n_steps < whole and given > n_steps:
        if given != whole:
            warn(
                f"{name}={given} is more than the {n_steps} steps from t*, and a step twice would "
                f"be no finer path: the sample takes {n_steps}. Pass no more than that."
            )
        arguments[name] = given = n_steps
    return int(given)


def frames_divide_steps(arguments: dict[str, Any], name: str, steps: int) -> None:
    """Let a chain keep no more frames than it has steps, and a number that divides them."""
    frames = min(arguments.get("return_frames", 1), steps)
    if frames > 1:
        arguments |= {"return_frames": frames, name: steps - steps % frames}


def weights_for_a_caller(model: Model, loss_type: str, loss: Any, place: int) -> Any:  # noqa: ANN401
    """The terms of a loss, with the weights at one place times t* / T, unless it is plain L2."""
    if model.training and loss_type == "l2":
        return loss
    return (*loss[:place], loss[place] * model._gaga.time, *loss[place + 1 :])
