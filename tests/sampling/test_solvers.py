"""Solvers by name: LCM's scheduler with a network that is no consistency model."""

import pytest
import torch

from gaga_adapter import FewStepScheduler, GAGAScheduler
from gaga_adapter.errors import TruncationError
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.molecules.pipeline import MoleculePipeline, edm_scheduler
from gaga_adapter.sampling.loop import walk
from gaga_adapter.sampling.solvers import scheduler_named
from gaga_adapter.subspace import mask_from_sizes, project

MASK = mask_from_sizes(torch.tensor([5, 4, 3]))
NOISE = project(torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1)), MASK)


def half(seen, timestep, at):
    """A network whose clean prediction is half of what it sees."""
    return at.output(0.5 * seen, seen, timestep)


def end_of(scheduler, n_steps, **lists):
    generator = torch.Generator().manual_seed(2)
    return walk(scheduler, NOISE, MASK, n_steps, half, generator, **lists).sample


@pytest.mark.parametrize("n_steps", [1, 2, 12, 50])
def test_lcm_renoises_the_networks_own_prediction(n_steps):
    """`x' = A xhat + B eps` with xhat = x / 2, written out; the last call's xhat is the sample."""
    scheduler = scheduler_named("lcm", edm_scheduler())
    got = end_of(scheduler, n_steps)
    abar = edm_scheduler().alphas_cumprod[scheduler.timesteps]
    generator = torch.Generator().manual_seed(2)
    x = NOISE.double()
    for a2 in abar[1:].tolist():
        eps = torch.randn(NOISE.shape, generator=generator).double()
        x = project(a2**0.5 * x / 2 + (1 - a2) ** 0.5 * eps, MASK)
    # float32 of diffusers: eps of a clean prediction and back divides its rounding by a
    torch.testing.assert_close(got, (x / 2).float(), rtol=1e-4, atol=1e-3)


def test_lcm_is_few_step_sampling_that_renoises_throughout():
    timesteps = [400, 300, 200, 100, 50, 1]
    few = FewStepScheduler.from_scheduler(
        edm_scheduler(), renoise_from=float("-inf"), match_below=float("-inf")
    )
    torch.testing.assert_close(
        end_of(scheduler_named("lcm", edm_scheduler()), None, timesteps=timesteps),
        end_of(few, None, timesteps=timesteps),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("n_steps", [12, 50, 200])
@pytest.mark.parametrize("spacing", [None, "suffix", "respace", "log_snr"])
def test_lcm_takes_any_number_of_steps(spacing, n_steps):
    scheduler = scheduler_named("lcm", edm_scheduler())
    if spacing is not None:
        scheduler = GAGAScheduler.from_pretrained(scheduler, stats="qm9", spacing=spacing)
    end = walk(scheduler, NOISE, MASK, n_steps, half, torch.Generator().manual_seed(0))
    assert end.sample.isfinite().all()
    assert end.network_calls <= n_steps if spacing == "suffix" else end.network_calls == n_steps


def test_lcm_refuses_more_steps_than_timesteps():
    scheduler = scheduler_named("lcm", edm_scheduler())
    with pytest.raises(TruncationError, match="LCMScheduler refuses 1002 steps"):
        end_of(scheduler, 1002)


def test_lcm_in_a_pipeline():
    torch.manual_seed(0)
    denoiser = MoleculeDenoiser(width=16, pair_width=8, n_layers=1, n_vectors=2, n_heads=2)
    pipe = MoleculePipeline(denoiser, scheduler_named("lcm", edm_scheduler()))
    pipe.set_progress_bar_config(disable=True)
    result = pipe(n_atoms=[4, 7], num_inference_steps=12, generator=torch.Generator())
    assert result.network_calls == 12
