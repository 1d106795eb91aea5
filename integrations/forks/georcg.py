"""GeoRCG by structure (github.com/GraphPKU/GeoRCG, `EDM_based`): an EDM with a representation.

Samplers, loss and network take `rep`, which passes through. `ddim_sample` takes S steps of the path
as long as it stands: from t* here.
"""

from ..edm import EDM


class GeoRCG(EDM):
    """`EnVariationalDiffusion` whose methods take `rep`."""

    name = "georcg"
    methods = ("phi(rep)", "sample(rep)", "ddim_sample(rep, S)")
    starts = (*EDM.starts, "ddim_sample")
    frames = (*EDM.frames, "S")
    no_pipeline = "its network needs a representation of each molecule"
