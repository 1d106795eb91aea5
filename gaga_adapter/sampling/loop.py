"""Sets of atoms from noise, under any diffusers scheduler.

The loop is the ordinary one: `set_timesteps`, noise times `init_noise_sigma`, then
`scale_model_input`, network, `step`. What atoms add is the subspace: schedulers draw isotropic
noise, so after every step the padding is zeroed and the centre of mass removed, which is the
projection of that noise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from gaga_adapter.distributed import Progress
from gaga_adapter.errors import (
    DataError,
    StatsMismatchError,
    TruncationError,
    UnsupportedSchedulerError,
    warn,
    whole_number,
)
from gaga_adapter.layout import AtomLayout, Layout, MoleculeLayout
from gaga_adapter.noise.conventions import Convention, Level, convention_of
from gaga_adapter.noise.levels import TOLERANCE
from gaga_adapter.sampling.grid import Levels, wanted_grid
from gaga_adapter.sampling.solvers import use_exact_table
from gaga_adapter.scheduler import GAGAScheduler
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import mask_from_sizes, project
from gaga_adapter.trained import check_trained

#: Number of molecules that a pipeline samples if nobody says how many.
DEFAULT_MOLECULES = 16
#: From its input (B, N, C) and the timestep to what the scheduler wants of the network.
Network = Callable[[Tensor, Tensor, Convention], Tensor]
#: Called after each network call with the number of calls in all.
Stepped = Callable[[int], None]


class Walk(NamedTuple):
    """Where a loop ended.

    Attributes:
        sample: Tensor `a x_0 + b eps` (B, N, C), on the subspace.
        a: Signal coefficient.
        b: Noise standard deviation; 0 for clean samples.
        network_calls: Number of calls per molecule.
    """

    sample: Tensor
    a: float
    b: float
    network_calls: int


def served(scheduler: Any) -> Convention:  # noqa: ANN401 - any object
    """The convention of a scheduler, if `walk` can run it.

    Raises:
        UnsupportedSchedulerError: If its class or its configuration is refused, its prediction has
            no rule, or its loop needs more than noise.
    """
    at = convention_of(scheduler)
    if at.row.unserved:
        raise UnsupportedSchedulerError(
            f"cannot sample with {type(scheduler).__name__}: {at.row.unserved}."
        )
    _ = at.relation  # refuses an unknown prediction
    return at


def walk(
    scheduler: Any,  # noqa: ANN401 - any diffusers scheduler
    noise: Tensor,
    mask: Tensor,
    num_inference_steps: int | None,
    network: Network,
    generator: torch.Generator | None = None,
    stepped: Stepped = lambda n_calls: None,
    until: float = 0.0,
    trained: float | None = None,
    timesteps: Levels | None = None,
    sigmas: Levels | None = None,
) -> Walk:
    """One batch from unit noise along all of a scheduler's steps.

    Args:
        scheduler: Any supported diffusers scheduler; its noise table is made exact.
        noise: Unit noise on the subspace (B, N, C); it decides the device.
        mask: Real atoms (B, N), bool, on the same device.
        num_inference_steps: Number that `set_timesteps` gets; `None` for the default.
        network: Function of its input, the timestep, and the scheduler's convention.
        generator: Source of the noise that the scheduler draws.
        stepped: Function that is called after each network call.
        until: Ratio `b / a` of noise to signal. If the last entry of the grid is at or below it,
            that step is not made, and the sample is what the network would have seen.
        trained: Log-SNR of the noisiest level that the network was trained at; `None` for any.
        timesteps: Timesteps (n,) for `set_timesteps` in place of a number, see `wanted_grid`.
        sigmas: Sigmas (n,) for `set_timesteps` in place of a number.

    Raises:
        UnsupportedSchedulerError: If the scheduler is refused, see `served`.
        TruncationError: If the scheduler refuses this number of steps or these levels, or starts
            where the network was not trained.
    """
    at = served(scheduler)
    grid = wanted_grid(scheduler, num_inference_steps, timesteps, sigmas)
    use_exact_table(scheduler)
    if trained is not None and isinstance(scheduler, GAGAScheduler):
        scheduler.keep_within(trained)
    grid.make(scheduler, at, noise.device)
    entries = scheduler.timesteps
    entries = entries[: len(entries) - at.row.tail]
    own_scale = getattr(scheduler, "init_noise_sigma", 1.0)
    sample = noise * own_scale
    if isinstance(own_scale, int | float | Tensor):  # else it has mapped the unit noise by itself
        sample = sample * at.row.noise_scale(scheduler)
    if not isinstance(scheduler, GAGAScheduler):
        check_trained(trained, at.seen_level(entries[0]).log_snr)
    parameters = inspect.signature(scheduler.step).parameters
    n_calls = len(entries)
    before = clean = None
    for place, timestep in enumerate(entries):
        seen = sample
        if hasattr(scheduler, "scale_model_input"):
            seen = scheduler.scale_model_input(sample, timestep)
        if place == n_calls - 1:
            level = at.seen_level(timestep)
            if level.log_snr >= Level(1.0, until).log_snr - TOLERANCE:
                return Walk(seen, *level, n_calls - 1)
        # all that the `step` of some scheduler takes
        arguments: dict[str, Any] = {
            "model_output": network(seen, timestep, at),
            "timestep": timestep,
            "sample": sample,
            "generator": generator,
            "emit_mask": mask,
            "prev_timestep": entries[place + 1] if place + 1 < n_calls else None,
            "old_pred_original_sample": clean,
            "timestep_back": before if clean is not None else None,
        }
        for name in at.row.one_per_row:
            arguments[name] = _one_per_row(arguments[name], len(mask))
        result = scheduler.step(**{k: v for k, v in arguments.items() if k in parameters})
        sample, clean = result if isinstance(result, tuple) else (result.prev_sample, None)
        sample, before = project(sample, mask), timestep
        stepped(n_calls)
    level, sigmas = Level(1.0, 0.0), getattr(scheduler, "sigmas", None)
    if until and sigmas is not None and not at.noise_is_bare:
        level = at.level(float(sigmas[-1]))  # the solver's smallest sigma, which may not be zero
    return Walk(sample, *level, n_calls)


def _one_per_row(value: Any, n_rows: int) -> Any:  # noqa: ANN401 - a timestep or a generator
    if isinstance(value, torch.Generator):
        seeds = torch.randint(2**62, (n_rows,), generator=value, device=value.device)
        return [torch.Generator(value.device).manual_seed(seed) for seed in seeds.tolist()]
    return value.expand(n_rows) if isinstance(value, Tensor) else value


# -- many molecules ------------------------------------------------------------------------------


class ProgressBar(Protocol):
    """The part of diffusers' progress bars that is used here."""

    total: int

    def update(self) -> Any:  # noqa: ANN401 - unused
        """Count one network call."""


