"""The first draft of an adapter, from what a model of its codebase shows of itself.

An adapter says what a codebase calls its parts. Most of that can be seen: the number of steps is an
integer attribute, the schedule is a module that maps times to growing gammas, and the methods tell
themselves apart by their parameters. What a method computes cannot be seen, so the draft lists the
methods that look at the number of steps, for a person to read.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gaga_adapter.integrations.edm import ATTRIBUTES

Model = Any  # an nn.Module of a codebase that is not imported

STEPS = ("T", "num_steps", "n_steps", "num_timesteps", "n_timesteps", "timesteps", "time_steps")
#: Names that EDM gives; where a class has them, they mean the same.
EDM_NAMES = ("phi", "sample_combined_position_feature_noise", "forward", "kl_prior")
_DRAW = {"n_samples", "n_nodes", "node_mask"}


@dataclass(frozen=True)
class Structure:
    """What a class calls the parts that an adapter names; `None` for what was not found.

    Attributes:
        kind: Name of the class.
        steps: Attribute that holds the number of steps.
        schedule: Child module that maps times (B, 1) to `gamma` (B, 1).
        network: Method that takes `x` and `t`.
        noise: Method that draws noise for a `node_mask`.
        starts: Methods that sample.
        loss: Method that takes `x` and `h`.
        prior_term: Method that takes `xh` and `node_mask`.
        n_features: Number of channels of the noise besides the positions.
        is_edm: Whether it keeps elements and scales as EDM does.
        others: Further methods that sample, or look at the number of steps.
    """

    kind: str
    steps: str | None = "T"
    schedule: str | None = "gamma"
    network: str | None = "phi"
    noise: str | None = "sample_combined_position_feature_noise"
    starts: tuple[str, ...] = ("sample", "sample_chain")
    loss: str | None = "forward"
    prior_term: str | None = "kl_prior"
    n_features: int | None = None
    is_edm: bool = True
    others: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """What was not found, as sentences."""
        sentences = {
            "steps": f"no integer attribute of 16 or more is called {', '.join(STEPS)}",
            "schedule": "no child module maps times (B, 1) to growing gammas (B, 1)",
            "network": "no method takes both x and t",
            "noise": f"no method takes {', '.join(sorted(_DRAW))} and no edge_mask",
            "starts": f"no method takes {', '.join(sorted(_DRAW))} and an edge_mask",
        }
        return [f"{name}: {why}" for name, why in sentences.items() if not getattr(self, name)]


def structure_of(model: Model) -> Structure:
    """What can be seen of a model."""
    methods = dict(_methods(type(model)))

    def having(names: set[str], lacking: frozenset[str] = frozenset()) -> list[str]:
        found = [name for name, taken in methods.items() if names <= taken and not lacking & taken]
        return sorted(found, key=lambda name: (name not in EDM_NAMES, len(name), name))

    samplers = [name for name in having({*_DRAW, "edge_mask"}) if "t" not in methods[name]]
    noise = _first(having(_DRAW, frozenset({"edge_mask"})))
    losses = having({"x", "h", "node_mask"}, frozenset({"t"}))
    n_features = _n_features(model, noise)
    is_edm = "sample_p_xh_given_z0" in methods and all(
        hasattr(model, name) for name in ATTRIBUTES if name not in ("T", "gamma")
    )
    is_edm = is_edm and n_features in (None, model.in_node_nf)
    found = Structure(
        type(model).__name__,
        _steps(model),
        _first(name for name, child in model.named_children() if _is_schedule(child)),
        _first(having({"x", "t"}, frozenset({"s", "h"}))),
        noise,
        tuple(n for n in ("sample", "sample_chain") if n in samplers) or tuple(samplers[:1]),
        _first(losses),
        _first(having({"xh", "node_mask"}, frozenset({"t", "edge_mask"}))),
        n_features,
        is_edm,
    )
    known = {found.network, found.noise, found.loss, found.prior_term, *found.starts}
    others = tuple(
        name
        for name in methods
        if name not in known and (name in samplers or _reads(model, name, found.steps))
    )
    return Structure(**{**found.__dict__, "others": others})


def _first(names: Any) -> str | None:  # noqa: ANN401 - an iterable of names
    return next(iter(names), None)


def _methods(kind: type[Any]) -> Iterator[tuple[str, set[str]]]:
    """Methods that a class and its bases add to `nn.Module`, with the names of their parameters."""
    bases = [base for base in kind.__mro__ if base not in nn.Module.__mro__]
    names = {
        name: None for base in bases for name, v in vars(base).items() if inspect.isfunction(v)
    }
    for name in names:
        if not name.startswith("__"):
            yield name, set(inspect.signature(getattr(kind, name)).parameters)


def _steps(model: Model) -> str | None:
    numbers = {k for k, v in vars(model).items() if type(v) is int and v >= 16}
    return _first(name for name in STEPS if name in numbers)


def _is_schedule(module: nn.Module) -> bool:
    times = torch.tensor([[0.0], [0.5], [1.0]])
    times = times.to(next(module.parameters(), times).device)
    try:
        with torch.no_grad():
            gamma = module(times)
        return gamma.shape == times.shape and bool((gamma.flatten().diff() > 0).all())
    except Exception:  # whatever another kind of module raises
        return False


def _n_features(model: Model, noise: str | None) -> int | None:
    if noise is None:
        return None
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng(devices=[]):
            drawn = getattr(model, noise)(
                n_samples=1, n_nodes=2, node_mask=torch.ones(1, 2, 1, device=device)
            )
        return int(drawn.shape[-1]) - 3
    except Exception:  # whatever another form of noise raises
        return None


def _reads(model: Model, method: str, steps: str | None) -> bool:
    try:
        return f"self.{steps}" in inspect.getsource(getattr(type(model), method))
    except OSError:
        return False


# -- the files -------------------------------------------------------------------------------------


def class_name(name: str) -> str:
    """The name of the adapter's class."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) or name


