"""smalldiffusion's `samples`, unedited, from sigma*."""

import pytest
import torch
from loops.gaussian import (
    CHANCE,
    N_DRAWS,
    basis,
    clean,
    deterministic_error,
    sampled_error,
    stats,
)
from loops.loading import loaded

from gaga_adapter import truncate_sigmas

library = loaded("smalldiffusion", "torchvision")


class Exact(torch.nn.Module, library.ModelMixin):
    input_dims = (3,)

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, sigma, cond=None):
        self.calls += 1
        return (x.double() - clean(1.0, sigma, x)) / sigma


def run(sigmas, x, **options):
    model = Exact()
    *_, end = library.samples(model, sigmas, xt=x, **options)
    return end, model.calls


SCHEDULES = {"log-linear": library.ScheduleLogLinear(1000), "DDPM": library.ScheduleDDPM()}


@pytest.mark.parametrize("gam", [1.0, 2.0])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_cut_run_ends_as_near_the_data_as_a_full_one(schedule, gam):
    sigmas = schedule.sample_sigmas(50).double()
    part, start = truncate_sigmas(sigmas, stats())
    full, n_full = run(sigmas, basis() * sigmas[0], gam=gam)
    cut, n_cut = run(part, start.transport(basis()), gam=gam)
    assert (n_full, n_cut) == (50, len(part) - 1)
    assert n_cut < n_full
    assert torch.equal(part, sigmas[-len(part) :])
    # the first step has no memory, wherever it is
    assert deterministic_error(cut) <= deterministic_error(full) + (0.005 if gam == 1 else 0.02)


def test_an_ancestral_run():
    sigmas = SCHEDULES["DDPM"].sample_sigmas(100).double()
    part, start = truncate_sigmas(sigmas, stats())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = torch.randn(N_DRAWS, 3, dtype=torch.float64)
        full, _ = run(sigmas, z * sigmas[0], mu=0.5)
        cut, _ = run(part, start.transport(z), mu=0.5)
    assert sampled_error(cut) <= sampled_error(full) + CHANCE
    assert sampled_error(cut) <= 0.25
