"""`check_adapter`: the checks for an adapter that is not of this package."""

import subprocess
import sys

import pytest
import torch
from fakes import edm_like
from fakes.cases import make_edm
from gaga_adapter.integrations.edm import EDM
from gaga_adapter.integrations.geoldm import GeoLDM
from gaga_adapter.integrations.protocol import adapters

from gaga_adapter.errors import DataError, GAGAError
from gaga_adapter.testing import CHECKS, Case, ContractError, Report, Verdict, check_adapter
from gaga_adapter.testing.report import NotApplicable, report_of


class Mine(EDM):
    """A user's adapter, which is not registered."""

    name = "mine"


def make_model(n_steps=20):
    return edm_like.EnVariationalDiffusion(edm_like.TinyDynamics(6), 6, timesteps=n_steps)


def test_an_adapter_and_a_function_are_enough():
    before = adapters()
    state = torch.get_rng_state()
    report = check_adapter(Mine(), make_model)
    report.assert_passed()
    assert report.passed
    assert [v.check for v in report.verdicts[1:]] == list(CHECKS)
    skipped = {v.check: v.why for v in report.verdicts if v.outcome == "skipped"}
    assert skipped == {
        "a_learned_schedule_feels_the_prior_term": "mine has no schedule",
        "the_lost_class_is_told_and_given_back": "mine has no charges",
    }
    assert adapters() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert str(report).startswith("mine: 26 passed, 2 skipped\n  passed  the adapter recognises")
    assert report.to_dict()["it_trains"] == "passed"


def test_options_and_verbs_are_found():
    case = Case.of(EDM(), make_edm)
    assert case.options == {"schedule", "loss", "charges", "context"}
    assert case.verbs == {"sample", "fix_noise", "chain", "loss"}
    assert (case.name, case.n_steps) == ("edm", 20)
    first, second = (case.model().state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not case.model().training


def test_a_model_that_is_not_recognised():
    report = check_adapter(GeoLDM(), make_model)
    assert not report.passed
    (failure,) = report.failures
    assert failure.check == "the_adapter_recognises_its_model"
    assert "no attribute 'vae'" in failure.why
    with pytest.raises(ContractError, match="no attribute 'vae'"):
        report.assert_passed()


class OffByOne(Mine):
    """An adapter that lets the model begin a step too late."""

    def set_steps(self, model, n_steps):
        model.T = n_steps - (n_steps < 20)


def test_a_wrong_adapter_fails_by_name():
    report = check_adapter(OffByOne(), make_model)
    failed = {v.check for v in report.failures}
    assert "the_network_is_called_once_per_step_from_t_star" in failed
    with pytest.raises(GAGAError) as error:
        report.assert_passed()
    assert isinstance(error.value, AssertionError)
    assert isinstance(error.value.__cause__, Exception)
    assert "failed  the network is called once per step from t star" in str(error.value)


def test_too_few_steps_are_refused():
    with pytest.raises(DataError, match="a model of 9 steps; the checks need at least 16"):
        check_adapter(Mine(), lambda: make_model(9))
    assert "mine" not in adapters()


def test_what_a_sampler_takes_must_be_known():
    class Guided(edm_like.EnVariationalDiffusion):
        def sample(self, n_samples, n_nodes, node_mask, edge_mask, context, guidance):
            raise NotImplementedError

    model = Guided(edm_like.TinyDynamics(6), 6, timesteps=20)
    with pytest.raises(DataError, match=r"what edm's sample takes as guidance\. Subclass Case"):
        Case("edm", make_model).sample(model)


# -- the report ------------------------------------------------------------------------------------


def test_an_assertion_without_a_message_is_told_by_its_line():
    names = {}
    code = compile("def it_fails(case):\n    assert case\n", "somewhere.py", "exec")
    exec(code, names)
    report = report_of("this", {"it_fails": names["it_fails"]}, 0)
    assert report.verdicts[0].why.startswith("not true in somewhere.py, line 2")


def it_holds(case):
    assert case


def it_is_skipped(case):
    raise NotApplicable("nothing to ask")


def it_raises(case):
    raise KeyError("missing")


def test_a_report_says_what_each_check_said():
    report = report_of("this", {c.__name__: c for c in (it_holds, it_is_skipped, it_raises)}, 0)
    holds, skipped, raised = report.verdicts
    assert (holds.outcome, skipped.outcome, raised.outcome) == ("failed", "skipped", "failed")
    assert holds.why.startswith("assert 0\nin test_check_adapter.py, line ")  # pytest's own words
    assert holds.why.endswith(": assert case")
    assert str(skipped) == "skipped: nothing to ask"
    assert raised.why.startswith("KeyError: 'missing'\nin test_check_adapter.py")
    assert str(report).splitlines()[0] == "this: 2 failed, 1 skipped"
    assert report_of("this", {"it_holds": it_holds}, 1).to_dict() == {"it_holds": "passed"}
    Report("nothing", (Verdict("it_holds", "passed"),)).assert_passed()


def test_without_assertions_there_is_no_verdict():
    code = (
        "from gaga_adapter.testing import ContractError\n"
        "from gaga_adapter.testing.report import report_of\n"
        "try:\n    report_of('this', {}, None)\n"
        "except ContractError as error:\n    print(error)"
    )
    for options, said in ((["-O"], "Run without -O"), ([], "")):
        done = subprocess.run(
            [sys.executable, *options, "-c", code], capture_output=True, text=True, check=True
        )
        assert said in done.stdout
        assert bool(done.stdout) == bool(said)


def test_the_package_does_not_load_it_and_it_does_not_load_pytest():
    code = (
        "import sys, gaga_adapter\n"
        "assert not [n for n in sys.modules if n.startswith('gaga_adapter.testing')]\n"
        "import gaga_adapter.testing\n"
        "assert 'pytest' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
