r"""How the Gaussian gets into a loop that draws its own unit noise.

A sampling loop draws unit noise `z` and knows nothing of a reference. Somewhere between
`set_timesteps` and the first `step` the scheduler has to turn `z` into `reference.transport(z)`.
There are five places:

- `init`: the loop multiplies `z` by `scheduler.init_noise_sigma`. That is an object which, when
  multiplied, maps. No extra network call.
- `step`: one timestep more at the front; its `step` maps and nothing else. Works in every loop,
  costs one network call.
- `scale`: the first `scale_model_input` maps, for the network, and the first `step` maps again.
  No extra call.
- `hook`: the pipeline is watched (`scheduler.attach(pipe)`). What its `prepare_latents` returns is
  mapped, for all its networks at once; if it has no such method, the first input of every network
  is mapped, and the first `step` maps again. No extra call.

`auto` watches for all of them but the last, and adds the extra timestep only where the loop may
have no other place: where the scheduler is of the flow kind, whose pipelines never scale their
noise, and where `set_timesteps` was called without a device, as bare loops and the pipelines of
DDPM and DDIM do.

Where a run stands is one `State`; what a loop does is one `Event`; `TRANSITIONS` is the whole
machine, and an event that it does not list is a `HandoverError`. `start.py` does what goes with
each transition.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_MULTIPLY = "multiply the noise by scheduler.init_noise_sigma after set_timesteps"


@dataclass(frozen=True)
class Handover:
    """Where one mode takes the noise of a loop, and what to do if the loop never comes there."""

    name: str
    advice: str  # for the user whose loop hands nothing over
    takes_init: bool = False  # whether `init_noise_sigma` maps
    takes_scale: bool = False  # whether the first input of the network is mapped
    leads_bare: bool = False  # whether the grid gets a timestep more if the loop takes bare noise
    leads_always: bool = False  # whether the grid gets one more timestep in every loop


HANDOVERS: dict[str, Handover] = {
    mode.name: mode
    for mode in (
        Handover("auto", _MULTIPLY, takes_init=True, takes_scale=True, leads_bare=True),
        Handover("init", _MULTIPLY, takes_init=True),
        Handover("step", "loop over all of scheduler.timesteps", leads_always=True),
        Handover("scale", "call scheduler.scale_model_input before the network", takes_scale=True),
        Handover("hook", "call scheduler.attach(pipe) first", takes_init=True, takes_scale=True),
    )
}


class State(Enum):
    """Where a run stands. The value finishes the sentence "the loop is ..."."""

    NO_GRID = "without a grid, before set_timesteps"
    READY = "before its first step, with noise that was not handed over"
    MAPPED = "before its first step, with the mapped start"
    SHOWN = "before its first step, with the mapped start shown to the network"
    DATA = "before its first step, with noised data"
    RUNNING = "in the middle of a run"
    DONE = "at the end of a run"
    OWN = "in a run that is the scheduler's own"


class Event(Enum):
    """What a loop does. The value is the subject of a sentence."""

    ASK = "set_timesteps"
    GRID = "a grid that is cut"
    OWN_GRID = "a grid that is the scheduler's own"
    MULTIPLY = "init_noise_sigma"
    PREPARE = "prepare_latents"
    SHOW = "noise for the network"
    ADD_NOISE = "add_noise or scale_noise"
    BEGIN_INSIDE = "set_begin_index beyond the first entry"
    OTHER_NOISE = "noise beside noised data"
    LEAD = "the step at the extra timestep"
    FIRST = "the step at the first entry"
    INSIDE = "a first step at a later entry"
    LAST = "the last step"


#: From each state, what may happen, and where it leads. What is not here is an error.
TRANSITIONS: dict[State, dict[Event, State]] = {
    # Latents that are drawn before set_timesteps are remembered, and mapped by it.
    State.NO_GRID: {
        Event.ASK: State.NO_GRID,
        Event.GRID: State.READY,
        Event.OWN_GRID: State.OWN,
        Event.PREPARE: State.NO_GRID,
        Event.ADD_NOISE: State.NO_GRID,
        Event.BEGIN_INSIDE: State.NO_GRID,
    },
    State.READY: {
        Event.ASK: State.NO_GRID,
        Event.MULTIPLY: State.MAPPED,
        Event.PREPARE: State.MAPPED,
        Event.SHOW: State.SHOWN,
        Event.LEAD: State.MAPPED,
        Event.ADD_NOISE: State.DATA,
        Event.BEGIN_INSIDE: State.DATA,
        Event.INSIDE: State.RUNNING,
    },
    # Several noises of one run are several starts; data are noised here to be blended with it.
    State.MAPPED: {
        Event.ASK: State.NO_GRID,
        Event.MULTIPLY: State.MAPPED,
        Event.PREPARE: State.MAPPED,
        Event.SHOW: State.SHOWN,
        Event.LEAD: State.MAPPED,
        Event.ADD_NOISE: State.MAPPED,
        Event.BEGIN_INSIDE: State.DATA,
        Event.FIRST: State.RUNNING,
    },
    State.SHOWN: {
        Event.ASK: State.NO_GRID,
        Event.PREPARE: State.MAPPED,
        Event.SHOW: State.SHOWN,
        Event.FIRST: State.RUNNING,
    },
    State.DATA: {
        Event.ASK: State.NO_GRID,
        Event.MULTIPLY: State.MAPPED,
        Event.PREPARE: State.DATA,
        Event.OTHER_NOISE: State.READY,
        Event.LEAD: State.DATA,
        Event.ADD_NOISE: State.DATA,
        Event.BEGIN_INSIDE: State.DATA,
        Event.FIRST: State.RUNNING,
        Event.INSIDE: State.RUNNING,
    },
    State.RUNNING: {
        Event.ASK: State.NO_GRID,
        Event.PREPARE: State.RUNNING,
        Event.ADD_NOISE: State.RUNNING,
        Event.BEGIN_INSIDE: State.RUNNING,
        Event.LAST: State.DONE,
    },
    # The grid is still there, for another run from new noise.
    State.DONE: {
        Event.ASK: State.NO_GRID,
        Event.MULTIPLY: State.MAPPED,
        Event.PREPARE: State.DONE,
        Event.SHOW: State.SHOWN,
        Event.LEAD: State.MAPPED,
        Event.ADD_NOISE: State.DATA,
        Event.BEGIN_INSIDE: State.DATA,
        Event.INSIDE: State.RUNNING,
    },
    # Nothing of this run is intercepted.
    State.OWN: {
        Event.ASK: State.NO_GRID,
        Event.PREPARE: State.OWN,
    },
}

#: What to do about an event that the table does not list in a state.
ADVICE: dict[Event, str] = {
    Event.MULTIPLY: "Call scheduler.set_timesteps, then scale the noise, for every run; also after "
    "one that broke off.",
    Event.LEAD: "Call scheduler.set_timesteps first.",
    Event.FIRST: "Call scheduler.set_timesteps first.",
    Event.INSIDE: "Begin at the first entry of scheduler.timesteps, for which the start was made.",
    Event.ADD_NOISE: "Noise data before anything is shown to the network.",
    Event.BEGIN_INSIDE: "Set the begin index before anything is shown to the network.",
}
