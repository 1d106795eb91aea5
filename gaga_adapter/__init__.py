"""Gaussianity-aware truncation for diffusion and flow models.

From a characteristic noise level on, noised data are Gaussian to within a stated number of nats.
There the sampling trajectory can start from a closed-form Gaussian, with fewer network calls.

    scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, "qm9")

Importing this package loads torch, numpy and safetensors only; everything else loads when first
used.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from gaga_adapter import files as _files

if TYPE_CHECKING:
    from gaga_adapter.criteria.certificate.criterion import Certificate
    from gaga_adapter.criteria.cumulant.criterion import Cumulant
    from gaga_adapter.criteria.ks_mi.criterion import KSMI
    from gaga_adapter.criteria.rigid import RigidTarget
    from gaga_adapter.criteria.two_sample.criterion import TwoSample
    from gaga_adapter.few_step import FewStepScheduler
    from gaga_adapter.fitting import compare, fit
    from gaga_adapter.integrations import (
        apply_patch,
        as_pipeline,
        fit_from,
        patched,
        remove_patch,
        truncate_sigmas,
    )
    from gaga_adapter.layout import AtomLayout, DenseLayout, MoleculeLayout, TokenLayout
    from gaga_adapter.level_fitting import fit_levels
    from gaga_adapter.molecules.denoiser import MoleculeDenoiser
    from gaga_adapter.molecules.pipeline import MoleculePipeline
    from gaga_adapter.noise.fitted import FittedLevels
    from gaga_adapter.noise.paths import (
        FlowPath,
        GaussianPath,
        TabulatedPath,
        VEPath,
        VPPath,
        named_path,
    )
    from gaga_adapter.noised_states import FittedStates, fit_states
    from gaga_adapter.reference import ReferenceGaussian
    from gaga_adapter.scheduler import GAGAScheduler
    from gaga_adapter.stats import GAGAStats
    from gaga_adapter.trained import record_trained
    from gaga_adapter.training import TruncatedTimesteps, truncated_elbo

__version__ = _version("gaga-adapter")

# Statistics are pushed to the hub with a card, but must not know the report that writes it. So
# `files` knows only that there is a writer; this file, which sees all rooms, says which one.
_files.card_writer_home = ("gaga_adapter.report.card", "write_card")

#: Public names by the module of this package that loads when one of them is first used.
_ROOMS = {
    "criteria": ("Certificate", "Cumulant", "KSMI", "RigidTarget", "TwoSample"),
    "few_step": ("FewStepScheduler",),
    "noise.fitted": ("FittedLevels",),
    "fitting": ("compare", "fit"),
    "integrations": (
        "apply_patch",
        "as_pipeline",
        "fit_from",
        "patched",
        "remove_patch",
        "truncate_sigmas",
    ),
    "layout": ("AtomLayout", "DenseLayout", "MoleculeLayout", "TokenLayout"),
    "level_fitting": ("fit_levels",),
    "molecules.denoiser": ("MoleculeDenoiser",),
    "molecules.pipeline": ("MoleculePipeline",),
    "noise.paths": ("FlowPath", "GaussianPath", "TabulatedPath", "VEPath", "VPPath", "named_path"),
    "noised_states": ("FittedStates", "fit_states"),
    "reference": ("ReferenceGaussian",),
    "scheduler": ("GAGAScheduler",),
    "stats": ("GAGAStats",),
    "trained": ("record_trained",),
    "training": ("TruncatedTimesteps", "truncated_elbo"),
}
_HOME = {name: f"gaga_adapter.{room}" for room, names in _ROOMS.items() for name in names}

__all__ = [
    "KSMI",
    "AtomLayout",
    "Certificate",
    "Cumulant",
    "DenseLayout",
    "FewStepScheduler",
    "FittedLevels",
    "FittedStates",
    "FlowPath",
    "GAGAScheduler",
    "GAGAStats",
    "GaussianPath",
    "MoleculeDenoiser",
    "MoleculeLayout",
    "MoleculePipeline",
    "ReferenceGaussian",
    "RigidTarget",
    "TabulatedPath",
    "TokenLayout",
    "TruncatedTimesteps",
    "TwoSample",
    "VEPath",
    "VPPath",
    "__version__",
    "apply_patch",
    "as_pipeline",
    "compare",
    "fit",
    "fit_from",
    "fit_levels",
    "fit_states",
    "named_path",
    "patched",
    "record_trained",
    "remove_patch",
    "truncate_sigmas",
    "truncated_elbo",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name.startswith("GAGA"):  # generated scheduler classes; diffusers looks for them here
        with suppress(AttributeError):
            return getattr(import_module("gaga_adapter.scheduler"), name)
    raise AttributeError(f"module 'gaga_adapter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
