"""The compact denoiser under any diffusers scheduler; the loop is that of `sampling/loop.py`.

A saved pipeline is loaded by this class: `DiffusionPipeline.from_pretrained` looks for the class in
diffusers alone.

pipe = MoleculePipeline.from_pretrained("qm9")
pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, "qm9")
molecules = pipe(16, num_inference_steps=100).molecules
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from diffusers import DDPMScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput, is_accelerate_available
from safetensors import SafetensorError
from torch import Tensor

from gaga_adapter.distributed import Progress
from gaga_adapter.errors import ArtefactError, DataError, GAGAWarning
from gaga_adapter.files.atomic import replacing
from gaga_adapter.files.checked import MOST_COUNTED
from gaga_adapter.files.hub import looks_like_hub_id
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.molecules.encoding import decode
from gaga_adapter.molecules.formats import sdf_text
from gaga_adapter.molecules.metrics.chemistry import to_rdkit
from gaga_adapter.noise.conventions import Convention
from gaga_adapter.noise.paths import named_path
from gaga_adapter.sampling.grid import Levels, wanted_grid
from gaga_adapter.sampling.loop import (
    CallCounter,
    ProgressBar,
    Stepped,
    check_levels,
    check_statistics,
    draw_sizes,
    sample_atoms,
    walk,
    wanted_sizes,
)
from gaga_adapter.sampling.solvers import ancestral_scheduler
from gaga_adapter.trained import trained_log_snr

#: Pipelines that ship with the package, by the name that their statistics have in `GAGAStats`.
EMBEDDED = {"qm9": Path(__file__).parent / "assets" / "qm9"}
#: What diffusers raises where a pipeline is missing or damaged.
_UNREADABLE = (
    ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError,
    SafetensorError, TypeError, ValueError,
)  # fmt: skip
_OUTPUT_TYPES = ("molecules", "tensor", "rdkit", "sdf")
_NOTE = """A molecule pipeline of gaga-adapter. Load it with

    from gaga_adapter import MoleculePipeline
    pipe = MoleculePipeline.from_pretrained("this folder, or its hub id")

