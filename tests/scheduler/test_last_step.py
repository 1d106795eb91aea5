r"""The last step of a schedule that keeps some signal, from its closed form.

Under Stable Diffusion's schedule `abar` is 0.0047 at the last of 1000 steps, so Gaussian images
N(mu, C) end as N(a mu, a² C + b² I) and not as N(0, I). With their exact denoiser the solver DDIM
is affine: on an eigenvector of C with eigenvalue L, a step from (a, b) to (a', b') multiplies the
distance of x from a mu by `a' g + b' (1 - a g) / b`, where `g = a L / (a² L + b²)`. So the law of
what is sampled is known for every number of calls: with the product F of these factors,

    from the fitted start    mean mu,                          variances F² (a² L + b²),
    from N(0, I)             mean mu - F a mu,                 variances F².

Every noise comes with its opposite, so means are exact and nothing here depends on chance.
"""

from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from toys import generator

from gaga_adapter import DenseLayout, GAGAScheduler, GAGAStats
from gaga_adapter.moments import DenseMoments

SHAPE, N_PIXELS = (1, 4, 4), 16
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
#: `abar` by hand, in double precision; diffusers has it in float32, to about 1e-6.
ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def dark_images(n=64):
    """Images (n, 1, 4, 4) that are darker than gray, with correlated pixels."""
    mixing = torch.randn(N_PIXELS, N_PIXELS, generator=generator(1), dtype=torch.float64) / 8
    x = torch.randn(n, N_PIXELS, generator=generator(2), dtype=torch.float64) @ mixing
    return (x - 0.4 + 0.3 * torch.linspace(-1, 1, N_PIXELS)).reshape(n, *SHAPE)


IMAGES = dark_images()
FLAT = IMAGES.flatten(1).numpy()
MU = FLAT.mean(0)
VARIANCES, AXES = np.linalg.eigh(np.cov(FLAT.T, bias=True))


def stats():
    moments = DenseMoments(SHAPE, kind="full")
    moments.update(IMAGES)
    return GAGAStats(DenseLayout(SHAPE), moments, log_snr_star=0.0)


def exact_noise(x, t):
    """What a perfect network predicts of x (B, 1, 4, 4) at a timestep."""
    a, b = ABAR[t] ** 0.5, (1 - ABAR[t]) ** 0.5
    away = (x.flatten(1).numpy() - a * MU) @ AXES
    gain = a * VARIANCES / (a**2 * VARIANCES + b**2)
    return torch.tensor((away * (1 - a * gain) / b) @ AXES.T).reshape(x.shape)


def sampled(start, n_calls, t_star=999):
    """What DDIM makes of a noise and its opposite (2n, 16), and the noise (2n, 16)."""
    scheduler = diffusers.DDIMScheduler(
        **SCHEDULE, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    if start != "plain":
        scheduler = GAGAScheduler.from_pretrained(
            scheduler, stats(), t_star=t_star, reference=start, spacing="respace", handover="init"
        )
    scheduler.set_timesteps(n_calls)
    z = torch.randn(8, *SHAPE, generator=generator(3), dtype=torch.float64)
    z = torch.cat([z, -z])
    x = z * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps.tolist()
    for t in timesteps:
        x = scheduler.step(exact_noise(x, t), t, x).prev_sample
    return x.flatten(1).numpy(), z.flatten(1).numpy(), timesteps


def factors(timesteps):
    """Product of the factors of all steps (16,), each from the level of t to that of the next."""
    levels = [*(ABAR[t] for t in timesteps), 1.0]
    product = np.ones(N_PIXELS)
    for here, there in pairwise(levels):
        a, b = here**0.5, (1 - here) ** 0.5
        gain = a * VARIANCES / (a**2 * VARIANCES + b**2)
        product *= there**0.5 * gain + (1 - there) ** 0.5 * (1 - a * gain) / b
    return product


def close(found, expected):
    """Equal to what the float32 tables of diffusers allow over a run."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_schedule_keeps_signal():
    assert ABAR[-1] == pytest.approx(0.00466, rel=1e-3)


@pytest.mark.parametrize("n_calls", [1, 5, 10, 50])
def test_from_noise_the_brightness_is_off_by_the_closed_form(n_calls):
    """F a mu is missing from the mean: the sampler was never shown the mean of the last step."""
    x, z, timesteps = sampled("plain", n_calls)
    assert timesteps[0] == 999
    product, a = factors(timesteps), ABAR[-1] ** 0.5
    missing = AXES @ (product * (AXES.T @ (a * MU)))
    close(x.mean(0), MU - missing)
    close(x - x.mean(0), (z @ AXES * product) @ AXES.T)
    assert x.mean() > MU.mean()  # dark images come out brighter


@pytest.mark.parametrize("t_star", [999, 600])
@pytest.mark.parametrize("n_calls", [1, 5, 10, 50])
def test_from_the_fitted_start_the_brightness_is_exact(n_calls, t_star):
    x, z, timesteps = sampled("full", n_calls, t_star)
    assert len(timesteps) == n_calls
    assert timesteps[0] >= t_star
    close(x.mean(0), MU)
    abar = ABAR[timesteps[0]]
    scale = factors(timesteps) * np.sqrt(abar * VARIANCES + 1 - abar)
    close(x - x.mean(0), (z @ AXES * scale) @ AXES.T)


def test_the_two_starts_differ_by_the_spread_of_the_last_step():
    """By `sqrt(a² L + b²)` for every grid, and a thousand steps leave the variance of the data."""
    a2 = ABAR[-1]
    variances = a2 * VARIANCES + 1 - a2
    start, _, timesteps = sampled("full", 20)
    noise, _, own_timesteps = sampled("plain", 20)
    assert timesteps == own_timesteps
    start, noise = ((x - x.mean(0)) @ AXES for x in (start, noise))
    close(start, noise * np.sqrt(variances))
    left = factors(range(999, -1, -1)) ** 2 * variances
    assert left.sum() == pytest.approx(VARIANCES.sum(), rel=0.01)


def test_noise_at_an_earlier_step_is_off_by_more():
    """`unit` at t = 600 lacks a larger share of the mean than N(0, I) at the last step."""
    bias = {}
    for name, at in (("unit", 600), ("plain", 999)):
        x, _, timesteps = sampled(name, 20, at)
        product, a = factors(timesteps), ABAR[timesteps[0]] ** 0.5
        close(x.mean(0), MU - AXES @ (product * (AXES.T @ (a * MU))))
        bias[name] = x.mean() - MU.mean()
    assert bias["unit"] > 2 * bias["plain"] > 0
