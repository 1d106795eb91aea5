"""torchcfm: its path, and the ODE that its examples solve, from t*."""

import pytest
import torch
from loops.gaussian import COVARIANCE, Counted, basis, deterministic_error, stats, velocity
from loops.loading import loaded

from gaga_adapter import TabulatedPath

matching = loaded("torchcfm.conditional_flow_matching", "ot")
odeint = loaded("torchdiffeq").odeint


def path_of(matcher):
    """Data are at t = 1, and at time 0 of a path."""
    t = torch.linspace(1, 0, 1001, dtype=torch.float64)
    return TabulatedPath(t, ((1 - t) ** 2 + matcher.sigma**2).sqrt())


def solve(t, x, sigma):
    model = Counted(lambda t, x: velocity(t, x, sigma))
    grid = torch.linspace(t, 1, 2 + round(100 * (1 - t)), dtype=torch.float64)
    return odeint(model, x, grid, method="midpoint")[-1], model.calls


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_the_level_is_that_of_what_the_matcher_trains_on(sigma):
    matcher = matching.ConditionalFlowMatcher(sigma=sigma)
    path = path_of(matcher)
    t_star = 1 - stats().t_star(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        n = 200_000
        noise = torch.randn(n, 3, dtype=torch.float64)
        data = torch.zeros(n, 3, dtype=torch.float64)
        t = torch.full((n,), t_star, dtype=torch.float64)
        _, x, _ = matcher.sample_location_and_conditional_flow(noise, data, t)
    b = float(path.b(1 - t_star))
    assert float(x.var()) == pytest.approx(b**2, rel=4.9 * (2 / (3 * n)) ** 0.5)
    assert 2 * torch.tensor(t_star / b).log() == pytest.approx(stats().log_snr_star, abs=1e-3)


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_a_cut_run_ends_at_the_data(sigma):
    """Without the noise that the path leaves on them."""
    path = path_of(matching.ConditionalFlowMatcher(sigma=sigma))
    s_star = stats().t_star(path)
    start = stats().reference().at(1 - s_star, float(path.b(s_star)))
    full, n_full = solve(0.0, basis() * (1 + sigma**2) ** 0.5, sigma)
    cut, n_cut = solve(1 - s_star, start.transport(basis()), sigma)
    assert n_cut < n_full
    left = sigma**2 / float(torch.linalg.eigvalsh(COVARIANCE).max())
    assert deterministic_error(cut) <= deterministic_error(full) + 0.002
    assert deterministic_error(cut) <= left + 0.005
