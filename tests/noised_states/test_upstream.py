"""`fit_states` on the codebases it is for, where their checkouts are named.

GAGA_SEMLAFLOW_REPO   github.com/rssrwn/semla-flow
GAGA_FLOWMOL_REPO     github.com/Dunni3/FlowMol
GAGA_EQUIFM_REPO      github.com/AlgoMole/MolFM, which needs torchdiffeq
"""

import functools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from folders import RUNNERS

pytestmark = pytest.mark.upstream
FOLDERS = {"semlaflow": ".", "flowmol": ".", "equifm": "sampling"}


@functools.cache
def report(name):
    """What a runner says of a checkout, once, in a process that works there."""
    variable = f"GAGA_{name.upper()}_REPO"
    repository = os.environ.get(variable)
    if not repository:
        pytest.skip(f"{variable} does not name a checkout")
    if name == "equifm" and find_spec("torchdiffeq") is None:
        pytest.skip("EquiFM needs torchdiffeq")
    done = subprocess.run(
        [sys.executable, str(RUNNERS / f"{name}_runner.py")],
        cwd=Path(repository) / FOLDERS[name],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", FOLDERS)
def test_every_check_passes_or_says_why_not(name):
    outcomes = report(name)["checks"]
    assert {check: told for check, told in outcomes.items() if told.startswith("failed")} == {}
    assert sum(told == "passed" for told in outcomes.values()) >= 2


@pytest.mark.parametrize(("name", "calls"), [("semlaflow", [100, 70]), ("flowmol", [100, 85])])
def test_the_sampler_calls_its_network_less_often(name, calls):
    assert report(name)["calls"] == calls
