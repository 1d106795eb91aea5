"""The worked example of `integrations/README.md` is an adapter that keeps the contract."""

import pytest
import torch
from fakes import edm_like
from folders import INTEGRATIONS
from gaga_adapter.integrations import apply_patch, protocol

from gaga_adapter import testing
from gaga_adapter.errors import UnsupportedModelError

PAGE = INTEGRATIONS / "README.md"


class OtherNames(edm_like.EnVariationalDiffusion):
    """The model of the example: the fake under other names, without a loss."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_steps = self.__dict__.pop("T")

    T = property(lambda self: self.num_steps, lambda self, value: self.__dict__.update(T=value))

    def phi(self, x, t, node_mask, edge_mask, context):
        return self.denoiser(x, t, node_mask, edge_mask, context)

    def denoiser(self, x, t, node_mask, edge_mask, context):
        return super().phi(x, t, node_mask, edge_mask, context)

    def repaint(self, z, first_step):
        raise NotImplementedError("the patch refuses it before it runs")


def make(n_steps):
    torch.manual_seed(0)
    return OtherNames(edm_like.TinyDynamics(5), 5, timesteps=n_steps, include_charges=False).eval()


CASE = testing.Case("the example", make, options=frozenset(), verbs=frozenset({"sample"}))


@pytest.fixture
def example(monkeypatch):
    """The code of the page, run with a registry of its own."""
    page = PAGE.read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    assert code.count("\n") < 60
    protocol.adapters()
    monkeypatch.setattr(protocol, "_ADAPTERS", dict(protocol._ADAPTERS))
    names = {"__name__": "example"}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("check", testing.CHECKS)
def test_contract(example, check):
    assert protocol.adapter_for(make(3)).name == "othernames"
    try:
        testing.CHECKS[check](CASE)
    except testing.NotApplicable as reason:
        pytest.skip(str(reason))


def test_what_the_example_refuses(example):
    model = make(20)
    apply_patch(model, None, t_star=5)
    with pytest.raises(UnsupportedModelError, match="repaint cannot run truncated"):
        model.repaint(None, 3)
