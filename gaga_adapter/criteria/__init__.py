"""Criteria of Gaussianity: a wing each, one protocol, one registry.

A criterion says, at every noise level, how far the noised data are from a reference. Up to a scale
the law of `a x_0 + b eps` depends on the SNR alone, so the axis of its curve is the log-SNR, at the
variance preserving level `a² = sigmoid(log_snr)`, `b² = sigmoid(-log_snr)`.

A new criterion is a folder beside this file and a line in `CRITERIA`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.criteria.protocol import Criterion
from gaga_adapter.errors import GAGAError

if TYPE_CHECKING:
    from gaga_adapter.criteria.certificate.criterion import Certificate
    from gaga_adapter.criteria.certificate.denoisers import as_denoiser
    from gaga_adapter.criteria.cumulant.criterion import Cumulant
    from gaga_adapter.criteria.ks_mi.criterion import KSMI
    from gaga_adapter.criteria.rigid import RigidTarget
    from gaga_adapter.criteria.two_sample.criterion import TwoSample

__all__ = [
    "CRITERIA",
    "KSMI",
    "Certificate",
    "Criterion",
    "CriterionCurve",
    "Cumulant",
    "RigidTarget",
    "TwoSample",
    "as_denoiser",
    "criterion",
]

#: Class of each criterion, by its name in the command line and in artefacts, and of its folder.
CRITERIA: Mapping[str, str] = {
    "two_sample": "TwoSample",
    "cumulant": "Cumulant",
    "ks_mi": "KSMI",
    "certificate": "Certificate",
}
#: Criteria that cannot be made from their name alone, with what they need.
_NEEDS = {"certificate": "a trained denoiser: Certificate(as_denoiser(model))"}
#: Files of the names that load when first used.
_HOME = {title: f"{folder}.criterion" for folder, title in CRITERIA.items()}
_HOME["as_denoiser"] = "certificate.denoisers"
_HOME["RigidTarget"] = "rigid"


def criterion(name: str) -> Criterion:
    """A criterion with its default settings, by name.

    Raises:
        GAGAError: If the name is unknown, or the criterion needs more than its name.
    """
    if name not in CRITERIA:
        raise GAGAError(f"unknown criterion {name!r}. Known: {', '.join(CRITERIA)}.")
    if name in _NEEDS:
        raise GAGAError(f"the criterion {name!r} needs {_NEEDS[name]}. Pass it instead of a name.")
    chosen: Criterion = __getattr__(CRITERIA[name])()
    return chosen


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
