"""Sets of atoms from noise, under any diffusers scheduler.

The loop is the ordinary one: `set_timesteps`, noise times `init_noise_sigma`, then
`scale_model_input`, network, `step`. What atoms add is the subspace: schedulers draw isotropic
noise, so after every step the padding is zeroed and the centre of mass removed, which is the
projection of that noise.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gaga_adapter.distributed import Progress
from gaga_adapter.errors import DataError, GAGAError, StatsMismatchError, TruncationError
from gaga_adapter.layout import AtomLayout, Layout
from gaga_adapter.noise.prediction import NetworkView
from gaga_adapter.sampling.solvers import use_exact_table
from gaga_adapter.scheduler import GAGAScheduler
from gaga_adapter.scheduler.families import family_of
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import mask_from_sizes, project
from gaga_adapter.trained import check_trained

_SLACK = 1e-5  # relative, of a ratio of noise to signal: schedulers keep it in float32

#: From its input (B, N, C) and the timestep to what the scheduler wants of the network.
Network = Callable[[Tensor, Tensor, NetworkView], Tensor]
#: Called after each network call with the number of calls in all.
Stepped = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Walk:
    """Where a loop ended.

    Attributes:
        sample: `a x_0 + b eps` (B, N, C), on the subspace.
        a: signal coefficient.
        b: noise standard deviation; 0 for clean samples.
        network_calls: per molecule.
    """

    sample: Tensor
    a: float
    b: float
    network_calls: int


def walk(
    scheduler: Any,  # noqa: ANN401 - any diffusers scheduler
    noise: Tensor,
    mask: Tensor,
    num_inference_steps: int,
    network: Network,
    generator: torch.Generator | None = None,
    stepped: Stepped = lambda n_calls: None,
    until: float = 0.0,
    trained: float | None = None,
) -> Walk:
    """One batch from unit noise along all of a scheduler's steps.

    Args:
        scheduler: any diffusers scheduler whose conventions `NetworkView` knows; its noise table
            is made exact.
        noise: unit noise on the subspace (B, N, C); it decides the device.
        mask: real atoms (B, N), bool, on the same device.
        num_inference_steps: what `set_timesteps` gets.
        network: gets its input, the timestep, and the scheduler's view of both.
        generator: of the noise that the scheduler draws.
        stepped: called after each network call.
        until: ratio `b / a` of noise to signal. If the last entry of the grid is at or below it,
            that step is not made, and the sample is as the network would have seen it.
        trained: log-SNR of the noisiest level that the network was trained at; `None` for any.

    Raises:
        TruncationError: the scheduler refuses this number of steps, or starts where the network
            was not trained.
    """
    use_exact_table(scheduler)
    if trained is not None and isinstance(scheduler, GAGAScheduler):
        scheduler.keep_within(trained)
    try:
        scheduler.set_timesteps(num_inference_steps, device=noise.device)
    except GAGAError:
        raise
    except ValueError as error:
        raise TruncationError(
            f"{type(scheduler).__name__} refuses {num_inference_steps} steps: {error}"
        ) from error
    view = NetworkView.of(scheduler)
    if not isinstance(scheduler, GAGAScheduler):
        a, b = view.level(scheduler.timesteps[0])
        check_trained(trained, 2 * math.log(a / b) if a else -math.inf)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generator} if takes_generator else {}
    sample = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    timesteps = scheduler.timesteps
    n_calls = len(timesteps)
    for place, timestep in enumerate(timesteps, start=1):
        seen = sample
        if hasattr(scheduler, "scale_model_input"):
            seen = scheduler.scale_model_input(sample, timestep)
        if place == n_calls:
            a, b = view.level(timestep)
            if b <= until * a * (1 + _SLACK):
                return Walk(seen, a, b, n_calls - 1)
        output = network(seen, timestep, view)
        sample = scheduler.step(output, timestep, sample, **extra).prev_sample
        sample = project(sample, mask)
        stepped(n_calls)
    a, b = _end(scheduler) if until else (1.0, 0.0)
    return Walk(sample, a, b, n_calls)


def _end(scheduler: Any) -> tuple[float, float]:  # noqa: ANN401 - any diffusers scheduler
    """Level (a, b) of the sample after the last step: clean, or at the solver's smallest sigma."""
    convention = family_of(type(scheduler)).convention(scheduler)
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None or convention.noise_is_bare:
        return 1.0, 0.0
    level = convention.level(float(sigmas[-1]))
    return level.a, level.b


