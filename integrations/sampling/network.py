r"""The network of a model of the EDM lineage as diffusers schedulers use one, and its last step.

Such a model has T + 1 noise levels, `gamma(i / T) = -log SNR` for i = 0 .. T, and a network that
predicts epsilon of variance preserving samples and gets i / T. Its last step makes a molecule of
z_0 (Hoogeboom et al. 2022, section 3.2): positions around the network's estimate, elements and
charges by rounding z_0; or, where the model diffuses a latent, a latent that is then decoded. Both
are the model's own methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from gaga_adapter.errors import DataError, UnsupportedModelError
from gaga_adapter.noise.conventions import Convention
from gaga_adapter.subspace import project

from ..edm import EDM, largest_class
from ..geoldm import all_class_decoder
from ..protocol import Model


class Atoms:
    """What a model needs to know about the molecules of one batch, beside their noise.

    Attributes:
        mask: Real atoms (B, N), bool.
        node_mask: Real atoms (B, N, 1), as numbers.
        arguments: Node mask, mask of pairs of different real atoms (B N N, 1), and properties for a
            conditional model (B, N, K), padding 0, or `None`: as upstream's methods take them.
    """

    def __init__(self, mask: Tensor, context: Tensor | None, dtype: torch.dtype) -> None:
        self.mask = mask
        self.node_mask = mask[..., None].to(dtype)
        width = mask.shape[1]
        pairs = mask[:, :, None] & mask[:, None]
        pairs = pairs & ~torch.eye(width, dtype=torch.bool, device=mask.device)
        if context is not None:  # (B, K) or (B, N', K)
            if context.ndim == 2:
                context = context[:, None]
            elif context.shape[1] < width:
                raise DataError(
                    f"the context is of {context.shape[1]} atoms, a molecule has {width}."
                )
            context = context[:, :width].to(self.node_mask) * self.node_mask
        self.arguments = self.node_mask, pairs.reshape(-1, 1).to(dtype), context


class EDMNetwork(nn.Module):
    """The network of a model, which is not copied, with its schedule and its last step."""

    def __init__(self, model: Model, adapter: EDM) -> None:
        super().__init__()
        self.model = model
        self.adapter = adapter
        n_steps = adapter.n_steps(model)
        times = torch.arange(n_steps + 1, device=self.device)[:, None] / n_steps
        with torch.no_grad():  # ln(b / a) of the steps 0 .. T, float64 (T + 1,)
            self.log_sigma = adapter.schedule(model)(times).flatten().cpu().double() / 2
        if not bool((self.log_sigma.diff() > 0).all()):
            raise UnsupportedModelError(
                f"the log-SNR of {type(model).__name__} does not fall at each of its {n_steps} "
                "steps, so there is no noise table to sample on."
            )

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the model's parameters."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    @property
    def n_classes(self) -> int:
        """Number K of element classes of the molecules."""
        return int(self.adapter.atom_model(self.model).num_classes)

    @property
    def sigma_0(self) -> float:
        """Noise over signal at the step 0, where the model's own sampler makes its last step."""
        return math.exp(self.log_sigma[0])

    def forward(self, sample: Tensor, sigma: float, atoms: Atoms) -> Tensor:
        """Predicted epsilon of variance preserving `a x_0 + b eps`, both (B, N, 3 + F).

        The network gets the time at which its schedule has the ratio sigma = b / a.
        """
        steps = np.arange(len(self.log_sigma))
        log_sigma = math.log(sigma) if sigma else -math.inf
        step = np.interp(log_sigma, self.log_sigma.numpy(), steps)
        t = sample.new_full((len(sample), 1), round(float(step), 6)) / steps[-1]
        network = getattr(self.model, self.adapter.network)
        eps: Tensor = network(sample, t, *atoms.arguments)
        return eps

    def predict_clean(self, noisy: Tensor, sigma: float, mask: Tensor | None) -> Tensor:
        """Predicted clean molecules (B, N, 3 + F) of `x_0 + sigma eps`, as a criterion asks.

        A conditional model needs properties, and cannot be asked so.

        Raises:
            DataError: If there is no mask (B, N) of real atoms.
        """
        if mask is None:
            raise DataError("a model of molecules needs the mask of real atoms. Pass (x, mask).")
        eps: Tensor = self(noisy / math.hypot(1, sigma), sigma, Atoms(mask, None, noisy.dtype))
        return noisy - sigma * eps

    def output_for(self, seen: Tensor, timestep: Tensor, at: Convention, atoms: Atoms) -> Tensor:
        """The output (B, N, 3 + F) that a scheduler expects, from the network's epsilon.

        `seen` is the sample (B, N, 3 + F) as a scheduler of the convention `at` scales it.
        """
        a, b = at.seen_level(timestep)
        a = max(a, b / math.exp(self.log_sigma[-1]))  # the network knows no noisier level
        eps: Tensor = self(seen / math.hypot(a, b), b / a, atoms)
        if at.wants_epsilon:
            return eps
        return at.output((seen - b * eps) / a, seen, timestep)

    # -- the end ---------------------------------------------------------------------------------

    def at_step_0(
        self, sample: Tensor, a: float, b: float, mask: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """z_0 (B, N, 3 + F) of the `a x_0 + b eps` that a scheduler ended with.

        It gets as much noise as is missing up to the level of step 0.
        """
        a_0, b_0 = (math.sqrt(torch.sigmoid(s * 2 * self.log_sigma[0])) for s in (-1, 1))
        z_0 = sample * (a_0 / a)
        missing = b_0**2 - (a_0 * b / a) ** 2
        if missing <= 1e-4 * b_0**2:
            return z_0
        noise = torch.randn(sample.shape, generator=generator).to(sample)
        return z_0 + math.sqrt(missing) * project(noise, mask)

    def molecules(
        self, z_0: Tensor, atoms: Atoms, generator: torch.Generator | None, fix_last_class: bool
    ) -> Tensor:
        """`[positions, one-hot, charges]` (B, N, 3 + K + 0 or 1), by the model's own last step.

        z_0 is (B, N, 3 + F); `fix_last_class` counts the class that upstream leaves out, too.
        """
        model = self.model
        fix = fix_last_class and bool(self.adapter.faults(model))
        with _seeded(generator, z_0.device):
            x, h = model.sample_p_xh_given_z0(z_0, *atoms.arguments)
        if hasattr(model, "vae"):
            z, vae = torch.cat([x, h["categorical"], h["integer"]], dim=2), model.vae
            decode = partial(all_class_decoder(type(vae))["decode"], vae) if fix else vae.decode
            x, h = decode(z, *atoms.arguments)
        elif fix:
            h = {**h, "categorical": largest_class(z_0, atoms.node_mask, 3)}
        charges = h["integer"].reshape(*x.shape[:2], -1)
        return project(torch.cat([x, h["categorical"].to(x), charges.to(x)], dim=2), atoms.mask)


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
