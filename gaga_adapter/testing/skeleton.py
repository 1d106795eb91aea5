"""The first draft of an adapter, from what a model of its codebase shows of itself.

An adapter says what a codebase calls its parts. Most of that can be seen: the number of steps is an
integer attribute, the schedule is a module that maps times to growing gammas, and the methods tell
themselves apart by their parameters. So can what a class has that EDM's has not, by which the draft
recognises its models and no others. What a method computes cannot be seen, so the draft lists the
methods that look at the number of steps, for a person to read.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gaga_adapter.errors import UnsupportedModelError
from gaga_adapter.integrations.edm import EDM
from gaga_adapter.integrations.protocol import Adapter, adapter_for, adapters

Model = Any  # an nn.Module of a codebase that is not imported

STEPS = ("T", "num_steps", "n_steps", "num_timesteps", "n_timesteps", "timesteps", "time_steps")
#: Names that EDM gives; where a class has them, they mean the same.
EDM_NAMES = ("phi", "sample_combined_position_feature_noise", "forward", "kl_prior")
#: What the class of EDM has, as attributes, methods or their parameters: no mark of another class.
EDM_WORDS = frozenset(
    """
    EnVariationalDiffusion EnLatentDiffusion self
    T dynamics gamma in_node_nf include_charges loss_type n_dims norm_biases norm_values num_classes
    parametrization buffer training
    check_issues_norm_values phi inflate_batch_array sigma alpha SNR subspace_dimensionality
    normalize unnormalize unnormalize_z sigma_and_alpha_t_given_s kl_prior compute_x_pred
    compute_error log_constants_p_x_given_z0 sample_p_xh_given_z0 sample_normal
    log_pxh_given_z0_without_constants compute_loss forward sample_p_zs_given_zt
    sample_combined_position_feature_noise sample sample_chain log_info
    array context edge_mask eps epsilon fix_noise gamma_0 gamma_s gamma_t h h_cat h_int keep_frames
    mu n_nodes n_samples net_out node_mask num_stdevs s t t0_always target target_tensor x xh z z0
    z_t zt
    """.split()
)
#: Names of an adapter that are written down where a draft's differ from those of its parent.
PARTS = ("steps", "network", "noise", "starts", "loss", "prior_term")
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
        features: Number of these channels, or the attribute that holds it, for the adapter.
        parent: Class of the adapter that fits it but for its names.
        attributes: Attributes that the class has and EDM's has not, at most two.
        methods: Methods, or parameters of methods, that the class has and EDM's has not, at most
            two; they come before attributes.
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
    features: int | str | None = None
    parent: type[Adapter] = EDM
    attributes: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
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

    @property
    def is_marked(self) -> bool:
        """Whether anything but its name tells the class from EDM's."""
        return bool(self.attributes or self.methods)

    @property
    def doubts(self) -> list[str]:
        """What the draft may do wrong as it stands, as sentences."""
        if self.is_marked or self.kind not in EDM_WORDS:
            return []
        return [
            f"nothing was found that tells {self.kind} from the classes of that name in other "
            "codebases. List what does in attributes or methods of the draft; until then it takes "
            "their models, too."
        ]


def structure_of(model: Model) -> Structure:
    """What can be seen of a model."""
    methods = dict(_methods(type(model)))

    def having(names: set[str], lacking: frozenset[str] = frozenset()) -> list[str]:
        found = [name for name, taken in methods.items() if names <= taken and not lacking & taken]
        return sorted(found, key=lambda name: (name not in EDM_NAMES, len(name), name))

    samplers = [name for name in having({*_DRAW, "edge_mask"}) if "t" not in methods[name]]
    noise = _first(having(_DRAW, frozenset({"edge_mask"})))
    found = Structure(
        type(model).__name__,
        _steps(model),
        _first(name for name, child in model.named_children() if _is_schedule(child)),
        _first(having({"x", "t"}, frozenset({"s", "h"}))),
        noise,
        tuple(n for n in ("sample", "sample_chain") if n in samplers) or tuple(samplers[:1]),
        _first(having({"x", "h", "node_mask"}, frozenset({"t"}))),
        _first(having({"xh", "node_mask"}, frozenset({"t", "edge_mask"}))),
        _n_features(model, noise),
    )
    found = _with_parent(model, found)
    known = {found.network, found.noise, found.loss, found.prior_term, *found.starts}
    known |= found.parent.refused.keys()
    others = tuple(
        name
        for name in methods
        if name not in known and (name in samplers or _reads(model, name, found.steps))
    )
    attributes, marks = _marks(model, {*known, found.steps, found.schedule})
    return replace(found, others=others, attributes=attributes, methods=marks)


def _with_parent(model: Model, found: Structure) -> Structure:
    """The structure with the adapter that fits: the one of the model, EDM's, or none.

    Where an adapter takes the model already, its names are the right ones.
    """
    try:
        known = adapter_for(model)
    except UnsupportedModelError:
        pass
    else:
        names = {part: getattr(known, part) for part in PARTS}
        return replace(found, **names, features=known.features, parent=type(known))
    names = {part: getattr(found, part) or getattr(EDM, part) for part in PARTS}
    unseen = {getattr(EDM, part) for part in PARTS if not getattr(found, part)}
    if found.schedule != "gamma":
        names["schedule"] = lambda _, model: getattr(model, found.schedule or "gamma")
    draft = type("Draft", (EDM,), names)()
    sentences = {f"no {what} {name!r}" for what in ("attribute", "method") for name in unseen}
    is_edm = set(draft.reasons(model)) <= sentences
    width = getattr(model, "in_node_nf", None)
    if is_edm and found.n_features in (None, width):
        return found
    features = "in_node_nf" if found.n_features == width else found.n_features
    return replace(found, features=features, parent=Adapter)


