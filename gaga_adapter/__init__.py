"""Gaussianity-aware truncation for diffusion and flow models."""
