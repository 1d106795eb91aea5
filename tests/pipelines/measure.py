"""A pipeline, run with its plain scheduler and with a truncated one, and the difference.

Networks are watched here by hooks that run after them, whose outputs become zeros. A solver that is
handed zeros multiplies its sample by a number, the same in every run; so the second input of a
network tells whether the sample of the first step was the one that the network had seen.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.errors import GAGAError, GAGAWarning
from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments import DenseMoments
from gaga_adapter.scheduler import GAGAScheduler
from gaga_adapter.stats import GAGAStats

from .case import Case, numbers
from .levels import Entry, entries, fitted, mapped

MODES = ("auto", "attach", "step")
#: Names of the parts of pipelines that are given the latents of every step.
NETWORKS = (
    "unet", "transformer", "transformer_2", "controlnet", "prior", "decoder", "denoiser",
)  # fmt: skip
_SAMPLES = ("sample", "hidden_states", "x")
_OTHERS = ("audio_hidden_states",)  # a second start in the same loop
_TIMES = ("timestep", "timesteps", "timestep_ratio", "r", "t")


@dataclass
class Call:
    """One call of a network."""

    network: str
    time: float
    seen: Tensor
    strength: float | None  # conditioning scale of a ControlNet


@dataclass
class Step:
    """What a callback at the end of a step finds in the scheduler, at the index of the step."""

    timestep: float
    listed: float
    sigma: float | None
    next_sigma: float | None


@dataclass
class Run:
    """What happened in one call of a pipeline."""

    calls: list[Call] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)  # what the plain scheduler's step was given
    unfitted: set[str] = field(default_factory=set)  # starts that no statistics describe
    warned: list[str] = field(default_factory=list)
    refused: str = ""
    crashed: str = ""

    @property
    def main(self) -> list[Call]:
        """The calls of the network that the scheduler's step hears."""
        own = [call for call in self.calls if not call.network.startswith("controlnet")]
        return own or self.calls


def _zeros(output: Any) -> Any:
    if isinstance(output, Tensor):
        return torch.zeros_like(output)
    if isinstance(output, dict):  # also the outputs of diffusers
        for key, value in output.items():
            output[key] = _zeros(value)
        return output
    if isinstance(output, list | tuple):
        return type(output)(_zeros(value) for value in output)
    return output


