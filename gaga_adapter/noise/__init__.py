"""Noise levels: paths, and where diffusers schedulers keep them."""