# -- many molecules ------------------------------------------------------------------------------


class ProgressBar(Protocol):
    """What diffusers' progress bars have."""

    total: int

    def update(self) -> Any:  # noqa: ANN401 - unused
        """One network call was made."""


@dataclass
class CallCounter:
    """A progress bar that counts network calls for a progress callback."""

    progress: Progress
    total: int
    done: int = 0

    def update(self) -> None:
        """One network call was made."""
        self.done += 1
        self.progress("network calls", self.done, max(self.done, self.total))


class Batch(Protocol):
    """Makes molecules of one batch of noise."""

    def __call__(self, rows: Tensor, noise: Tensor, mask: Tensor, stepped: Stepped) -> Tensor:
        """Molecules.

        Args:
            rows: their places in the whole (B,).
            noise: unit noise on the subspace (B, N, C).
            mask: real atoms (B, N), bool.
            stepped: to be called after each network call.

        Returns:
            (B, N, C'), padding 0.
        """


def sample_atoms(
    sizes: Tensor | Sequence[int],
    n_channels: int,
    batch: Batch,
    batch_size: int,
    generator: torch.Generator | None,
    progress_bar: Callable[[int], AbstractContextManager[ProgressBar]],
    num_inference_steps: int,
) -> tuple[Tensor, Tensor]:
    """Molecules in batches of like size, in the order in which they were asked for.

    All starting noise is drawn first, so two schedulers that get the same seed start from the same
    noise.

    Args:
        sizes: numbers of atoms (M,).
        n_channels: C, of the noise.
        batch: makes one batch.
        batch_size: molecules in it.
        generator: CPU generator of the noise.
        progress_bar: of a total number of network calls.
        num_inference_steps: a first guess of the calls per batch, for the bar.

    Returns:
        molecules (M, N, C') on the CPU, padding 0; mask (M, N), bool.

    Raises:
        DataError: no molecule asked for, or one without atoms.
    """
    sizes = torch.as_tensor(sizes)
    if sizes.ndim != 1 or len(sizes) == 0 or int(sizes.min()) < 1:
        raise DataError(
            f"got sizes {tuple(sizes.tolist())[:8]}. Ask for one molecule or more, "
            "each with one atom or more."
        )
    mask = mask_from_sizes(sizes)
    noise = project(torch.randn(*mask.shape, n_channels, generator=generator), mask)
    parts = torch.split(sizes.argsort(stable=True), batch_size)
    made: list[Tensor] = []
    with progress_bar(len(parts) * num_inference_steps) as bar:

        def stepped(n_calls: int) -> None:
            bar.total = len(parts) * n_calls  # only the scheduler knows its number of calls
            bar.update()

        for rows in parts:
            width = int(sizes[rows].max())
            made.append(batch(rows, noise[rows, :width], mask[rows, :width], stepped))
    result = torch.zeros(*mask.shape, made[0].shape[-1])
    for rows, part in zip(parts, made, strict=True):
        result[rows, : part.shape[1]] = part.to(result)
    return result, mask


def draw_sizes(
    size_counts: Sequence[int] | None, n: int, generator: torch.Generator | None = None
) -> Tensor:
    """Numbers of atoms (n,) as often as the data has them.

    Args:
        size_counts: entry N counts the molecules of N atoms.
        n: how many.
        generator: of the draw.

    Raises:
        DataError: the data's sizes are not known.
    """
    if size_counts is None:
        raise DataError("this pipeline has no size_counts. Pass n_atoms, the sizes wanted.")
    weights = torch.tensor(size_counts, dtype=torch.float64)
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def check_statistics(
    scheduler: Any,  # noqa: ANN401 - any diffusers scheduler
    layout: Layout,
    advice: str = "Refit with `gaga fit`, in the model's elements and scales.",
) -> None:
    """See that a scheduler's statistics, if it has any, describe the channels of a model.

    Raises:
        StatsMismatchError: they describe others.
    """
    stats = getattr(scheduler, "stats", None)
    if not isinstance(stats, GAGAStats) or stats.layout == layout:
        return
    if isinstance(stats.layout, AtomLayout) and stats.layout.n_channels == layout.n_channels:
        return  # features without names cannot be compared
    raise StatsMismatchError(
        f"stats describe {stats.layout.describe()}, the model has {layout.describe()}. {advice}"
    )
