"""The same noise ends at the same sample, with t* and without, where the solver draws none.

For Gaussian data of covariance C the probability flow takes unit noise z to
`a mu + (a² C + b² P)^(1/2) z` at every level, with the symmetric root. The start is that map, so a
cut run goes on where a full one would be; what is left is the error of the solver.
"""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
)

from gaga_adapter.subspace import mask_from_sizes, project
from gaga_adapter.testing import SchedulerCase


def gap(scheduler):
    """Largest distance between full and cut runs from the same noise, in 300 steps."""
    case = SchedulerCase(scheduler, n_steps=300)
    full = case.run(case.bare()).sample
    cuts = [case.run(case.wrapped(share=share)).sample for share in (0.3, 0.6)]
    return max(float((cut - full).abs().max()) for cut in cuts)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # numpy 2, inside of diffusers
@pytest.mark.parametrize(
    ("scheduler", "most"),
    [
        (DDIMScheduler(clip_sample=False), 0.05),
        (DPMSolverMultistepScheduler(), 0.02),
        (HeunDiscreteScheduler(), 0.1),
        (FlowMatchHeunDiscreteScheduler(), 0.001),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_deterministic_solver_keeps_the_picture(scheduler, most):
    assert gap(scheduler) <= most


def test_a_solver_that_draws_noise_does_not():
    assert gap(DDPMScheduler(clip_sample=False)) > 0.5


@pytest.mark.parametrize("level", [(1.0, 0.0), (0.8, 0.6), (0.1, 0.9)])
def test_the_start_of_molecules_is_the_flow_of_their_gaussian(qm9, level):
    """As a matrix it is symmetric and has no negative eigenvalue: a root, and there is only one."""
    reference = qm9.reference("size").at(*level)
    n, channels = 5, qm9.layout.n_channels
    mask = mask_from_sizes(torch.tensor([n])).expand(n * channels, n)
    unit = torch.eye(n * channels, dtype=torch.float64).reshape(-1, n, channels)
    nothing = torch.zeros_like(unit[:1])
    mean = reference.transport(nothing, mask[:1])
    columns = (reference.transport(project(unit, mask), mask) - mean).flatten(1)
    torch.testing.assert_close(columns, columns.T, rtol=1e-9, atol=1e-12)
    assert float(torch.linalg.eigvalsh(columns).min()) >= -1e-12
