"""Criteria as the commands name them."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from gaga_adapter.criteria import CRITERIA, Criterion, criterion
from gaga_adapter.errors import GAGAError

Model = Annotated[
    str | None,
    typer.Option(
        help="Molecule pipeline (folder, hub id, or embedded) whose denoiser the certificate asks."
    ),
]
NEEDS_MODEL = "certificate"


def make_criterion(name: str, model: str | None, device: torch.device | str = "cpu") -> Criterion:
    """A criterion by name; the certificate takes the denoiser of a molecule pipeline.

    Args:
        name: of the criterion.
        model: of the pipeline: a folder, a hub id, or `embedded`.
        device: where the denoiser runs.

    Raises:
        GAGAError: an unknown name, or a certificate without a model.
        ArtefactError: there is no such pipeline.
    """
    if name != NEEDS_MODEL or name not in CRITERIA:
        return criterion(name)
    if model is None:
        raise GAGAError(
            "the certificate asks a trained denoiser. Pass --model FOLDER (or embedded, the QM9 "
            "model shipped here), or choose another criterion."
        )
    from gaga_adapter.criteria.certificate import Certificate
    from gaga_adapter.criteria.denoisers import as_denoiser
    from gaga_adapter.molecules.pipeline import MoleculePipeline

    return Certificate(as_denoiser(MoleculePipeline.load(model).denoiser.to(device)))
