"""A compact E(3)-equivariant denoiser for molecules, as a diffusers model.

The network predicts the clean molecule, the posterior mean `E[x_0 | x_0 + sigma eps]`. From it
follow the noise, the velocity and the score under every scheduler, so one set of weights serves
them all; the noise level enters as sigma = b / a and not as the timestep of one schedule.

Three streams run through the layers: invariant atom features, invariant pair features, and K
equivariant vector channels per atom, of which the first inputs are the noisy positions. Pairs see
only inner products of vectors, so the output rotates and reflects with the input; the centre of
mass is removed.

- Positions use the preconditioning of Karras et al. 2022 (Table 1), data scale `position_std`.
- Elements: the posterior mean of a one-hot vector is a class probability. The logits start from the
  exact log-likelihood of the noisy one-hot entries, `x_c s / sigma^2` with s the one-hot's height,
  and the network adds the log-prior of the atom given everything else. A charge channel, where the
  layout has one, is the expected atomic number under the same probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from gaga_adapter.elements import atomic_numbers
from gaga_adapter.errors import ArtefactError, DataError, StatsMismatchError
from gaga_adapter.files.checked import Fields
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.subspace import remove_mean

_MOST_WEIGHTS = 10**9
_MAX_DISTANCE = 12.0  # angstrom; the radial basis covers distances up to here


@dataclass
class DenoiserOutput(BaseOutput):  # type: ignore[misc]
    """Output of the denoiser.

    Attributes:
        sample: Predicted clean molecule x_0, (B, N, 3+F); padding is 0, positions are mean-free.
        logits: Element logits (B, N, E).
    """

    sample: Tensor
    logits: Tensor


def _full_precision(positions: Tensor) -> torch.autocast:
    """Turn autocast off, since squared differences in 8 bits would lose the bond lengths."""
    return torch.autocast(positions.device.type, enabled=False)


class _Layer(nn.Module):
    """One round: pairs look at both atoms and their vectors, which then gather from the pairs."""

    def __init__(self, width: int, pair_width: int, n_vectors: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.atom_to_pair = nn.Linear(width, 2 * pair_width, bias=False)
        self.products_to_pair = nn.Linear(n_vectors, pair_width, bias=False)
        self.pair_hidden = nn.Linear(pair_width, pair_width)
        self.pair_update = nn.Linear(pair_width, pair_width)
        self.pair_to_gates = nn.Linear(pair_width, n_heads + n_vectors)
        self.value = nn.Linear(width, width, bias=False)
        self.gather = nn.Linear(width + pair_width + n_vectors, width)
        self.mix_vectors = nn.Linear(n_vectors, n_vectors, bias=False)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 3 * width)
        self.feed_out = nn.Linear(3 * width, width)
        self.modulation = nn.Linear(width // 2, 4 * width)

    def forward(
        self, h: Tensor, e: Tensor, v: Tensor, cond: Tensor, pair_mask: Tensor, n_atoms: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update atoms h (B,N,D), pairs e (B,N,N,P) and vectors v (B,K,N,3)."""
        scale_1, shift_1, scale_2, shift_2 = self.modulation(cond)[:, None].chunk(4, -1)
        x = self.norm(h) * (1 + scale_1) + shift_1

        with _full_precision(v):
            products = v @ v.transpose(-1, -2)  # (B, K, N, N)
            square = products.diagonal(dim1=-1, dim2=-2)
            distance = square[..., None] + square[..., None, :] - 2 * products
            distance = rearrange((distance.clamp_min(0) + 1e-4).sqrt(), "b k i j -> b i j k")
            seen_distance = self.products_to_pair(distance)
        left, right = self.atom_to_pair(x).chunk(2, -1)
        u = e + left[:, :, None] + right[:, None] + seen_distance
        u = functional.silu(self.pair_hidden(functional.silu(u)))
        e = e + self.pair_update(u)

        gates = rearrange(self.pair_to_gates(u), "b i j g -> b g i j")
        attention = (gates[:, : self.n_heads] + pair_mask[:, None]).softmax(-1)
        values = rearrange(self.value(x), "b n (h d) -> b h n d", h=self.n_heads)
        seen = rearrange(attention @ values, "b h n d -> b n (h d)")
        is_pair = (pair_mask > -1).to(u.dtype)
        message = torch.einsum("bijp,bij->bip", u, is_pair) / n_atoms
        invariants = (rearrange(square, "b k n -> b n k") + 1e-4).sqrt()
        h = h + self.gather(torch.cat([seen, message, invariants], -1))

        reach = 1 + rearrange(distance, "b i j k -> b k i j")
        pull = gates[:, self.n_heads :] * is_pair[:, None] / reach
        pull = pull / n_atoms[:, None].sqrt()
        with _full_precision(v):
            shift = pull @ v - pull.sum(-1, keepdim=True) * v
            shift = self.mix_vectors(rearrange(shift, "b k n xyz -> b n xyz k"))
            v = v + rearrange(shift, "b n xyz k -> b k n xyz")

        x = self.feed_norm(h) * (1 + scale_2) + shift_2
        return h + self.feed_out(functional.silu(self.feed_in(x))), e, v


