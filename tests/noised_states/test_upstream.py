"""`fit_states` on the codebases it is for, where their checkouts are named.

GAGA_SEMLAFLOW_REPO   github.com/rssrwn/semla-flow
GAGA_FLOWMOL_REPO     github.com/Dunni3/FlowMol
GAGA_EQUIFM_REPO      github.com/AlgoMole/MolFM, which needs torchdiffeq
"""

import pytest
from upstream import said

pytestmark = pytest.mark.upstream
FOLDERS = {"semlaflow": ".", "flowmol": ".", "equifm": "sampling"}


def report(name):
    """What a runner says of a checkout."""
    needs = ("torchdiffeq",) if name == "equifm" else ()
    variable, runner = f"GAGA_{name.upper()}_REPO", f"{name}_runner.py"
    return said(variable, runner, folder=FOLDERS[name], needs=needs)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_check_passes_or_says_why_not(name):
    outcomes = report(name)["checks"]
    assert {check: told for check, told in outcomes.items() if told.startswith("failed")} == {}
    assert sum(told == "passed" for told in outcomes.values()) >= 2


@pytest.mark.parametrize(("name", "calls"), [("semlaflow", [100, 70]), ("flowmol", [100, 85])])
def test_the_sampler_calls_its_network_less_often(name, calls):
    assert report(name)["calls"] == calls
