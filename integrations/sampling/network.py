r"""The network of a model of the EDM lineage as diffusers schedulers use one, and its last step.

Such a model has T + 1 noise levels, `gamma(i / T) = -log SNR` for i = 0 .. T, and a network that
predicts epsilon of variance preserving samples and is told i / T. Its last step makes a molecule of
z_0 (Hoogeboom et al. 2022, section 3.2): positions around the network's estimate, elements and
charges by rounding z_0; or, where the model diffuses a latent, a latent that is then decoded. Both
are the model's own methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gaga_adapter.errors import DataError, UnsupportedModelError
from gaga_adapter.noise.conventions import Convention
from gaga_adapter.subspace import project

from ..edm import EDM, largest_class
from ..patching.subclass import swap, swap_back
from ..protocol import Model


class Atoms:
    """What a model is told of the molecules of one batch, beside their noise.

    Attributes:
        mask: Real atoms (B, N), bool.
        node_mask: Real atoms (B, N, 1), as numbers.
        edge_mask: Pairs of different real atoms (B N N, 1).
        context: Properties for a conditional model (B, N, K), padding 0.
    """

    def __init__(self, mask: Tensor, context: Tensor | None, dtype: torch.dtype) -> None:
        self.mask = mask
        self.node_mask = mask[..., None].to(dtype)
        pairs = mask[:, :, None] & mask[:, None]
        pairs = pairs & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        self.edge_mask = pairs.reshape(-1, 1).to(dtype)
        self.context = None if context is None else self._per_atom(context)

    def _per_atom(self, context: Tensor) -> Tensor:
        """Context (B, K) or (B, N', K) on the real atoms (B, N, K)."""
        width = self.mask.shape[1]
        if context.ndim == 2:
            context = context[:, None]
        elif context.shape[1] < width:
            raise DataError(f"the context is of {context.shape[1]} atoms, a molecule has {width}.")
        return context[:, :width].to(self.node_mask) * self.node_mask

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """As upstream's methods take them."""
        return self.node_mask, self.edge_mask, self.context


class EDMNetwork(nn.Module):
    """The network of a model, with its schedule and its last step.

    Attributes:
        model: Model, not copied.
        adapter: Names of its parts.
        log_sigma: Logarithms ln(b / a) of its steps 0 .. T, float64 (T + 1,).

    Raises:
        UnsupportedModelError: If its schedule is no noise table.
    """

    def __init__(self, model: Model, adapter: EDM) -> None:
        super().__init__()
        self.model = model
        self.adapter = adapter
        n_steps = adapter.n_steps(model)
        times = torch.arange(n_steps + 1, device=self.device)[:, None] / n_steps
        with torch.no_grad():
            self.log_sigma = adapter.schedule(model)(times).flatten().double().cpu() / 2
        if not bool((self.log_sigma.diff() > 0).all()):
            raise UnsupportedModelError(
                f"the log-SNR of {type(model).__name__} does not fall at each of its {n_steps} "
                "steps, so there is no noise table to sample on."
            )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's parameters."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    @property
    def alphas_cumprod(self) -> Tensor:
        """`abar` of the steps (T + 1,), float64."""
        return torch.sigmoid(-2 * self.log_sigma)

    @property
    def n_classes(self) -> int:
        """Element classes K of the molecules."""
        owner: Any = getattr(self.model, "vae", self.model)
        return int(owner.num_classes)

    @property
    def sigma_0(self) -> float:
        """Noise over signal at the step 0, where the model's own sampler makes its last step."""
        return math.exp(self.log_sigma[0])

    def forward(self, sample: Tensor, sigma: float, atoms: Atoms) -> Tensor:
        """Predicted epsilon (B, N, 3 + F).

        Args:
            sample: Variance preserving `a x_0 + b eps` (B, N, 3 + F).
            sigma: Ratio b / a; the network is told the time at which its schedule has it.
            atoms: Atoms of the batch.
        """
        steps = np.arange(len(self.log_sigma))
        log_sigma = math.log(sigma) if sigma else -math.inf
        step = np.interp(log_sigma, self.log_sigma.numpy(), steps)
        t = sample.new_full((len(sample), 1), round(float(step), 6)) / steps[-1]
        network = getattr(self.model, self.adapter.network)
        eps: Tensor = network(sample, t, *atoms.arguments)
        return eps

    def as_asked(self, seen: Tensor, timestep: Tensor, at: Convention, atoms: Atoms) -> Tensor:
        """What a scheduler wants of the network, which knows epsilon, (B, N, 3 + F).

        Args:
            seen: Network's input, as the scheduler scales it (B, N, 3 + F).
            timestep: Entry of `scheduler.timesteps` that the loop is at.
            at: Scheduler's convention.
            atoms: Atoms of the batch.
        """
        a, b = at.seen_level(timestep)
        a = max(a, b / math.exp(self.log_sigma[-1]))  # it knows no noisier level
        eps: Tensor = self(seen / math.hypot(a, b), b / a, atoms)
        if at.wants_epsilon:
            return eps
        return at.output((seen - b * eps) / a, seen, timestep)

    # -- the end ---------------------------------------------------------------------------------

    def at_step_0(
        self, sample: Tensor, a: float, b: float, mask: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """z_0 (B, N, 3 + F) of what a scheduler ended with, noised up to the step 0 if need be.

        Args:
            sample: Tensor `a x_0 + b eps` (B, N, 3 + F).
            a: Signal coefficient.
            b: Noise standard deviation, of step 0 or below.
            mask: Real atoms (B, N), bool.
            generator: Source of the noise.
        """
        a_0, b_0 = (math.sqrt(torch.sigmoid(s * 2 * self.log_sigma[0])) for s in (-1, 1))
        z_0 = sample * (a_0 / a)
        missing = b_0**2 - (a_0 * b / a) ** 2
        if missing <= 1e-4 * b_0**2:
            return z_0
        noise = torch.randn(sample.shape, generator=generator).to(sample)
        return z_0 + math.sqrt(missing) * project(noise, mask)

    def molecules(
        self,
        z_0: Tensor,
        atoms: Atoms,
        generator: torch.Generator | None = None,
        fix_last_class: bool = False,
    ) -> Tensor:
        """`[positions, one-hot, charges]` (B, N, 3 + K + 0 or 1), by the model's own last step.

        Args:
            z_0: Samples at step 0 (B, N, 3 + F).
            atoms: Atoms of the batch.
            generator: Source of the noise of this step.
            fix_last_class: Whether all element classes count, where upstream leaves out the last.
        """
        model, given = self.model, atoms.arguments
        fix = fix_last_class and bool(self.adapter.faults(model))
        with _seeded(generator, z_0.device):
            x, h = model.sample_p_xh_given_z0(z_0, *given)
        if hasattr(model, "vae"):
            z = torch.cat([x, h["categorical"], h["integer"]], dim=2)
            swaps = self.adapter.inner_swaps(model, fix)
            for module, recipe in swaps:
                swap(module, recipe)
            try:
                x, h = model.vae.decode(z, *given)
            finally:
                for module, _ in swaps:
                    swap_back(module)
        elif fix:
            h = {**h, "categorical": largest_class(z_0, atoms.node_mask, 3)}
        charges = h["integer"].reshape(*x.shape[:2], -1)
        made = torch.cat([x, h["categorical"].to(x), charges.to(x)], dim=2)
        return project(made, atoms.mask)


@contextmanager
def _seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Upstream draws from torch's global generator: let it follow ours, and leave no trace."""
    if generator is None:
        yield
        return
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(seed))
        yield
