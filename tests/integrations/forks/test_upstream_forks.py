"""The contract on the forks themselves, where their checkouts are named.

GAGA_PAPER_REPO      github.com/QuJX/GAGA
GAGA_UNIGEM_REPO     github.com/fengshikun/UniGEM
GAGA_GEORCG_REPO     github.com/GraphPKU/GeoRCG
GAGA_EDPO_REPO       github.com/ZhijianZhou/EDPO
GAGA_EEGSDE_REPO     github.com/gracezhao1997/EEGSDE
GAGA_SYMDIFF_REPO    github.com/leozhangML/symdiff
GAGA_CHEMGUIDE_REPO  github.com/A-Chicharito-S/ChemGuide
"""

import pytest
from runners import family
from upstream import must_pass, said

from gaga_adapter import testing

pytestmark = pytest.mark.upstream

CHECKS = [
    (name, check) for name in family.FORKS for check in (*testing.CHECKS, *family.more_checks(name))
]


def run(name):
    """What the runner says of a checkout."""
    folder = "EDM_based" if name == "georcg" else "."
    return said(family.REPOSITORIES[name], "family_runner.py", name, folder=folder)


@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_contract(name, check):
    must_pass(run(name)["checks"][check])


@pytest.mark.parametrize("name", family.FORKS)
def test_551_network_calls_instead_of_1001(name):
    report = run(name)
    assert report["adapter"] == family.FORKS[name].adapter
    assert report["calls"] == [1001, 551]
