"""Molecules: readers, metrics, pictures, the compact denoiser and its pipeline.

Everything here loads when it is asked for by its module: `gaga_adapter.molecules.qm9`, `.formats`,
`.metrics`, `.draw`, `.denoiser`, `.pipeline`. The last two stay where they are: saved pipelines
name `gaga_adapter.molecules.denoiser`.
"""
