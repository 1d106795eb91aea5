"""Levels for few network calls that are fitted to a model, from held-out data and without training.

`bound` chooses them from the model's errors alone, by dynamic programming; `rollouts` samples on
given levels; `distance` says how far samples are from held-out data; `search` compares levels by it
and is `fit_levels`.
"""

from __future__ import annotations

from gaga_adapter.level_fitting.search import fit_levels

__all__ = ["fit_levels"]
