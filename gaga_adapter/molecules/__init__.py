"""Molecules: readers, metrics, pictures, the compact denoiser and its pipeline."""
