"""The patch of TABASCO, on a stand-in; on itself where GAGA_TABASCO_REPO names its checkout."""

import functools
import json
import os
import subprocess
import sys

import flow_checks
import pytest
from fakes import tabasco_like
from folders import RUNNERS

CASE = flow_checks.Case("the fake TABASCO", tabasco_like.make_model, tabasco_like.Batch)


@pytest.mark.filterwarnings("ignore:200 data items make a loose lower bound")
@pytest.mark.filterwarnings("ignore:the network knows the order")
@pytest.mark.parametrize("check", flow_checks.CHECKS)
def test_stand_in(check):
    flow_checks.CHECKS[check](CASE)


@functools.cache
def upstream(repository):
    done = subprocess.run(
        [sys.executable, str(RUNNERS / "tabasco_runner.py")],
        cwd=repository,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def report():
    repository = os.environ.get("GAGA_TABASCO_REPO")
    if not repository:
        pytest.skip("GAGA_TABASCO_REPO does not name a checkout")
    return upstream(repository)


@pytest.mark.upstream
@pytest.mark.parametrize("check", flow_checks.CHECKS)
def test_tabasco(check):
    outcome = report()["checks"][check]
    if outcome.startswith("skipped"):
        pytest.skip(outcome)
    assert outcome == "passed", outcome


@pytest.mark.upstream
def test_calls():
    before, after = report()["calls"]
    assert (before, after) == (100, 50)
