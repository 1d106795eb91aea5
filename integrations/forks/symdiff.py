"""SymDiff by structure (github.com/leozhangML/symdiff): an EDM that may keep the centre of mass.

With `com_free` it is EDM with other networks. Without, its noise explodes in variance; and its toys
(`molecule=False`) have no elements: both are refused.
"""

from collections.abc import Mapping
from typing import ClassVar

from ..edm import EDM


class SymDiff(EDM):
    """`EnVariationalDiffusion` with `com_free`."""

    name = "symdiff"
    attributes = ("com_free", "molecule")
    must = ("com_free", "molecule")
    refused: ClassVar[Mapping[str, str]] = {
        "sample_p_zs_given_zt_backbone": "it gives its network the time by another way"
    }
