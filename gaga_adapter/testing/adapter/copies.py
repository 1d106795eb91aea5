"""Copies of a patched model are patched."""

from __future__ import annotations

import copy
import io
import pickle

import torch

from gaga_adapter.integrations import apply_patch, remove_patch
from gaga_adapter.integrations.patching.patch import state_of
from gaga_adapter.integrations.protocol import adapter_for
from gaga_adapter.testing.adapter.case import (
    Case,
    same,
)


def a_deep_copy_is_patched_and_independent(case: Case) -> None:
    """`copy.deepcopy` gives a model that is cut by itself."""
    model = case.model()
    plain = case.sample(model)
    apply_patch(model, case.stats(model), t_star=6)
    expected = case.sample(model)
    twin = copy.deepcopy(model)
    assert type(twin) is type(model)
    remove_patch(twin)
    assert same(case.sample(twin), plain)
    assert same(case.sample(model), expected)
    twin = copy.deepcopy(model)
    remove_patch(model)
    assert same(case.sample(twin), expected)
    for parameter in twin.parameters():
        parameter.data += 1
    assert same(case.sample(model), plain)


def a_data_parallel_replica_is_patched(case: Case) -> None:
    """A replica of `DataParallel` is cut, and calls its own network."""
    model = case.model()
    handle = apply_patch(model, case.stats(model), t_star=6)
    replica = model._replicate_for_data_parallel()
    assert type(replica) is type(model)
    assert state_of(replica) is handle.state
    adapter = adapter_for(model)
    assert getattr(replica, adapter.network).__self__ is replica
    assert adapter.n_steps(replica) == adapter.n_steps(model) == 6
    wrapped = torch.nn.DataParallel(model)
    apply_patch(wrapped, case.stats(model), t_star=5)
    assert adapter.n_steps(model) == 5
    if "loss" in case.verbs:
        case.loss(wrapped.module)
    remove_patch(wrapped)
    assert state_of(model) is None


def a_whole_model_can_be_saved(case: Case) -> None:
    """`torch.save` and pickle keep a patched model as it is."""
    model = case.model()
    apply_patch(model, case.stats(model), t_star=6)
    expected = case.sample(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for loaded in (
        torch.load(file, weights_only=False),  # our own bytes
        pickle.loads(pickle.dumps(model)),
    ):
        assert type(loaded) is type(model)
        assert same(case.sample(loaded), expected)
        remove_patch(loaded)
        assert type(loaded) is type(case.model())
