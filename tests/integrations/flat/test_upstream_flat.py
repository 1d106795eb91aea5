"""The contract on GCDM and DiffSBDD themselves, where their checkouts are named.

GAGA_GCDM_REPO       github.com/BioinfoMachineLearning/bio-diffusion
GAGA_DIFFSBDD_REPO   github.com/arneschneuing/DiffSBDD

GCDM needs torch_geometric and omegaconf as well. Everything else is stood in for by the runners.
"""

import gaussian_bound
import pytest
from fakes import flat_cases, joint_cases
from upstream import must_pass, said

from gaga_adapter.testing import CHECKS

OWN = {
    "gcdm": flat_cases.GCDM_CHECKS,
    "diffsbdd": {**joint_cases.CHECKS, "the_conditional_model_is_refused": None},
}
NEEDS = {"gcdm": ("torch_geometric", "omegaconf"), "diffsbdd": ()}

pytestmark = pytest.mark.upstream


def run(kind):
    """What the runner says of a checkout."""
    return said(f"GAGA_{kind.upper()}_REPO", f"{kind}_runner.py", needs=NEEDS[kind])


@pytest.mark.parametrize(
    ("kind", "check"), [(kind, check) for kind, own in OWN.items() for check in (*CHECKS, *own)]
)
def test_contract(kind, check):
    must_pass(run(kind)["checks"][check])


@pytest.mark.parametrize("kind", OWN)
def test_551_network_calls_instead_of_1001(kind):
    assert run(kind)["calls"] == [1001, 551]


def test_the_bound_of_gcdms_training_loop_is_exact_and_above_the_entropy():
    for t_star, (loss, kl, dropped, bound) in run("gcdm")["bound"].items():
        assert abs(loss - bound) < 0.4, t_star  # six standard errors
        assert abs(kl - dropped) < 11, t_star
        assert loss > gaussian_bound.ENTROPY, t_star


def test_gcdm_is_fitted_from_its_own_loader():
    named = "positions /1, one-hot[H,C,N,O,F] /4"
    found = run("gcdm")["fits"]
    assert found["True"][:2] == [f"3+6 channels ({named}, charges /10)", 600]
    assert found["False"][:2] == [f"3+5 channels ({named})", 600]


def test_diffsbdd_is_fitted_from_its_own_loader():
    *parts, t_star = run("diffsbdd")["fits"]
    assert parts == [[f"3+{n} channels (positions, features)", 300] for n in (4, 6, 0)]
    assert 1 <= t_star <= 20
