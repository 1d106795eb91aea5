"""The self-check of a patch: it runs a model, cut at step 2 of T, and looks at what it does.

The network is stubbed; everything else is the model's own, with its assertions. A model is refused
whose sampler does not start from noise, counts other steps, or draws other noise than it diffuses.
A loss that cannot be run, or that draws times beyond t*, does not stop the sampling: it is refused
where it is called. Afterwards torch's global random state and the modes are as they were.
"""

from __future__ import annotations

import inspect
import math
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from gaga_adapter.errors import GAGAWarning, UnsupportedModelError
from gaga_adapter.moments import ExchangeableMoments

from ..protocol import Adapter, Model
from .truncated import SELF_CHECK, EndOfCheck, Observations, Truncation

# Of times drawn uniformly from 0 .. T > 2, all of 64 are at most 2 with a chance of (3 / 4)^64.
_N_LOSSES = 64


def check_by_running(model: Model, truncation: Truncation) -> Truncation:
    """The truncation of an unpatched model, with what is wrong with the loss of the model.

    Raises:
        UnsupportedModelError: If the model does not start to sample from the Gaussian at t*.
    """
    probe = replace(truncation, t_star=min(2, truncation.n_steps), loss_fault=None)
    _check_sampling(model, probe, training=False)
    if model.training:
        _check_sampling(model, probe, training=True)
    least = max(probe.t_star, truncation.adapter.least_step(model))
    probe = replace(probe, t_star=max(probe.t_star, min(least, truncation.t_star)))
    return replace(truncation, loss_fault=_fault_of_loss(model, probe))


def _check_sampling(model: Model, probe: Truncation, training: bool) -> None:
    name, adapter = type(model).__name__, probe.adapter
    width = adapter.layout(model, getattr(getattr(probe.stats, "layout", None), "elements", None))

    def draw(node_mask: Tensor, edge_mask: Tensor) -> None:
        adapter.draw(model, node_mask, edge_mask)

    seen, error = _observe(model, probe, training, _sizes(probe), draw)
    if seen.noise is not None:
        _check_noise(name, *seen.noise, width.n_channels)
    if error is not None and training and isinstance(error, AssertionError):
        return  # it samples in evaluation mode only, which is its own right
    if error is not None:
        raise UnsupportedModelError(
            f"cannot patch {name}: sampling two molecules with a stubbed network failed "
            f"({_describe(error)})."
        ) from error
    if seen.noise is None:
        raise UnsupportedModelError(
            f"cannot patch {name}: its sampler calls the network before it draws noise with "
            f"{adapter.noise}, so there is nothing to start from the Gaussian."
        )
    if not all(any(_holds(x, z) for x in seen.inputs) for z in seen.given):
        raise UnsupportedModelError(
            f"cannot patch {name}: the noise that its sampler draws first with {adapter.noise} is "
            "not what its network is called with first. It is scaled, moved or drawn again on the "
            "way, so that the start from the Gaussian would be lost or bent. Write an adapter "
            "whose noise is the last that is drawn before the network is called."
        )
    # A model that is conditioned on its own prediction asks its network twice at a time.
    times = [time for time, _ in groupby(float(t[0]) for t in seen.times)]
    expected = [step / probe.n_steps for step in range(probe.t_star, -1, -1)]
    if len(times) != len(expected) or math.dist(times, expected) > 1e-6:
        raise UnsupportedModelError(
            f"cannot patch {name}: it ignores the number of steps. Cut at step {probe.t_star} of "
            f"{probe.n_steps}, its network must see the times {expected}, it saw {times}."
        )


def _holds(x: Tensor, z: Tensor) -> bool:
    """Whether an input of the network is a start, or begins with its channels."""
    if x.shape[:-1] != z.shape[:-1] or x.shape[-1] < z.shape[-1]:
        return False
    return torch.allclose(x[..., : z.shape[-1]].to(z), z, rtol=1e-3, atol=1e-3)


