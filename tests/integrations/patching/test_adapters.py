"""What an adapter says is what a patch does, also after it was corrected, and where it is wrong."""

import copy
import pickle

import pytest
import torch
from fakes.cases import CASES, make_edm
from gaga_adapter.integrations import apply_patch, protocol, remove_patch
from gaga_adapter.integrations.edm import EDM

CASE = CASES["edm"]
STATS = CASE.stats(make_edm(20))


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Adapters that a test registers are gone after it."""
    monkeypatch.setattr(protocol, "_ADAPTERS", dict(protocol._ADAPTERS))


def named(name, **attributes):
    """A new adapter, registered under a name that may be taken."""
    adapter = type("Mine", (EDM,), {"name": name, **attributes})()
    protocol.register(adapter)
    return adapter


def frames(model):
    """Number of frames of a chain of which more are asked for than there are steps."""
    return len(CASE.chain(model, sizes=(4, 3), keep_frames=100)) // 2


@pytest.mark.parametrize("waits", [False, True])
def test_a_corrected_adapter_of_the_same_name_takes_the_place_of_the_first(waits):
    stats = (lambda model: STATS) if waits else STATS
    named("corrected", starts=("sample",))  # forgets the chain, which is refused then
    old = make_edm(20)
    apply_patch(old, stats, t_star=6)
    with pytest.raises(protocol.UnsupportedModelError, match="sample_chain cannot run truncated"):
        frames(old)
    named("corrected")
    model = make_edm(20)
    apply_patch(model, stats, t_star=6)
    assert frames(model) == 6
    # A model that was patched before, and its copies, stay as they are until they are patched anew.
    twin = copy.deepcopy(old)
    assert type(twin) is type(old) is not type(model)
    for each in (old, twin):
        apply_patch(each, stats, t_star=6)
        assert frames(each) == 6


def test_a_pickle_has_the_name_of_its_adapter():
    adapter = named("pickled")
    model = make_edm(20)
    apply_patch(model, STATS, t_star=6)
    data = pickle.dumps(model)
    loaded = pickle.loads(data)
    assert type(loaded) is type(model)
    assert loaded._gaga.adapter is adapter
    assert all(map(torch.equal, CASE.sample(loaded), CASE.sample(model)))
    corrected = named("pickled")
    loaded = pickle.loads(data)
    assert loaded._gaga.adapter is corrected
    assert all(map(torch.equal, CASE.sample(loaded), CASE.sample(model)))
    remove_patch(loaded)
    assert type(loaded) is type(make_edm(20))
