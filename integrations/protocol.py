"""What an adapter says about a family of models, and the registry of adapters.

`patching/` knows how a sampler of the EDM lineage is truncated: it counts integer steps down from
`n_steps` and divides them by it, asks a schedule for `gamma = -log SNR` at that time, draws noise
once before its first network call, and pays a prior term in its loss. An adapter says what one
codebase calls these things, and how its models are recognised; it imports nothing of theirs.

To write the next one: subclass `Adapter`, or the adapter of the codebase that it was forked from,
give it a `name`, say what differs, and call `register`. The built-in adapters are registered in
`__init__.py`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gaga_adapter.errors import StatsMismatchError, UnsupportedModelError
from gaga_adapter.layout import AtomLayout, Layout, MoleculeLayout
from gaga_adapter.reference import ReferenceGaussian

from .patching.subclass import Recipe, original_class
from .patching.weights import weights_of

Model = Any  # an nn.Module of a codebase that is not imported
Batch = Any  # what a loader of that codebase gives


class Adapter:
    """How the models of one codebase are recognised, and what they call their parts.

    A fork is a subclass of its parent's adapter. Of `attributes`, `methods`, `must` and `must_not`
    it names only what its models have beyond those of the parent; the other names replace the
    parent's.

    Attributes:
        name: Name of the codebase in messages and in pickles.
        attributes: Attributes that its models have, beyond `steps`, `gamma` and the network.
        methods: Methods that its models have, with some of their parameters, such as
            `sample(guidance, l)`, beyond `network`, `noise` and the first of `starts`.
        must: Attributes that must be true where a model has them; a model in which one is not is
            refused, also by the adapter of the parent.
        must_not: Attributes that must be false where a model has them, likewise.
        steps: Attribute with the number of steps T.
        features: Number of diffused channels beside the positions, or the attribute with that
            number; `None` where these are the one-hot elements and the charges.
        network: Method that calls the denoiser, or the submodule that is one; it takes the
            normalised time as `t`.
        noise: Method that draws unit noise for a `node_mask` (B, N, 1).
        starts: Methods whose first noise is the start of a sample.
        loss: Method that computes the loss, where a class has one.
        prior_term: Method that gives the prior term of the bound for `xh` (B, N, 3 + F) and
            `node_mask`, where a class has one; `None` for a codebase that only samples, and whose
            `loss`, if its class has one, is refused.
        frames: Arguments of `starts` that count steps, of which there are no more than t*; `None`
            means all of them.
        fit: Call that fits statistics of such models, as refusals advise it.
        refused: Methods that mean absolute steps, with the reason why they are refused.
        refused_arguments: Arguments of `starts` that mean absolute steps.
    """

    name: ClassVar[str]
    attributes: ClassVar[tuple[str, ...]] = ()
    methods: ClassVar[tuple[str, ...]] = ()
    must: ClassVar[tuple[str, ...]] = ()
    must_not: ClassVar[tuple[str, ...]] = ()
    steps: ClassVar[str] = "T"
    features: ClassVar[int | str | None] = None
    network: ClassVar[str] = "phi"
    noise: ClassVar[str] = "sample_combined_position_feature_noise"
    starts: ClassVar[tuple[str, ...]] = ("sample", "sample_chain")
    loss: ClassVar[str] = "forward"
    prior_term: ClassVar[str | None] = "kl_prior"
    frames: ClassVar[tuple[str, ...]] = ("keep_frames",)
    fit: ClassVar[str] = "fit_from(model, loader)"
    refused: ClassVar[Mapping[str, str]] = {}
    refused_arguments: ClassVar[tuple[str, ...]] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return adapter_named, (self.name,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Adapter:
        return self  # a copy of a model has its class, also where the name means another by now

    def reasons(self, model: Model) -> list[str]:
        """All reasons why this is not such a model, or one of another kind; empty if it is one."""
        return self.missing(model) + self.unfit(model)

    def unfit(self, model: Model) -> list[str]:
        """Why a model of this codebase is of a kind that is refused; empty if it is not."""
        reasons = []
        if getattr(model, "n_dims", 3) != 3:
            reasons.append(f"n_dims={model.n_dims}, not 3")
        for claim, wanted in (("must", True), ("must_not", False)):
            reasons += [
                f"{name}={getattr(model, name)!r}, not {wanted}"
                for name in self._inherited(claim)
                if bool(getattr(model, name, wanted)) is not wanted
            ]
        return reasons

    def missing(self, model: Model) -> list[str]:
        """What tells the class of such a model, and this one lacks."""
        methods: dict[str, tuple[str, ...]] = {
            self.noise: ("n_samples", "n_nodes", "node_mask"),
            self.starts[0]: ("node_mask", "edge_mask", "context"),
        }
        if self.network not in getattr(model, "_modules", {}):
            methods = {self.network: ("x", "t"), **methods}
        for text in self._inherited("methods"):
            name, *parameters = re.findall(r"\w+", text)
            methods[name] = (*methods.get(name, ()), *parameters)
        for name in self._named("loss", "prior_term"):
            methods.setdefault(name, ())
        gamma = ("gamma",) if type(self).schedule is Adapter.schedule else ()
        return lacks(model, (self.steps, *gamma, *self._inherited("attributes")), methods)

    def _inherited(self, what: str) -> tuple[str, ...]:
        """Names that this adapter and its parents list, each once."""
        lists = (vars(cls).get(what, ()) for cls in reversed(type(self).__mro__))
        return tuple(dict.fromkeys(name for names in lists for name in names))

    def _named(self, *claims: str) -> list[str]:
        """Methods that this adapter or its parents name as one of these, other than `Adapter`."""
        own = {claim for cls in type(self).__mro__ if cls is not Adapter for claim in vars(cls)}
        names = [getattr(self, claim) for claim in claims if claim in own]
        return [name for name in names if name is not None]

    def layout(self, model: Model, elements: tuple[str, ...] | None) -> Layout:
        """What the channels of the diffused tensor are.

        Args:
            model: Model that this adapter recognises.
            elements: Symbols of the one-hot channels, which models do not know themselves; `None`
                if they are not known.

        Raises:
            StatsMismatchError: If the model has another number of elements.
        """
        features = self.features
        if features is not None:
            return AtomLayout(
                int(getattr(model, features)) if isinstance(features, str) else features
            )
        positions, onehot, *charge = map(float, model.norm_values)
        charges = charge[0] if getattr(model, "include_charges", False) else None
        return MoleculeLayout(classes(model, elements), positions, onehot, charges)

    def n_steps(self, model: Model) -> int:
        """Steps T of the model, as it stands."""
        return int(getattr(model, self.steps))

    def set_steps(self, model: Model, n_steps: int) -> None:
        """Let every loop and every random time of the model run to `n_steps`."""
        setattr(model, self.steps, n_steps)

    def schedule(self, model: Model) -> nn.Module:
        """The module that maps normalised times (B, 1) to `gamma` (B, 1)."""
        module: nn.Module = model.gamma
        return module

    def gamma_at(self, model: Model, time: float) -> Tensor:
        """`gamma = -log SNR` (1, 1) at a time of 0 to 1, by the schedule as it stands."""
        device = next(weights_of(model)).device
        gamma: Tensor = self.schedule(model)(torch.full((1, 1), time, device=device))
        return gamma

    def log_snr(self, model: Model, step: int) -> float:
        """Log-SNR at a step of the model, by the schedule as it stands."""
        with torch.no_grad():
            return -float(self.gamma_at(model, step / self.n_steps(model)))

    def prepare(self, model: Model, method: str, arguments: dict[str, Any]) -> None:
        """Look at the arguments of one of `starts`, or the loss, and change them in place.

        A chain has no more frames than there are steps. Where one start calls another, the second
        call sees what the first one changed, and has to leave it so.

        Raises:
            UnsupportedModelError: If the call means absolute steps.
        """
        absolute = [name for name in self.refused_arguments if is_given(arguments.get(name))]
        if absolute:
            raise UnsupportedModelError(
                f"{method}({', '.join(absolute)}) cannot run truncated: what is asked for there "
                "means absolute steps. Call remove_patch(model) first."
            )
        parameters = inspect.signature(getattr(type(model), method)).parameters
        for name in set(self.frames) & set(parameters):
            n_steps = self.n_steps(model)
            frames = arguments.get(name, parameters[name].default)
            arguments[name] = n_steps if frames is None else min(frames, n_steps)

    def stale(self, model: Model, provenance: Mapping[str, Any]) -> str | None:
        """Why statistics with this provenance are not of the space that the model diffuses now.

        The patch asks when a model is patched, and before it samples.
        """
        return None

    def elements(self, loader: Iterable[Any]) -> tuple[str, ...] | None:
        """Symbols of the one-hot channels, if the loader says which they are."""
        return None

    def diffused(
        self, model: Model, batch: Batch, context: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """What the model diffuses of one batch of its own loader.

        Args:
            model: Model that this adapter recognises.
            batch: Batch as the loader gave it.
            context: Context of the batch (B, N, C), for an encoder that takes one.
            generator: Source of randomness for the noise of a latent.

        Returns:
            x (B, N, 3 + F) and its mask (B, N), bool.

        Raises:
            DataError: If the batch has another form, or an element that the model does not have.
            StatsMismatchError: If the loader has another number of elements.
        """
        raise UnsupportedModelError(
            f"{original_class(type(model)).__name__} ({self.name}) comes without a loader. Fit on "
            "tensors of what it diffuses: gaga_adapter.fit(data, layout)."
        )

    def provenance(self, model: Model) -> dict[str, Any]:
        """What a fit records about the model, for `stale`; JSON-able."""
        return {}

    def faults(self, model: Model) -> list[str]:
        """Upstream faults that `fix_last_class` corrects in this model, as sentences."""
        return []

    def extra_methods(self, base: type[Any]) -> dict[str, Any]:
        """More methods for the generated subclass."""
        return {}

    def inner_swaps(self, model: Model, fix_last_class: bool) -> list[tuple[nn.Module, Recipe]]:
        """Modules inside of the model that get a generated subclass, too."""
        return []

    def loss_method(self) -> str | None:
        """Name of the method that computes the loss; `None` for a codebase that only samples."""
        only_samples = self.prior_term is None or self.loss in self.starts
        return None if only_samples else self.loss

    def trained_parts(self, model: Model) -> list[nn.Module]:
        """Modules whose checkpoints say how far they were trained: the model, and its network."""
        network = model._modules.get("dynamics", model._modules.get(self.network))
        return [model] if network is None else [model, network]

    def least_step(self, model: Model) -> int:
        """The step closest to the data at which the loss can be cut."""
        return 1

    def stub(self, model: Model, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """What the network would return for its arguments, for the self-check.

        It is not zero, which reads as a failure upstream.
        """
        return arguments["x"].clone()

    def options(self, model: Model, method: str, n_samples: int) -> dict[str, Any]:
        """Arguments that the self-check must give to a method beyond those of EDM's."""
        return {}

    def draw(self, model: Model, node_mask: Tensor, edge_mask: Tensor) -> None:
        """Sample once without context, for the self-check, which stubs the network."""
        n_samples, n_nodes = node_mask.shape[:2]
        start = self.starts[0]
        given: dict[str, Any] = {"context": None, **self.options(model, start, n_samples)}
        getattr(model, start)(n_samples, n_nodes, node_mask, edge_mask, **given)

    def draw_loss(self, model: Model, node_mask: Tensor, edge_mask: Tensor) -> None:
        """Compute the loss once, of any molecules, for the self-check, which stubs the network.

        An adapter that does not say how leaves the loss unchecked until it calls the network.
        """
        raise NotImplementedError

    def padded(self, z: Any, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """What the model diffuses, as padded molecules.

        Args:
            z: Unit noise as `noise` returned it; `None` for what `prior_term` was given.
            arguments: Arguments of `noise` or of `prior_term`.

        Returns:
            x (B, N, 3 + F), and a node mask (B, N, 1) of floats or (1, N, 1).
        """
        return (arguments["xh"] if z is None else z), arguments["node_mask"]

    def unpadded(self, x: Tensor, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Padded molecules (B, N, 3 + F) in the form in which `noise` returns them."""
        return x

    def unit_reference(self, model: Model) -> ReferenceGaussian | None:
        """N(0, I), for a codebase whose own `prior_term` is right at T only; else `None`."""
        return None

    def finish_loss(self, model: Model, loss: Any) -> Any:  # noqa: ANN401
        """What `loss` returned, where a caller of the model counts the steps by himself."""
        return loss


def lacks(
    model: Model, attributes: tuple[str, ...], methods: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Which attributes, methods, or parameters of methods a model does not have, as sentences."""
    reasons = [f"no attribute {name!r}" for name in attributes if not hasattr(model, name)]
    for name, parameters in methods.items():
        method = getattr(type(model), name, None)
        if not callable(method) or method is nn.Module.forward:
            reasons.append(f"no method {name!r}")
            continue
        unknown = set(parameters) - set(inspect.signature(method).parameters)
        reasons += [f"{name} takes no {parameter!r}" for parameter in sorted(unknown)]
    return reasons


def classes(model: Model, elements: tuple[str, ...] | None) -> tuple[str, ...]:
    """Symbols of the one-hot channels, or their numbers where symbols are not known."""
    if elements is None:
        elements = tuple(f"class {i}" for i in range(model.num_classes))
    if len(elements) != model.num_classes:
        raise StatsMismatchError(
            f"the statistics have {len(elements)} elements ({', '.join(elements)}), the model "
            f"has {model.num_classes}. Fit again: fit_from(model, loader)."
        )
    return tuple(elements)


def is_given(value: object) -> bool:
    """Whether an optional argument asks for something; `None`, `False` and 0 do not."""
    return value is not None and not (isinstance(value, int) and value == 0)


# -- the registry ----------------------------------------------------------------------------------

_ADAPTERS: dict[str, Adapter] = {}
_NEAREST = 2  # adapters whose reasons are in the message about a model that none recognises


def register(adapter: Adapter) -> None:
    """Add an adapter, or replace the one of its name; the last that fits a model is taken."""
    _ADAPTERS.pop(adapter.name, None)
    _ADAPTERS[adapter.name] = adapter


def adapters() -> dict[str, Adapter]:
    """All adapters by name, in the order in which they are asked: the last registered first."""
    return dict(reversed(_ADAPTERS.items()))


def adapter_named(name: str) -> Adapter:
    """An adapter by name.

    Raises:
        UnsupportedModelError: If no adapter has this name.
    """
    if name not in _ADAPTERS:
        raise UnsupportedModelError(f"no adapter {name!r}. Known: {', '.join(adapters())}.")
    return _ADAPTERS[name]


def adapter_for(model: Model) -> Adapter:
    """The first adapter that recognises a model.

    Raises:
        UnsupportedModelError: If no adapter does; the message has the reasons of the nearest ones.
    """
    name = original_class(type(model)).__name__
    if not isinstance(model, nn.Module):
        swapped = " Its statistics come second: apply_patch(model, stats)." * hasattr(
            model, "log_snr_star"
        )
        raise UnsupportedModelError(
            f"cannot patch {name}: it is no diffusion model (a torch.nn.Module).{swapped}"
        )
    refusals: list[tuple[int, str]] = []
    for known, adapter in adapters().items():
        reasons = adapter.reasons(model)
        if not reasons:
            return adapter
        refusals.append((len(reasons), f"{known}: {', '.join(reasons)}."))
        if adapter.unfit(model) and not adapter.missing(model):
            refusals = refusals[-1:]
            break  # it is of this codebase, and no parent may take it
    inside = [
        part
        for part, child in model.named_children()
        if any(not adapter.reasons(child) for adapter in adapters().values())
    ]
    advice = (
        f"It holds one that can be patched: pass its {inside[0]!r}."
        if inside
        else "Pass the diffusion model itself, or draft an adapter: gaga adapter new NAME."
    )
    nearest = [reason for _, reason in sorted(refusals, key=lambda refusal: refusal[0])[:_NEAREST]]
    raise UnsupportedModelError(f"cannot patch {name}. {' '.join(nearest)} {advice}")
