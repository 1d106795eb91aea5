"""One codebase that keeps the contract, and what the checks ask of its models."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from unittest import mock

import torch
from gaga_adapter.integrations import apply_patch
from gaga_adapter.integrations.protocol import adapter_for

from gaga_adapter.errors import (
    GAGAWarning,
)
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import remove_mean

SIZES = (5, 9, 7)


class NotApplicable(Exception):
    """This codebase has no such thing."""


@dataclass
class Case:
    """One codebase, and how to use it; this one is of the EDM lineage.

    Attributes:
        name: Name of the codebase.
        make: `make(n_steps, **options)` gives a model with seeded weights, in evaluation mode.
        options: what `make` takes: of `schedule` (`learned`), `loss` (`vlb`), `charges` (False),
            `context` (channels) and `trainable` (the autoencoder).
        verbs: what the models can do, of `sample`, `fix_noise`, `chain` and `loss`.
        network: method of `model.dynamics` that the model calls.
        loses_class: whether samples without charges never have the last element class.
    """

    name: str
    make: object
    options: frozenset = frozenset({"schedule", "loss", "charges", "context"})
    verbs: frozenset = frozenset({"sample", "fix_noise", "chain", "loss"})
    n_steps: int = 20
    elements: tuple = ("H", "C", "N", "O", "F")
    network: str = "_forward"
    loses_class: bool = True

    def model(self, n_steps=None, **options):
        """A new model.

        Raises:
            NotApplicable: the codebase has no such option.
        """
        self.needs(*options)
        return self.make(n_steps or self.n_steps, **options)

    def needs(self, *names):
        missing = set(names) - self.options - self.verbs
        if missing:
            raise NotApplicable(f"{self.name} has no {', '.join(sorted(missing))}")

    def masks(self, sizes=SIZES):
        node_mask = (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).float()[..., None]
        pairs = (node_mask * node_mask.mT) * (1 - torch.eye(max(sizes)))
        return node_mask, pairs.reshape(-1, 1)

    def context(self, model, node_mask):
        n = getattr(model.dynamics, "context_node_nf", 0) or getattr(model, "n_context", 0)
        return torch.linspace(-1, 1, n * len(node_mask)).view(-1, 1, n) * node_mask if n else None

    def more(self, model, verb, n_samples):
        """Arguments that a codebase wants beyond EDM's, for `sample`, `chain` or `loss`."""
        return {}

    def sample(self, model, sizes=SIZES, seed=1, **options):
        """A draw: a tuple of tensors."""
        torch.manual_seed(seed)
        node_mask, edge_mask = self.masks(sizes)
        given = (len(sizes), max(sizes), node_mask, edge_mask, self.context(model, node_mask))
        x, h, *_ = model.sample(*given, **self.more(model, "sample", len(sizes)), **options)
        return x, h["categorical"], h["integer"]

    def chain(self, model, sizes=SIZES, seed=1, keep_frames=None):
        self.needs("chain")
        torch.manual_seed(seed)
        node_mask, edge_mask = self.masks(sizes)
        given = (len(sizes), max(sizes), node_mask, edge_mask, self.context(model, node_mask))
        more = self.more(model, "chain", len(sizes))
        return model.sample_chain(*given, keep_frames=keep_frames, **more)

    def batch(self, model, sizes=SIZES, seed=2):
        """What the training loop would pass: x, h and node mask; and the batch of the loader."""
        generator = torch.Generator().manual_seed(seed)
        owner = getattr(model, "vae", model)
        node_mask, edge_mask = self.masks(sizes)
        x = torch.randn(len(sizes), max(sizes), 3, generator=generator) * node_mask
        x = (x - x.sum(1, keepdim=True) / node_mask.sum(1, keepdim=True)) * node_mask
        kinds = torch.randint(owner.num_classes, x.shape[:2], generator=generator)
        one_hot = torch.nn.functional.one_hot(kinds, owner.num_classes) * node_mask
        numbers = torch.tensor([1, 6, 7, 8, 9, 16, 17])[kinds][..., None] * node_mask
        return {
            "positions": x,
            "one_hot": one_hot > 0,
            "charges": numbers if owner.include_charges else torch.zeros(0),
            "atom_mask": node_mask[..., 0] > 0,
            "edge_mask": edge_mask,
        }

    def loss(self, model, sizes=SIZES, seed=1):
        """Loss per molecule (B,), in the mode the model is in."""
        self.needs("loss")
        batch = self.batch(model, sizes)
        node_mask = batch["atom_mask"].float()[..., None]
        h = {"categorical": batch["one_hot"].float(), "integer": batch["charges"]}
        torch.manual_seed(seed)
        context = self.context(model, node_mask)
        given = batch["positions"], h, node_mask, batch["edge_mask"], context
        loss = model(*given, **self.more(model, "loss", len(sizes)))
        return loss[0] if isinstance(loss, tuple) else loss

    def given_to_network(self, z, node_mask):
        """What the network gets of a first noise `z`, to the bit."""
        return z

    def network_inputs(self, model, draw):
        """The (t, z) that the model's network is called with while `draw` runs."""
        seen = []
        inner = getattr(model.dynamics, self.network)

        def record(t, x, *args, **kwargs):
            seen.append((t.clone(), x.clone()))
            return inner(t, x, *args, **kwargs)

        with mock.patch.object(model.dynamics, self.network, record):
            draw()
        return seen

    def stats(self, model, log_snr_star=0.5):
        """Statistics far from N(0, I) in what the model diffuses, for sizes 2 to 12."""
        layout = adapter_for(model).layout(model, self.elements[: n_elements(model)])
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


def n_elements(model):
    return getattr(model, "vae", model).num_classes


def quiet(model, *args, **kwargs):
    """`apply_patch` where a warning is not the subject."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GAGAWarning)
        return apply_patch(model, *args, **kwargs)


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def raises(error, *words):
    class Expect:
        def __enter__(self):
            return self

        def __exit__(self, kind, value, trace):
            assert kind is not None, f"{error.__name__} was not raised"
            if not issubclass(kind, error):
                return False
            for word in words:
                assert word in str(value), f"{word!r} is not in {value}"
            return True

    return Expect()


def left_behind(model):
    """Everything that a patch could leave behind."""
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    types = [type(m) for m in model.modules()]
    attributes = {k: id(v) for k, v in model.__dict__.items() if not isinstance(v, int)}
    numbers = {k: v for k, v in model.__dict__.items() if isinstance(v, int)}
    return types, hooks, attributes, numbers, list(model.state_dict())


def everything(case, model):
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


VARIANTS = (
    {},
    {"schedule": "learned", "loss": "vlb"},
    {"loss": "vlb"},
    {"charges": False},
    {"context": 2},
)


def variants(case):
    return [v for v in VARIANTS if set(v) <= case.options]
