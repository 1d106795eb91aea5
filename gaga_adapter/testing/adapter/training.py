"""A model that trains is trained up to t*, against the prior that it samples from."""

from __future__ import annotations

import copy
import functools
import inspect
import io
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from gaga_adapter.errors import (
    TruncationError,
)
from gaga_adapter.integrations import apply_patch, remove_patch
from gaga_adapter.integrations.patching.prior import at_gamma
from gaga_adapter.integrations.protocol import adapter_for
from gaga_adapter.stats import GAGAStats
from gaga_adapter.testing.adapter.case import (
    Case,
    quiet,
    variants,
)
from gaga_adapter.training import trained_log_snr


def training_draws_times_up_to_t_star(case: Case) -> None:
    """The loss draws the steps 0 to t*, each of them."""
    case.needs("loss")
    for options in variants(case):
        model = case.model(**options)
        quiet(model, case.stats(model), t_star=3, reference="size")
        times = set()
        for mode in (True, False):
            model.train(mode)
            draw = functools.partial(case.loss, model, sizes=(4,) * 128)
            for t, _ in case.network_inputs(model, draw):
                times |= set((t * case.n_steps).round().int().flatten().tolist())
                steps = (t * case.n_steps).round() / case.n_steps
                assert torch.equal(t, steps.to(t))
        assert times == {0, 1, 2, 3}, (options, times)


def the_prior_term_is_the_divergence_at_t_star(case: Case) -> None:
    """The loss differs between references by their divergences."""
    case.needs("loss")
    model = case.model(loss="vlb") if "loss" in case.options else case.model()
    stats = case.stats(model)
    losses = {}
    for kind in ("unit", "size", "shape", "channel"):
        handle = apply_patch(model, stats, t_star=11, reference=kind)
        losses[kind] = case.loss(model.eval())
    nats, seen = {}, {}
    remove_patch(model)
    adapter = adapter_for(model)
    name = adapter.prior_term
    plain = getattr(type(model), name)

    signature = inspect.signature(plain)

    def spy(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of upstream
        arguments = signature.bind(*args, **kwargs).arguments
        xh, node_mask = adapter.padded(None, arguments)
        seen["x"] = xh[..., : stats.layout.n_channels]  # what is predicted is not diffused
        seen["mask"] = node_mask[..., 0] > 0
        return plain(*args, **kwargs)

    with mock.patch.object(type(model), name, spy):
        case.loss(model)
    for kind in losses:
        reference = at_gamma(stats.reference(kind), -handle.log_snr)
        nats[kind] = reference.kl_from_posterior(seen["x"], seen["mask"])
    for kind in ("size", "shape", "channel"):
        moved = (losses[kind] - losses["unit"]).double()
        assert torch.allclose(moved, nats[kind] - nats["unit"], rtol=1e-4, atol=2e-3), kind


def a_learned_schedule_feels_the_prior_term(case: Case) -> None:
    """The gradient of the prior term is the slope of its value."""
    case.needs("loss", "schedule")
    stats = replace(case.stats(case.model(schedule="learned", loss="vlb")), provenance={})
    torch.set_default_dtype(torch.float64)  # so that a difference of losses is a slope
    try:
        _compare_slopes(case, case.model(schedule="learned", loss="vlb").train(), stats)
    finally:
        torch.set_default_dtype(torch.float32)


def _compare_slopes(case: Case, model: Any, stats: GAGAStats) -> None:  # noqa: ANN401
    node_mask, _ = case.masks()
    node_mask = node_mask.double()
    shape = (*node_mask.shape[:2], stats.layout.n_channels)
    xh = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    xh = xh * node_mask
    schedule = adapter_for(model).schedule(model)
    parameters = [p for p in schedule.parameters() if p.requires_grad]
    for kind in ("size", "unit", "shape"):
        apply_patch(model, stats, t_star=11, reference=kind)
        total = case.prior_term(model, xh, node_mask).sum()
        gradient = torch.autograd.grad(total, parameters)
        steps = [
            torch.randn(p.shape, generator=torch.Generator().manual_seed(6)) for p in parameters
        ]
        slope = sum(float((g * s).sum()) for g, s in zip(gradient, steps, strict=True))
        values = []
        for sign in (1, -1):
            for p, s in zip(parameters, steps, strict=True):
                p.data += sign * 1e-5 * s
            with torch.no_grad():
                values.append(float(case.prior_term(model, xh, node_mask).sum()))
            for p, s in zip(parameters, steps, strict=True):
                p.data -= sign * 1e-5 * s
        assert abs(slope) > 1e-3
        assert abs(slope - (values[0] - values[1]) / 2e-5) < 1e-4 * abs(slope), kind


def it_trains(case: Case) -> None:
    """A step of training is finite and reaches the network."""
    case.needs("loss")
    for options in variants(case):
        model = case.model(**options).train()
        quiet(model, case.stats(model))
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-4)
        loss = case.loss(model).mean()
        torch.autograd.backward(loss)
        optimizer.step()
        assert bool(torch.isfinite(loss)), options
        network, _ = case.network_method(model)
        assert any(p.grad is not None for p in network.parameters())


def checkpoints_say_how_far_the_model_was_trained(case: Case) -> None:
    """A model that was trained to t* is not sampled from beyond it."""
    model = case.model()
    handle = apply_patch(model, case.stats(model), t_star=11)
    average = copy.deepcopy(model)
    assert trained_log_snr(average.state_dict()) is None
    torch.autograd.backward(case.loss(model.train()).mean())
    assert trained_log_snr(average.state_dict()) is None  # its weights are as they were
    with torch.no_grad():
        for mine, new in zip(average.parameters(), model.parameters(), strict=True):
            if new.requires_grad:
                new -= 1e-2
                mine.data = 0.5 * mine.data + 0.5 * new.data
    trained = trained_log_snr(average.state_dict())
    assert abs(trained - handle.log_snr) < 1e-5
    file = io.BytesIO()
    torch.save(average.state_dict(), file)
    file.seek(0)
    again = case.model()
    apply_patch(again, case.stats(again), t_star=11)
    again.load_state_dict(torch.load(file, weights_only=True))
    for t_star in (11, 5):
        apply_patch(again, case.stats(again), t_star=t_star)
        case.sample(again)
    apply_patch(again, case.stats(again), t_star=15)
    said = None
    try:
        case.sample(again)
    except TruncationError as error:
        said = str(error)
    assert said is not None
    assert "knows nothing noisier" in said
