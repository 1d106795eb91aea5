"""Say how far the weights of a model were trained, where their checkpoint does not."""

from __future__ import annotations

from gaga_adapter.errors import TruncationError, plain_number
from gaga_adapter.trained import record_trained

from ..protocol import Model, adapter_for
from .patch import bare, state_of
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
    advice = f"Pass an integer from 1 to {n_steps}."
    number = plain_number("step", step, advice)
    if not 1 <= number <= n_steps or number % 1:
        raise TruncationError(
            f"step={step} is no step of {type(model).__name__}(T={n_steps}). {advice}"
        )
    step = int(number)
    whole = step == n_steps
    for part in adapter.trained_parts(model):
        record_trained(part, None if whole else adapter.log_snr(model, step))
