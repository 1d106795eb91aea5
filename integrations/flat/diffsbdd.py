"""DiffSBDD by structure: the joint `EnVariationalDiffusion` of ligands and pockets.

github.com/arneschneuing/DiffSBDD. Both are diffused, as flat batches with features of their own,
and start from the product Gaussian of `joint.py`. The conditional model is refused: a pocket fixes
the law of its ligand, and statistics of a data set are not that law; `inpaint` is refused as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gaga_adapter.errors import DataError, StatsMismatchError, UnsupportedModelError
from gaga_adapter.layout import AtomLayout, Layout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference import make_reference

from ..protocol import Adapter, Batch, Model, lacks
from .batches import named
from .gcdm import frames_divide_steps, no_more_steps, other_units, units, weights_for_a_caller
from .joint import KEY, UNITS, Complexes, JointReference, JointStats, fit_joint, stack, unstack

ATTRIBUTES = ("T", "gamma", "dynamics", "atom_nf", "residue_nf", "norm_values", "norm_biases")
METHODS = {
    "sample_combined_position_feature_noise": ("lig_indices", "pocket_indices"),
    "sample": ("n_samples", "num_nodes_lig", "num_nodes_pocket", "timesteps", "return_frames"),
    "kl_prior_with_pocket": ("xh_lig", "xh_pocket", "mask_lig", "mask_pocket"),
}


class DiffSBDD(Adapter):
    """The joint `EnVariationalDiffusion` and what has its structure."""

    name = "diffsbdd"
    network = "dynamics"
    starts = ("sample",)
    fit = "fit_complexes(model, loader) of gaga_adapter.integrations.flat"
    prior_term = "kl_prior_with_pocket"
    refused: ClassVar[Mapping[str, str]] = {
        "inpaint": "a part of the complex is given, and the Gaussian is that of whole complexes"
    }

    def missing(self, model: Model) -> list[str]:
        """What a joint model has and this one lacks."""
        return lacks(model, ATTRIBUTES, METHODS)

    def reasons(self, model: Model) -> list[str]:
        """What is missing, or that the model is conditional."""
        conditional = hasattr(model, "sample_given_pocket")
        why = "it is conditional, and a pocket fixes the law of a ligand"
        return super().reasons(model) + conditional * [why]

    def layout(self, model: Model, elements: tuple[str, ...] | None) -> Layout:
        """Positions and the features of the wider of the two."""
        return AtomLayout(max(model.atom_nf, model.residue_nf))

    def stale(self, model: Model, provenance: Mapping[str, Any]) -> str | None:
        """The reason if these are no statistics of such complexes, or of other units."""
        if KEY not in provenance:
            return "a complex is two molecules, and these statistics are of one."
        widths = [int(model.atom_nf), int(model.residue_nf), 0]
        if list(provenance[KEY]) != widths:
            return (
                f"the parts of these statistics have {provenance[KEY]} features, and those of the "
                f"model {widths} (ligand, pocket, the vector between them)."
            )
        return other_units(provenance.get(UNITS, ()), units(model.norm_values, model.norm_biases))

    def diffused(
        self, model: Model, batch: Batch, context: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Refused, as a complex is two molecules.

        Raises:
            UnsupportedModelError: If it is called.
        """
        raise UnsupportedModelError(
            f"a complex is two molecules, with moments of their own. Fit with {self.fit}."
        )

    def padded(self, z: Any, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """The parts of the complexes."""
        of = ("xh_{}", "mask_{}") if z is None else ("", "{}_indices")
        index = [arguments[of[1].format(name)].long() for name in ("lig", "pocket")]
        atoms = [arguments[of[0].format(name)] for name in ("lig", "pocket")] if z is None else z
        x, mask = stack(((atoms[0], index[0]), (atoms[1], index[1])))
        return x, mask[..., None]

    def unpadded(self, x: Tensor, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """The atoms of ligands, and those of pockets."""
        indices = [arguments[name].long() for name in ("lig_indices", "pocket_indices")]
        return unstack(x, indices, (arguments["self"].atom_nf, arguments["self"].residue_nf))

    def stub(self, model: Model, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Both of the inputs, as a prediction of their noise."""
        return arguments["xh_atoms"].clone(), arguments["xh_residues"].clone()

    def prepare(self, model: Model, method: str, arguments: dict[str, Any]) -> None:
        """Let a sample take no more steps than there are, and the frames divide them."""
        if method in self.starts:
            steps = no_more_steps(model, arguments, "timesteps", self.n_steps(model))
            frames_divide_steps(arguments, "timesteps", steps)

    def unit_reference(self, model: Model) -> JointReference:
        """N(0, I): of the variance of all features, upstream's prior term counts a single one."""
        widths = model.atom_nf, model.residue_nf, 0
        return JointReference(
            "unit", tuple(make_reference(ExchangeableMoments(n), "unit") for n in widths)
        )

    def finish_loss(self, model: Model, loss: Any) -> Any:  # noqa: ANN401
        """The terms of the bound with weights times t* / T, as the caller multiplies them by T."""
        return weights_for_a_caller(model, model.loss_type, loss, 3)

    def draw(self, model: Model, node_mask: Tensor, edge_mask: Tensor) -> None:
        """Sample complexes of ligands and pockets of the same sizes."""
        sizes = node_mask.sum((1, 2)).long()
        model.sample(len(sizes), sizes, sizes, device=node_mask.device)

    def draw_loss(self, model: Model, node_mask: Tensor, edge_mask: Tensor) -> None:
        """The loss of complexes of atoms on a line, of a pair of sizes that the model knows."""
        known = torch.as_tensor(list(model.size_distribution.n_nodes_to_idx))
        start, given = 0.0, []
        sizes = known[(known > 1).all(1)][0].tolist()
        for size, width in zip(sizes, (model.atom_nf, model.residue_nf), strict=True):
            place = torch.arange(size, device=node_mask.device).repeat(len(node_mask))
            line = place + start - (sum(sizes) - 1) / 2
            start += size
            given.append(
                {
                    "x": torch.stack([line, 0 * line, 0 * line], -1).to(node_mask),
                    "one_hot": F.one_hot(place % width, width).to(node_mask),
                    "size": torch.full_like(place[: len(node_mask)], size),
                    "mask": torch.arange(len(node_mask), device=place.device).repeat_interleave(
                        size
                    ),
                }
            )
        model(*given)


def fit_complexes(model: Model, loader: Iterable[Any], **options: Any) -> JointStats:  # noqa: ANN401
    """Fit the statistics of the complexes that a joint model diffuses.

    Args:
        model: Joint model of DiffSBDD.
        loader: Loader that trains the model; it is read three times.
        options: Options of `gaga_adapter.fit`, for each of the parts.

    Returns:
        The artefact, for `apply_patch`. How ligand and pocket depend on one another is not judged.

    Raises:
        UnsupportedModelError: If this is no joint model of DiffSBDD.
        DataError: If the loader can be read once only, or a batch lacks a part.
        StatsMismatchError: If the loader has other classes of atoms than the model.
    """
    reasons = DiffSBDD().reasons(model)
    if reasons:
        inner = " Pass its `ddpm`." if hasattr(model, "ddpm") else ""
        raise UnsupportedModelError(
            f"fit_complexes takes the joint model of DiffSBDD, and {type(model).__name__} is none: "
            f"{', '.join(reasons)}.{inner}"
        )
    again = hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
    if isinstance(loader, Iterator) or not again:
        raise DataError(
            f"fit_complexes reads its loader three times, and a {type(loader).__name__} cannot be. "
            "Pass the loader itself, or a list of its batches."
        )

    def complexes() -> Iterator[Complexes]:
        like = next(model.parameters())
        for data in loader:
            yield _complexes(model, data, like)

    made_by = {UNITS: units(model.norm_values, model.norm_biases)}
    options["provenance"] = {**(options.get("provenance") or {}), **made_by}
    return fit_joint(complexes, (model.atom_nf, model.residue_nf), **options)


def _complexes(model: Model, data: Any, like: Tensor) -> Complexes:  # noqa: ANN401 - any batch
    """The ligands and pockets of a batch of the loader, normalised by the model itself."""
    both, masks = [], []
    for name, width in (("lig", model.atom_nf), ("pocket", model.residue_nf)):
        x, one_hot, mask = (
            named(data, f"{name}_{part}", "Pass the loader that trains this model.")
            for part in ("coords", "one_hot", "mask")
        )
        shapes, n = (tuple(x.shape), tuple(one_hot.shape), tuple(mask.shape)), mask.numel()
        if shapes != ((n, 3), (n, *one_hot.shape[-1:]), (n,)):
            raise DataError(
                f"coords, one_hot and mask of {name} have the shapes {shapes}; they must be "
                "(atoms, 3), (atoms, F) and (atoms,)."
            )
        if one_hot.shape[1] != width:
            raise StatsMismatchError(
                f"{name}_one_hot of the loader has {one_hot.shape[1]} classes, the model {width}. "
                "Pass the loader that trains this model."
            )
        both.append({"x": x.to(like), "one_hot": one_hot.to(like)})
        masks.append(mask.to(like.device).long())
    ligand, pocket = (torch.cat([p["x"], p["one_hot"]], 1) for p in model.normalize(*both))
    return (ligand, masks[0]), (pocket, masks[1])
