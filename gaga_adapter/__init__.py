"""Gaussianity-aware truncation for diffusion and flow models.

From a characteristic noise level on, noised data are Gaussian to within a stated number of nats.
There the sampling trajectory can start from a closed-form Gaussian, with fewer network calls.

    scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats="qm9")

Importing this package loads torch, numpy and safetensors only; everything else loads when first
used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaga_adapter.fitting import compare, fit
    from gaga_adapter.integrations import apply_patch, patched, remove_patch
    from gaga_adapter.molecules.denoiser import MoleculeDenoiser
    from gaga_adapter.molecules.pipeline import MoleculePipeline
    from gaga_adapter.noise.paths import (
        FlowPath,
        GaussianPath,
        TabulatedPath,
        VEPath,
        VPPath,
        named_path,
    )
    from gaga_adapter.reference import ReferenceGaussian
    from gaga_adapter.scheduler import GAGAScheduler
    from gaga_adapter.stats import GAGAStats
    from gaga_adapter.training import TruncatedTimesteps, truncated_elbo

__version__ = _version("gaga-adapter")

_HOME = {
    "FlowPath": "gaga_adapter.noise.paths",
    "GAGAScheduler": "gaga_adapter.scheduler",
    "GAGAStats": "gaga_adapter.stats",
    "GaussianPath": "gaga_adapter.noise.paths",
    "MoleculeDenoiser": "gaga_adapter.molecules.denoiser",
    "MoleculePipeline": "gaga_adapter.molecules.pipeline",
    "ReferenceGaussian": "gaga_adapter.reference",
    "TabulatedPath": "gaga_adapter.noise.paths",
    "TruncatedTimesteps": "gaga_adapter.training",
    "VEPath": "gaga_adapter.noise.paths",
    "VPPath": "gaga_adapter.noise.paths",
    "apply_patch": "gaga_adapter.integrations",
    "compare": "gaga_adapter.fitting",
    "fit": "gaga_adapter.fitting",
    "named_path": "gaga_adapter.noise.paths",
    "patched": "gaga_adapter.integrations",
    "remove_patch": "gaga_adapter.integrations",
    "truncated_elbo": "gaga_adapter.training",
}

__all__ = [
    "FlowPath",
    "GAGAScheduler",
    "GAGAStats",
    "GaussianPath",
    "MoleculeDenoiser",
    "MoleculePipeline",
    "ReferenceGaussian",
    "TabulatedPath",
    "TruncatedTimesteps",
    "VEPath",
    "VPPath",
    "__version__",
    "apply_patch",
    "compare",
    "fit",
    "named_path",
    "patched",
    "remove_patch",
    "truncated_elbo",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name.startswith("GAGA"):  # generated scheduler classes; diffusers looks for them here
        return getattr(import_module("gaga_adapter.scheduler"), name)
    raise AttributeError(f"module 'gaga_adapter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
