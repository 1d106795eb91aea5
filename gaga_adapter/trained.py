r"""The noise level that a network was trained down to, kept with its weights.

Training in [0, t*] leaves the network without any idea of what lies beyond. So the log-SNR at t*
goes where the weights go: into the configuration of a diffusers model (`config.json`), or into the
metadata of the state dict of any other module, where code that does not know of it does not see it.
Samplers that call the network at a noisier level are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from gaga_adapter.errors import ArtefactError, TruncationError
from gaga_adapter.noise.levels import TOLERANCE, check_log_snr

#: Entry of the configuration, and of the metadata of a state dict.
KEY = "t_star_log_snr"

_RECORD = "_gaga_trained"


def record_trained(model: nn.Module, log_snr: float | None) -> None:
    """Record how far a network was trained, in its checkpoints, too.

    Args:
        model: Diffusers model, or any module.
        log_snr: Log-SNR of the noisiest level in training, such as `scheduler.trained_log_snr`;
            `None` for the whole path.

    Raises:
        TruncationError: If `log_snr` is no number, or not between -60 and 60.
    """
    if log_snr is not None:
        log_snr = check_log_snr("log_snr", log_snr)
    write: Any = getattr(model, "register_to_config", None)
    if write is not None:
        write(**{KEY: log_snr})
        return
    watch_checkpoints(model)
    model.__dict__[_RECORD].log_snr = log_snr


def trained_log_snr(model: Any) -> float | None:  # noqa: ANN401 - any model or state dict
    """Log-SNR of the noisiest level that a network was trained at; `None` for the whole path.

    Args:
        model: Network, or the state dict of one.

    Raises:
        ArtefactError: If the record is there and is no log-SNR.
    """
    if isinstance(model, Mapping):
        entries = getattr(model, "_metadata", {}).values()
        log_snr = next((entry[KEY] for entry in entries if entry.get(KEY) is not None), None)
    else:
        config: Any = getattr(model, "config", None)
        log_snr = config.get(KEY) if hasattr(config, "get") else None
        record = getattr(model, "__dict__", {}).get(_RECORD)
        log_snr = record.log_snr if log_snr is None and record is not None else log_snr
    try:
        return None if log_snr is None else check_log_snr(KEY, log_snr)
    except TruncationError as error:
        raise ArtefactError(
            f"the checkpoint does not say how far it was trained: {error} Save it again, with "
            "record_trained(model, log_snr), or train anew."
        ) from error


def check_trained(trained: float | None, log_snr: float) -> None:
    """Check that a network was trained at the noisiest level at which it will be called.

    Args:
        trained: Log-SNR of the noisiest level in training, as `trained_log_snr` gives it.
        log_snr: Log-SNR of the noisiest level of the run.

    Raises:
        TruncationError: If the run is noisier.
    """
    if trained is not None and log_snr < trained - TOLERANCE:
        raise TruncationError(
            f"the network was trained down to log-SNR {trained:.4g} and knows nothing noisier; "
            f"this start is at {log_snr:.4g}. Start at that level or closer to the data: "
            "GAGAScheduler.from_pretrained(scheduler, stats=...) with the statistics and the "
            "t_star of its training."
        )


def watch_checkpoints(model: nn.Module) -> None:
    """Let the state dicts of a module record how far it was trained, and loading one restore that.

    Nothing happens if they do already.
    """
    if _RECORD not in model.__dict__:
        hooked: Any = model
        writes = hooked._register_state_dict_hook(_write)
        reads = hooked._register_load_state_dict_pre_hook(_read, with_module=True)
        model.__dict__[_RECORD] = _Record((writes, reads))


def unwatch_checkpoints(model: nn.Module) -> None:
    """Undo `watch_checkpoints`, unless the module was trained on a shorter trajectory."""
    record = model.__dict__.get(_RECORD)
    if record is not None and record.log_snr is None:
        for handle in record.handles:
            handle.remove()
        del model.__dict__[_RECORD]


@dataclass(eq=False)
class _Record:
    """How far a module was trained.

    Copies share it: averaged weights and replicas on other devices are trained with their original.
    """

    handles: tuple[RemovableHandle, ...]  # of the hooks of the original
    log_snr: float | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Record:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"handles": (), "log_snr": self.log_snr}


def _write(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    record = module.__dict__.get(_RECORD)
    if record is not None and record.log_snr is not None:
        metadata[KEY] = record.log_snr


def _read(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: object
) -> None:
    record = module.__dict__.get(_RECORD)
    if record is not None:
        record.log_snr = metadata.get(KEY)
