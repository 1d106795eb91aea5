"""Adapters for codebases that are not built on diffusers."""

from __future__ import annotations

from .fitting import fit_from
from .patch import PatchHandle, apply_patch, patched, remove_patch

__all__ = ["PatchHandle", "apply_patch", "fit_from", "patched", "remove_patch"]
