"""What a runner says of a codebase that a variable names, in a process that works there.

The codebases have modules of the same names, so one process sees one of them.
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


def said(variable, runner, *arguments, folder=".", needs=()):
    """The findings of a runner, which is run once; skips where something is not here.

    The variable names a checkout, or folders of installed packages of which the first is the
    working directory; `folder` is that of the code inside of it, `needs` are packages beyond ours.
    """
    place = os.environ.get(variable, "").split(os.pathsep)[0]
    if not place:
        pytest.skip(f"{variable} does not name a folder")
    if missing := [package for package in needs if find_spec(package) is None]:
        pytest.skip(f"{' and '.join(missing)} are not installed")
    done = _finished(runner, arguments, Path(place, folder))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def _finished(runner, arguments, folder):
    return subprocess.run(
        [sys.executable, str(RUNNERS / runner), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


def must_pass(outcome):
    """Pass, skip or fail as a runner says that a check did."""
    if outcome.startswith("skipped"):
        pytest.skip(outcome)
    assert outcome == "passed", outcome
