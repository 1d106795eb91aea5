"""The contract on GCDM and DiffSBDD themselves, where their checkouts are named.

GAGA_GCDM_REPO       github.com/BioinfoMachineLearning/bio-diffusion
GAGA_DIFFSBDD_REPO   github.com/arneschneuing/DiffSBDD

GCDM needs torch_geometric and omegaconf as well. Everything else is stood in for by the runners.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys

import gaussian_bound
import pytest
from fakes import flat_cases, joint_cases
from folders import RUNNERS

from gaga_adapter.testing import CHECKS

OWN = {
    "gcdm": flat_cases.GCDM_CHECKS,
    "diffsbdd": {**joint_cases.CHECKS, "the_conditional_model_is_refused": None},
}
NEEDS = {"gcdm": ("torch_geometric", "omegaconf"), "diffsbdd": ()}

pytestmark = pytest.mark.upstream


def run(kind):
    """What the runner says of a checkout."""
    name = f"GAGA_{kind.upper()}_REPO"
    repository = os.environ.get(name)
    if not repository:
        pytest.skip(f"{name} does not name a checkout")
    missing = [package for package in NEEDS[kind] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} are not installed")
    done = finished(kind, repository)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def finished(kind, repository):
    """The runner, once, in a process whose working directory is the checkout."""
    return subprocess.run(
        [sys.executable, str(RUNNERS / f"{kind}_runner.py")],
        cwd=repository,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


@pytest.mark.parametrize(
    ("kind", "check"), [(kind, check) for kind, own in OWN.items() for check in (*CHECKS, *own)]
)
def test_contract(kind, check):
    outcome = run(kind)["checks"][check]
    if outcome.startswith("skipped"):
        pytest.skip(outcome)
    assert outcome == "passed", outcome


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