def text_of_adapter(name: str, found: Structure) -> str:
    """The file of the adapter."""
    base = "EDM" if found.is_edm else "Adapter"
    steps, schedule = found.steps or "T", found.schedule or "gamma"
    noise = found.noise or "sample_combined_position_feature_noise"
    network, starts = found.network or "phi", found.starts or ("sample",)
    methods = {network: ("x", "t"), noise: ("n_samples", "n_nodes", "node_mask")}
    methods |= {starts[0]: ("n_samples", "n_nodes", "node_mask", "edge_mask")}
    attributes = [steps, schedule]
    attributes += [n for n in ATTRIBUTES if n not in ("T", "gamma")] if found.is_edm else []
    lines = [
        f'"""{name} by structure: `{found.kind}`."""',
        "",
        *(["from gaga_adapter.integrations.edm import EDM"] if found.is_edm else []),
        "from gaga_adapter.integrations.protocol import "
        + ("lacks, register" if found.is_edm else "Adapter, lacks, register"),
        *([] if found.is_edm else ["from gaga_adapter.layout import AtomLayout"]),
        "",
        "ATTRIBUTES = (",
        *(f'    "{attribute}",' for attribute in attributes),
        ")",
        "METHODS = {",
        *(f'    "{key}": {value!r},'.replace("'", '"') for key, value in methods.items()),
        "}",
        "",
        "",
        f"class {class_name(name)}({base}):",
        f'    """`{found.kind}` and what has its structure."""',
        "",
        f'    name = "{name}"',
        f'    network = "{network}"  # takes the normalised time as t',
        f'    noise = "{noise}"',
        f"    starts = {starts!r}".replace("'", '"') + "  # their first noise is the start",
        f'    loss = "{found.loss or "forward"}"',
        "    prior_term = " + (f'"{found.prior_term}"' if found.prior_term else "None"),
        "    # Methods that compute absolute steps, or start from noise of their caller, with the",
        '    # reason why they are refused: {"inpaint": "it starts at an absolute step"}.',
        *(f"    # Read this one, it samples or uses {steps}: {other}" for other in found.others),
        "    refused = {}",
        "",
        "    def reasons(self, model):",
        "        # Say what tells this class from others; empty means that it is one.",
        "        return lacks(model, ATTRIBUTES, METHODS)",
    ]
    if not found.is_edm:
        lines += [
            "",
            "    def layout(self, model, elements):",
            "        # Channels besides the positions. MoleculeLayout gives them names and scales.",
            f"        return AtomLayout({found.n_features if found.n_features is not None else 5})",
        ]
    if steps != "T":
        lines += [
            "",
            "    def n_steps(self, model):",
            f"        return model.{steps}",
            "",
            "    def set_steps(self, model, n_steps):",
            f"        model.{steps} = n_steps",
        ]
    if schedule != "gamma":
        lines += ["", "    def schedule(self, model):", f"        return model.{schedule}"]
    if starts[0] != "sample":
        lines += [
            "",
            "    def draw(self, model, node_mask, edge_mask):",
            "        n_samples, n_nodes = node_mask.shape[:2]",
            f"        model.{starts[0]}(n_samples, n_nodes, node_mask, edge_mask, None)",
        ]
    return "\n".join([*lines, "", "", f"register({class_name(name)}())", ""])


def text_of_test(name: str, maker: str | None) -> str:
    """The file of its test.

    Args:
        name: Name of the codebase.
        maker: Function that makes a model, as `module:function`; `None` leaves it to be written.
    """
    module, _, function = (maker or ":").partition(":")
    imports = [f"from {name}_adapter import {class_name(name)}"]
    making = []
    if maker:
        imports.append(f"from {module} import {function}")
    else:
        making = [
            "def make_model(n_steps=20):",
            '    """A small model of as many steps."""',
            f'    raise NotImplementedError("make a model of {name} here")',
            "",
            "",
        ]
    return "\n".join(
        [
            f'"""The adapter of {name} keeps the contract; run as a script this says how."""',
            "",
            *sorted(imports),
            "",
            "from gaga_adapter.testing import check_adapter",
            "",
            "",
            *making,
            "def test_contract():",
            f"    check_adapter({class_name(name)}(), {function or 'make_model'}).assert_passed()",
            "",
            "",
            'if __name__ == "__main__":',
            f"    print(check_adapter({class_name(name)}(), {function or 'make_model'}))",
            "",
        ]
    )
