"""The patch of TABASCO, on a stand-in; on itself where GAGA_TABASCO_REPO names its checkout."""

import flow_checks
import pytest
from fakes import tabasco_like
from upstream import must_pass, said

CASE = flow_checks.Case("the fake TABASCO", tabasco_like.make_model, tabasco_like.Batch)


@pytest.mark.filterwarnings("ignore:200 data items make a loose lower bound")
@pytest.mark.filterwarnings("ignore:the network knows the order")
@pytest.mark.parametrize("check", flow_checks.CHECKS)
def test_stand_in(check):
    flow_checks.CHECKS[check](CASE)


def report():
    return said("GAGA_TABASCO_REPO", "tabasco_runner.py")


@pytest.mark.upstream
@pytest.mark.parametrize("check", flow_checks.CHECKS)
def test_tabasco(check):
    must_pass(report()["checks"][check])


@pytest.mark.upstream
def test_calls():
    before, after = report()["calls"]
    assert (before, after) == (100, 50)
