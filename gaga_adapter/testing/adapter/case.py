"""One codebase that keeps the contract, and what the checks ask of its models."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from gaga_adapter.errors import DataError, GAGAWarning, UnsupportedModelError
from gaga_adapter.integrations import apply_patch
from gaga_adapter.integrations.protocol import Adapter, adapter_for
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import remove_mean
from gaga_adapter.testing.report import NotApplicable

Model = Any  # an nn.Module of a codebase that is not imported
SIZES = (5, 9, 7)
LEAST_STEPS = 16  # the checks start at steps up to 15
OPTIONS = frozenset({"schedule", "loss", "charges", "context", "trainable"})
VERBS = frozenset({"sample", "fix_noise", "chain", "loss"})
#: Parameters that a case knows how to fill in.
_DRAW = {"n_samples", "n_nodes", "node_mask", "edge_mask", "context"}
_LOSS = {"x", "h", "node_mask", "edge_mask", "context"}


@dataclass
class Case:
    """One codebase, and how to use it; this one is of the EDM lineage.

    `Case.of(adapter, make_model)` finds options and verbs by itself. A codebase that is sampled or
    trained in another way overrides `sample`, `chain`, `batch` or `loss`.

    Attributes:
        name: Name of the codebase.
        make: Function `make(n_steps, **options)` that gives a model with seeded weights, in
            evaluation mode.
        options: Names that `make` takes, of `schedule` (`learned`), `loss` (`vlb`), `charges`
            (False), `context` (channels) and `trainable` (the autoencoder).
        verbs: Names of what the models can do, of `sample`, `fix_noise`, `chain` and `loss`.
        n_steps: Number of steps that the models of the checks have, at least 16.
        elements: Symbols of the one-hot channels, for an adapter whose `layout` needs them.
        network: Method that the model calls for a prediction, by its path from the model, such as
            `dynamics.forward`. By default `dynamics._forward`, or `dynamics.forward` where the
            network has no other.
        loses_class: Whether samples without charges never have the last element class.
    """

    name: str
    make: Callable[..., Model]
    options: frozenset[str] = field(default_factory=lambda: OPTIONS - {"trainable"})
    verbs: frozenset[str] = field(default_factory=lambda: VERBS)
    n_steps: int = 20
    elements: tuple[str, ...] | None = None
    network: str | None = None
    loses_class: bool = True

    @classmethod
    def of(cls, adapter: Adapter, make_model: Callable[..., Model], n_steps: int = 20) -> Case:
        """The case of an adapter, with what its classes and the arguments of `make_model` tell.

        Args:
            adapter: Adapter that is checked.
            make_model: Function that gives a new model. It is called with `n_steps`, and with
                those options of a case that are among its parameters. The steps go to its only
                required parameter where none is called `n_steps`. One that takes neither makes
                models of as many steps as it likes, at least 16; few steps are checked faster.
            n_steps: Number of steps to ask for.

        Raises:
            DataError: If the models have too few steps for the checks.
        """
        make = seeded(make_model)
        model = make(n_steps)
        if adapter.n_steps(model) < LEAST_STEPS:
            raise DataError(
                f"make_model gives a model of {adapter.n_steps(model)} steps; the checks need at "
                f"least {LEAST_STEPS}. Let it take n_steps, or make models of more steps."
            )
        verbs = {"sample"}
        start = getattr(type(model), adapter.starts[0])
        if "fix_noise" in inspect.signature(start).parameters:
            verbs.add("fix_noise")
        chain = getattr(type(model), "sample_chain", None)
        if "sample_chain" in adapter.starts and chain is not None:
            if {*_DRAW, "keep_frames"} <= inspect.signature(chain).parameters.keys():
                verbs.add("chain")
        loss = getattr(type(model), adapter.loss_method() or "", None)
        if loss is not None and inspect.signature(loss).parameters.keys() >= _LOSS:
            verbs.add("loss")
        options = OPTIONS & _parameters(make_model).keys()
        return cls(adapter.name, make, options, frozenset(verbs), adapter.n_steps(model))

    def model(self, n_steps: int | None = None, **options: Any) -> Model:  # noqa: ANN401
        """A new model.

        Raises:
            NotApplicable: If the codebase has no such option.
        """
        self.needs(*options)
        return self.make(n_steps or self.n_steps, **options)

    def needs(self, *names: str) -> None:
        """Do nothing if the codebase has these options and verbs.

        Raises:
            NotApplicable: If it lacks one.
        """
        missing = set(names) - self.options - self.verbs
        if missing:
            raise NotApplicable(f"{self.name} has no {', '.join(sorted(missing))}")

    def masks(self, sizes: Sequence[int] = SIZES) -> tuple[Tensor, Tensor]:
        """The node mask (B, N, 1) and the edge mask (B N N, 1) of molecules of these sizes."""
        node_mask = (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).float()[..., None]
        pairs = (node_mask * node_mask.mT) * (1 - torch.eye(max(sizes)))
        return node_mask, pairs.reshape(-1, 1)

    def context(self, model: Model, node_mask: Tensor) -> Tensor | None:
        """A context (B, N, C) for a model that takes one."""
        dynamics = getattr(model, "dynamics", None)
        n = getattr(dynamics, "context_node_nf", 0) or getattr(model, "n_context", 0)
        return torch.linspace(-1, 1, n * len(node_mask)).view(-1, 1, n) * node_mask if n else None

    def more(self, model: Model, method: str, n_samples: int) -> dict[str, Any]:
        """Arguments that a method takes beyond EDM's, or in their place.

        Args:
            model: Model that is sampled or trained.
            method: Name of the sampler; `loss` for the loss.
            n_samples: Number of molecules.
        """
        return {}

    @torch.no_grad()
    def sample(
        self,
        model: Model,
        sizes: Sequence[int] = SIZES,
        seed: int = 1,
        **options: Any,  # noqa: ANN401 - of upstream
    ) -> tuple[Tensor, ...]:
        """A seeded draw: the tensors that the sampler returns, those of a dict sorted by name."""
        return self._run(model, adapter_for(model).starts[0], sizes, seed, options)

    @torch.no_grad()
    def chain(
        self,
        model: Model,
        sizes: Sequence[int] = SIZES,
        seed: int = 1,
        keep_frames: int | None = None,
    ) -> Tensor:
        """A seeded draw with its intermediate frames, one after the other."""
        self.needs("chain")
        options = {"keep_frames": keep_frames}
        return self._run(model, "sample_chain", sizes, seed, options)[0]

    def _run(
        self, model: Model, method: str, sizes: Sequence[int], seed: int, options: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        node_mask, edge_mask = self.masks(sizes)
        values = {
            "n_samples": len(sizes),
            "n_nodes": max(sizes),
            "node_mask": node_mask,
            "edge_mask": edge_mask,
            "context": self.context(model, node_mask),
            **self.more(model, method, len(sizes)),
        }
        parameters = list(inspect.signature(getattr(model, method)).parameters.values())
        unknown = [
            p.name
            for p in parameters
            if p.default is p.empty
            and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            and p.name not in {*values, *options}
        ]
        if unknown:
            raise DataError(
                f"the checks do not know what {self.name}'s {method} takes as "
                f"{', '.join(unknown)}. Subclass Case, and override its sample."
            )
        torch.manual_seed(seed)
        given = {p.name: values[p.name] for p in parameters if p.name in values}
        return tensors(getattr(model, method)(**given, **options))

    def batch(self, model: Model, sizes: Sequence[int] = SIZES, seed: int = 2) -> dict[str, Tensor]:
        """A batch as the codebase's own loader would give it."""
        generator = torch.Generator().manual_seed(seed)
        owner: Model = getattr(model, "vae", model)
        node_mask, edge_mask = self.masks(sizes)
        x = torch.randn(len(sizes), max(sizes), 3, generator=generator) * node_mask
        x = (x - x.sum(1, keepdim=True) / node_mask.sum(1, keepdim=True)) * node_mask
        kinds = torch.randint(owner.num_classes, x.shape[:2], generator=generator)
        one_hot = torch.nn.functional.one_hot(kinds, owner.num_classes) * node_mask
        numbers = torch.tensor(_atomic_numbers(owner.num_classes))[kinds][..., None] * node_mask
        return {
            "positions": x,
            "one_hot": one_hot > 0,
            "charges": numbers if owner.include_charges else torch.zeros(0),
            "atom_mask": node_mask[..., 0] > 0,
            "edge_mask": edge_mask,
        }

    def loss(self, model: Model, sizes: Sequence[int] = SIZES, seed: int = 1) -> Tensor:
        """Loss per molecule (B,), in the mode that the model is in."""
        self.needs("loss")
        batch = self.batch(model, sizes)
        node_mask = batch["atom_mask"].float()[..., None]
        h = {"categorical": batch["one_hot"].float(), "integer": batch["charges"]}
        torch.manual_seed(seed)
        context = self.context(model, node_mask)
        given = batch["positions"], h, node_mask, batch["edge_mask"], context
        loss: Tensor = tensors(model(*given, **self.more(model, "loss", len(sizes))))[0]
        return loss

    def noise(
        self, model: Model, sizes: Sequence[int] = SIZES, n_samples: int | None = None
    ) -> Tensor:
        """The model's own unit noise, by default for each of the molecules."""
        node_mask, _ = self.masks(sizes)
        draw = getattr(model, adapter_for(model).noise)
        noise: Tensor = draw(n_samples or len(sizes), max(sizes), node_mask)
        return noise

    def prior_term(self, model: Model, xh: Tensor, node_mask: Tensor) -> Tensor:
        """The model's own prior term (B,) of molecules xh (B, N, 3 + F)."""
        term: Tensor = getattr(model, str(adapter_for(model).prior_term))(xh, node_mask)
        return term

    def given_to_network(self, z: Tensor, node_mask: Tensor) -> Tensor:
        """What the network gets of a first noise `z`, to the bit."""
        return z

    def network_method(self, model: Model) -> tuple[Any, str]:
        """The object inside of the model that predicts, and the name of its method."""
        path = self.network
        if path is None:
            dynamics = getattr(model, "dynamics", None)
            path = "_forward" if hasattr(dynamics, "_forward") else "forward"
        *owners, name = path.split(".") if "." in path else ("dynamics", path)
        return reduce(getattr, owners, model), name

    @contextmanager
    def failing_network(self, model: Model, error: type[Exception]) -> Iterator[None]:
        """Let the network raise an error for the length of a block."""
        with mock.patch.object(*self.network_method(model), side_effect=error):
            yield

    def network_inputs(
        self, model: Model, draw: Callable[[], object]
    ) -> list[tuple[Tensor, Tensor]]:
        """The (t, z) that the model's network is called with while `draw` runs."""
        seen = []
        owner, name = self.network_method(model)
        inner = getattr(owner, name)
        signature = inspect.signature(inner)

        def record(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - upstream's own
            arguments = signature.bind(*args, **kwargs).arguments
            time = "t" if "t" in arguments else next(iter(arguments))
            x = next(value for key, value in arguments.items() if key != time)
            seen.append((arguments[time].clone(), x.clone()))
            return inner(*args, **kwargs)

        with mock.patch.object(owner, name, record):
            draw()
        return seen

    def stats(self, model: Model, log_snr_star: float = 0.5) -> GAGAStats:
        """Statistics far from N(0, I) in what the model diffuses, for sizes 2 to 12."""
        layout = adapter_for(model).layout(model, self.elements)
        generator = torch.Generator().manual_seed(5)
        moments = ExchangeableMoments(layout.n_features)
        sizes = torch.randint(3, 12, (600,), generator=generator)
        mask = torch.arange(12) < sizes[:, None]
        scale = torch.tensor([2.0, 2.0, 2.0] + [0.3] * layout.n_features)
        spread = 0.5 + torch.rand(600, 1, 1, generator=generator)
        x = torch.randn(600, 12, layout.n_channels, generator=generator) * scale * spread
        x[..., 3:] += torch.linspace(-0.5, 0.8, layout.n_features)
        if getattr(adapter_for(model), "centred_features", False):
            x = remove_mean(x, mask)
        moments.update(x * mask[..., None], mask)
        return GAGAStats(
            layout, moments, log_snr_star, provenance=adapter_for(model).provenance(model)
        )


def _atomic_numbers(n_classes: int) -> list[int]:
    """As many atomic numbers as a model has elements, common ones first."""
    common = [1, 6, 7, 8, 9, 16, 17]
    rest = (number for number in range(1, n_classes + len(common) + 1) if number not in common)
    return [*common, *rest][:n_classes]


def seeded(make_model: Callable[..., Model]) -> Callable[..., Model]:
    """`make(n_steps, **options)` with seeded weights, in evaluation mode.

    The steps go to the parameter `n_steps`, or to the only one that must be given. A function that
    has neither makes models of as many steps as it likes.

    Raises:
        DataError: If the function needs more than that. What it gives raises
            `UnsupportedModelError` where that is no model.
    """
    name = getattr(make_model, "__name__", type(make_model).__name__)
    taken = _parameters(make_model)
    needed = [p.name for p in taken.values() if p.default is p.empty]
    steps = "n_steps" if "n_steps" in taken else None
    if steps is None and len(needed) == 1 and needed[0] not in OPTIONS:
        steps = needed[0]
    if others := [other for other in needed if other != steps]:
        raise DataError(
            f"{name} cannot be called with a number of steps alone: it needs {', '.join(others)}. "
            "Pass a function make_model(n_steps) that gives a new model, and fills in the rest."
        )
    by_place = steps is not None and taken[steps].kind is inspect.Parameter.POSITIONAL_ONLY

    def make(n_steps: int, **options: Any) -> Model:  # noqa: ANN401 - of the caller
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            given = {steps: n_steps} if steps and not by_place else {}
            model = make_model(*([n_steps] if by_place else []), **given, **options)
        if not isinstance(model, torch.nn.Module):
            raise UnsupportedModelError(
                f"{name} made a {type(model).__name__}. It must make a torch nn.Module."
            )
        return model.eval()

    return make


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The named parameters of a function; none of a builtin that does not tell them."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return {}
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return {name: p for name, p in parameters.items() if p.kind not in variable}


# -- what the checks share -------------------------------------------------------------------------


def tensors(value: Any) -> tuple[Tensor, ...]:  # noqa: ANN401 - upstream's own
    """All tensors inside of what a method returned."""
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list | tuple):
        return tuple(found for entry in value for found in tensors(entry))
    return ()


