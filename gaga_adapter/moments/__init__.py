"""Moments of the data: streaming, mergeable, float64."""
