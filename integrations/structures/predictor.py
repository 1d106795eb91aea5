"""What an adapter says about the sampler of a structure predictor, and how its list is cut."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from gaga_adapter.errors import warn

from ..karras import truncate_sigmas

Sampler = type[Any]  # a class of a codebase that is not imported
Cut = Callable[..., Tensor]


class Predictor(ABC):
    """How the class that makes the list of sigmas is recognised, and which methods are replaced.

    The loop must draw its first noise as `sigmas[0]` times unit noise and centre it: then a shorter
    list is all that it takes to start from `N(0, sigma_first² P)`.

    Attributes:
        name: Name of the codebase in messages.
        known_by: Methods of the class, with some of their parameters.
    """

    name: ClassVar[str]
    known_by: ClassVar[Mapping[str, tuple[str, ...]]]

    def reasons(self, sampler: Sampler) -> list[str]:
        """All reasons why this is not such a class; empty if it is one."""
        reasons = []
        for name, parameters in self.known_by.items():
            method = getattr(sampler, name, None)
            if not callable(method):
                reasons.append(f"no method {name!r}")
                continue
            unknown = set(parameters) - set(inspect.signature(method).parameters)
            reasons += [f"{name} takes no {parameter!r}" for parameter in sorted(unknown)]
        return reasons

    @abstractmethod
    def methods(self, sampler: Sampler, cut: Cut) -> Mapping[str, Callable[..., Any]]:
        """The methods that replace those of the class.

        Args:
            sampler: Class that this adapter recognises, as it is.
            cut: Function that shortens a list of sigmas; see `cutter`.
        """


def cutter(sigma_star: float, spacing: str) -> Cut:
    """The function that shortens lists of sigmas at `sigma_star`."""

    def cut(sigmas: Tensor, seen: Tensor | None = None, rho: float = 7.0) -> Tensor:
        """A list from the last entry on from which the network first sees sigma* or more.

        Args:
            sigmas: Falling sigmas (n,) of the codebase.
            seen: Levels (n,) of the first network call of a run from each of them: a sampler that
                adds noise before it asks the network begins higher than its list.
            rho: Exponent of the list, for respacing.
        """
        seen = sigmas if seen is None else seen
        beyond = (seen >= sigma_star).nonzero().flatten()
        if not len(beyond):
            warn(
                f"the first network call of the whole list is at {float(seen[0]):.6g} angstrom, "
                f"closer to the data than sigma*={sigma_star:.6g}: nothing is cut. The target can "
                "be told from noise at all of its levels; the run is the same without the patch."
            )
            return sigmas
        first = int(beyond[-1])
        # Numbers of Python, for not every device has float64. The rounding of the quotient must
        # not lose the entry.
        level = float(sigmas[first])
        star = min(sigma_star * (level / float(seen[first])), level)
        return truncate_sigmas(sigmas, None, spacing, rho=rho, sigma_star=star)[0]

    return cut