`DiffusionPipeline.from_pretrained` of diffusers looks for the class in diffusers alone, and fails
with `AttributeError: module diffusers has no attribute MoleculePipeline`.
"""
_MAX_SIGMA = 1e3  # stands in for sigma = infinity at pure noise


@dataclass
class MoleculePipelineOutput(BaseOutput):  # type: ignore[misc]
    """Output of the pipeline.

    Attributes:
        molecules: `MoleculeSet`, list of rdkit molecules, text of an SDF file, or for
            `output_type="tensor"` the clean samples (B, N, 3+F) with zero padding.
        mask: Atoms of the samples (B, N).
        network_calls: Calls of the denoiser per molecule.
    """

    molecules: Any
    mask: Tensor
    network_calls: int


def embedded_name(name_or_path: str | Path) -> str | None:
    """Name of the embedded pipeline and statistics that a name stands for; `None` for any other.

    A folder of that name that holds a pipeline comes first.
    """
    name = str(name_or_path)
    if name == "embedded":  # the name of the model in version 0.1
        return "qm9"
    is_folder = (Path(name) / "model_index.json").is_file()
    return name if name in EMBEDDED and not is_folder else None


def edm_scheduler(
    noise_schedule: str = "edm/polynomial_2", n_steps: int = 1000, precision: float = 1e-5
) -> DDPMScheduler:
    """EDM's ancestral sampler and noise table as a diffusers scheduler.

    The table has `n_steps + 1` entries and diffusers' index i is EDM's t = i / n_steps, without a
    shift: beta_0 = 1 - a_0^2 and beta_i = 1 - a_i^2 / a_{i-1}^2 (Hoogeboom et al. 2022, section
    3.2).
    """
    path = named_path(noise_schedule, n_steps=n_steps, precision=precision)
    times = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
    return ancestral_scheduler(path.a(times).square())


class MoleculePipeline(DiffusionPipeline):  # type: ignore[misc]
    """Samples molecules with a `MoleculeDenoiser`; see the module docstring.

    Args:
        denoiser: Network that predicts the clean molecule.
        scheduler: Any diffusers scheduler, or a `GAGAScheduler`.
        size_counts: Number of molecules of each size in the data; index N counts size N. Without
            it, sizes must be given in the call.

    Raises:
        DataError: If `size_counts` does not count molecules.
    """

    model_cpu_offload_seq = "denoiser"

    def __init__(
        self,
        denoiser: MoleculeDenoiser,
        scheduler: Any,  # noqa: ANN401 - any diffusers scheduler
        size_counts: Optional[list[int]] = None,  # noqa: UP045 - older diffusers read only this
    ) -> None:
        super().__init__()
        if size_counts is not None:
            _check_counts(size_counts)
        self.register_modules(denoiser=denoiser, scheduler=scheduler)
        self.register_to_config(size_counts=size_counts)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        **kwargs: Any,  # noqa: ANN401 - diffusers' own signature
    ) -> "MoleculePipeline":
        """A pipeline as diffusers loads it, or the QM9 model shipped here by its name `qm9`.

        Raises:
            ArtefactError: If there is no such pipeline.
        """
        name, known = (
            str(pretrained_model_name_or_path),
            embedded_name(pretrained_model_name_or_path),
        )
        folder = Path(name) if known is None else EMBEDDED[known]
        # Without accelerate, diffusers would choose the same with a warning.
        kwargs.setdefault("low_cpu_mem_usage", is_accelerate_available())
        try:
            if not folder.is_dir() and not looks_like_hub_id(name):
                raise OSError("there is no such folder, and a hub id has the form user/name")
            pipeline = super().from_pretrained(folder if folder.is_dir() else name, **kwargs)
        except _UNREADABLE as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            if not folder.is_dir() and looks_like_hub_id(name):
                reason = f"there is no such folder, and on the hub: {reason}"
            raise ArtefactError(
                f"no molecule pipeline at {name} ({reason}). Pass a "
                f"folder that `save_pretrained` wrote, a hub id, or {' or '.join(EMBEDDED)}."
            ) from error
        if not isinstance(pipeline, cls):
            raise ArtefactError(
                f"{name} holds a {type(pipeline).__name__}, not a MoleculePipeline."
            )
        broken = [n for n, w in pipeline.denoiser.named_parameters() if not w.isfinite().all()]
        if broken:
            raise ArtefactError(
                f"the weights of {name} are damaged: {broken[0]} holds a number that is not "
                "finite. Download or save them again."
            )
        trained_log_snr(pipeline.denoiser)  # refuses a record that is no log-SNR
        return pipeline

    @classmethod
    def load(cls, name_or_path: str | Path = "qm9") -> "MoleculePipeline":
        """A pipeline in float32 from a folder or the hub; `qm9` is the QM9 model shipped here.

        Raises:
            ArtefactError: If there is no such pipeline.
        """
        pipeline = cls.from_pretrained(name_or_path)
        pipeline.denoiser.float()
        return pipeline

    def save_pretrained(
        self,
        save_directory: str | Path,
        **kwargs: Any,  # noqa: ANN401 - diffusers' own signature
    ) -> None:
        """Write the pipeline as diffusers does, with a README.md that says how to load it."""
        note = Path(save_directory) / "README.md"
        if not note.exists():
            with replacing(note) as draft:
                draft.write_text(_NOTE, encoding="utf-8")
        super().save_pretrained(save_directory, **kwargs)

    def draw_sizes(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Numbers of atoms (n,) as often as the data has them.

        Raises:
            DataError: If the pipeline does not know the data's sizes.
        """
        return draw_sizes(self.config.size_counts, n, generator)

    @torch.no_grad()
    def __call__(
        self,
        n_molecules: int | None = None,
        n_atoms: Tensor | list[int] | int | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 64,
        output_type: str = "molecules",
        progress: Progress | None = None,
        timesteps: Levels | None = None,
        sigmas: Levels | None = None,
    ) -> MoleculePipelineOutput:
        """Sample molecules.

        Sizes and all starting noise are drawn from `generator` first, so two schedulers that get
        the same seed start from the same noise. Molecules of like size share a batch.

        Args:
            n_molecules: Number of molecules; 16 by default, or as many as `n_atoms` has sizes.
            n_atoms: Sizes (n,), or one for all molecules; by default they are drawn as often as the
                data of the model have them, whatever data the statistics are of.
            num_inference_steps: Number of steps for `scheduler.set_timesteps`; 20 by default for a
                `FewStepScheduler`, and 200 for others.
            generator: CPU generator of everything random.
            batch_size: Number of molecules in one network call.
            output_type: Form "molecules", "tensor", "rdkit" or "sdf". All but the tensor have
                diverged samples (not finite) as atoms at the origin, which every metric counts as
                broken; a `GAGAWarning` says how many.
            progress: Function that is called after each network call, in place of diffusers' own
                progress bar.
            timesteps: Timesteps (n,) that `scheduler.set_timesteps` gets in place of a number, from
                noise to data.
            sigmas: Sigmas (n,) that it gets in place of a number.

        Returns:
            The molecules in the order of `n_atoms`, see `MoleculePipelineOutput`.

        Raises:
            DataError: If the output type is unknown, a number is no whole one of 1 or more, there
                are more or fewer sizes than molecules, or the generator is none of the CPU.
            StatsMismatchError: If the scheduler's statistics describe other channels than the
                model's.
            TruncationError: If the scheduler refuses this number of steps or these levels, or
                starts at a noisier level than the model was trained at.
        """
        check_statistics(self.scheduler, self.denoiser.layout)
        if output_type not in _OUTPUT_TYPES:
            raise DataError(
                f"output_type={output_type!r} is unknown. Known: {', '.join(_OUTPUT_TYPES)}."
            )
        sizes = wanted_sizes(n_molecules, n_atoms, self.config.size_counts, generator)
        n_channels, calls = self.denoiser.layout.n_channels, 0
        n_steps = wanted_grid(self.scheduler, num_inference_steps, timesteps, sigmas).n_steps
        check_levels(self.scheduler, self.denoiser, n_steps)

        def batch(rows: Tensor, noise: Tensor, mask: Tensor, stepped: Stepped) -> Tensor:
            nonlocal calls
            noise, mask = noise.to(self._execution_device), mask.to(self._execution_device)

            def network(seen: Tensor, timestep: Tensor, at: Convention) -> Tensor:
                a, b = at.seen_level(timestep)
                a = max(a, b / _MAX_SIGMA)
                denoised = self.denoiser((seen / a).to(self.denoiser.dtype), b / a, mask).sample
                return at.output(denoised.to(seen.dtype), seen, timestep)

            end = walk(
                self.scheduler,
                noise,
                mask,
                n_steps,
                network,
                generator,
                stepped,
                trained=trained_log_snr(self.denoiser),
                timesteps=timesteps,
                sigmas=sigmas,
            )
            calls = end.network_calls
            return end.sample

        def bar(total: int) -> AbstractContextManager[ProgressBar]:
            if progress is not None:
                return nullcontext(CallCounter(progress, total))
            counter: AbstractContextManager[ProgressBar] = self.progress_bar(total=total)
            return counter

        clean, mask = sample_atoms(sizes, n_channels, batch, batch_size, generator, bar, n_steps)
        molecules: Any = clean
        if output_type != "tensor":
            molecules = decode(_without_diverged(clean), mask, self.denoiser.layout)
        if output_type == "rdkit":
            molecules = to_rdkit(molecules)
        if output_type == "sdf":
            molecules = sdf_text(molecules)
        return MoleculePipelineOutput(molecules=molecules, mask=mask, network_calls=calls)


def _check_counts(counts: Any) -> None:  # noqa: ANN401 - a list, unless it is damaged
    known = isinstance(counts, list | tuple) and all(
        isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MOST_COUNTED
        for count in counts
    )
    if not known or not any(counts) or counts[0]:
        raise DataError(
            "size_counts must be a list of whole numbers whose entry N counts the molecules of N "
            "atoms, with 0 at its begin."
        )


def _without_diverged(clean: Tensor) -> Tensor:
    """Samples (B, N, 3+F) with zeros in place of those that are not finite."""
    diverged = ~clean.isfinite().all(2).all(1)
    if diverged.any():
        warnings.warn(
            f"{int(diverged.sum())} of {len(clean)} samples diverged (NaN or infinite) and are "
            "written as atoms at the origin. More steps, or another scheduler, may help.",
            GAGAWarning,
            stacklevel=3,
        )
    return clean.masked_fill(diverged[:, None, None], 0.0)
