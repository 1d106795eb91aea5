"""Say how far the weights of a model were trained, where their checkpoint does not."""

from __future__ import annotations

from gaga_adapter.trained import record_trained

from ..protocol import Model, adapter_for
from .patch import bare, checked_step, state_of
from .truncated import Truncation


def trained_to(model: Model, step: int) -> None:
    """Record that the weights of a model were trained up to a step, and nowhere beyond it.

    A later start at a noisier level is refused, and the checkpoints of the model say so. Call it
    after the weights are loaded: those of the paper's own code, which do not say it, are trained up
    to the `max_t` of their `args.pickle`.

    Args:
        model: Model with its weights, patched or not.
        step: Last step that it was trained at, of its own number of steps T.

    Raises:
        UnsupportedModelError: If no adapter recognises the model.
        TruncationError: If `step` is no step of the model.
    """
    model = bare(model)
    adapter, state = adapter_for(model), state_of(model)
    n_steps = state.n_steps if isinstance(state, Truncation) else adapter.n_steps(model)
    step = checked_step("step", step, model, n_steps)
    whole = step == n_steps
    for part in adapter.trained_parts(model):
        record_trained(part, None if whole else adapter.log_snr(model, step))
