"""Flat batches of atoms, as graph libraries make them: the bridge, and the codebases on it.

start = transport(stats.reference().at(a, b), noise, batch_index)    # (atoms, 3 + F)
stats = fit(padded_batches(loader, ("pos", "x")))                    # a loader of torch_geometric
stats = fit_complexes(model, loader)                                 # ligands with their pockets
"""

from .batches import padded_batches, prior_term, to_flat, to_padded, transport
from .diffsbdd import fit_complexes
from .joint import JointStats, fit_joint

__all__ = [
    "JointStats",
    "fit_complexes",
    "fit_joint",
    "padded_batches",
    "prior_term",
    "to_flat",
    "to_padded",
    "transport",
]
