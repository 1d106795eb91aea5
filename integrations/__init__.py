"""Adapters for codebases that are not built on diffusers."""
