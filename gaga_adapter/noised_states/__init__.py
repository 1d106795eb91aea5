"""Statistics of a codebase's own noised states, for flows that pair noise with data.

`fit` measures level by level what the codebase's interpolant makes and is `fit_states`; `artefact`
is what comes back and what is saved.
"""

from __future__ import annotations

from gaga_adapter.noised_states.artefact import FittedStates, MeasuredLevel
from gaga_adapter.noised_states.fit import fit_states

__all__ = ["FittedStates", "MeasuredLevel", "fit_states"]
