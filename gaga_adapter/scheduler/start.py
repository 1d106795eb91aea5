"""The start of a run: noise that a loop hands over, and the Gaussian that it becomes.

A `Start` lives as long as its scheduler. It keeps the noise that was handed over until a run
begins, also across grids: latents that were drawn before `set_timesteps` are mapped by it, and a
start that was made for one grid is made again for the next.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.errors import HandoverError, StatsMismatchError, warn
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.scheduler.handover import ADVICE, TRANSITIONS, Event, State
from gaga_adapter.scheduler.white import ENOUGH, distinct, is_white, root_mean_square

#: Unit noise has a root mean square of one; beyond this factor the loop itself has scaled it.
SCALED = 2.0
#: Nats by which a tensor is likelier as a start than as unit noise before it is refused as noise.
#: Unit noise gets there with probability exp(-30) at most (Markov's inequality on the ratio).
LIKELIER = 30.0
#: Noises of one run, and starts of earlier runs, that are recognised as such.
REMEMBERED = 8


@dataclass
class Handed:
    """Noise that a loop has handed over."""

    noise: Tensor  # as the loop drew it
    scale: float  # standard deviation of it
    given: Tensor  # what the loop has got for it
    level: tuple[float, float] | None  # level of the start, `None` while there is no grid
    is_ours: bool  # whether the loop holds this very tensor and nobody else does

    @property
    def was_given(self) -> bool:
        """Whether the loop has got something else than its noise."""
        return self.given is not self.noise


@dataclass
class Entry:
    """The first entry of a grid, and the laws of noise and start there."""

    reference: ReferenceGaussian  # the start, at the level of the entry
    channel: ReferenceGaussian  # its coarsest relative, which tells starts from noise
    unit: ReferenceGaussian  # the law of unit noise
    noise_scale: float  # standard deviation that the loop gives to its unit noise by itself
    timestep: float
    lead: float | None  # extra timestep before the entry, if there is one
    is_whole: bool  # whether nothing was cut off

    @property
    def level(self) -> tuple[float, float]:
        """Signal and noise coefficients."""
        return self.reference.a, self.reference.b


@dataclass
class Start:
    """What stands between `set_timesteps` and the first step."""

    state: State = State.NO_GRID
    entry: Entry | None = None  # `None` before the first grid
    awaits_lead: bool = False  # whether the loop may still come to the extra timestep
    forgets_data: bool = False  # whether the loop noises data to the very end of the path
    has_warned: bool = False  # whether the user knows that the loop counts from t*
    number: float | None = None  # the base's own `init_noise_sigma`, if it was read without a grid
    seen: Tensor | None = None  # what the network has seen of the start
    handed: list[Handed] = field(default_factory=list)
    data: list[Tensor] = field(default_factory=list)  # what add_noise has given
    was_led: bool = False  # whether the extra timestep has mapped
    #: Starts of other runs, with the sum of their entries, since a buffer may be used again.
    earlier: list[tuple[weakref.ref[Tensor], float]] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """All but weak references and graphs, which are not copied."""
        handed = [replace(h, noise=h.noise.detach(), given=h.given.detach()) for h in self.handed]
        seen = None if self.seen is None else self.seen.detach()
        return {**self.__dict__, "earlier": [], "handed": handed, "seen": seen}

    def move(self, event: Event) -> None:
        """Go on by one transition of the table.

        Raises:
            HandoverError: If the table has none for this event.
        """
        self.state = self.after(event)

    def after(self, event: Event) -> State:
        """The state that an event leads to; see `move`."""
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            advice = ADVICE.get(event, 'Use handover="step".')
            raise HandoverError(
                f"{event.value} came while the loop is {self.state.value}. {advice}"
            )
        return following

    def is_lead(self, timestep: float | None) -> bool:
        """Whether this is the extra timestep; `None` is, while the grid begins with it.

        A loop in several parts of a batch comes to it several times.
        """
        lead = self._entry.lead
        if timestep is None or lead == self._entry.timestep:
            return self.awaits_lead and timestep in (None, lead)
        return timestep == lead

    # -- a grid ---------------------------------------------------------------------------------

    def ask(self) -> None:
        """Stand without a grid, until there is a new one."""
        self.move(Event.ASK)
        self.entry, self.seen = None, None
        self.awaits_lead = self.forgets_data = self.has_warned = self.was_led = False
        self.data = []

    def set_grid(self, entry: Entry) -> None:
        """Stand before the first step of a new grid; prepared latents become its start."""
        self.move(Event.GRID)
        self.entry = entry
        self.awaits_lead = entry.lead is not None
        for handed in self.handed:
            if not handed.is_ours:
                continue
            try:
                start = self._start(handed.noise, handed.scale)
            except StatsMismatchError:
                continue  # these latents are another network's
            is_new, handed.level = handed.level is None, entry.level
            handed.given.copy_(start)
            if is_new:  # else they may belong to a run that broke off
                self.move(Event.PREPARE)

    def begin(self, event: Event) -> None:
        """Begin a run: nothing of the noise is needed any more."""
        self.move(event)
        starts = [handed.given for handed in self.handed if handed.level is not None]
        held = [(weakref.ref(start), _total(start)) for start in starts]
        self.earlier = [*self.earlier, *held][-REMEMBERED:]
        self.handed, self.data, self.seen, self.number = [], [], None, None
        self.was_led = False
        self.awaits_lead = self._entry.lead not in (None, self._entry.timestep)

    # -- noise ----------------------------------------------------------------------------------

    def multiply(self, noise: Tensor) -> Tensor:
        """What the loop gets for noise that it multiplies by `init_noise_sigma`."""
        if not isinstance(noise, Tensor):
            raise HandoverError(
                f"init_noise_sigma was multiplied by a {type(noise).__name__}. While the start is "
                "to be mapped it can only be multiplied by the noise, a tensor; use "
                'handover="step" for this loop.'
            )
        for handed in self.handed:
            if handed.level is not None and is_same(noise, handed.given):
                if handed.is_ours:  # mapped as it came out of prepare_latents
                    return noise
                raise self._mapped_twice()
        following = self.after(Event.MULTIPLY)  # refused before anything is worked out
        start = self._start(noise)
        self.state = following
        self._hand(Handed(noise, 1.0, start, self._entry.level, is_ours=False))
        return start

    def prepare(self, latents: Tensor) -> Tensor:
        """What a watched pipeline gets for the latents that it has prepared."""
        if self.state in (State.DATA, State.OWN):
            return latents
        if any(h.level is not None and is_part(latents, h.given) for h in self.handed):
            return latents  # multiplied by init_noise_sigma in there
        # what was prepared before belongs to a run that broke off
        self.handed = [handed for handed in self.handed if not handed.is_ours]
        scale = self._scale(latents)
        if self.state in (State.NO_GRID, State.RUNNING, State.DONE):  # the grid is still to come
            self.move(Event.PREPARE)
            self._hand(Handed(latents.clone(), scale, latents, None, is_ours=True))
            return latents
        try:
            start = self._start(latents, scale)
        except StatsMismatchError:
            return latents  # of another network; if they are not, the first step says so
        self.move(Event.PREPARE)
        self._hand(Handed(latents, scale, start, self._entry.level, is_ours=True))
        return start

    def lead(self, sample: Tensor) -> Tensor:
        """What the step at the extra timestep returns."""
        self.take_noise(sample)
        result = sample
        is_more = self.state is State.MAPPED and self.was_led  # another part of the batch
        if self.state in (State.READY, State.DONE) or is_more:
            self.was_led = True
            known = next((h for h in self.handed if is_same(sample, h.given)), None)
            if known is not None:  # multiplied for an earlier grid
                result = self._start(known.noise, known.scale)
            else:
                result = self._start(sample, self._scale(sample))
        self.move(Event.LEAD)
        self.awaits_lead = False
        return result

    def take_noise(self, sample: Tensor) -> None:
        """Tell noise of the loop's own from the data that were noised beside it."""
        if self.state is not State.DATA or not self.data:
            return
        if any(is_part(sample, x) or exchange(sample, x, x) is not None for x in self.data):
            return
        if is_white(sample) and 0.8 < root_mean_square(sample) < 1.25:
            self.move(Event.OTHER_NOISE)
        elif not self.has_warned:
            self.has_warned = True
            warn(
                "the loop begins with a sample that is neither noise nor what add_noise gave; it "
                "is taken for noised data, and stays as it is. Blend noised data with the sample "
                "after its first step, when it is the start."
            )

    def show(self, sample: Tensor) -> Tensor:
        """What the network is to see first; `first_sample` then finds the sample again.

        Noise may come in copies for guidance, and with other channels behind it.
        """
        if self.recognise(sample):
            return sample
        for handed in self.handed:
            for known in (handed.noise, handed.given):
                if exchange(sample, known, known) is not None:
                    start = self._start(handed.noise, handed.scale)
                    self.move(Event.SHOW)
                    self.seen = exchange(sample, known, start)
                    assert self.seen is not None
                    return self.seen
        if self.state is State.MAPPED or (self.seen is not None and is_same(sample, self.seen)):
            return sample
        scale = self._scale(sample)
        self.seen = self._start(sample, scale)
        self.move(Event.SHOW)
        self._hand(Handed(sample, scale, sample, None, is_ours=False))
        return self.seen

    def holds_start(self, sample: Tensor) -> bool:
        """Whether a sample, or a part of it, is a start that was made for this entry."""
        starts = [h.given for h in self.handed if h.level == self._entry.level]
        return any(
            is_part(sample, start) or exchange(sample, start, start) is not None for start in starts
        )

    def is_inside(self, sample: Tensor) -> bool:
        """Whether a network's first input holds more than a start, along an axis of the sample.

        Pipelines put images there that the sample is to agree with, place by place.
        """
        starts = [h.given for h in self.handed if h.level == self._entry.level]
        return any(
            sample.shape[1:] != start.shape[1:] and exchange(sample, start, start) is not None
            for start in starts
        )

    def recognise(self, sample: Tensor) -> bool:
        """Whether a sample is the mapped start, also one from before the grid was made anew."""
        is_open = self.state in (State.READY, State.DONE, State.MAPPED)
        is_start = is_open and self.holds_start(sample)
        if is_start:
            self.move(Event.MULTIPLY)
        return is_start

    def first_sample(self, sample: Tensor) -> Tensor:
        """The mapped start, whether the loop passes its noise or what the network saw.

        Samples that `recognise` knows do not come here.

        Raises:
            HandoverError: If the loop passes something else.
        """
        if self.state is State.SHOWN:
            if self.seen is not None and is_same(sample, self.seen):
                return sample
            for handed in self.handed:
                if is_same(sample, handed.noise):
                    return self._start(sample, handed.scale)
                if handed.level != self._entry.level and is_same(sample, handed.given):
                    return self._start(handed.noise[: len(sample)], handed.scale)
                if handed.level == self._entry.level and is_part(sample, handed.given):
                    return sample
            raise HandoverError(
                "the sample of the first step is neither the noise that the network saw nor its "
                "mapped start. Multiply the noise by scheduler.init_noise_sigma, or use "
                'handover="step".'
            )
        for handed in self.handed:
            if handed.is_ours:
                raise HandoverError(
                    "the sample of the first step is not the start that prepare_latents returned: "
                    "the pipeline has changed it in between. Detach the scheduler and use "
                    'handover="step".'
                )
            if handed.was_given and is_same(sample, handed.noise):
                raise HandoverError(
                    "the loop goes on with its noise and not with the product of noise and "
                    "init_noise_sigma. Pass the product to the network and to step."
                )
        self.check_known(sample)
        return sample

    def check_known(self, sample: Tensor) -> None:
        """Refuse noise in place of the start that was made, where the two can be told apart."""
        if sample.numel() < ENOUGH or not any(handed.was_given for handed in self.handed):
            return
        nats = -self._nats_over_noise(sample, of_noise=True)
        if nats > LIKELIER:
            raise HandoverError(
                "the loop has scaled one noise by init_noise_sigma and goes on with another, "
                f"which is likelier by {nats:.0f} nats as unit noise than as a start. Pass the "
                "product to the network and to step."
            )

    # -- small parts ----------------------------------------------------------------------------

    @property
    def _entry(self) -> Entry:
        assert self.entry is not None
        return self.entry

    def _hand(self, handed: Handed) -> None:
        self.handed = [*self.handed, handed][-REMEMBERED:]

    def _mapped_twice(self) -> HandoverError:
        return HandoverError(
            "this start has been mapped already: scale the noise by init_noise_sigma once."
        )

    def _scale(self, noise: Tensor) -> float:
        """The standard deviation that the loop has given to its noise, out of those it may have.

        A loop without a grid has scaled by the base's own number.
        """
        own = 1.0 if self.entry is None else self.entry.noise_scale
        if self.number is None or self.number == own:
            return own
        rms = root_mean_square(noise) or own
        return min((own, self.number), key=lambda scale: abs(math.log(rms / scale)))

    def _start(self, noise: Tensor, scale: float = 1.0) -> Tensor:
        """Unit noise (B, ...), times `scale`, as the start; same shape, dtype and device.

        Raises:
            HandoverError: If it is not unit noise: scaled otherwise, or a start already.
        """
        entry = self._entry
        for ref, total in self.earlier:
            held = ref()
            if held is not None and is_same(noise, held) and _total(held) == total:
                raise self._mapped_twice()
        noise = noise if scale == 1.0 else noise / scale
        try:
            start = entry.reference.transport(noise)
        except StatsMismatchError as error:
            raise StatsMismatchError(
                f"{error} Fit on samples of the shape that the loop passes to scheduler.step, or "
                "use the plain scheduler here."
            ) from error
        if noise.numel() < ENOUGH:
            return start
        nats = self._nats_over_noise(noise)
        if nats > LIKELIER:
            raise HandoverError(
                "the start is no unit noise: as noised data, or as a start that was mapped "
                f"already, it is likelier by {nats:.0f} nats. Hand over unit noise, once, and "
                "scale or shift the start that it becomes; pass noised data to step only at the "
                "entry whose level they have."
            )
        rms = root_mean_square(noise)
        if not 1 / SCALED < rms < SCALED:
            raise HandoverError(
                f"the start has a root mean square of {rms:.3g}; the Gaussian start is made of "
                "unit noise. Scale it by scheduler.init_noise_sigma once, and by nothing else; in "
                'a pipeline that scales by itself use handover="step".'
            )
        return start

    def _nats_over_noise(self, noise: Tensor, of_noise: bool = False) -> float:
        """How much likelier a tensor is as a start of this grid than as unit noise, in nats.

        The ratio of any two densities will do, so the coarsest reference stands for the start. A
        tensor that does not have the spread of the law in question, of a start or `of_noise`, as
        noise that was scaled on purpose, is no evidence: then the result is 0.
        """
        entry = self._entry
        x = distinct(noise.detach())
        count = int((x != 0).sum())
        if not count:
            return 0.0
        mask = (x != 0).any(-1) if not hasattr(entry.channel, "shape") else None
        law = entry.unit if of_noise else entry.channel
        centre = law.transport(torch.zeros_like(x), mask)
        energy = 2 * (law.log_prob(centre, mask) - law.log_prob(x, mask))
        if not 1 / SCALED < float(energy.sum()) / count < SCALED:
            return 0.0
        return float((entry.channel.log_prob(x, mask) - entry.unit.log_prob(x, mask)).sum())