def _named(call: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((call[name] for name in names if call.get(name) is not None), None)


class BrokenOffError(Exception):
    """The memory ran out, or the user stopped the run."""


def _watch(pipe: Any, run: Run, most: int | None) -> list[Any]:
    """Record every call of the networks of a pipeline, `most` at most; handles to stop it."""

    def after(name, signature, network, args, kwargs, output):
        call = signature.bind(*args, **kwargs).arguments
        seen, time = _named(call, _SAMPLES), _named(call, _TIMES)
        if isinstance(seen, list):
            seen = torch.stack(seen).squeeze(2)  # a list of single frames
        strength = call.get("conditioning_scale")
        run.unfitted |= {other for other in _OTHERS if call.get(other) is not None}
        run.calls.append(
            Call(name, float(torch.as_tensor(time).flatten()[-1]), seen.clone(), strength)
        )
        if len(run.calls) == most:
            raise BrokenOffError
        return _zeros(output)

    handles = []
    for name in NETWORKS:
        network = getattr(pipe, name, None)
        for place, single in enumerate(getattr(network, "nets", [network])):
            if isinstance(single, torch.nn.Module):
                label = f"{name} {place + 1}" if hasattr(network, "nets") else name
                hook = functools.partial(after, label, inspect.signature(single.forward))
                handles.append(single.register_forward_hook(hook, with_kwargs=True))
    return handles


@contextmanager
def _spy(kind: type, run: Run) -> Iterator[None]:
    """Record the samples that the steps of a plain scheduler, and of its copies, are given."""
    step = kind.step
    signature = inspect.signature(step)

    @functools.wraps(step)
    def spied(*args, **kwargs):
        run.samples.append(signature.bind(*args, **kwargs).arguments["sample"].clone())
        return step(*args, **kwargs)

    kind.step = spied
    try:
        yield
    finally:
        kind.step = step


def _at(numbers: Any, index: int) -> float | None:
    return None if numbers is None or index >= len(numbers) else float(numbers[index])


def perform(case: Case, pipe: Any, most: int | None = None, **changes: Any) -> Run:
    """Call a pipeline once, and break off in the call of a network with the number `most`."""
    run = Run()

    def look(pipe, index, timestep, given):
        sigmas = getattr(pipe.scheduler, "sigmas", None)
        run.steps.append(
            Step(
                float(torch.as_tensor(timestep).flatten()[-1]),
                _at(pipe.scheduler.timesteps, index),
                _at(sigmas, index),
                _at(sigmas, index + 1),
            )
        )
        return {}

    given = {**case.call, case.count_name: case.count, **changes}
    accepted = inspect.signature(pipe.__call__).parameters
    if "callback_on_step_end" in accepted:
        given["callback_on_step_end"] = look
    if "generator" in accepted:
        given.setdefault("generator", torch.Generator().manual_seed(3))
    handles = _watch(pipe, run, most)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(5)
        try:
            with torch.no_grad():
                pipe(**given)
        except GAGAError as error:
            run.refused = f"{type(error).__name__}: {error}"
        except Exception as error:
            run.crashed = f"{type(error).__name__}: {error}"
        finally:
            for handle in handles:
                handle.remove()
    run.warned = [str(w.message) for w in caught if issubclass(w.category, GAGAWarning)]
    return run


# -- the plain run ---------------------------------------------------------------------------------


class Bare:
    """A pipeline's run with its plain scheduler, and what follows for a truncated one.

    Attributes:
        grid: Entries of the plain grid.
        times: What the network is told at each entry that the plain loop visits.
        offset: Entries that the plain loop leaves out at the front.
        place: Index of the entry at which a truncated run starts.
        batch: Number of starts.
        event: Shape of a start.
        noise: Unit noise (batch, *event) of the loop, if it starts from noise.
    """

    def __init__(self, case: Case, pipe: Any) -> None:
        self.case, self.pipe = case, pipe
        self.plain = copy.deepcopy(pipe.scheduler)
        self.run = self._perform()
        assert not self.run.crashed, self.run.crashed
        self.grid: list[Entry] = entries(pipe.scheduler)
        sigmas = getattr(pipe.scheduler, "sigmas", None)
        self.sigmas = None if sigmas is None else sigmas.clone()
        self.times: list[float] = []
        for call in self.run.main:
            if not self.times or not _is_close(call.time, self.times[-1]):
                self.times.append(call.time)
        self.offset = len(self.grid) - len(self.times) if case.start == "data" else 0
        self.place = len(self.grid) // 2
        samples = self.run.samples
        self.event = case.event or tuple(samples[0].shape[1:])
        self.batch = max(1, samples[0].numel() // math.prod(self.event))
        self.free = self._free()
        if case.start == "noise":
            self.noise = self._noise(self.run)
            spread = float(self.noise[:, self.free].square().mean().sqrt())
            assert 0.8 < spread < 1.25, f"the plain loop starts with a spread of {spread}"
        self.factors = self._factors()

    def _perform(self, **changes: Any) -> Run:
        self.pipe.scheduler = copy.deepcopy(self.plain)
        spied = Run()
        with _spy(type(self.plain), spied):
            run = perform(self.case, self.pipe, **changes)
        run.samples = spied.samples
        return run

    def _free(self) -> Tensor:
        """Entries of a start that the loop leaves to its network; packed tokens are in rows too."""
        free = torch.zeros(self.event, dtype=torch.bool)
        axis = 0 if len(self.event) < 3 else -2
        first, end = (round(share * self.event[axis]) for share in self.case.rows)
        free.narrow(axis, first, end - first).fill_(True)
        return free

    def _noise(self, run: Run) -> Tensor:
        if type(self.plain).__name__ == "SCMScheduler":
            scale = self.plain.config.sigma_data
        else:
            scale = float(getattr(self.pipe.scheduler, "init_noise_sigma", 1.0))
        return self.cut(run.main[0].seen) / (self.grid[0].seen * scale)

    @functools.cached_property
    def given(self) -> Tensor | None:
        """Noise that a caller may pass as `latents`; `None` if the loop does not take it so."""
        accepted = inspect.signature(self.pipe.__call__).parameters
        if self.case.start != "noise" or "latents" not in accepted:
            return None
        given = numbers(self.batch, *self.event, seed=11)
        run = self._perform(latents=given.clone())
        if run.crashed or not self.agree(self._noise(run), given):
            return None
        return given

    def cut(self, seen: Tensor, copy: int = 0) -> Tensor:
        """Latents in what a network sees: one copy of those for guidance, no controls around."""
        rows = slice(copy * self.batch, (copy + 1) * self.batch)
        front = [self.case.front, *[0] * (len(self.event) - 1)]
        pairs = zip(front, self.event, strict=True)
        return seen[(rows, *(slice(first, first + size) for first, size in pairs))]

    def index(self, call: Call) -> int | None:
        """Entry of the plain grid that a call belongs to; `None` if there is none."""
        for index, time in enumerate(self.times):
            if _is_close(call.time, time):
                return index + self.offset
        return None

    def _factors(self) -> dict[int, float]:
        """By entry, what zeros make of the first input; empty if the solver draws noise.

        IPNDM reads zeros as a clean sample that changes, so that its order counts as well.
        """
        if type(self.plain).__name__ == "IPNDMScheduler":
            return {}
        first = self.cut(self.run.main[0].seen)[:, self.free].double()
        factors: dict[int, float] = {}
        for call in self.run.main:
            seen = self.cut(call.seen)[:, self.free].double()
            factor = float((seen * first).sum() / first.square().sum())
            if not torch.allclose(seen, factor * first, rtol=1e-3, atol=1e-3):
                return {}
            factors.setdefault(self.index(call), factor)
        return factors

    def expected(self, noise: Tensor, index: int) -> Tensor | None:
        """What a network is to see at an entry of a truncated run; `None` if nobody knows."""
        start = mapped(noise, self.grid[self.place])
        if index == self.place:
            return start
        if self.place not in self.factors:
            return None
        return start * (self.factors[index] / self.factors[self.place])

    def agree(self, seen: Tensor, expected: Tensor) -> bool:
        """Whether two starts are the same, up to the rounding of float32 on numbers up to ten."""
        free = self.free
        return torch.allclose(seen[:, free], expected[:, free].to(seen), rtol=2e-3, atol=2e-3)

    def truncated(self, mode: str) -> Any:
        """A truncated copy of the plain scheduler, fitted to the numbers of `levels.fitted`."""
        mean, std = fitted(self.event)
        moments = DenseMoments(self.event, kind="element")
        moments.update(torch.stack([mean - std, mean + std]))
        low, high = (self.grid[self.place + further].log_snr for further in (0, 1))
        stats = GAGAStats(DenseLayout(self.event), moments, (low + min(high, low + 1)) / 2)
        handover = mode if mode != "attach" else "auto"
        return GAGAScheduler.from_pretrained(
            copy.deepcopy(self.plain), stats, handover=handover, spacing="suffix"
        )


def _is_close(time: float, other: float) -> bool:
    return math.isclose(time, other, rel_tol=1e-4, abs_tol=1e-6)


# -- what is right ---------------------------------------------------------------------------------


def faults_of_start(bare: Bare, run: Run, noise: Tensor) -> list[str]:
    """What is wrong in a truncated run that starts from noise."""
    found = [f"{name} starts at t* as raw noise" for name in run.unfitted]
    calls = _without_lead(bare, run.calls)
    own = sorted(
        {bare.index(call) or 0 for call in calls if not call.network.startswith("control")}
    )
    kept = list(range(bare.place, len(bare.times)))
    if own != kept:
        found.append(f"the entries visited are {own}, not {kept}")
    for call in calls:
        index = bare.index(call)
        if index is None or index < bare.place:
            found.append(f"{call.network} is called at {call.time:g}, no entry from t* on")
            continue
        expected = bare.expected(noise, index)
        for copied in range(len(call.seen) // bare.batch):
            seen = bare.cut(call.seen, copied)
            if expected is not None and not bare.agree(seen, expected):
                found.append(
                    f"{call.network} at entry {index} sees {_described(bare, seen, noise)}"
                )
                break
    return found + _faults_of_controls(bare, run) + faults_of_steps(bare, run)


def _without_lead(bare: Bare, calls: list[Call]) -> list[Call]:
    """The calls but for those at one extra timestep before the entries of a truncated run.

    It lies before t*, or, where nothing is cut, right beside the first entry.
    """
    of_first = next((i for i, call in enumerate(calls) if call.time != calls[0].time), len(calls))
    index = bare.index(calls[0])
    is_before = index is None or index < bare.place
    is_beside = of_first < len(calls) and _is_close(calls[of_first].time, calls[0].time)
    return calls[of_first:] if is_before or is_beside else calls


def _described(bare: Bare, seen: Tensor, noise: Tensor) -> str:
    start = bare.grid[bare.place]
    again = mapped(mapped(noise, start) / start.seen, start)
    for name, other in (("raw noise", start.seen * noise), ("a start mapped twice", again)):
        if bare.agree(seen, other):
            return name
    expected = mapped(noise, start)
    return (
        f"mean {seen.mean():.3f}, std {seen.std():.3f}, and not mean {expected.mean():.3f}, "
        f"std {expected.std():.3f}"
    )


def _faults_of_controls(bare: Bare, run: Run) -> list[str]:
    """ControlNets act at the entries at which they act in the plain run."""

    def by_entry(run: Run) -> dict[int | None, Any]:
        return {bare.index(c): c.strength for c in run.calls if c.network.startswith("controlnet")}

    plain, ours = by_entry(bare.run), by_entry(run)
    first = max(bare.place, bare.offset)
    wrong = [i for i in range(first, len(bare.grid)) if plain.get(i) != ours.get(i)]
    return [f"the ControlNet's weight is another at entries {wrong}"] if wrong else []


def faults_of_steps(bare: Bare, run: Run) -> list[str]:
    """`timesteps[i]`, `sigmas[i]` and `sigmas[i + 1]` belong to step i, as in the plain run."""
    if any(step.timestep != step.listed for step in bare.run.steps):
        return []
    found = []
    unlisted = [i for i, step in enumerate(run.steps) if step.timestep != step.listed]
    if unlisted:
        found.append(f"timesteps[i] is not the timestep of step i at {unlisted}")
    plain = {step.timestep: step for step in bare.run.steps}
    wrong = []
    for i, step in enumerate(run.steps):
        same = plain.get(step.timestep)
        if same is None or bare.sigmas is None or same.sigma is None:
            continue
        is_lead = step.timestep == bare.grid[max(bare.place - 1, 0)].timestep and i == 0
        if (not is_lead and step.sigma != same.sigma) or step.next_sigma != same.next_sigma:
            wrong.append(i)
    if wrong:
        found.append(f"sigmas[i], sigmas[i + 1] are not those of step i at {wrong}")
    return found


def faults_of_data(bare: Bare, run: Run) -> list[str]:
    """What is wrong in a truncated run that starts from noised data: anything that is not plain."""
    ours = [(call.network, bare.index(call)) for call in run.calls]
    plain = [(call.network, bare.index(call)) for call in bare.run.calls]
    if ours != plain:
        own = sorted({index for _, index in ours if index is not None})
        return [f"the entries visited are {own}, not {bare.offset} to {len(bare.grid) - 1}"]
    for call, other in zip(run.calls, bare.run.calls, strict=True):
        if not torch.allclose(call.seen, other.seen, rtol=1e-3, atol=1e-3):
            return [f"{call.network} at entry {bare.index(call)} sees another sample"]
    return faults_of_steps(bare, run)


# -- the verdict -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What a truncated scheduler does in one pipeline.

    Attributes:
        word: `exact`, `warned`, `refused` or `WRONG`.
        reason: What is wrong, or the words of the warning or of the refusal.
        calls: Network calls of the truncated run.
        before: Network calls of the plain run.
    """

    word: str
    reason: str
    calls: int
    before: int


def _faults_of_advice(bare: Bare, mode: str, told: list[str]) -> list[str]:
    """What is wrong when a user follows a warning: "pass control_guidance_end=0.4"."""
    found = []
    for argument, value in re.findall(r"pass (\w+)=(\d[\d.]*\d)", "; ".join(told)):
        scheduler = bare.truncated(mode)
        bare.pipe.scheduler = scheduler
        if mode == "attach":
            scheduler.attach(bare.pipe)
        run = perform(bare.case, bare.pipe, **{argument: float(value)})
        if mode == "attach":
            scheduler.detach()
        if run.crashed or run.refused:
            found.append(run.crashed or run.refused)
        elif bare.case.start == "data":
            found += faults_of_data(bare, run)
        else:
            found += faults_of_start(bare, run, bare.noise)
        found = [f"with the advised {argument}={value}: {fault}" for fault in found]
    return found


#: Words by which a warning is about the start of a loop, or a fraction of it.
_ABOUT = ("strength", "denoising", "control_guidance", "handover", "attach", "noised data")


def measure(bare: Bare, mode: str) -> Verdict:
    """Run a pipeline with its truncated scheduler, and judge."""
    case, pipe = bare.case, bare.pipe
    before = len(bare.run.main)
    given = bare.given
    try:
        scheduler = bare.truncated(mode)
        pipe.scheduler = scheduler
        if mode == "attach":
            scheduler.attach(pipe)
    except GAGAError as error:
        return Verdict("refused", f"{type(error).__name__}: {error}", 0, before)
    try:
        run = perform(case, pipe)
        calls = len(run.main)
        if run.refused:
            return Verdict("refused", run.refused, calls, before)
        runs = {"": run, "second image: ": perform(case, pipe)}
        for most in (1, 2):
            perform(case, pipe, most=most)
            runs[f"image after one that broke off in call {most}: "] = perform(case, pipe)
        if given is not None:
            runs["latents=: "] = perform(case, pipe, latents=given.clone())
    finally:
        if mode == "attach":
            scheduler.detach()
    found = []
    for label, each in runs.items():
        if each.crashed or each.refused:
            found.append(label + (each.crashed or each.refused))
        elif case.start == "data":
            found += [label + f for f in faults_of_data(bare, each) if f not in found]
        else:
            noise = given if label.startswith("latents") else bare.noise
            faults = faults_of_start(bare, each, noise)
            found += [label + fault for fault in faults if fault not in found]
    told = [text for text in run.warned if any(word in text for word in _ABOUT)]
    if not found:
        return Verdict("exact", "; ".join(told), calls, before)
    if told and not any(each.crashed for each in runs.values()):
        found = _faults_of_advice(bare, mode, told)
        if found:
            return Verdict("WRONG", "; ".join(found), calls, before)
        return Verdict("warned", "; ".join(told), calls, before)
    return Verdict("WRONG", "; ".join(found), calls, before)
