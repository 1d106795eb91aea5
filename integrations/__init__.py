"""Adapters for codebases that are not built on diffusers.

handle = apply_patch(edm_model, "stats")    # their own scripts start at t*; handle.remove()
pipe = as_pipeline(edm_model)               # their checkpoint under any diffusers scheduler
sigmas, start = truncate_sigmas(sigmas, stats)    # NVlabs and k-diffusion loops
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .edm import EDM
from .flat.diffsbdd import DiffSBDD
from .flat.gcdm import GCDM
from .forks.chemguide import ChemGuide
from .forks.edpo import EDPO
from .forks.eegsde import EEGSDE
from .forks.georcg import GeoRCG
from .forks.paper import PaperGAGA
from .forks.symdiff import SymDiff
from .forks.unigem import UniGEM
from .geoldm import GeoLDM
from .mlconfgen import MLConfGen
from .molcraftdiffusion import MolCraftDiffusion
from .patching.fitting import fit_from
from .patching.patch import PatchHandle, apply_patch, patched, remove_patch
from .patching.relayout import in_layout
from .patching.trained_to import trained_to
from .protocol import register

if TYPE_CHECKING:
    from .karras import KarrasStart, truncate_sigmas
    from .sampling.pipeline import EDMPipeline, as_pipeline

_LAZY = {  # what loads more than torch
    "EDMPipeline": "sampling.pipeline",
    "KarrasStart": "karras",
    "as_pipeline": "sampling.pipeline",
    "truncate_sigmas": "karras",
}

__all__ = [
    "EDMPipeline",
    "KarrasStart",
    "PatchHandle",
    "apply_patch",
    "as_pipeline",
    "fit_from",
    "in_layout",
    "patched",
    "remove_patch",
    "trained_to",
    "truncate_sigmas",
]

for _adapter in (
    EDM(),
    GeoLDM(),
    MolCraftDiffusion(),
    MLConfGen(),
    PaperGAGA(),
    GCDM(),
    DiffSBDD(),
    UniGEM(),
    GeoRCG(),
    EDPO(),
    EEGSDE(),
    SymDiff(),
    ChemGuide(),
):  # the special ones come last
    register(_adapter)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
