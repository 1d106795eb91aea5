"""A wrapped scheduler is its base, and nothing changes where nothing is cut."""

from __future__ import annotations

import copy
import inspect
import pickle
import tempfile
import warnings

import torch

import gaga_adapter.scheduler
from gaga_adapter.noise.conventions import convention_of
from gaga_adapter.scheduler import GAGAScheduler
from gaga_adapter.testing.report import NotApplicable
from gaga_adapter.testing.scheduler.case import SchedulerCase

METHODS = ("__init__", "step", "set_timesteps", "scale_model_input", "add_noise")


def it_is_an_instance_of_its_base(case: SchedulerCase) -> None:
    """Class, signatures and configuration are those of the scheduler that was wrapped."""
    base, wrapped = case.bare(), case.wrapped()
    assert {type(base), GAGAScheduler} <= set(type(wrapped).__mro__)
    assert getattr(gaga_adapter.scheduler, f"GAGA{type(base).__name__}") is type(wrapped)
    for name in METHODS:
        if hasattr(base, name):
            mine, its = (inspect.signature(getattr(x, name)) for x in (wrapped, base))
            assert mine == its, name
    assert dict(wrapped.config) == dict(base.config)
    assert getattr(wrapped, "order", 1) == getattr(base, "order", 1)


def its_configuration_makes_a_plain_one(case: SchedulerCase) -> None:
    """`from_config` of the base class gives a scheduler that is not truncated."""
    base = type(case.scheduler)
    plain = base.from_config(case.wrapped().config)
    assert type(plain) is base
    assert dict(plain.config) == dict(base.from_config(case.scheduler.config).config)


def nothing_changes_where_nothing_is_cut(case: SchedulerCase) -> None:
    """From N(0, I) at the noisiest level, a run is that of the base, bit for bit."""
    expected = case.run(case.bare())
    for spacing in ("suffix", "respace"):
        wrapped = case.wrapped(share=1.0, reference="unit", spacing=spacing)
        sample, n_calls = case.run(wrapped)
        assert torch.equal(sample, expected.sample), spacing
        assert n_calls == expected.n_calls, spacing


def copies_give_the_same_sample(case: SchedulerCase) -> None:
    """`copy.deepcopy` and pickle keep a wrapped scheduler as it is."""
    wrapped = case.wrapped(share=0.4)
    copies = [copy.deepcopy(wrapped)]
    if _can_be_pickled(case.bare()):
        copies.append(pickle.loads(pickle.dumps(wrapped)))
    expected = case.run(wrapped).sample
    for copied in copies:
        assert type(copied) is type(wrapped)
        assert torch.equal(case.run(copied).sample, expected)


def a_second_run_gives_the_same_sample(case: SchedulerCase) -> None:
    """No run leaves anything behind that the next one starts from."""
    wrapped = case.wrapped(share=0.4)
    first, second = case.run(wrapped), case.run(wrapped)
    assert torch.equal(first.sample, second.sample)
    assert first.n_calls == second.n_calls


def add_noise_goes_to_the_levels_of_the_timesteps(case: SchedulerCase) -> None:
    """`add_noise(x, eps, t)` is `a x + b eps` at the level of each timestep of a run."""
    wrapped = case.wrapped(share=0.4)
    if not hasattr(wrapped, "add_noise"):
        raise NotApplicable(f"{case.name} has no add_noise")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.set_timesteps(case.n_steps)
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 3, 64, 6, generator=generator)
    at, timesteps = convention_of(wrapped), wrapped.timesteps
    for timestep in timesteps[[0, len(timesteps) // 2]]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a loop that starts inside of the grid
                noised = wrapped.add_noise(x, noise, timestep.expand(len(x)))
        except NotImplementedError as reason:
            raise NotApplicable(str(reason)) from reason
        a, b = at.level(at.ratio_at(timestep.item()))
        assert torch.allclose(noised, a * x + b * noise, rtol=1e-4, atol=1e-4), (
            f"add_noise at the timestep {timestep.item():.6g} is not {a:.4g} x + {b:.4g} eps"
        )


def saved_and_loaded_it_gives_the_same_sample(case: SchedulerCase) -> None:
    """`save_pretrained` and `from_pretrained` keep statistics and options."""
    wrapped = case.wrapped(share=0.4, spacing="respace")
    with tempfile.TemporaryDirectory() as folder:
        wrapped.save_pretrained(folder)
        loaded = type(wrapped).from_pretrained(folder)
    assert type(loaded) is type(wrapped)
    assert torch.equal(case.run(loaded).sample, case.run(wrapped).sample)


def _can_be_pickled(scheduler: object) -> bool:
    try:
        pickle.dumps(scheduler)
    except (AttributeError, TypeError, pickle.PicklingError):
        return False
    return True