@dataclass
class CallCounter:
    """A progress bar that counts network calls for a progress callback."""

    progress: Progress
    total: int
    done: int = 0

    def update(self) -> None:
        """Count one network call."""
        self.done += 1
        self.progress("network calls", self.done, max(self.done, self.total))


#: Makes the molecules (B, N, C'), padding 0, of one batch: from their places among all (B,), unit
#: noise on the subspace (B, N, C), the mask (B, N), and a function to call after each network call.
Batch = Callable[[Tensor, Tensor, Tensor, Stepped], Tensor]


def sample_atoms(
    sizes: Tensor | Sequence[int],
    n_channels: int,
    batch: Batch,
    batch_size: int,
    generator: torch.Generator | None,
    progress_bar: Callable[[int], AbstractContextManager[ProgressBar]],
    num_inference_steps: int,
) -> tuple[Tensor, Tensor]:
    """Molecules in batches of like size, returned in the order of `sizes`.

    All starting noise is drawn first, so two schedulers that get the same seed start from the same
    noise.

    Args:
        sizes: Numbers of atoms (M,).
        n_channels: Number C of channels of the noise.
        batch: Function that makes one batch.
        batch_size: Number of molecules in a batch.
        generator: CPU generator of the noise.
        progress_bar: Function of a total number of network calls that opens a bar.
        num_inference_steps: Number of calls per batch that the bar starts from.

    Returns:
        Molecules (M, N, C') on the CPU, padding 0; mask (M, N), bool.

    Raises:
        DataError: If there are no sizes, one of them or the batch size is below 1, or the generator
            is none of the CPU.
        TruncationError: If the number of steps is below 1.
    """
    sizes, batch_size = _whole_sizes(sizes), whole_number("batch_size", batch_size)
    steps = whole_number("num_inference_steps", num_inference_steps, error=TruncationError)
    check_generator(generator)
    mask = mask_from_sizes(sizes)
    noise = project(torch.randn(*mask.shape, n_channels, generator=generator), mask)
    parts = torch.split(sizes.argsort(stable=True), batch_size)
    molecules: list[Tensor] = []
    with progress_bar(len(parts) * steps) as bar:

        def stepped(n_calls: int) -> None:
            bar.total = len(parts) * n_calls  # only the scheduler knows its number of calls
            bar.update()

        for rows in parts:
            width = int(sizes[rows].max())
            molecules.append(batch(rows, noise[rows, :width], mask[rows, :width], stepped))
    result = torch.zeros(*mask.shape, molecules[0].shape[-1])
    for rows, part in zip(parts, molecules, strict=True):
        result[rows, : part.shape[1]] = part.to(result)
    return result, mask


