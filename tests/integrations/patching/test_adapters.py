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


# -- names of methods that a class does not have ---------------------------------------------------


@pytest.mark.parametrize("claim", ["loss", "prior_term"])
def test_a_method_that_an_adapter_names_must_be_there(claim):
    adapter = named("typo", **{claim: "fwd"})
    assert "no method 'fwd'" in adapter.missing(make_edm(20))
    child = type("Child", (type(adapter),), {"name": "child of a typo"})()
    assert "no method 'fwd'" in child.missing(make_edm(20))
    assert EDM().missing(CASES["edm"].model()) == []


def test_a_named_loss_is_not_that_of_every_module():
    class Samples(torch.nn.Module):
        """A class without a loss of its own."""

    assert "no method 'forward'" in named("no loss", loss="forward").missing(Samples())


def test_a_loss_without_a_prior_term_is_refused_while_patched():
    named("no prior term", prior_term=None)
    model = make_edm(20)
    expected = CASE.loss(model)
    apply_patch(model, STATS, t_star=6)
    CASE.sample(model)
    with pytest.raises(protocol.UnsupportedModelError, match="names no prior term"):
        CASE.loss(model)
    remove_patch(model)
    assert torch.equal(CASE.loss(model), expected)


# -- samplers that call one another ----------------------------------------------------------------


class Nested(type(make_edm(20))):
    """Samplers that call `sample`."""

    def twice(self, n_samples, n_nodes, node_mask, edge_mask, context):
        given = n_samples, n_nodes, node_mask, edge_mask, context
        return self.sample(*given), self.sample(*given)

    def and_noise(self, n_samples, n_nodes, node_mask, edge_mask, context):
        self.sample(n_samples, n_nodes, node_mask, edge_mask, context)
        torch.manual_seed(3)
        return self.sample_combined_position_feature_noise(n_samples, n_nodes, node_mask)


def nested():
    named("nested", methods=("twice(n_nodes)",), starts=(*EDM.starts, "twice", "and_noise"))
    model = make_edm(20)
    model.__class__ = Nested
    return model, (2, 4, *CASE.masks((4, 3)), None)


def test_noise_after_a_nested_sample_is_no_start():
    model, given = nested()
    torch.manual_seed(3)
    plain = CASE.noise(model, (4, 3))
    apply_patch(model, STATS, t_star=6)
    assert torch.equal(model.and_noise(*given), plain)


def test_each_nested_sample_starts_from_the_fitted_gaussian():
    model, given = nested()
    apply_patch(model, STATS, t_star=6)
    torch.manual_seed(1)
    expected = [model.sample(*given)[0] for _ in range(2)]
    torch.manual_seed(1)
    assert all(map(torch.equal, [x for x, _ in model.twice(*given)], expected))
