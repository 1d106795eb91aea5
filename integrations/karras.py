r"""Truncation of samplers that loop over a list of sigmas: NVlabs/edm, k-diffusion.

Their path is `x = x_0 + sigma eps` (Karras et al. 2022), so with a = 1 and b = sigma the log-SNR is
-2 ln sigma, and the fitted point lies at `sigma* = exp(-log_snr_star / 2)`. They walk down a list
of sigmas, from unit noise times its first. The list is cut at sigma*, and the start comes from the
fitted Gaussian:

    sigmas, start = truncate_sigmas(sigmas, stats="my-stats")
    x = start.initial_sample((64, 3, 32, 32), generator)    # not noise * sigmas[0]
    x = sample_heun(model, x, sigmas)                       # k-diffusion
    t_steps, x_next = sigmas, start.transport(latents)      # NVlabs/edm: not latents * t_steps[0]

A model that makes one target for its condition, such as a structure for a sequence, has no use for
statistics of a data set. There the list is cut where the target cannot be told from noise, and the
loop's own noise is the start:

    target = RigidTarget.from_size(n_atoms=2000, radius_of_gyration=18.0)
    sigmas, start = truncate_sigmas(sigmas, sigma_star=target.sigma_star())
    x = start.transport(noise)                              # noise * sigmas[0]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gaga_adapter.errors import ArtefactError, TruncationError, plain_number, warn
from gaga_adapter.noise.levels import first_beyond
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.stats import GAGAStats

#: What `truncate_sigmas` can do with a list.
SPACINGS = ("suffix", "respace")


@dataclass(frozen=True, eq=False)
class KarrasStart:
    """The Gaussian that a truncated loop starts from.

    Attributes:
        sigma: First sigma of the list.
        reference: Law of `data_scale x_0 + sigma eps`; `None` for `sigma eps`, without statistics.
    """

    sigma: float
    reference: ReferenceGaussian | None

    def initial_sample(
        self,
        size: Sequence[int] | Tensor,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """A start at `sigma`; nothing is left to be scaled.

        Args:
            size: Shape (B, C, ...) of dense data; for molecules the numbers of atoms (B,).
            generator: Source of randomness.
            device: Device of the sample; that of the generator by default.
            dtype: Number type of the sample; torch's default by default.
        """
        if self.reference is not None:
            return self.reference.sample(size, generator=generator, device=device, dtype=dtype)
        if isinstance(size, Tensor):
            raise TruncationError(
                "without statistics a start has no layout of molecules. Pass the shape of dense "
                "data, or start.transport(noise) of the loop's own noise."
            )
        home = generator.device if device is None and generator is not None else device
        source = home if generator is None else generator.device
        noise = torch.randn(tuple(size), generator=generator, device=source, dtype=dtype)
        return self.transport(noise.to(home))

    def transport(self, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        """The start that a loop's own unit noise becomes; same shape, dtype and device.

        Args:
            noise: Unit noise (B, ...), before any factor of sigma.
            mask: Real atoms (B, N), bool, of molecules.
        """
        if self.reference is None:
            return noise * self.sigma
        return self.reference.transport(noise, mask)


def truncate_sigmas(
    sigmas: Tensor | Sequence[float],
    stats: GAGAStats | str | Path | None = None,
    spacing: str = "suffix",
    reference: str = "auto",
    data_scale: float = 1.0,
    rho: float = 7.0,
    sigma_star: float | None = None,
) -> tuple[Tensor, KarrasStart]:
    """The part of a list of sigmas that is to be walked, and the Gaussian at its first entry.

    Args:
        sigmas: Positive and falling numbers (n,), ties allowed; one zero at the end stays.
        stats: Fitted statistics: an object, a folder, a hub id or an embedded name (`qm9`); `None`
            to start at `sigma_star` from the loop's own noise, `sigma eps`.
        spacing: Word `suffix`, to keep the entries from the last one at or beyond sigma* on: fewer
            steps, the same ones; or `respace`, to keep their number, all from sigma* on.
        reference: Kind of the Gaussian, as in `GAGAStats.reference`.
        data_scale: Ratio of the model's data to the data that were fitted, such as the scaling
            factor of a latent; sigmas are in the model's units.
        rho: Exponent of respacing, which is linear in `sigma^(1 / rho)` and the entry's index: for
            lists of Karras et al. 2022, Eq. 5, of that `rho` it gives the list of the same kind
            from sigma* on.
        sigma_star: Noise level to start at, in the model's units; that of the statistics when
            `None`. Without statistics the start is noise alone, so choose a level where the data
            cannot be told from it: for a target that is fixed by a condition,
            `RigidTarget.sigma_star` says which.

    Returns:
        Sigmas, of the dtype and device given (float32 for a list), and the start at `sigmas[0]`.

    Raises:
        TruncationError: If the list does not fall, has no positive entry, or no room below sigma*
            for as many steps; or if `sigma_star` is not positive, or an option is unknown.
        ArtefactError: If the statistics cannot be read, or neither they nor `sigma_star` are given.
        StatsMismatchError: If the reference is unknown or finer than what was fitted.
    """
    check_spacing(spacing)
    data_scale = plain_number("data_scale", data_scale, "Pass a positive number.")
    rho = plain_number("rho", rho, "Pass a positive number, such as 7.0.")
    if not (data_scale > 0 and rho > 0):
        raise TruncationError(f"data_scale={data_scale} and rho={rho} must be positive.")
    if isinstance(stats, str | Path):
        stats = GAGAStats.from_pretrained(stats)
    if not isinstance(stats, GAGAStats | None):
        raise ArtefactError(
            f"stats is a {type(stats).__name__}, not statistics of a fit: GAGAStats, a folder, a "
            "hub id or an embedded name. A noise level is named, sigma_star=...; a RigidTarget "
            "gives one, sigma_star=target.sigma_star(); the list of sigmas comes first."
        )
    if sigma_star is None:
        if stats is None:
            raise ArtefactError("neither stats nor sigma_star is given. Pass one, or both.")
        sigma_star = data_scale * math.exp(-stats.log_snr_star / 2)
    else:
        advice = "Pass a positive noise level, such as RigidTarget.sigma_star()."
        sigma_star = plain_number("sigma_star", sigma_star, advice)
        if not sigma_star > 0:
            raise TruncationError(f"sigma_star={sigma_star:g} is not positive. {advice}")
    if stats is None and (reference not in ("auto", "unit") or data_scale != 1.0):
        raise ArtefactError(
            f"reference={reference!r} and data_scale={data_scale} need fitted statistics. "
            "Pass stats=..., or sigma_star alone."
        )
    entries = torch.as_tensor(sigmas)
    if not entries.is_floating_point():
        entries = entries.to(torch.get_default_dtype())
    levels = _check_sigmas(entries)
    noisy = levels[levels > 0]
    beyond = len(noisy) - first_beyond(-2 * noisy.log().flip(0), -2 * math.log(sigma_star))
    if beyond == 0:
        warn(
            f"the list begins at sigma={float(noisy[0]):.6g}, closer to the data than "
            f"sigma*={sigma_star:.6g}: nothing is cut, and the start is taken there. "
            "Use a list with a larger sigma_max."
        )
    if spacing == "suffix" or beyond <= 1:
        part = entries[max(beyond - 1, 0) :]
    else:
        respaced = _respaced(noisy, sigma_star, rho)
        part = torch.cat([respaced, levels[len(noisy) :]]).to(entries)
        if float(part.diff().max()) > 0:
            raise TruncationError(
                f"there is no room for {len(noisy)} steps from sigma*={sigma_star:.6g} to "
                f'{float(noisy[-1]):.6g}. Use spacing="suffix".'
            )
    first = float(part[0])
    if stats is None:
        return part, KarrasStart(first, None)
    chosen = -2 * math.log(sigma_star / data_scale)
    return part, KarrasStart(first, stats.start(reference, chosen).at(data_scale, first))


def check_spacing(spacing: str) -> None:
    """Refuse a spacing that lists of sigmas do not have.

    Raises:
        TruncationError: If it is none of `SPACINGS`.
    """
    if spacing not in SPACINGS:
        raise TruncationError(f"spacing={spacing!r} is unknown. Known: {', '.join(SPACINGS)}.")


def _check_sigmas(sigmas: Tensor) -> Tensor:
    """The list in float64 on the CPU (n,); refuses one that does not fall to the data."""
    levels = sigmas.detach().to("cpu", torch.float64)
    if levels.ndim != 1 or len(levels) == 0 or not bool(torch.isfinite(levels).all()):
        raise TruncationError(
            f"sigmas are {tuple(levels.shape)}, {levels.flatten()[:4].tolist()}. Pass a list of "
            "one finite number or more."
        )
    rises = (levels.diff() > 0).nonzero().flatten().tolist()
    if rises:
        raise TruncationError(
            f"sigmas must fall: entries {rises[0]} and {rises[0] + 1} are "
            f"{levels[rises[0] : rises[0] + 2].tolist()}. Sort them from noise to data."
        )
    if not bool((levels[:-1] > 0).all()) or float(levels[-1]) < 0 or float(levels[0]) == 0:
        raise TruncationError(
            f"sigmas end in {levels[-3:].tolist()}. They must be positive, except for one zero at "
            "the end of a list of two or more."
        )
    return levels


def _respaced(noisy: Tensor, sigma_star: float, rho: float) -> Tensor:
    """As many sigmas (n,), float64, from sigma* to the last, by the list's own spacing."""
    roots, target = noisy.pow(1 / rho), sigma_star ** (1 / rho)
    after = min(int((roots >= target).sum()), len(roots) - 1)  # of the first below, or the last
    position = after - 1 + float((roots[after - 1] - target) / (roots[after - 1] - roots[after]))
    index = torch.linspace(position, len(roots) - 1, len(roots), dtype=torch.float64)
    low = index.floor().long().clamp(max=len(roots) - 2)
    fresh = torch.lerp(roots[low], roots[low + 1], index - low).pow(rho)
    fresh[0], fresh[-1] = sigma_star, noisy[-1]
    return fresh
