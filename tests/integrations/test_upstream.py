"""The contract on EDM and GeoLDM themselves, where their checkouts are named.

GAGA_EDM_REPO      github.com/ehoogeboom/e3_diffusion_for_molecules
GAGA_GEOLDM_REPO   github.com/MinkaiXu/GeoLDM
"""

import gaussian_bound
import pytest
from upstream import must_pass, said

from gaga_adapter import testing

REPOSITORIES = {"edm": "GAGA_EDM_REPO", "geoldm": "GAGA_GEOLDM_REPO"}

pytestmark = pytest.mark.upstream


def run(kind):
    """What the runner says of a checkout."""
    return said(REPOSITORIES[kind], "upstream_runner.py", kind)


@pytest.mark.parametrize("check", testing.CHECKS)
@pytest.mark.parametrize("kind", REPOSITORIES)
def test_contract(kind, check):
    must_pass(run(kind)["checks"][check])


@pytest.mark.parametrize("kind", REPOSITORIES)
def test_551_network_calls_instead_of_1001(kind):
    assert run(kind)["calls"] == [1001, 551]


@pytest.mark.parametrize("kind", REPOSITORIES)
def test_the_bound_of_gaussian_data_is_exact_and_above_the_entropy(kind):
    for t_star, (loss, kl, dropped, bound) in run(kind)["bound"].items():
        assert abs(loss - bound) < 0.4, t_star  # six standard errors
        assert abs(kl - dropped) < 11, t_star
        assert loss > gaussian_bound.ENTROPY, t_star


def test_edm_is_fitted_from_its_own_loader():
    found = run("edm")["fits"]
    named = "positions /1, one-hot[H,C,N,O,F] /4"
    assert found["True"][:2] == [f"3+6 channels ({named}, charges /10)", 600]
    assert found["False"][:2] == [f"3+5 channels ({named})", 600]


def test_geoldm_is_fitted_from_its_own_loader():
    found = run("geoldm")["fits"]
    assert found["True"][:2] == found["False"][:2] == ["3+2 channels (positions, features)", 600]
