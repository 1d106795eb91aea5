"""Metrics of molecules: stability, validity, shape, distances from data."""

from gaga_adapter.molecules.metrics.evaluate import evaluate

__all__ = ["evaluate"]
