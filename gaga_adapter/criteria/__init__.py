"""Criteria of Gaussianity: one file each, one protocol, one registry.

A criterion says, at every noise level, how far the noised data are from a reference. Up to a scale
the law of `a x_0 + b eps` depends on the SNR alone, so the axis of its curve is the log-SNR, at the
variance preserving level `a² = sigmoid(log_snr)`, `b² = sigmoid(-log_snr)`.

A new criterion is a file beside this one and a line in `CRITERIA`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from torch import Generator, Tensor

from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.errors import GAGAError

if TYPE_CHECKING:
    from gaga_adapter.reference import ReferenceGaussian

__all__ = ["CRITERIA", "Criterion", "CriterionCurve", "criterion"]


class Criterion(Protocol):
    """How Gaussian noised data are, as a curve over the log-SNR."""

    @property
    def name(self) -> str:
        """Its key in `CRITERIA`."""

    @property
    def unit(self) -> str:
        """Unit of its values."""

    def curve(
        self,
        x: Tensor,
        mask: Tensor | None,
        reference: ReferenceGaussian,
        log_snr: Tensor,
        generator: Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CriterionCurve:
        """The curve of one data set against one reference.

        Args:
            x: clean data: molecules (M, N, 3 + F), or dense (M, C, ...).
            mask: molecules: real atoms (M, N), bool. `None` says that the data are dense.
            reference: at any level; it is moved to each level of the curve.
            log_snr: levels (L,), in any order.
            generator: source of all randomness.
            progress: called with (levels done, levels in all).

        Raises:
            DataError: the data are too few, not finite or of another shape.
        """


#: Criterion by name: where its class is. They load when asked for.
CRITERIA: Mapping[str, tuple[str, str]] = {
    "two_sample": ("gaga_adapter.criteria.two_sample.criterion", "TwoSample"),
    "cumulant": ("gaga_adapter.criteria.cumulant.criterion", "Cumulant"),
    "ks_mi": ("gaga_adapter.criteria.ks_mi.criterion", "KSMI"),
    "certificate": ("gaga_adapter.criteria.certificate.criterion", "Certificate"),
}
#: Criteria that cannot be made from their name alone, with what they need.
_NEEDS = {"certificate": "a trained denoiser: Certificate(as_denoiser(model))"}


def criterion(name: str) -> Criterion:
    """A criterion with its default settings, by name.

    Raises:
        GAGAError: the name is unknown, or the criterion needs more than its name.
    """
    if name not in CRITERIA:
        raise GAGAError(f"unknown criterion {name!r}. Known: {', '.join(CRITERIA)}.")
    if name in _NEEDS:
        raise GAGAError(f"the criterion {name!r} needs {_NEEDS[name]}. Pass it instead of a name.")
    module, kind = CRITERIA[name]
    made: Criterion = getattr(import_module(module), kind)()
    return made
