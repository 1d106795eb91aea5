"""Meta's `flow_matching`: its ODE solver, unedited, from t*."""

import pytest
import torch
from loops.gaussian import Counted, basis, deterministic_error, stats, velocity
from loops.loading import loaded

from gaga_adapter import FlowPath, TabulatedPath

schedulers = loaded("flow_matching.path.scheduler")
solver = loaded("flow_matching.solver")


def solve(t, x, method, step=0.01):
    model = Counted(lambda x, t: velocity(t, x))
    grid = torch.tensor([t, 1.0], dtype=torch.float64)
    end = solver.ODESolver(velocity_model=model).sample(
        x_init=x, step_size=step, method=method, time_grid=grid
    )
    return end, model.calls


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun3"])
def test_a_cut_run_ends_as_near_the_data_as_a_full_one(method):
    s_star = stats().t_star(FlowPath())
    start = stats().reference().at(1 - s_star, s_star)
    full, n_full = solve(0.0, basis(), method)
    cut, n_cut = solve(1 - s_star, start.transport(basis()), method)
    assert n_cut <= round(n_full * s_star) + 3
    assert deterministic_error(cut) <= deterministic_error(full) + 0.002
    assert deterministic_error(cut) <= 0.03


def test_the_same_seed_gives_the_same_picture():
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    s_star = stats().t_star(FlowPath())
    start = stats().reference().at(1 - s_star, s_star).transport(z)
    full, cut = solve(0.0, z, "midpoint")[0], solve(1 - s_star, start, "midpoint")[0]
    torch.testing.assert_close(cut, full, rtol=0, atol=1e-3)


@pytest.mark.parametrize("scheduler", [schedulers.CondOTScheduler(), schedulers.CosineScheduler()])
def test_paths_are_read_off_their_schedulers(scheduler):
    """Data are at t = 1 in this library, and at time 0 of a path."""
    levels = scheduler(torch.linspace(1, 0, 1001, dtype=torch.float64))
    path = TabulatedPath(levels.alpha_t.clamp(min=0), levels.sigma_t.clamp(min=0))
    t_star = 1 - stats().t_star(path)
    at = scheduler(torch.tensor(t_star, dtype=torch.float64))
    ratio = float((at.alpha_t / at.sigma_t).log() * 2)
    assert ratio == pytest.approx(stats().log_snr_star, abs=1e-3)