def _total(x: Tensor) -> float:
    return float(x.detach().double().sum())


def is_same(sample: Tensor, seen: Tensor) -> bool:
    """Whether both are equal, in the precision of `seen`, which may hold copies for guidance."""
    if sample is seen:
        return True
    if sample.shape[1:] != seen.shape[1:] or len(sample) > len(seen):
        return False
    return torch.equal(sample.to(seen), seen[: len(sample)])


def is_part(sample: Tensor, start: Tensor) -> bool:
    """Whether a sample has no entries but those of a start, in any order.

    Pipelines pack latents into tokens, and take the frames that are given off the front.
    """
    if is_same(sample, start):
        return True
    if sample.numel() == start.numel():
        held = start.to(sample).flatten().sort().values
        return torch.equal(sample.flatten().sort().values, held)
    return exchange(start.to(sample), sample, sample) is not None


def exchange(sample: Tensor, old: Tensor, new: Tensor) -> Tensor | None:
    """A sample with `new` in the place of `old`; `None` if `old` is not there.

    The sample may hold copies of it along the batch, and more along one other axis, before or
    behind it.
    """
    if sample.ndim != old.ndim or not len(old) or len(sample) % len(old):
        return None
    longer = [d for d in range(1, old.ndim) if sample.shape[d] != old.shape[d]]
    if len(longer) > 1 or any(sample.shape[d] < old.shape[d] for d in longer):
        return None
    axis = longer[0] if longer else 0
    length = old.shape[axis] if longer else len(sample)
    copies = len(sample) // len(old)
    arrangements: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.repeat(copies, *([1] * (x.ndim - 1))),
        lambda x: x.repeat_interleave(copies, dim=0),
    )
    for begin in {0, sample.shape[axis] - length}:
        part = sample.narrow(axis, begin, length)
        for arrange in arrangements:
            if torch.equal(part, arrange(old.to(sample))):
                result = sample.clone()
                result.narrow(axis, begin, length).copy_(arrange(new.to(sample)))
                return result
    return None
