"""Molecules from noise, under any diffusers scheduler.

The loop is the ordinary one: `set_timesteps`, noise times `init_noise_sigma`, then
`scale_model_input`, network, `step`. What molecules add is the subspace: schedulers draw isotropic
noise, so after every step the padding is zeroed and the centre of mass removed, which is the
projection of that noise.

    pipe = MoleculePipeline.load()
    pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats="qm9")
    molecules = pipe(16, num_inference_steps=100).molecules
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from diffusers import DDPMScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor

from gaga_adapter.errors import (
    ArtefactError,
    DataError,
    GAGAError,
    StatsMismatchError,
    TruncationError,
)
from gaga_adapter.layout import AtomLayout
from gaga_adapter.molecules.chemistry import to_rdkit
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.molecules.encoding import decode
from gaga_adapter.molecules.formats import sdf_text
from gaga_adapter.paths import named_path
from gaga_adapter.prediction import NetworkView
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import project

EMBEDDED = "embedded"
ASSETS = Path(__file__).parent / "assets"
_OUTPUT_TYPES = ("molecules", "tensor", "rdkit", "sdf")
_MAX_SIGMA = 1e3  # what the network is told of pure noise, where b / a has no end


@dataclass
class MoleculePipelineOutput(BaseOutput):  # type: ignore[misc]
    """What the pipeline returns.

    Attributes:
        molecules: a `MoleculeSet`, a list of rdkit molecules, the text of an SDF file, or for
            `output_type="tensor"` the clean samples (B, N, 3+F) with zero padding.
        mask: atoms of the samples (B, N).
        network_calls: calls of the denoiser per molecule.
    """

    molecules: Any
    mask: Tensor
    network_calls: int


def edm_scheduler(
    noise_schedule: str = "edm/polynomial_2", n_steps: int = 1000, precision: float = 1e-5
) -> DDPMScheduler:
    """EDM's ancestral sampler and noise table as a diffusers scheduler.

    The table has `n_steps + 1` entries and diffusers' index i is EDM's t = i / n_steps, without a
    shift: beta_0 = 1 - a_0^2 and beta_i = 1 - a_i^2 / a_{i-1}^2 (Hoogeboom et al. 2022, section
    3.2).
    """
    path = named_path(noise_schedule, n_steps=n_steps, precision=precision)
    a2 = path.a(torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)).square()
    betas = 1 - torch.cat([a2[:1], a2[1:] / a2[:-1]])
    return DDPMScheduler(
        num_train_timesteps=n_steps + 1,
        trained_betas=betas.tolist(),
        clip_sample=False,
        timestep_spacing="linspace",
    )


class MoleculePipeline(DiffusionPipeline):  # type: ignore[misc]
    """Samples molecules with a `MoleculeDenoiser`; see the module docstring.

    Args:
        denoiser: predicts the clean molecule.
        scheduler: any diffusers scheduler, or a `GAGAScheduler`.
        size_counts: how often each number of atoms occurs in the data; index N counts size N.
            Without it, sizes must be given in the call.
    """

    model_cpu_offload_seq = "denoiser"

    def __init__(
        self,
        denoiser: MoleculeDenoiser,
        scheduler: Any,  # noqa: ANN401 - any diffusers scheduler
        size_counts: Optional[list[int]] = None,  # noqa: UP045 - older diffusers read only this
    ) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)
        self.register_to_config(size_counts=size_counts)

    @classmethod
    def load(cls, name_or_path: str | Path = EMBEDDED) -> "MoleculePipeline":
        """A pipeline in float32 from a folder or the hub; `embedded` is the QM9 model shipped here.

        Raises:
            ArtefactError: there is no such pipeline.
        """
        folder = str(ASSETS / "qm9" if str(name_or_path) == EMBEDDED else name_or_path)
        try:
            if not Path(folder).is_dir() and "/" not in folder:
                raise OSError("there is no such folder, and a hub id has the form user/name")
            pipeline = cls.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ArtefactError(
                f"no molecule pipeline at {name_or_path} ({str(error).splitlines()[0]}). Pass a "
                f"folder that `save_pretrained` wrote, a hub id, or `{EMBEDDED}`."
            ) from error
        if not isinstance(pipeline, cls):
            raise ArtefactError(
                f"{name_or_path} holds a {type(pipeline).__name__}, not a MoleculePipeline."
            )
        pipeline.denoiser.float()
        return pipeline

    def draw_sizes(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Numbers of atoms (n,) as often as the data has them.

        Raises:
            DataError: the pipeline does not know the data's sizes.
        """
        if self.config.size_counts is None:
            raise DataError("this pipeline has no size_counts. Pass n_atoms, the sizes wanted.")
        weights = torch.tensor(self.config.size_counts, dtype=torch.float64)
        return torch.multinomial(weights, n, replacement=True, generator=generator)

    @torch.no_grad()
    def __call__(
        self,
        n_molecules: int = 16,
        n_atoms: Tensor | list[int] | None = None,
        num_inference_steps: int = 1000,
        generator: torch.Generator | None = None,
        batch_size: int = 64,
        output_type: str = "molecules",
    ) -> MoleculePipelineOutput:
        """Sample molecules.

        Sizes and all starting noise are drawn from `generator` first, so two schedulers that get
        the same seed start from the same noise. Molecules of like size share a batch.

        Args:
            n_molecules: how many; ignored when `n_atoms` is given.
            n_atoms: sizes (n,), drawn from the data's own distribution by default.
            num_inference_steps: what `scheduler.set_timesteps` gets.
            generator: CPU generator of everything random.
            batch_size: molecules in one network call.
            output_type: "molecules", "tensor", "rdkit" or "sdf".

        Returns:
            the molecules in the order of `n_atoms`, see `MoleculePipelineOutput`.

        Raises:
            DataError: an unknown output type, no molecule asked for, or a molecule without atoms.
            StatsMismatchError: the scheduler's statistics describe other channels than the model.
            TruncationError: the scheduler refuses this number of steps.
        """
        self._check_statistics()
        if output_type not in _OUTPUT_TYPES:
            raise DataError(
                f"output_type={output_type!r} is unknown. Known: {', '.join(_OUTPUT_TYPES)}."
            )
        sizes = self.draw_sizes(n_molecules, generator) if n_atoms is None else n_atoms
        sizes = torch.as_tensor(sizes)
        if sizes.ndim != 1 or len(sizes) == 0 or int(sizes.min()) < 1:
            raise DataError(
                f"got sizes {tuple(sizes.tolist())[:8]}. Ask for one molecule or more, "
                "each with one atom or more."
            )
        order = sizes.argsort(stable=True)
        n_max = int(sizes.max())
        mask = torch.arange(n_max)[None] < sizes[:, None]
        channels = self.denoiser.layout.n_channels
        noise = torch.randn(len(sizes), n_max, channels, generator=generator)
        noise = project(noise, mask)

        clean = torch.zeros_like(noise)
        parts = torch.split(order, batch_size)
        with self.progress_bar(total=len(parts) * num_inference_steps) as bar:

            def stepped(n_steps: int) -> None:
                bar.total = len(parts) * n_steps  # only the scheduler knows its number of calls
                bar.update()

            for rows in parts:
                width = int(sizes[rows].max())
                sample, calls = self._denoise(
                    noise[rows, :width], mask[rows, :width], num_inference_steps, generator, stepped
                )
                clean[rows, :width] = sample.to(clean)
        molecules: Any = clean
        if output_type != "tensor":
            molecules = decode(clean, mask, self.denoiser.layout)
        if output_type == "rdkit":
            molecules = to_rdkit(molecules)
        if output_type == "sdf":
            molecules = sdf_text(molecules)
        return MoleculePipelineOutput(molecules=molecules, mask=mask, network_calls=calls)

    def _check_statistics(self) -> None:
        stats, layout = getattr(self.scheduler, "stats", None), self.denoiser.layout
        if not isinstance(stats, GAGAStats) or stats.layout == layout:
            return
        if isinstance(stats.layout, AtomLayout) and stats.layout.n_channels == layout.n_channels:
            return  # features without names cannot be compared
        raise StatsMismatchError(
            f"stats describe {stats.layout.describe()}, the model has {layout.describe()}. "
            "Refit with `gaga fit`, in the model's elements and scales."
        )

    def _denoise(
        self,
        noise: Tensor,
        mask: Tensor,
        num_inference_steps: int,
        generator: torch.Generator | None,
        stepped: Callable[[int], None],
    ) -> tuple[Tensor, int]:
        """One batch from unit noise (B, N, 3+F) to clean samples, and its network calls.

        `stepped` is called after each of them with the number of calls in all.
        """
        scheduler, device = self.scheduler, self._execution_device
        mask = mask.to(device)
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        extra = {"generator": generator} if takes_generator else {}
        try:
            scheduler.set_timesteps(num_inference_steps, device=device)
        except GAGAError:
            raise
        except ValueError as error:
            raise TruncationError(
                f"{type(scheduler).__name__} refuses {num_inference_steps} steps: {error}"
            ) from error
        view = NetworkView.of(scheduler)
        sample = noise.to(device) * getattr(scheduler, "init_noise_sigma", 1.0)
        timesteps = scheduler.timesteps
        for timestep in timesteps:
            seen = sample
            if hasattr(scheduler, "scale_model_input"):
                seen = scheduler.scale_model_input(sample, timestep)
            a, b = view.level(timestep)
            a = max(a, b / _MAX_SIGMA)
            denoised = self.denoiser((seen / a).to(self.denoiser.dtype), b / a, mask).sample
            output = view.output(denoised.to(seen.dtype), seen, timestep)
            sample = scheduler.step(output, timestep, sample, **extra).prev_sample
            sample = project(sample, mask)
            stepped(len(timesteps))
        return sample, len(timesteps)