def _check(arguments: dict[str, Any]) -> None:
    """Refuse the arguments of a denoiser, which may come from a file, before it allocates.

    Raises:
        DataError: If a number is none or out of range, or the network would be too large.
    """
    try:
        about = Fields({**arguments, "elements": list(arguments["elements"])}, "the denoiser")
        d, h = about.integer("width", 2, 2**14), about.integer("n_heads", 1, 2**10)
        p, k = about.integer("pair_width", 1, 2**14), about.integer("n_vectors", 1, 2**14)
        n_layers, n_radial = (
            about.integer("n_layers", 0, 2**10),
            about.integer("n_radial", 1, 2**16),
        )
        scales = ["position_scale", "onehot_scale", "position_std"]
        scales += ["charge_scale"] if about.is_given("charge_scale") else []
        for name in scales:
            about.number(name, 1e-15, 1e15)
        atomic_numbers(MoleculeLayout(about.texts("elements")).elements)
    except (ArtefactError, TypeError) as error:
        raise DataError(f"these arguments make no denoiser: {error}") from error
    if d % h:
        raise DataError(f"width={d} is no multiple of n_heads={h}. Pass one that is.")
    of_layer = 10 * d**2 + 3 * d * p + 2 * p**2 + p * (h + 2 * k) + d * k + k**2
    if n_layers * of_layer + d**2 + n_radial * p > _MOST_WEIGHTS:
        raise DataError(
            f"a denoiser of {n_layers} layers, width={d}, pair_width={p} and n_vectors={k} has "
            f"more than {_MOST_WEIGHTS:.0e} weights. Pass smaller numbers."
        )


class MoleculeDenoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Predicts the clean molecule from `x_0 + sigma eps`; see the module docstring.

    Args:
        elements: Chemical symbols of the one-hot channels.
        position_scale: Divisor of the positions, see `MoleculeLayout`.
        onehot_scale: Divisor of the one-hot element, see `MoleculeLayout`.
        charge_scale: Divisor of the atomic number, see `MoleculeLayout`.
        width: Number of atom features D.
        pair_width: Number of pair features P.
        n_vectors: Number of equivariant vector channels K.
        n_layers: Rounds of message passing.
        n_heads: Number of attention heads; divides `width`.
        n_radial: Number of radial basis functions of the noisy distances.
        position_std: Standard deviation of a position coordinate per degree of freedom, in the
            layout's units.
        t_star_log_snr: Log-SNR that training was truncated at, `None` for the full path.

    Raises:
        DataError: If a number is out of range, `n_heads` does not divide `width`, or the network
            would have more than 10^9 weights.
    """

    _supports_gradient_checkpointing = False

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        elements: tuple[str, ...] = ("H", "C", "N", "O", "F"),
        position_scale: float = 1.0,
        onehot_scale: float = 4.0,
        charge_scale: float | None = None,
        width: int = 128,
        pair_width: int = 48,
        n_vectors: int = 12,
        n_layers: int = 8,
        n_heads: int = 8,
        n_radial: int = 32,
        position_std: float = 1.438,
        t_star_log_snr: float | None = None,
    ) -> None:
        super().__init__()
        numbers = {
            "width": width, "pair_width": pair_width, "n_vectors": n_vectors,
            "n_layers": n_layers, "n_heads": n_heads, "n_radial": n_radial,
            "position_scale": position_scale, "onehot_scale": onehot_scale,
            "charge_scale": charge_scale, "position_std": position_std,
            "elements": elements,
        }  # fmt: skip
        _check(numbers)
        n_elements = len(elements)
        self.embed_noise = nn.Sequential(
            nn.Linear(32, width // 2), nn.SiLU(), nn.Linear(width // 2, width // 2), nn.SiLU()
        )
        self.embed_atom = nn.Linear(n_elements + width // 2 + 1, width)
        self.embed_pair = nn.Linear(n_radial, pair_width)
        self.embed_vector = nn.Parameter(torch.randn(n_vectors) * 0.5 + 1)
        self.layers = nn.ModuleList(
            _Layer(width, pair_width, n_vectors, n_heads) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, n_elements)
        self.to_position = nn.Linear(n_vectors, 1, bias=False)
        nn.init.zeros_(self.to_logits.weight)
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            nn.init.zeros_(layer.modulation.weight)
            nn.init.zeros_(layer.modulation.bias)
            nn.init.normal_(layer.feed_out.weight, std=0.02)
            nn.init.normal_(layer.gather.weight, std=0.02)

    @property
    def layout(self) -> MoleculeLayout:
        """The channels this model diffuses."""
        own = self.config
        scales = own.position_scale, own.onehot_scale, own.charge_scale
        return MoleculeLayout(tuple(own.elements), *scales)

    def forward(self, sample: Tensor, sigma: Tensor | float, mask: Tensor) -> DenoiserOutput:
        """Predict x_0 from `sample = x_0 + sigma eps`.

        Args:
            sample: Noised molecules (B, N, 3+F), x_t / a_t for a path with a_t; positions are
                mean-free, padding is zero.
            sigma: Noise level b_t / a_t, () or (B,).
            mask: Real atoms (B, N), bool.

        Raises:
            StatsMismatchError: If `sample` has another number of channels than the layout.
        """
        layout = self.layout
        if sample.shape[-1] != layout.n_channels:
            raise StatsMismatchError(
                f"the sample has {sample.shape[-1]} channels, this model diffuses "
                f"{layout.describe()}. Encode the molecules with `encode(molecules, model.layout)`."
            )
        sigma = torch.as_tensor(sigma, dtype=sample.dtype, device=sample.device)
        sigma = sigma.expand(sample.shape[0])[:, None, None]
        n_elements = len(layout.elements)
        atoms = mask.to(sample.dtype)[..., None]  # (B, N, 1)
        n_atoms = atoms.sum(1, keepdim=True)  # (B, 1, 1)
        position, onehot = sample[..., :3], sample[..., 3 : 3 + n_elements]
        height = 1 / layout.onehot_scale

        std = self.config.position_std
        c_in = (sigma.square() + std**2).rsqrt()
        onehot_in = onehot / (sigma.square() + 0.25 * height**2).sqrt()

        frequencies = torch.arange(16, dtype=sample.dtype, device=sample.device) * (math.pi / 8)
        phase = sigma[:, 0].log() * frequencies
        cond = self.embed_noise(torch.cat([phase.sin(), phase.cos()], -1))

        size = (n_atoms / 29).expand_as(atoms)
        condition = cond[:, None].expand(-1, sample.shape[1], -1)
        h = self.embed_atom(torch.cat([onehot_in, condition, size], -1)) * atoms
        with _full_precision(position):
            product = position @ position.transpose(-1, -2)
        square = product.diagonal(dim1=-1, dim2=-2)
        distance = (square[..., None] + square[..., None, :] - 2 * product).clamp_min(1e-6).sqrt()
        e = self.embed_pair(self._radial_basis(distance * layout.position_scale))
        v = self.embed_vector[:, None, None] * (position * c_in)[:, None]  # (B, K, N, 3)

        is_self = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        neighbours = mask[:, None, :] & ~is_self
        pair_mask = torch.zeros_like(distance).masked_fill(~neighbours, -1e4)
        for layer in self.layers:
            h, e, v = layer(h, e, v, cond, pair_mask, n_atoms)

        likelihood = (onehot * height / sigma.square()).clamp(-50, 50)
        logits = self.to_logits(self.norm(h)) + likelihood
        probability = logits.softmax(-1)
        features = [probability * height]
        if layout.charge_scale is not None:
            numbers = torch.tensor(atomic_numbers(layout.elements)).to(probability)
            features.append(probability @ numbers[:, None] / layout.charge_scale)

        with _full_precision(v):
            update = self.to_position(rearrange(v, "b k n xyz -> b n xyz k")).squeeze(-1)
        c_skip = std**2 / (sigma.square() + std**2)
        c_out = sigma * std * c_in
        clean = remove_mean(c_skip * position + c_out * update, mask)
        return DenoiserOutput(torch.cat([clean, *features], -1) * atoms, logits)

    def _radial_basis(self, distance: Tensor) -> Tensor:
        """Gaussians of the distance in angstrom, denser where bonds are: (..., n_radial)."""
        n = self.config.n_radial
        grid = torch.linspace(0, 1, n, dtype=distance.dtype, device=distance.device)
        # u in [0, 1] spends half of its range below 2 angstrom
        u = (distance / (distance + 2)) * (1 + 2 / _MAX_DISTANCE)
        return torch.exp(-((u[..., None] - grid) * n).square() / 2)
