"""Shorten the list of sigmas of a structure predictor, in memory, without a line of it changed.

These codebases make their samplers deep inside of a run, from a checkpoint or in the body of a
function. So the patch replaces methods of the class, for every sampler of this process, until it is
removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gaga_adapter.errors import TruncationError, UnsupportedModelError, plain_number

from ..karras import check_spacing
from .boltz import Boltz
from .chai import Chai
from .predictor import Predictor, Sampler, cutter

#: The adapters, in the order in which they are asked.
PREDICTORS = (Boltz(), Chai())
_ABSENT = object()
_KNOWN = "Pass the class AtomDiffusion of Boltz, or InferenceNoiseSchedule of Chai-1."


@dataclass(frozen=True, eq=False)
class ScheduleHandle:
    """What `apply_patch` did to a class.

    Attributes:
        sampler: Class whose lists of sigmas are shortened.
        sigma_star: Noise level in angstrom that the first network call is at or beyond.
        spacing: Word `suffix` or `respace`.
        replaced: Methods of the class under the patch, and what it had itself in their place.
    """

    sampler: Sampler
    sigma_star: float
    spacing: str
    replaced: Mapping[str, tuple[Any, Any]]

    def remove(self) -> None:
        """Undo this patch; nothing happens if it was undone, or replaced by another."""
        if _PATCHES.get(self.sampler) is self:
            remove_patch(self.sampler)

    def _install(self) -> None:
        for name, (method, _) in self.replaced.items():
            setattr(self.sampler, name, method)
        _PATCHES[self.sampler] = self


_PATCHES: dict[Sampler, ScheduleHandle] = {}


def apply_patch(sampler: Sampler, sigma_star: float, spacing: str = "suffix") -> ScheduleHandle:
    """Start every run of a structure predictor at sigma*, from `N(0, sigma_first² P)`.

    A class that is patched already is patched anew.

    Args:
        sampler: Class `AtomDiffusion` of Boltz, or `InferenceNoiseSchedule` of Chai-1.
        sigma_star: Noise level in angstrom, such as `RigidTarget.sigma_star()` of the largest
            target of the run: it grows with the number of atoms and the radius of gyration.
        spacing: Word `suffix`, to walk the last entries of the codebase's own list: fewer network
            calls, the same steps; or `respace`, to keep their number, all from sigma* on.

    Raises:
        UnsupportedModelError: If no adapter recognises the class, or a class that it inherits from,
            or that inherits from it, is patched.
        TruncationError: If sigma* is not a positive number, or the spacing is unknown.
    """
    check_spacing(spacing)
    advice = "Pass a positive number of angstrom, such as RigidTarget.sigma_star()."
    star = plain_number("sigma_star", sigma_star, advice)
    if not star > 0:
        raise TruncationError(f"sigma_star={star:g} is not positive. {advice}")
    predictor = _predictor_for(sampler)
    for other in [one for one in _PATCHES if one is not sampler]:
        is_base = issubclass(sampler, other)
        if is_base or issubclass(other, sampler):
            child, parent = (sampler.__name__, "it") if is_base else ("it", sampler.__name__)
            raise UnsupportedModelError(
                f"{other.__name__} is patched, and {child} inherits from {parent}: a list could be "
                "cut twice. Patch one of the two; "
                f"remove_patch({other.__name__}) undoes the patch that is there."
            )
    remove_patch(sampler)
    methods = predictor.methods(sampler, cutter(star, spacing))
    own = vars(sampler)
    replaced = {name: (method, own.get(name, _ABSENT)) for name, method in methods.items()}
    handle = ScheduleHandle(sampler, star, spacing, replaced)
    handle._install()
    return handle


def remove_patch(sampler: Sampler) -> None:
    """Give a class its own methods back; nothing happens if it is not patched.

    Raises:
        UnsupportedModelError: If the class is patched through one that it inherits from.
    """
    base = next((one for one in getattr(sampler, "__mro__", ())[1:] if one in _PATCHES), None)
    if base is not None:
        raise UnsupportedModelError(
            f"the patch of {sampler.__name__} is that of {base.__name__}, from which it inherits. "
            f"Call remove_patch({base.__name__})."
        )
    handle = _PATCHES.pop(sampler, None)
    for name, (_, own) in handle.replaced.items() if handle else ():
        if own is _ABSENT:
            delattr(sampler, name)
        else:
            setattr(sampler, name, own)


@contextmanager
def patched(
    sampler: Sampler, sigma_star: float, spacing: str = "suffix"
) -> Iterator[ScheduleHandle]:
    """`apply_patch` for a `with` block; a patch from before the block is there after it.

    A class whose patch was removed inside of the block stays without one.
    """
    before = _PATCHES.get(sampler)
    handle = apply_patch(sampler, sigma_star, spacing)
    try:
        yield handle
    finally:
        if sampler in _PATCHES:
            remove_patch(sampler)
            if before is not None:
                before._install()


def _predictor_for(sampler: Sampler) -> Predictor:
    """The adapter that recognises a class.

    Raises:
        UnsupportedModelError: If none does; the message has every reason.
    """
    if not isinstance(sampler, type):
        raise UnsupportedModelError(f"a {type(sampler).__name__} object is no class. {_KNOWN}")
    refusals = []
    for predictor in PREDICTORS:
        reasons = predictor.reasons(sampler)
        if not reasons:
            return predictor
        refusals.append(f"{predictor.name}: {', '.join(reasons)}.")
    raise UnsupportedModelError(
        f"cannot shorten the sigmas of {sampler.__name__}. {' '.join(refusals)} {_KNOWN}"
    )
