r"""Truncation of a sampling grid at t*: one mechanism for every scheduler.

The scheduler makes its own grid; then all that it indexes by the step loses its first entries, so
that the first entry left is the last one at or beyond t* (`snr <= snr_star`). To the scheduler
this is a shorter run.

- `suffix`: the grid for n steps, cut. Fewer network calls, the same steps below t*.
- `respace`: a grid so fine that n of its steps lie from t* on, cut to these. The same
  network calls, finer steps. The scheduler may not allow a grid so fine (at most one step per
  training timestep); the start is then further out. A grid that the caller names entry by entry
  is resampled instead, piecewise linearly in the entry's index, from t* to its end.
- `log_snr`: as many levels as the grid for n steps has, even in log-SNR from t* to where a network
  has nothing left to decide. They are written over the scheduler's own, or given to it as a list of
  timesteps; levels of a table lie at its entries. Lists of the caller count by their number only,
  and shifts (`shift`, `mu`, Karras sigmas) are not applied.
- `fitted`: the levels that were fitted to a model for that number of steps, and the number of steps
  that re-noise.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError
from gaga_adapter.few_step.levels import LOG_SNR_MAX, even_timesteps, timesteps_at
from gaga_adapter.noise.conventions import Level, Scheduler, convention_of, log_snr
from gaga_adapter.noise.fitted import FittedLevels
from gaga_adapter.noise.levels import TOLERANCE, first_beyond, is_beyond
from gaga_adapter.scheduler.families import family_of

#: Respacing stops at this many entries where nothing else limits the grid.
FINEST = 1 << 17


@dataclass(frozen=True)
class Cut:
    """Result of a truncation."""

    level: Level  # level of the first entry left, where the reference is taken
    is_whole: bool  # whether the grid is the scheduler's own, neither cut nor respaced
    reaches: bool  # whether the first entry left is at or beyond t*
    before: float | None  # timestep of the last entry that was cut off, if any
    place: int  # number of entries that were cut off
    front: Mapping[str, Any]  # entries of the attributes at the last step that was cut off, if any
    whole: Mapping[str, Any] | None  # attributes before the cut, if the solver gets them back
    timesteps: list[float]  # the scheduler's own grid, before cut and respacing


class Finest(NamedTuple):
    """The finest grid for a number of steps."""

    n_fine: int  # number of all its steps
    n_beyond: int  # number of its steps from t* on


@dataclass
class GridMaker:
    """Calls the scheduler's own `set_timesteps`, and cuts the grid in place."""

    scheduler: Scheduler
    make: Callable[..., None]  # `set_timesteps` of the scheduler's own class, unbound
    call: inspect.BoundArguments  # arguments of the caller
    log_snr_star: float
    #: Level beyond which the network was not trained, so that no step begins there: the run starts
    #: at the noisiest entry within, if that is closer to the data.
    trained_log_snr: float | None

    def __post_init__(self) -> None:
        self.family = family_of(self.scheduler)
        self.convention = convention_of(self.scheduler)
        self.limit = -math.inf if self.trained_log_snr is None else self.trained_log_snr
        self._make_with()
        self.own: list[float] = self.scheduler.timesteps.tolist()
        self._check_own_grid()

    # -- the spacings -----------------------------------------------------------------------------

    def suffix(self) -> Cut:
        """The grid of the call, cut at t*."""
        n_steps = self._n_steps_beyond()
        return self._cut(n_steps, is_whole=n_steps == len(self._ratios()), keep_whole=True)

    def respace(self, memory: dict[Any, Finest]) -> Cut:
        """As many steps as the call's own grid has, all from t* on.

        `memory` holds the results of earlier searches, by their arguments.
        """
        entry_lists = {
            name: value
            for name, value in self.call.arguments.items()
            if name in ("sigmas", "timesteps") and value is not None
        }
        n_steps = len(self._ratios())
        # A list stays as it is where nothing is cut off, and so does a grid whose end is limited
        # by training: a finer one could begin further inside.
        is_fixed = bool(entry_lists) or self.limit > -math.inf
        if is_fixed and self._n_steps_beyond() == n_steps:
            return self._cut(n_steps, is_whole=True)
        if entry_lists:
            self._resample(entry_lists, n_steps)
            return self._cut(n_steps, is_whole=False)
        _, *arguments = self.call.arguments.items()  # without the scheduler itself
        key = (n_steps, self.log_snr_star, self.limit, repr(arguments))
        config = self.scheduler._internal_dict  # other numbers of steps may change it
        finest = memory.get(key)
        if finest is not None:
            self._refine(finest.n_fine)
        # a remembered grid is another one if the scheduler has been changed since
        if finest is None or self._n_steps_beyond() != finest.n_beyond:
            memory[key] = finest = self._finest(n_steps)
            self._refine(finest.n_fine)
        self.scheduler._internal_dict = config
        return self._cut(self._n_trained(n_steps), is_whole=finest.n_fine == n_steps)

    def even_in_log_snr(self) -> Cut:
        """As many steps as the call's own grid has, even in log-SNR from t* on.

        Of a list that the caller gives only the number counts, and no shift is applied.

        Raises:
            TruncationError: If the scheduler takes no levels but its own, or the table of the
                scheduler has too few.
        """
        family, name = self.family, type(self.scheduler).__name__
        if not family.written and "timesteps" not in family.explicit:
            raise TruncationError(
                f"{name} takes no levels but its own, so it has no spacing log_snr. Use "
                'spacing="respace", or FewStepScheduler.from_scheduler(pipe.scheduler).'
            )
        at, last = self.convention, float(self.scheduler.config.get("log_snr_max", LOG_SNR_MAX))
        return self._at_timesteps(
            even_timesteps(at, self.n_steps, self.log_snr_star, last, self.limit)
        )

    def fitted(self, levels: FittedLevels) -> Cut:
        """The levels that were fitted for as many steps as the call's own grid has.

        Raises:
            TruncationError: If the scheduler is no `FewStepScheduler`, whose steps they are for.
        """
        if not hasattr(self.scheduler, "renoised"):
            raise TruncationError(
                f"fitted levels are for the steps of a FewStepScheduler, and this is a "
                f"{type(self.scheduler).__name__}. Make one with "
                "FewStepScheduler.from_scheduler(pipe.scheduler)."
            )
        log_snrs = torch.tensor(levels.log_snrs, dtype=torch.float64)
        cut = self._at_timesteps(timesteps_at(self.convention, log_snrs, self.limit))
        self.scheduler.renoised = levels.n_renoised
        return cut

    @property
    def n_steps(self) -> int:
        """Number of steps of the grid as it is; a list may end at the data, which are no step."""
        return max(1, int((self._ratios() > 0).sum()))

    def _at_timesteps(self, timesteps: list[float]) -> Cut:
        """The grid at given entries of the scheduler, from noise to data."""
        at, name = self.convention, type(self.scheduler).__name__
        if self.family.written:
            self._write(timesteps)
        else:
            plain = {"num_inference_steps": None, "sigmas": None, "timesteps": timesteps}
            known = self.call.signature.parameters.keys() & plain.keys()
            self._make_with(**{key: plain[key] for key in known})
        ratios = torch.tensor([at.ratio_at(t) for t in timesteps], dtype=torch.float64)
        got = self._ratios()
        if got.shape != ratios.shape or not torch.allclose(got.log(), ratios.log(), atol=1e-3):
            raise TruncationError(
                f"{name} changes the levels of the spacing log_snr that it is given (a strength "
                'below 1?). Use spacing="respace".'
            )
        cut = self._cut(len(timesteps), is_whole=False)
        # the next entry of the table would be beyond t*, and the network was not trained at it
        return replace(cut, reaches=cut.reaches or self._is_last_trained(timesteps[0]))

    def _is_last_trained(self, timestep: float) -> bool:
        """Whether the next entry of the table lies where the network was not trained."""
        table = self.convention.table
        if table is None or timestep >= len(table) - 1:
            return False
        return float(log_snr(table[int(timestep) + 1])) < self.limit - TOLERANCE

    def _write(self, timesteps: list[float]) -> None:
        """Put these entries into a grid of as many, in place of its own; what ends it stays."""
        scheduler, at = self.scheduler, self.convention
        entries = {
            "timesteps": timesteps,
            "sigmas": [at.sigma_at(at.ratio_at(t)) for t in timesteps],
        }
        n_ends = {"timesteps": at.row.tail, "sigmas": 1}
        for name in self.family.arrays:
            array: Tensor = getattr(scheduler, name)
            fresh = array.new_tensor(entries[name])
            fresh = torch.cat([fresh[:1], fresh[1:].repeat_interleave(self.family.written)])
            setattr(scheduler, name, torch.cat([fresh, array[len(array) - n_ends[name] :]]))

    def _make_with(self, **changed: Any) -> None:  # noqa: ANN401 - arguments of the scheduler
        """Make the scheduler's own grid for the arguments of the call, some of them changed."""
        call = inspect.BoundArguments(self.call.signature, {**self.call.arguments, **changed})
        self.make(*call.args, **call.kwargs)

    def _check_own_grid(self) -> None:
        """Refuse entries that are no levels of this scheduler, or that do not fall.

        Raises:
            TruncationError: If there are such entries.
        """
        ratios, name = self._ratios(), type(self.scheduler).__name__
        if not len(ratios) or not bool((ratios >= 0).all()):  # neither are NaN
            places = self.family.steps(self.scheduler)[: len(ratios)]
            wrong = [self.own[place] for place in places[~(ratios >= 0)].tolist()]
            raise TruncationError(
                f"the grid of {name} has entries that are no noise levels: timesteps {wrong[:3]}. "
                "Pass sigmas or timesteps in the scheduler's own units (a flow's sigmas lie in "
                "[0, 1]), or another num_inference_steps."
            )
        if len(ratios) > 1 and ratios[0] == ratios[-1]:
            raise TruncationError(
                f"all entries of the grid of {name} are timestep {self.own[0]:g}: it has no room "
                "for so many steps. Ask for fewer, or use another timestep_spacing."
            )
        if bool((ratios[1:] > ratios[:-1]).any()):
            raise TruncationError(
                f"the entries given to {name} do not fall from noise to data. Pass them in "
                "descending noise."
            )

    # -- reading the grid -----------------------------------------------------------------------

    def _ratios(self) -> Tensor:
        """Noise-to-signal ratios (n,) at which a step with a network call begins."""
        ratios = self.convention.grid()[self.family.steps(self.scheduler)]
        return ratios[: len(ratios) - self.convention.row.tail]

    def _is_beyond(self, ratio: Tensor) -> bool:
        return bool(is_beyond(log_snr(ratio), self.log_snr_star))

    def _n_steps_beyond(self) -> int:
        """Steps that remain when the first is the last one at or beyond t*."""
        ratios = self._ratios()
        n_closer = first_beyond(log_snr(ratios).flip(0), self.log_snr_star)
        least = self.family.least_steps(self.scheduler)
        return min(max(self._n_trained(n_closer + 1), least), len(ratios))

    def _n_trained(self, n_steps: int) -> int:
        """Number of the last `n_steps` steps that begin where the network was trained."""
        is_trained = log_snr(self._ratios()) >= self.limit - TOLERANCE
        return min(n_steps, int(is_trained.sum()))

    def _cut(self, n_steps: int, is_whole: bool, keep_whole: bool = False) -> Cut:
        """Drop everything before the last `n_steps` steps."""
        scheduler, ratios = self.scheduler, self._ratios()
        n_dropped = len(ratios) - n_steps
        positions = self.family.steps(scheduler)
        place, before, front = int(positions[n_dropped]), None, {}
        whole = {name: getattr(scheduler, name) for name in self.family.arrays}
        first, last_trained = float(scheduler.timesteps[place]), self.convention.ends[1]
        if self.convention.looks_up and first > last_trained:
            raise TruncationError(
                f"the grid of {type(scheduler).__name__} begins at timestep {first:g}, and the "
                f"last one in training is {last_trained:g}: steps_offset pushes it out. Ask for "
                "fewer steps, or set steps_offset=0."
            )
        if n_dropped:
            last = int(positions[n_dropped - 1])
            before = float(scheduler.timesteps[last])
            front = {name: array[last] for name, array in whole.items()}
            for name, array in whole.items():
                setattr(scheduler, name, array[place:])
        if not is_whole:
            self.family.repair(scheduler, n_steps)
        # a noisier entry was there, and the network was not trained at it
        is_limited = n_dropped > 0 and log_snr(ratios[n_dropped - 1]) < self.limit - TOLERANCE
        is_shortened = n_steps < self.family.short_run <= len(ratios)
        return Cut(
            level=self.convention.level(float(ratios[n_dropped])),
            is_whole=is_whole,
            reaches=self._is_beyond(ratios[n_dropped]) or bool(is_limited),
            before=before,
            place=place,
            front=front,
            timesteps=self.own,
            whole=whole if keep_whole and is_shortened else None,
        )

    # -- finer grids ----------------------------------------------------------------------------

    def _refine(self, n_steps: int) -> None:
        """Make the scheduler's own grid for another number of steps."""
        self._make_with(num_inference_steps=n_steps)
        self.family.settle(self.scheduler)

    def _steps_in_finer(self, n_fine: int, n_steps: int) -> int | None:
        """Steps from t* on in a grid of `n_fine`; `None` if its last `n_steps` are not sound."""
        try:
            with np.errstate(all="ignore"):
                self._refine(n_fine)
            ratios = self._ratios()
        except (ValueError, IndexError, AssertionError, ZeroDivisionError, RuntimeError):
            return None  # finer than the scheduler allows
        last = ratios[-n_steps:]
        is_sound = len(last) == n_steps and bool((last.diff() < 0).all())  # no infinity, no NaN
        return self._n_steps_beyond() if is_sound else None

    def _finest(self, n_steps: int) -> Finest:
        """The finest grid of which at most `n_steps` lie from t* on.

        Their number grows in proportion to the grid's, up to rounding, so a few trials are enough.
        """
        best = Finest(n_steps, self._n_steps_beyond())
        high = FINEST
        guess = n_steps * n_steps // best.n_beyond
        while high - best.n_fine > 1:
            guess = min(max(guess, best.n_fine + 1), high - 1)
            n_beyond = self._steps_in_finer(guess, n_steps)
            if n_beyond is not None and n_beyond <= n_steps:
                best = Finest(guess, n_beyond)
            else:
                high = guess
            guess = (best.n_fine + high) // 2
            if high == FINEST:  # aim at the first grid that has one step too many
                guess = math.ceil(best.n_fine * (n_steps + 1) / best.n_beyond)
        return best

    def _resample(self, entry_lists: dict[str, Any], n_steps: int) -> None:
        """Replace the lists that the caller gave by as many entries from t* on."""
        unknown = set(entry_lists) - set(self.family.explicit)
        if unknown:
            raise TruncationError(
                f"cannot respace the {', '.join(unknown)} given to "
                f"{type(self.scheduler).__name__}. "
                'Give num_inference_steps instead, or use spacing="suffix".'
            )
        low, high = 0.0, float(n_steps - 1)
        for _ in range(40):
            middle = (low + high) / 2
            self._make_resampled(entry_lists, middle)
            reached = self._is_beyond(self._ratios()[0])
            low, high = (middle, high) if reached else (low, middle)
        self._make_resampled(entry_lists, low)

    def _make_resampled(self, entry_lists: dict[str, Any], position: float) -> None:
        """Make the grid with each list resampled from a (fractional) entry to its end."""
        new = {
            name: _resample_list(values, position, self.family.explicit[name])
            for name, values in entry_lists.items()
        }
        if not all(bool(np.all(np.diff(x) < 0) | np.all(np.diff(x) > 0)) for x in new.values()):
            raise TruncationError(
                f"there are not enough timesteps below t* for the entries given to "
                f'{type(self.scheduler).__name__}. Give fewer, or use spacing="suffix".'
            )
        self._make_with(**{name: _like(entry_lists[name], values) for name, values in new.items()})


def _resample_list(values: Any, position: float, data_follow: bool) -> np.ndarray[Any, Any]:  # noqa: ANN401
    """As many entries of a list, linear in the index, from a fractional entry to the end.

    The end is one index further, at zero, if the scheduler appends the data by itself.
    """
    old = np.asarray(values)
    are_whole, count = np.issubdtype(old.dtype, np.integer), len(old)
    if data_follow:
        old = np.append(old, 0.0)
        index = np.linspace(position, count, count + 1)[:-1]
    else:
        index = np.linspace(position, count - 1, count)
    fresh: np.ndarray[Any, Any] = np.interp(index, np.arange(len(old)), old)
    if are_whole:
        fresh = np.concatenate([np.ceil(fresh[:1]), fresh[1:].round()])
    return fresh


def _like(values: Any, fresh: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401
    """The entries in the container and number type of the caller's."""
    if isinstance(values, Tensor):
        return torch.from_numpy(fresh).to(values)
    typed = fresh.astype(np.asarray(values).dtype)
    return typed.tolist() if isinstance(values, Sequence) else typed
