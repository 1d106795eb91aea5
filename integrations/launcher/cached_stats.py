"""The statistics of a script's model: named by the user, or fitted once and kept beside the model.

Beside the model means in the folder `gaga` of the experiment. What was fitted there serves every
later script of that experiment, unless the autoencoder has changed since, or t* was the wish of one
evaluation. A model that was trained from t* on knows nothing beyond it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from gaga_adapter.criteria import CriterionCurve
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import GAGAWarning, WriteError
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.stats import CONFIG_NAME, GAGAStats

from ..patching.fitting import Context, fit_from
from ..protocol import Adapter, Model, adapter_for

FOLDER = "gaga"
#: Opens the display of a fit's progress.
ProgressBar = Callable[[], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Kept:
    """Statistics that are read from the folder of a model, or fitted and written there.

    Attributes:
        folder: of the model.
        trains: whether the script trains the model; then it is always fitted anew.
        loader: of the script, as it trains the model.
        data: what the loader reads, for the provenance.
        context: makes the context of a batch for a conditional autoencoder.
        t_star: where the user wants to start; chosen by the criterion if `None`.
        criterion: of Gaussianity, by name.
        tolerance: of the criterion.
        reference: kind of the Gaussian.
        refit: fit although there are statistics.
        progress: of the fit.
        say: reports one line.
    """

    folder: Path
    trains: bool
    loader: Iterable[Any]
    data: str
    context: Context | None
    t_star: int | None
    criterion: str
    tolerance: float | None
    reference: str
    refit: bool
    progress: ProgressBar
    say: Callable[[str], None]

    def __call__(self, model: Model) -> GAGAStats:
        """The statistics of a model that has its weights."""
        folder = self.folder / FOLDER
        if (folder / CONFIG_NAME).is_file() and not (self.trains or self.refit):
            stats = GAGAStats.from_pretrained(folder)
            outdated = self._outdated(model, stats)
            if outdated is None:
                self._warn_of_untrained(model, stats)
                self.say(f"statistics of {folder}")
                return stats
            self.say(f"statistics of {folder} are not used: {outdated}")
        stats = self._fitted(model)
        try:
            stats.save_pretrained(folder)
            self.say(f"statistics of {stats.moments.count:,} molecules are in {folder}")
        except WriteError as error:
            warnings.warn(f"the statistics are not kept: {error}", GAGAWarning, stacklevel=2)
        return stats

    def _outdated(self, model: Model, stats: GAGAStats) -> str | None:
        wish = stats.provenance.get("fitted for") == "evaluation at a given t*"
        if self.t_star is None and wish:
            return "their t* was given, not chosen"
        return adapter_for(model).stale(model, stats.provenance)

    def _warn_of_untrained(self, model: Model, stats: GAGAStats) -> None:
        trained = str(stats.provenance.get("fitted for")).startswith("training")
        if self.t_star is None or not trained:
            return
        log_snr = _log_snr(adapter_for(model), model, self.t_star)
        if log_snr < stats.log_snr_star - 1e-3:
            warnings.warn(
                f"t* = {self.t_star} is at log-SNR {log_snr:.3f}, but this model was trained up to "
                f"{stats.log_snr_star:.3f} only: it has never seen the noise that it starts from. "
                "Leave --t-star out, or train again.",
                GAGAWarning,
                stacklevel=2,
            )

    def _fitted(self, model: Model) -> GAGAStats:
        purpose = "training" if self.trains else "evaluation"
        given = "" if self.t_star is None else " at a given t*"
        provenance = {"data": self.data, "fitted for": purpose + given}
        with self.progress() as progress:
            if self.t_star is None:
                return fit_from(
                    model,
                    self.loader,
                    context=self.context,
                    criterion=self.criterion,
                    reference=self.reference,
                    tolerance=self.tolerance,
                    provenance=provenance,
                    progress=progress,
                )
            stats = fit_from(
                model,
                self.loader,
                context=self.context,
                criterion=Wish(),
                reference=self.reference,
                log_snr=(_log_snr(adapter_for(model), model, self.t_star),),
                n_criterion=1,
                provenance=provenance,
                progress=progress,
            )
        return replace(stats, selection=None)


class Wish:
    """The criterion of a user who has chosen t*: nothing is judged."""

    name: ClassVar[str] = "wish"
    unit: ClassVar[str] = "nats"

    def curve(
        self,
        x: Tensor,
        mask: Tensor | None,
        reference: ReferenceGaussian,
        log_snr: Tensor,
        generator: Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CriterionCurve:
        """Zero nats at every level; see `Criterion.curve`."""
        zeros = (0.0,) * len(log_snr)
        levels = tuple(log_snr.tolist())
        return CriterionCurve(self.name, reference.kind, self.unit, levels, zeros, zeros, len(x))


def _log_snr(adapter: Adapter, model: Model, t_star: int) -> float:
    """Log-SNR of an unpatched model at a step, by its schedule as it stands."""
    time = torch.full(
        (1, 1), t_star / adapter.n_steps(model), device=next(model.parameters()).device
    )
    with torch.no_grad():
        return -float(adapter.schedule(model)(time))
