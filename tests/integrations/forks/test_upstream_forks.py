"""The contract on the forks themselves, where their checkouts are named.

GAGA_PAPER_REPO      github.com/QuJX/GAGA
GAGA_UNIGEM_REPO     github.com/fengshikun/UniGEM
GAGA_GEORCG_REPO     github.com/GraphPKU/GeoRCG
GAGA_EDPO_REPO       github.com/ZhijianZhou/EDPO
GAGA_EEGSDE_REPO     github.com/gracezhao1997/EEGSDE
GAGA_SYMDIFF_REPO    github.com/leozhangML/symdiff
GAGA_CHEMGUIDE_REPO  github.com/A-Chicharito-S/ChemGuide
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from folders import RUNNERS
from runners import family

from gaga_adapter import testing

pytestmark = pytest.mark.upstream

CHECKS = [
    (name, check) for name in family.FORKS for check in (*testing.CHECKS, *family.more_checks(name))
]


def run(name):
    """What the runner says of a checkout."""
    variable = family.REPOSITORIES[name]
    if not os.environ.get(variable):
        pytest.skip(f"{variable} does not name a checkout")
    done = finished(name, os.environ[variable])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def finished(name, repository):
    """The runner, once, in a process whose working directory is the checkout."""
    inner = Path(repository, "EDM_based")
    return subprocess.run(
        [sys.executable, str(RUNNERS / "family_runner.py"), name],
        cwd=inner if inner.is_dir() else repository,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_contract(name, check):
    outcome = run(name)["checks"][check]
    if outcome.startswith("skipped"):
        pytest.skip(outcome)
    assert outcome == "passed", outcome


@pytest.mark.parametrize("name", family.FORKS)
def test_551_network_calls_instead_of_1001(name):
    report = run(name)
    assert report["adapter"] == family.FORKS[name].adapter
    assert report["calls"] == [1001, 551]
