"""The adapters of the forks on small stand-ins: the contract, and what each fork has beyond it."""

import dataclasses
import functools

import pytest
import torch
from fakes import forks
from fakes.edm_like import make_edm, make_geoldm
from gaga_adapter.integrations import apply_patch, as_pipeline, trained_to
from gaga_adapter.integrations.protocol import adapter_for
from runners import family

from gaga_adapter import testing
from gaga_adapter.errors import TruncationError, UnsupportedModelError

KINDS = {
    "paper": forks.Paper,
    "unigem": forks.UniGEM,
    "georcg": forks.GeoRCG,
    "edpo": forks.EDPO,
    "eegsde": forks.EEGSDE,
    "symdiff": forks.SymDiff,
    "chemguide": forks.ChemGuide,
}

#: Checks of what no adapter has a say in; they run on the stand-ins of EDM, and on the real forks.
OF_THE_PATCH = {
    "a_with_block_leaves_what_was_before",
    "a_wrong_step_is_refused",
    "an_exception_leaves_nothing_half_patched",
    "another_class_is_refused_with_reasons",
    "applied_twice_is_applied_once",
    "it_trains",
    "threads_do_not_share_the_first_noise",
}


def make(name, n_steps, **options):
    """A model of EDM or GeoLDM that is given the class of the fork."""
    if name == "eegsde":
        options["context"] = 1
    model = (make_geoldm if name == "chemguide" else make_edm)(n_steps, **options)
    model.__class__ = KINDS[name]
    return model


def stand_in(name):
    fork = family.FORKS[name]
    options = fork.options & {"charges"}  # the rest is EDM's own, and is checked there
    case = dataclasses.replace(fork, name=f"the stand-in of {name}", options=options)
    case.make = functools.partial(make, name)
    if name == "unigem":
        case.given_to_network = lambda z, mask: torch.cat([z, mask.expand(-1, -1, 6)], -1)
    return case


@pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning")
@pytest.mark.parametrize("name", KINDS)
def test_contract(name):
    case = stand_in(name)
    assert adapter_for(case.model()).name == case.adapter
    checks = {**testing.CHECKS, **family.more_checks(name)}
    assert checks.keys() > OF_THE_PATCH
    for check in checks.keys() - OF_THE_PATCH:
        try:
            checks[check](case)
        except testing.NotApplicable:
            continue


@pytest.mark.parametrize("name", ["paper", "unigem", "georcg"])
def test_what_is_no_pipeline_is_refused_with_the_reason(name):
    model = stand_in(name).model()
    with pytest.raises(UnsupportedModelError, match=adapter_for(model).no_pipeline):
        as_pipeline(model)


@pytest.mark.parametrize(
    ("argument", "off", "on"),
    [
        ("annel_l", False, True),
        ("condition_generate_x", False, True),
        ("pesudo_context", None, torch.zeros(3)),
    ],
)
def test_arguments_that_mean_absolute_steps_are_refused(argument, off, on):
    case = stand_in("unigem")
    model = case.model()
    apply_patch(model, case.stats(model), t_star=11)
    case.sample(model, **{argument: off})
    with pytest.raises(UnsupportedModelError, match=rf"sample\({argument}\) cannot run truncated"):
        case.sample(model, **{argument: on})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("unigem", {"bfn_schedule": True}),
        ("unigem", {"uni_diffusion": True, "relay_sampling": 1}),
        ("symdiff", {"molecule": False}),
    ],
)
def test_kinds_that_are_refused_are_not_taken_for_the_parent(name, values):
    model = stand_in(name).model()
    model.__dict__.update(values)
    with pytest.raises(UnsupportedModelError) as refused:
        apply_patch(model, None, t_star=5)
    for attribute, value in values.items():
        assert f"{attribute}={value!r}" in str(refused.value)
    assert "edm:" not in str(refused.value)


