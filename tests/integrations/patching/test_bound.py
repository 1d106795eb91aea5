"""The truncated bound on Gaussian data: exact at every t*, and never below the entropy."""

import gaussian_bound
import pytest
import torch
from fakes import edm_like
from gaga_adapter.integrations import apply_patch


@pytest.fixture(scope="module")
def model():
    return edm_like.EnVariationalDiffusion(
        torch.nn.Linear(1, 1),
        1,
        timesteps=1000,
        noise_precision=1e-5,
        loss_type="vlb",
        include_charges=False,
    )


# t*, KL at t*, and what the terms beyond t* come to, in nats, on EDM's polynomial_2.
TABLE = [
    (1, 161.7, 171.8),
    (100, 61.5, 61.7),
    (300, 31.3, 31.4),
    (550, 13.9, 14.0),
    (800, 3.4, 3.4),
    (1000, 0.0, 0.0),
]


@pytest.mark.parametrize(("t_star", "kl", "dropped"), TABLE)
def test_the_divergence_pays_for_the_terms_beyond_t_star(model, t_star, kl, dropped):
    gamma = gaussian_bound.gamma_of(model)
    found_kl, found_dropped, bound = gaussian_bound.closed_form(gamma, t_star)
    assert abs(found_kl - kl) < 0.1
    assert abs(found_dropped - dropped) < 0.1
    assert found_kl <= found_dropped  # the data are Gaussian: the Gaussian wastes nothing
    loss = gaussian_bound.measured(model, t_star)
    assert abs(loss - bound) < 0.4  # 0.06 nats standard error: false alarm 1e-10
    assert loss > gaussian_bound.ENTROPY


def test_with_the_prior_term_left_out_it_would_cross_the_entropy(model):
    gamma = gaussian_bound.gamma_of(model)
    kl, _, bound = gaussian_bound.closed_form(gamma, 550)
    assert bound - kl < gaussian_bound.ENTROPY < bound


def test_unit_noise_at_t_star_is_charged_for(model):
    """Without statistics the model's own prior term, at t*, says what N(0, I) costs there."""
    model.dynamics = gaussian_bound.ExactDenoiser(gaussian_bound.gamma_of(model))
    x = gaussian_bound.data(4000)
    xh = torch.cat([x, torch.full_like(x[..., :1], 0.25)], -1)
    node_mask = torch.ones(4000, gaussian_bound.N_ATOMS, 1)
    handle = apply_patch(model, None, t_star=550, fix_last_class=True)
    nats = float(model.kl_prior(xh, node_mask).mean())
    a2 = torch.sigmoid(torch.tensor(handle.log_snr, dtype=torch.float64))
    handle.remove()
    d, v, n = gaussian_bound.DIMENSION, gaussian_bound.VARIANCE, gaussian_bound.N_ATOMS
    positions = 0.5 * d * (a2 * v - a2 - torch.log1p(-a2))
    features = 0.5 * n * (a2 * 0.25**2 - a2 - torch.log1p(-a2))
    assert abs(nats - float(positions + features)) < 1e-3
