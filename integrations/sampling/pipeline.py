r"""A model of the EDM lineage as a diffusers pipeline: its checkpoint under every scheduler.

    pipe = as_pipeline(model, "dpm++", elements=("H", "C", "N", "O", "F"))
    pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats=fit_from(model, loader))
    molecules = pipe(64, n_atoms=19, num_inference_steps=50).molecules

The T + 1 noise levels of the model are the table of the scheduler: diffusers' index i is the
model's step i, without a shift, `abar_i = sigmoid(-gamma(i / T))`. A scheduler with another table,
or with none (flow matching, Karras), works too: the network gets the time at which the model's own
schedule has that ratio of noise to signal.

Every scheduler ends at the model's own step 0, and the model's own `sample_p_xh_given_z0` makes the
molecule of z_0: one network call, and the noise and the rounding that go with it. Where a grid has
the step 0 as its last entry, that call takes its place; where a solver ends in clean data, these
get the noise of step 0 first. The ancestral sampler over all T + 1 entries is then the model's
own sampler.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor

from gaga_adapter.errors import DataError, GAGAWarning, UnsupportedModelError
from gaga_adapter.layout import Layout
from gaga_adapter.sampling.grid import Levels, wanted_grid
from gaga_adapter.sampling.loop import (
    Stepped,
    check_levels,
    check_statistics,
    sample_atoms,
    served,
    walk,
    wanted_sizes,
)
from gaga_adapter.sampling.solvers import ancestral_scheduler, scheduler_named
from gaga_adapter.selection import warn_of_condition
from gaga_adapter.stats import GAGAStats
from gaga_adapter.trained import trained_log_snr

from ..edm import EDM
from ..patching.patch import bare, state_of
from ..patching.truncated import check_fresh
from ..protocol import Model, adapter_for
from .network import Atoms, EDMNetwork

#: Options for the solvers that are made from the configuration: end at the step 0, and get there
#: from the entry before it, which is far away in log-SNR, at first order.
_ENDS_AT_ZERO = {"final_sigmas_type": "sigma_min", "euler_at_final": True}


@dataclass
class EDMPipelineOutput(BaseOutput):  # type: ignore[misc]
    """What the pipeline returns, on the CPU.

    Attributes:
        molecules: Molecules as a `MoleculeSet`, if the elements are known.
        positions: Positions (M, N, 3), unnormalised, zero centre of mass; padding 0.
        one_hot: Element classes (M, N, K), int64.
        charges: Atomic numbers as the model says them (M, N, 1), int64, or (M, N, 0).
        mask: Atoms (M, N), bool.
        network_calls: Number of network calls per molecule.
    """

    molecules: Any
    positions: Tensor
    one_hot: Tensor
    charges: Tensor
    mask: Tensor
    network_calls: int


class EDMPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Samples a model of the EDM lineage with any diffusers scheduler; made by `as_pipeline`.

    Args:
        denoiser: Model's network.
        scheduler: Diffusers scheduler, or a `GAGAScheduler`.
        elements: Symbols of the element classes, in the model's order.
        size_counts: List whose entry N counts the molecules of N atoms in the data.
        fix_last_class: Whether samples get their last class back, see `as_pipeline`.
    """

    model_cpu_offload_seq = "denoiser"

    def __init__(
        self,
        denoiser: EDMNetwork,
        scheduler: Any,  # noqa: ANN401 - any diffusers scheduler
        elements: list[str] | None = None,
        size_counts: list[int] | None = None,
        fix_last_class: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)
        self.register_to_config(
            elements=elements, size_counts=size_counts, fix_last_class=fix_last_class
        )

    def layout(self, elements: tuple[str, ...] | None = None) -> Layout:
        """The channels that the model diffuses, for a fit or for `in_layout`.

        Args:
            elements: Symbols of the classes, where the pipeline does not know them.
        """
        known = self.config.elements
        network: EDMNetwork = self.denoiser
        return network.adapter.layout(network.model, tuple(known) if known else elements)

    @torch.no_grad()
    def __call__(
        self,
        n_molecules: int | None = None,
        n_atoms: Tensor | Sequence[int] | int | None = None,
        num_inference_steps: int | None = None,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 64,
        timesteps: Levels | None = None,
        sigmas: Levels | None = None,
    ) -> EDMPipelineOutput:
        """Sample molecules.

        Args:
            n_molecules: Number of molecules; 16 by default, or as many as `n_atoms` has sizes.
            n_atoms: Sizes (M,), or one for all molecules; drawn from `size_counts` by default.
            num_inference_steps: Number that `scheduler.set_timesteps` gets; by default 20 for a
                `FewStepScheduler`, else all T + 1 steps of the model, for its own ancestral
                sampler. Solvers want 20 to 100.
            context: Properties for a conditional model, normalised as in its training: one row per
                molecule (M, K), or per atom (M, N, K).
            generator: CPU generator of everything random.
            batch_size: Number of molecules in one network call.
            timesteps: Timesteps (n,) that `scheduler.set_timesteps` gets in place of a number, from
                noise to data.
            sigmas: Sigmas (n,) that it gets in place of a number.

        Returns:
            The molecules in the order of `n_atoms`.

        Raises:
            DataError: If a number is no whole one of 1 or more, if there are more or fewer sizes
                than molecules, if sizes are not known, if the context does not fit the model, or if
                the generator is none of the CPU.
            StatsMismatchError: If the scheduler's statistics describe something else than the model
                diffuses.
            TruncationError: If the scheduler refuses this number of steps or these levels, or
                starts at a noisier level than the model was trained at.
            UnsupportedModelError: If the model has been patched.
            UnsupportedSchedulerError: If the scheduler is refused, in the wrapper's own words.
        """
        denoiser: EDMNetwork = self.denoiser
        _refuse_patched(denoiser.model)
        self._check_statistics()
        sizes = wanted_sizes(n_molecules, n_atoms, self.config.size_counts, generator)
        self._check_context(context, len(sizes))
        all_steps = len(denoiser.log_sigma)
        wanted = wanted_grid(self.scheduler, num_inference_steps, timesteps, sigmas, all_steps)
        n_steps = wanted.n_steps
        check_levels(self.scheduler, denoiser, n_steps)
        calls = 0

        def batch(rows: Tensor, noise: Tensor, mask: Tensor, stepped: Stepped) -> Tensor:
            nonlocal calls
            device, dtype = self._execution_device, denoiser.dtype
            noise, mask = noise.to(device, dtype), mask.to(device)
            atoms = Atoms(mask, None if context is None else context[rows], dtype)
            end = walk(
                self.scheduler,
                noise,
                mask,
                n_steps,
                lambda seen, timestep, at: denoiser.output_for(seen, timestep, at, atoms),
                generator,
                stepped,
                until=denoiser.sigma_0,
                trained=trained_log_snr(denoiser.model),
                timesteps=timesteps,
                sigmas=sigmas,
            )
            calls = end.network_calls + 1
            z_0 = denoiser.at_step_0(end.sample, end.a, end.b, mask, generator)
            return denoiser.molecules(z_0, atoms, generator, self.config.fix_last_class)

        x, mask = sample_atoms(
            sizes,
            self.layout().n_channels,
            batch,
            batch_size,
            generator,
            lambda total: self.progress_bar(total=total),
            n_steps,
        )
        positions, one_hot, charges = x.tensor_split([3, 3 + denoiser.n_classes], dim=-1)
        return EDMPipelineOutput(
            molecules=self._molecule_set(positions, one_hot, mask),
            positions=positions,
            one_hot=one_hot.long(),
            charges=charges.long(),
            mask=mask,
            network_calls=calls,
        )

    def _molecule_set(self, positions: Tensor, one_hot: Tensor, mask: Tensor) -> Any:  # noqa: ANN401
        """A `MoleculeSet` if the elements are known, else `None`."""
        if self.config.elements is None:
            return None
        from gaga_adapter.elements import atomic_numbers
        from gaga_adapter.molecules.data import MoleculeSet

        numbers = np.array(atomic_numbers(self.config.elements))[one_hot.argmax(-1).numpy()]
        sets = zip(positions.numpy(), numbers, mask.numpy(), strict=True)
        return MoleculeSet.from_list([(x[row], z[row]) for x, z, row in sets], "sampled molecules")

    # -- what does not fit -----------------------------------------------------------------------

    def _check_statistics(self) -> None:
        stats = getattr(self.scheduler, "stats", None)
        if not isinstance(stats, GAGAStats):
            return
        check_statistics(
            self.scheduler,
            self.layout(getattr(stats.layout, "elements", None)),
            "Fit on what it diffuses, fit_from(model, loader); or, for statistics of the same "
            "elements in other units, from gaga_adapter.integrations import in_layout and pass "
            "in_layout(stats, pipe.layout(elements)), with the elements of the model.",
        )
        check_fresh(self.denoiser.adapter, self.denoiser.model, stats)

    def _check_context(self, context: Tensor | None, n_molecules: int) -> None:
        wanted = getattr(self.denoiser.model.dynamics, "context_node_nf", None)
        if context is None:
            if wanted:
                raise DataError(
                    f"the model is conditional. Pass context, ({n_molecules}, {wanted}), the "
                    "properties of each molecule, normalised as in its training."
                )
            return
        width = context.shape[-1] if wanted is None else wanted
        if width == 0:
            raise DataError("the model is not conditional. Pass no context.")
        if context.ndim not in (2, 3) or (len(context), context.shape[-1]) != (n_molecules, width):
            raise DataError(
                f"got a context {tuple(context.shape)}. Pass one row per molecule "
                f"({n_molecules}, {width}), or per atom ({n_molecules}, N, {width})."
            )
        fitted = isinstance(getattr(self.scheduler, "stats", None), GAGAStats)
        if fitted and self.scheduler.reference != "unit":
            warn_of_condition("the context")

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - diffusers' own
        """Refuses always, and says what to do: the class of the model is not one of diffusers."""
        raise UnsupportedModelError(
            f"diffusers cannot save a {type(self.denoiser.model).__name__}. Save the model as its "
            "own repository does, and pipe.scheduler.save_pretrained(folder)."
        )


