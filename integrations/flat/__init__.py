"""Flat batches of atoms, as graph libraries make them: the bridge, and the codebases on it.

start = transport(stats.reference().at(a, b), noise, batch_index)    # (atoms, 3 + F)
stats = fit(padded_batches(loader, ("pos", "x")))                    # a loader of torch_geometric
"""

from .batches import padded_batches, prior_term, to_flat, to_padded, transport

__all__ = ["padded_batches", "prior_term", "to_flat", "to_padded", "transport"]
