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

from gaga_adapter.errors import DataError, GAGAError, UnsupportedModelError
from gaga_adapter.testing import CHECKS, Case, ContractError, Report, Verdict, check_adapter
from gaga_adapter.testing.adapter.case import seeded
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
        "a_lost_element_class_is_reported_and_given_back": "mine has no charges",
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


# -- how models are made ---------------------------------------------------------------------------


def by_keyword(charges=True, n_steps=20):
    return make_edm(n_steps, charges=charges)


def by_another_word(timesteps, /):
    return make_edm(timesteps)


def only_by_keyword(*, length):
    return make_edm(length)


def of_its_own(device="cpu", charges=True):
    assert (device, charges) == ("cpu", True)
    return make_edm(30)


@pytest.mark.parametrize(
    ("function", "n_steps"),
    [
        (by_keyword, 17),
        (by_another_word, 17),
        (only_by_keyword, 17),
        (lambda n: make_edm(n), 17),
        (of_its_own, 30),
        (lambda **options: make_edm(30), 30),
    ],
)
def test_steps_go_where_they_belong(function, n_steps):
    model = seeded(function)(17)
    assert model.T == n_steps
    assert model.include_charges
    assert not model.training


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda n_steps, device: None, "it needs device"),
        (lambda width, device: None, "it needs width, device"),
        (lambda charges: None, "it needs charges"),
        (edm_like.EnVariationalDiffusion, "it needs dynamics, in_node_nf"),
    ],
)
def test_what_cannot_be_filled_in_is_told(function, said):
    with pytest.raises(DataError, match=f"{said}. Pass a function make_model"):
        seeded(function)


def test_what_is_made_must_be_a_model():
    with pytest.raises(UnsupportedModelError, match=r"made a tuple\. It must make a torch"):
        check_adapter(Mine(), lambda n_steps: (make_model(n_steps), None))


@pytest.mark.parametrize("n_classes", [1, 7, 16, 100])
def test_models_may_have_any_number_of_elements(n_classes):
    def make(n_steps=20):
        width = n_classes + 1
        return edm_like.EnVariationalDiffusion(edm_like.TinyDynamics(width), width, 3, n_steps)

    case = Case.of(Mine(), make)
    batch = case.batch(case.model())
    kinds, real = batch["one_hot"].int().argmax(-1), batch["atom_mask"]
    number = dict(zip(kinds[real].tolist(), batch["charges"][real].flatten().tolist(), strict=True))
    assert len(set(number.values())) == len(number)
    assert all(1 <= z <= max(n_classes, 17) for z in number.values())
    assert case.loss(case.model()).isfinite().all()


@pytest.mark.parametrize(
    ("adapter", "make", "said"),
    [
        (Mine, make_model, r"the class Mine as the adapter\. Pass an instance: Mine\(\)\."),
        ("edm", make_model, r"'edm', a str, as the adapter\. Pass adapter_named\('edm'\)\."),
        ("that", make_model, r"'that', a str, as the adapter\. Pass an instance, such as"),
        (make_model, Mine(), r"a function, as the adapter\. Pass an instance"),
        (Mine(), make_model(), r"a model \(EnVariationalDiffusion\) as make_model\. Pass a func"),
        (Mine(), None, r"None, a NoneType, as make_model\. Pass a function make_model\(n_steps\)"),
        (Mine(), Case, r"the class Case as make_model\. Pass an instance of it"),
    ],
)
def test_arguments_of_another_kind_are_told(adapter, make, said):
    before = adapters()
    with pytest.raises(DataError, match=said):
        check_adapter(adapter, make)
    assert adapters() == before


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


def test_it_is_loaded_alone_without_pytest_and_needs_assertions():
    code = (
        "import sys, gaga_adapter\n"
        "print([n for n in sys.modules if n.startswith('gaga_adapter.testing')])\n"
        "from gaga_adapter.testing import ContractError\n"
        "from gaga_adapter.testing.report import report_of\n"
        "print('pytest' in sys.modules)\n"
        "try:\n    report_of('this', {}, None)\n"
        "except ContractError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    said = done.stdout.splitlines()
    assert said[:2] == ["[]", "False"]
    assert said[2].endswith("Run without -O.")