def quiet(model: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of `apply_patch`
    """`apply_patch` where a warning is not the subject."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GAGAWarning)
        return apply_patch(model, *args, **kwargs)


def same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


class raises:
    """Assert that a block raises an error whose message has these words."""

    def __init__(self, error: type[BaseException], *words: str) -> None:
        self.error, self.words = error, words

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, value: Any, trace: Any) -> bool:  # noqa: ANN401 - of Python
        assert kind is not None, f"{self.error.__name__} was not raised"
        if not issubclass(kind, self.error):
            return False
        for word in self.words:
            assert word in str(value), f"{word!r} is not in {value}"
        return True


def left_behind(model: Model) -> tuple[Any, ...]:
    """Everything that a patch could leave behind."""
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    types = [type(m) for m in model.modules()]
    attributes = {k: id(v) for k, v in model.__dict__.items() if not isinstance(v, int)}
    numbers = {k: v for k, v in model.__dict__.items() if isinstance(v, int)}
    return types, hooks, attributes, numbers, list(model.state_dict())


def everything(case: Case, model: Model) -> list[Tensor]:
    """Samples, chain and losses of a model, as one list of tensors."""
    outputs = [*case.sample(model)]
    if "fix_noise" in case.verbs:
        outputs += case.sample(model, fix_noise=True)
    if "chain" in case.verbs:
        outputs.append(case.chain(model, keep_frames=5))
    if "loss" in case.verbs:
        outputs += [case.loss(model.train()), case.loss(model.eval())]
    assert all(bool(torch.isfinite(x).all()) for x in outputs)
    return [*outputs, torch.get_rng_state()]


VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"schedule": "learned", "loss": "vlb"},
    {"loss": "vlb"},
    {"charges": False},
    {"context": 2},
)


def variants(case: Case) -> list[dict[str, Any]]:
    """The combinations of options that a codebase has."""
    return [options for options in VARIANTS if set(options) <= case.options]