def test_a_split_batch_needs_a_t_star_beyond_the_threshold():
    case = stand_in("unigem")
    model = case.model()
    apply_patch(model, case.stats(model), t_star=2)
    case.sample(model)
    with pytest.raises(UnsupportedModelError, match="be trained or evaluated there"):
        case.loss(model)


@pytest.mark.parametrize("t_star", [11, 6, 3])
@pytest.mark.parametrize("option", ["half_noisy_node", "only_noisy_node", "unnormal_time_step"])
def test_times_up_to_the_threshold_need_a_t_star_there(option, t_star):
    case = stand_in("unigem")
    model = case.model()
    model.__dict__.update(sep_noisy_node=False, prediction_threshold_t=6, **{option: True})
    apply_patch(model, case.stats(model), t_star=t_star)
    losses = [functools.partial(case.loss, model.train(), (4, 3), seed) for seed in range(20)]
    if t_star >= 6:
        assert all(bool(torch.isfinite(loss()).all()) for loss in losses)
        return
    # A coin is thrown for each batch with `unnormal_time_step`: some of 20 are refused.
    with pytest.raises(UnsupportedModelError, match=r"be trained or evaluated there|beyond t\*"):
        torch.stack([loss() for loss in losses])


@pytest.mark.parametrize("step", [0, 21, 2.5, True])
def test_a_wrong_last_step_is_refused(step):
    with pytest.raises(TruncationError, match="Pass an integer from 1 to 20"):
        trained_to(stand_in("paper").model(), step)


def test_all_steps_are_no_bound():
    case = stand_in("paper")
    model = case.model()
    apply_patch(model, case.stats(model), t_star=18)
    trained_to(model, 20)
    case.sample(model)


def test_a_waiting_model_settles_before_any_sampler_of_its_fork():
    case = stand_in("paper")
    model = case.model()
    stats, given = case.stats(model), (2, 5, *case.masks((5, 4)), None)
    handle = apply_patch(model, lambda model: stats, t_star=11)
    calls = case.network_inputs(model, lambda: model.sample_shortcut(*given, start_point=20))
    assert [round(20 * float(t[0])) for t, _ in calls] == list(range(11, -1, -1))
    assert handle.t_star == 11
    handle.remove()


def test_a_sampler_that_changes_the_number_of_steps_does_not_move_t_star():
    case = stand_in("edpo")
    model = case.model()
    handle = apply_patch(model, case.stats(model), t_star=11)
    before = handle.log_snr
    model.sample_ddim(2, 5, *case.masks((5, 4)), None, timestep=3)
    assert (model.T, handle.log_snr) == (11, before)
    handle.remove()
    assert model.T == 20


@pytest.mark.parametrize("waits", [False, True])
def test_steps_that_a_sampler_left_behind_are_not_those_of_the_model(waits):
    case = stand_in("edpo")
    model = case.model()
    stats, masks = case.stats(model), case.masks((5, 4))
    expected = apply_patch(case.model(), stats).t_star
    model.sample_ddim(2, 5, *masks, None, timestep=3)
    assert model.T == 3
    handle = apply_patch(model, (lambda model: stats) if waits else stats)
    trained_to(model, 20)
    assert (handle.n_steps, handle.t_star) == (20, expected)
    calls = case.network_inputs(model, lambda: model.sample(2, 5, *masks, None, timestep=20))
    assert [round(20 * float(t[0])) for t, _ in calls] == list(range(expected, -1, -1))
    handle.remove()
    assert model.T == 20


def test_an_energy_that_is_handed_on_keeps_its_times():
    case = stand_in("eegsde")
    model = case.model()
    adapter = adapter_for(model)
    apply_patch(model, case.stats(model), t_star=10)
    arguments = {"guidance": Energy(), "guidance2": None}
    for _ in range(2):  # as a start does that calls another one
        adapter.prepare(model, "sample", arguments)
    assert float(arguments["guidance"].phi(None, torch.ones(1, 1))) == 10 / 20
    assert arguments["guidance2"] is None


class Energy:
    """It says which time it was asked for."""

    def phi(self, z, t):
        return t
