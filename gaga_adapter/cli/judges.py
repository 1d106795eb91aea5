"""Criteria as the commands name them."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from gaga_adapter.cli import choices
from gaga_adapter.criteria import CRITERIA, Criterion, criterion
from gaga_adapter.errors import GAGAError

Model = Annotated[
    str | None,
    typer.Option(
        help="Molecule pipeline (folder, hub id, or qm9) whose denoiser the certificate asks.",
        autocompletion=choices.completed(choices.pipelines),
    ),
]
CriterionOption = Annotated[
    str,
    choices.one_of(
        choices.criteria,
        "Chooses t*: two_sample (a classifier, nats), cumulant (closed form, nats), certificate "
        "(a trained denoiser, nats) or ks_mi (as published, p-values).",
    ),
]
ReferenceOption = Annotated[
    str,
    choices.one_of(
        choices.references,
        "Start to judge. Molecules: shape, size, channel, paper or unit. Arrays: full, low_rank, "
        "element, channel, paper or unit. auto is shape, and what --covariance says.",
    ),
]
CovarianceOption = Annotated[
    str,
    choices.one_of(choices.covariances, "Of arrays: channel, element, low_rank or full."),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        help="What may remain at t*: nats per item, 0.5 if not given; of ks_mi the rate of false "
        "alarms on a whole curve, 0.05.",
        show_default=False,
    ),
]
NEEDS_MODEL = "certificate"


def make_criterion(name: str, model: str | None, device: torch.device | str = "cpu") -> Criterion:
    """A criterion by name; the certificate takes the denoiser of a molecule pipeline.

    Args:
        name: of the criterion.
        model: Pipeline of the denoiser: a folder, a hub id, or `qm9`.
        device: where the denoiser runs.

    Raises:
        GAGAError: an unknown name, or a certificate without a model.
        ArtefactError: there is no such pipeline.
    """
    if name != NEEDS_MODEL or name not in CRITERIA:
        return criterion(name)
    if model is None:
        raise GAGAError(
            "the certificate asks a trained denoiser. Pass --model FOLDER (or qm9, the small "
            "model shipped here), or choose another criterion."
        )
    from gaga_adapter.criteria import Certificate, as_denoiser
    from gaga_adapter.molecules.pipeline import MoleculePipeline

    return Certificate(as_denoiser(MoleculePipeline.load(model).denoiser.to(device)))