def wanted_sizes(
    n_molecules: int | None,
    n_atoms: Tensor | Sequence[int] | int | None,
    size_counts: Sequence[int] | None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Numbers of atoms (M,) of the molecules that a caller asked for.

    A `GAGAWarning` says when a size lies far (25 %) outside of those of the data.

    Args:
        n_molecules: Number of molecules; `None` for as many as there are sizes, or
            `DEFAULT_MOLECULES`.
        n_atoms: Sizes (M,), or one for all; `None` draws them, as frequent as in the data.
        size_counts: List whose entry N counts the molecules of N atoms in the data, if known.
        generator: Source of randomness of the sizes.

    Raises:
        DataError: If a number is no whole one of 1 or more, if there are more or fewer sizes than
            molecules, or if sizes are to be drawn and those of the data are not known.
    """
    check_generator(generator)
    given = n_molecules is not None
    n = whole_number("n_molecules", n_molecules if given else DEFAULT_MOLECULES)
    if n_atoms is None:
        return draw_sizes(size_counts, n, generator)
    if not isinstance(n_atoms, Sequence | Tensor | np.ndarray) or (
        isinstance(n_atoms, Tensor | np.ndarray) and n_atoms.ndim == 0
    ):
        sizes = torch.full((n,), whole_number("n_atoms", n_atoms))
    else:
        sizes = _whole_sizes(n_atoms)
        if given and len(sizes) != n:
            raise DataError(
                f"n_molecules={n}, and n_atoms has {len(sizes)} sizes. Pass one for each molecule, "
                "one number for all of them, or leave n_molecules out."
            )
    seen = [size for size, count in enumerate(size_counts or ()) if count]
    if seen and (int(sizes.max()) > 1.25 * seen[-1] or int(sizes.min()) < 0.75 * seen[0]):
        warn(
            f"n_atoms is {int(sizes.min())} to {int(sizes.max())}, and the data have molecules of "
            f"{seen[0]} to {seen[-1]} atoms: the model has learnt nothing of others."
        )
    return sizes


def _whole_sizes(sizes: Tensor | Sequence[int]) -> Tensor:
    """Sizes (M,) as int64, all of 1 or more."""
    try:
        found = torch.as_tensor(sizes)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = torch.empty(0, 0)
    kind = found.dtype
    if (
        found.ndim != 1
        or len(found) == 0
        or (kind.is_floating_point or kind.is_complex or kind == torch.bool)
        or int(found.min()) < 1
    ):
        shown = found.tolist()[:8] if found.ndim == 1 else sizes
        raise DataError(
            f"got sizes {shown}. Ask for one molecule or more, each with one atom or more, in "
            "whole numbers."
        )
    return found.long().cpu()


def check_generator(generator: Any) -> None:  # noqa: ANN401 - whatever a caller passed
    """Refuse what is no generator of the CPU, on which sizes and starting noise are drawn.

    Raises:
        DataError: If it is none.
    """
    if generator is None:
        return
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        what = generator.device if isinstance(generator, torch.Generator) else repr(generator)
        raise DataError(
            f"generator={what}: noise is drawn on the CPU, from one generator. Pass "
            "torch.Generator().manual_seed(0), say."
        )


def draw_sizes(
    size_counts: Sequence[int] | None, n: int, generator: torch.Generator | None = None
) -> Tensor:
    """Numbers of atoms (n,), as frequent as in the data: entry N of the list counts N atoms.

    Raises:
        DataError: If the list is not known or counts nothing, or `n` is no whole number of 1 or
            more.
    """
    if size_counts is None:
        raise DataError("this pipeline has no size_counts. Pass n_atoms, the sizes wanted.")
    n = whole_number("n_molecules", n)
    weights = torch.tensor(size_counts, dtype=torch.float64)
    if (
        weights.ndim != 1
        or not bool((weights >= 0).all() & weights.isfinite().all())
        or not (weights[1:].sum() > 0 and weights[0] == 0)
    ):
        raise DataError(
            f"size_counts={list(size_counts)[:8]} are no counts of molecules: entry N counts those "
            "of N atoms, none has 0, and some must be there."
        )
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def check_statistics(
    scheduler: Any,  # noqa: ANN401 - any diffusers scheduler
    layout: Layout,
    advice: str | None = None,
) -> None:
    """Check that the statistics of a scheduler, if it has any, describe the channels of a model.

    Raises:
        StatsMismatchError: If they describe others.
    """
    stats = getattr(scheduler, "stats", None)
    if not isinstance(stats, GAGAStats) or stats.layout == layout:
        return
    if isinstance(stats.layout, AtomLayout) and stats.layout.n_channels == layout.n_channels:
        return  # features without names cannot be compared
    if advice is None:
        advice = _refit(layout)
    if isinstance(stats.layout, MoleculeLayout) and isinstance(layout, MoleculeLayout):
        unknown = [name for name in stats.layout.elements if name not in layout.elements]
        if unknown:
            advice = (
                f"The model has no {', '.join(unknown)}: take one that was trained with them "
                "(that of qm9 has H, C, N, O and F only). If you want molecules without them, "
                f"leave those that have them out of the fit (`gaga fit` --skip-others). {advice}"
            )
    raise StatsMismatchError(
        f"stats describe {stats.layout.describe()}, the model has {layout.describe()}. {advice}"
    )


def _refit(layout: Layout) -> str:
    """What to type for statistics of a model's channels; options that are the defaults left out."""
    if not isinstance(layout, MoleculeLayout):
        return "Refit with `gaga fit`, in the model's elements and scales."
    scales = ""
    for name in ("position_scale", "onehot_scale", "charge_scale"):
        scale = getattr(layout, name)
        if scale != getattr(MoleculeLayout(), name):
            scales += f" --{name.replace('_', '-')} {scale:g}"
    return f"Refit with `gaga fit` --elements {','.join(layout.elements)}{scales}."


def check_levels(scheduler: Any, network: Any, n_calls: int) -> None:  # noqa: ANN401
    """Warn if a scheduler has fitted levels for so many calls that are another network's."""
    if isinstance(scheduler, GAGAScheduler):
        scheduler.check_levels(network, n_calls=n_calls)