def as_pipeline(
    model: Model,
    scheduler: Any = None,  # noqa: ANN401 - any diffusers scheduler, or a name
    elements: Sequence[str] | None = None,
    size_counts: Mapping[int, int] | None = None,
    fix_last_class: bool = False,
) -> EDMPipeline:
    """An EDM or GeoLDM model, or what has their structure, as a diffusers pipeline.

    Args:
        model: Unpatched `EnVariationalDiffusion` or `EnLatentDiffusion` with its weights; it is
            not copied.
        scheduler: Diffusers scheduler, best made from `pipe.scheduler.config`; or a short name
            of `gaga_adapter.sampling.solvers.SCHEDULERS` on the model's own table (ddim, dpm++,
            unipc, euler, heun, ...). By default the model's own ancestral sampler. A name brings no
            statistics: every one of them, few-step too, starts from pure noise, until
            `pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats=...)`.
        elements: Symbols of the element classes in the model's order, such as
            `dataset_info["atom_decoder"]`; then the pipeline returns a `MoleculeSet`.
        size_counts: Number of molecules of each size in the data, such as
            `dataset_info["n_nodes"]`. Without it, sizes must be given in the call.
        fix_last_class: Whether samples get their last element class, which EDM and GeoLDM drop
            where the model has no charges.

    Raises:
        UnsupportedModelError: If the model is patched, or no adapter for pipelines recognises it.
        UnsupportedSchedulerError: If the name is unknown, or the scheduler is refused.
        DataError: If the model has another number of elements, or a size is below 1.
    """
    model = bare(model)
    _refuse_patched(model)
    adapter = adapter_for(model)
    if not isinstance(adapter, EDM):
        raise UnsupportedModelError(
            f"{type(model).__name__} ({adapter.name}) has no step from z_0 to a molecule that a "
            "pipeline could end with. Use apply_patch(model, stats)."
        )
    if adapter.no_pipeline:
        raise UnsupportedModelError(
            f"{type(model).__name__} ({adapter.name}) cannot be a pipeline: {adapter.no_pipeline}. "
            "Use apply_patch(model, stats)."
        )
    denoiser = EDMNetwork(model, adapter)
    if elements is not None and len(elements) != denoiser.n_classes:
        raise DataError(
            f"got {len(elements)} elements ({', '.join(elements)}), the model has "
            f"{denoiser.n_classes} classes. Pass dataset_info['atom_decoder'] of its data."
        )
    for fault in [] if fix_last_class else adapter.faults(model):
        warnings.warn(
            f"{fault} In a pipeline: as_pipeline(..., fix_last_class=True).",
            GAGAWarning,
            stacklevel=2,
        )
    counts = None
    if size_counts is not None:
        if not size_counts or min(size_counts) < 1:
            raise DataError(f"sizes must be 1 or more, got {sorted(size_counts)[:4]}.")
        counts = [int(size_counts.get(n, 0)) for n in range(max(size_counts) + 1)]
    own = ancestral_scheduler(torch.sigmoid(-2 * denoiser.log_sigma), **_ENDS_AT_ZERO)
    if scheduler is None:
        scheduler = own
    elif isinstance(scheduler, str):
        scheduler = scheduler_named(scheduler, own)
    served(scheduler)
    names = None if elements is None else list(elements)
    return EDMPipeline(denoiser, scheduler, names, counts, fix_last_class)


def _refuse_patched(model: Model) -> None:
    if state_of(model) is not None:
        raise UnsupportedModelError(
            f"this {type(model).__name__} is patched. Call remove_patch(model): a pipeline is "
            "truncated by its scheduler, GAGAScheduler.from_pretrained(pipe.scheduler, stats=...)."
        )