def _check_noise(name: str, noise: Tensor, start: Tensor, n_channels: int) -> None:
    if noise.shape[-1] != n_channels:
        raise UnsupportedModelError(
            f"cannot patch {name}: by its attributes it diffuses {n_channels} channels, but its "
            f"sampler draws noise of {noise.shape[-1]}. The rest does not start from noise (it may "
            "be predicted), so no Gaussian can stand in for it, and no fit can help. Write an "
            "adapter whose layout has the channels of the noise (integrations/forks/unigem.py)."
        )
    before, after = (float(z[..., 3:].sum(1).norm()) for z in (noise, start))
    if noise.shape[-1] > 3 and before < 1e-3 < after:
        raise UnsupportedModelError(
            f"cannot patch {name} with these statistics: its noise of the features has zero mean "
            "over the atoms of each molecule, and their Gaussian does not. Pass reference='unit' "
            "with t_star, or write an adapter that fits centred features "
            "(integrations/forks/paper.py is one)."
        )


def _fault_of_loss(model: Model, probe: Truncation) -> str | None:
    """Why the loss is not one of the truncated model, as a sentence; `None` if it is."""
    adapter = probe.adapter
    name = adapter.loss_method()
    if name is None or type(adapter).draw_loss is Adapter.draw_loss:
        return None  # there is none, or only its calls of the network can be checked
    method = getattr(type(model), name, None)
    if method is None or method is nn.Module.forward:
        return "its class has no loss."

    def draw(node_mask: Tensor, edge_mask: Tensor) -> None:
        adapter.draw_loss(model, node_mask, edge_mask)

    for training in (True, False):
        seen, error = _observe(model, probe, training, _sizes(probe)[1:] * _N_LOSSES, draw)
        mode = "training" if training else "evaluation"
        if error is not None:
            return f"its loss failed in {mode} mode with a stubbed network ({_describe(error)})."
        if not seen.times:
            return f"its loss in {mode} mode does not call the network with {adapter.network}."
        last = float(torch.cat(seen.times).max())
        if last > probe.t_star / probe.n_steps + 1e-6:
            return (
                f"its loss in {mode} mode draws times up to {last:.4g}, cut at step {probe.t_star} "
                f"of {probe.n_steps}: it does not take their end from the number of steps of the "
                f"model. The arguments of {name} are "
                f"{', '.join(list(inspect.signature(method).parameters)[1:])}."
            )
    return None


def _sizes(probe: Truncation) -> tuple[int, int]:
    """Two small sizes, the larger first, so that there is padding; of those that were fitted."""
    moments = None if probe.stats is None else probe.stats.moments
    sizes = [3, 2]
    if isinstance(moments, ExchangeableMoments):
        sizes = [n for n in moments.sizes.tolist() if n > 1][1::-1] or sizes
    return sizes[0], sizes[-1]


def _observe(
    model: Model,
    probe: Truncation,
    training: bool,
    sizes: tuple[int, ...],
    draw: Callable[[Tensor, Tensor], None],
) -> tuple[Observations, Exception | None]:
    """What happens while a patched model draws, and the exception that ended it."""
    device = next(model.parameters()).device
    n_atoms = torch.tensor(sizes, device=device)
    mask = torch.arange(max(sizes), device=device) < n_atoms[:, None]
    pairs = mask[:, :, None] & mask[:, None]
    pairs = pairs & ~torch.eye(max(sizes), dtype=torch.bool, device=device)
    seen = Observations()
    probe.install(model)
    token = SELF_CHECK.set(seen)
    try:
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.no_grad(),
            _mode(model, training),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", GAGAWarning)  # these sizes are no user's
            draw(mask[..., None].float(), pairs.reshape(-1, 1).float())
    except EndOfCheck:
        pass
    except Exception as error:
        return seen, error
    finally:
        SELF_CHECK.reset(token)
        probe.uninstall(model)
    return seen, None


@contextmanager
def _mode(model: Model, training: bool) -> Iterator[None]:
    """A model in a mode, and every module of it as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _describe(error: Exception) -> str:
    """An exception with the line that raised it, as many upstream assertions say nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}, `{frames[-1].line}`"
    return f"{type(error).__name__}{where if frames else ''}{f': {error}' if str(error) else ''}"
