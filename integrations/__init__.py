"""Adapters for codebases that are not built on diffusers."""

from __future__ import annotations

from .patch import PatchHandle, apply_patch, patched, remove_patch

__all__ = ["PatchHandle", "apply_patch", "patched", "remove_patch"]