def _marks(model: Model, asked: set[str | None]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Attributes and methods that the model's class adds, and no adapter asks for, at most two.

    What a class inherits says nothing: its parent has it, too.

    Args:
        model: Model of the class.
        asked: Names that the adapter asks for in any case.
    """
    kind = type(model)
    told = {*EDM_WORDS, *(name for name in asked if name)}
    for adapter in adapters().values():
        for what in ("attributes", "methods", "must", "must_not", "refused_arguments", "refused"):
            told |= {word for text in adapter._inherited(what) for word in re.findall(r"\w+", text)}
        told |= {str(getattr(adapter, part)) for part in ("steps", "network", "noise", "features")}
    own = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
    functions = {name: value for name, value in own.items() if inspect.isfunction(value)}
    methods = [name for name in functions if name not in told]
    if not methods:
        for name, function in functions.items():
            new = [p for p in inspect.signature(function).parameters if p not in told]
            methods += [f"{name}({', '.join(new[:2])})"] if new else []
    set_here = vars(kind)["__init__"].__code__.co_names if "__init__" in vars(kind) else ()
    here = {**vars(model), **model._modules, **model._parameters, **model._buffers}
    names = [name for name in own if name not in functions]
    names += [name for name in set_here if name in here and not name.startswith("_")]
    attributes = [name for name in dict.fromkeys(names) if name not in told]
    return (() if methods else tuple(attributes[:2])), tuple(methods[:2])


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
    device = next(model.parameters(), torch.empty(0)).device
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


def text_of_adapter(name: str, found: Structure, whole: bool = False) -> str:
    """The file of the adapter.

    Args:
        name: Name of the codebase.
        found: Names that its class gives to its parts.
        whole: Whether to write every name, for a class that was not seen.
    """
    parent, protocol = found.parent, "gaga_adapter.integrations.protocol"
    imports = {protocol: ["register"]}
    imports.setdefault(parent.__module__, []).insert(0, parent.__name__)
    lines = [
        f'"""{name} by structure: `{found.kind}`."""',
        "",
        *(f"from {module} import {', '.join(names)}" for module, names in sorted(imports.items())),
        "",
        "",
        f"class {class_name(name)}({parent.__name__}):",
        f'    """`{found.kind}` and what has its structure."""',
        "",
        f'    name = "{name}"',
    ]
    for what in ("attributes", "methods"):
        marks = getattr(found, what)
        if marks or (whole and what == "attributes"):
            lines.append(f"    {what} = {_code(marks)}  # what its models have, and EDM's have not")
    lines += [
        f"    {part} = {_code(value)}"
        for part, value in _written(found).items()
        if whole or value != getattr(parent, part)
    ]
    lines += [f"    # Read this one, it samples or uses {found.steps}: {o}" for o in found.others]
    lines += [
        "    # Methods that mean absolute steps, or start from their caller's noise: name, reason.",
        "    refused = " + (f"{{**{parent.__name__}.refused}}" if parent.refused else "{}"),
    ]
    if not (found.is_marked or whole):
        lines += [
            "",
            "    def missing(self, model):",
            "        # Better than the name: attributes or methods that no other class has.",
            "        kinds = [kind.__name__ for kind in type(model).__mro__]",
            f'        other = [] if "{found.kind}" in kinds else ["it is no {found.kind}"]',
            "        return super().missing(model) + other",
        ]
    if found.schedule not in ("gamma", None):
        lines += ["", "    def schedule(self, model):", f"        return model.{found.schedule}"]
    return "\n".join([*lines, "", "", f"register({class_name(name)}())", ""])


def _written(found: Structure) -> dict[str, Any]:
    """The names of an adapter that a structure tells; what was not found stays the parent's."""
    names = {p: getattr(found, p) or getattr(found.parent, p) for p in PARTS if p != "prior_term"}
    names["prior_term"] = found.prior_term if found.loss else None  # `None`: it only samples
    features = found.features
    if found.parent is Adapter and features is None:
        features = 5  # so many could not be seen; a check says so if it is another number
    return {**names, "features": features}


def _code(value: Any) -> str:  # noqa: ANN401 - strings, numbers, and tuples of strings
    return repr(value).replace("'", '"')


def text_of_test(name: str, maker: str | None) -> str:
    """The file of its test.

    Args:
        name: Name of the codebase.
        maker: Function that makes a model, as `module:function`; `None` leaves it to be written.
    """
    module, _, function = (maker or ":").partition(":")
    imports = [f"from {name}_adapter import {class_name(name)}"]
    making = []
    if maker and function == class_name(name):
        imports.append(f"from {module} import {function} as make_model")
        function = "make_model"
    elif maker:
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
