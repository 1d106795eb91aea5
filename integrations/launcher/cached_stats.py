"""The statistics of a script's model, fitted once and read by every later script.

They lie beside the model, in the folder `gaga` of the experiment. A training that is resumed keeps
those that it began with, so that its t* stays. They are fitted anew if the autoencoder has changed
since, or if their t* was given for one evaluation. A model that was trained from t* on knows
nothing beyond it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from gaga_adapter.criteria import CriterionCurve
from gaga_adapter.errors import GAGAWarning, WriteError
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.stats import CONFIG_NAME, GAGAStats

from ..patching.fitting import Context, fit_from
from ..protocol import Model, adapter_for
from .options import Options, ProgressBar, Say


@dataclass(frozen=True)
class CachedStats:
    """Reads the statistics in the folder of a model, or fits them and writes them there."""

    folder: Path  # where they are written
    known: Path | None  # where they may be already; `None` for a model that is new
    options: Options
    trains: bool  # whether the script trains
    loader: Iterable[Any]  # the script's own, which trains the model
    data: str  # what the loader reads, for the provenance
    context: Context | None  # for a conditional autoencoder
    progress: ProgressBar
    say: Say

    def __call__(self, model: Model) -> GAGAStats:
        """The statistics of a model that has its weights."""
        stats = None if self.options.refit else self._read(model)
        if stats is None:
            self.say(self._announcement())
            begin = time.monotonic()
            stats = self._fit(model)
            self.say(
                f"fitted {stats.moments.count:,} molecules in {time.monotonic() - begin:.1f} s, "
                "which the script counts as its own time"
            )
        elif self.known == self.folder:
            return stats
        folder = self.folder / "gaga"
        try:
            stats.save_pretrained(folder)
            self.say(f"statistics of {stats.moments.count:,} molecules are in {folder}")
        except WriteError as error:
            warnings.warn(f"the statistics are not kept: {error}", GAGAWarning, stacklevel=2)
        return stats

    def _announcement(self) -> str:
        """What is about to take a while, where it is kept, and what is quicker."""
        text = (
            "fitting statistics before the model is used, in one pass over the molecules that the "
            f"script trains on; they are kept in {self.folder / 'gaga'} for later runs"
        )
        if self.options.t_star is None:
            text += ". Choosing t* on them may take minutes"
            if self.options.criterion != "cumulant":
                text += "; --criterion cumulant is quick"
        return text

    def _read(self, model: Model) -> GAGAStats | None:
        """The statistics that are there, if they are of this model."""
        folder = None if self.known is None else self.known / "gaga"
        if folder is None or not (folder / CONFIG_NAME).is_file():
            if self.trains and folder is not None:
                self.say(f"no statistics in {folder}: they are fitted anew, and t* may move")
            return None
        stats = GAGAStats.from_pretrained(folder)
        purpose = stats.provenance.get("fitted for")
        if self.options.t_star is None and purpose == "evaluation at a given t*":
            reason: str | None = "their t* was given, not chosen"
        else:
            reason = adapter_for(model).stale(model, stats.provenance)
        if reason is not None:
            self.say(f"statistics of {folder} are not used: {reason}")
            return None
        self._warn_beyond_training(model, stats)
        self.say(f"statistics of {folder}")
        return stats

    def _warn_beyond_training(self, model: Model, stats: GAGAStats) -> None:
        t_star = self.options.t_star
        if t_star is None or not str(stats.provenance.get("fitted for")).startswith("training"):
            return
        log_snr = adapter_for(model).log_snr(model, t_star)
        if log_snr < stats.log_snr_star - 1e-3:
            warnings.warn(
                f"t* = {t_star} is at log-SNR {log_snr:.3f}, but this model was trained up to "
                f"{stats.log_snr_star:.3f} only: it has never seen the noise that it starts from. "
                "Leave --t-star out, or train again.",
                GAGAWarning,
                stacklevel=2,
            )

    def _fit(self, model: Model) -> GAGAStats:
        options, purpose = self.options, "training" if self.trains else "evaluation"
        how: dict[str, Any] = {"criterion": options.criterion, "tolerance": options.tolerance}
        if options.t_star is not None:
            purpose += " at a given t*"
            level = adapter_for(model).log_snr(model, options.t_star)
            how = {"criterion": FixedLevel(), "log_snr": (level,), "n_criterion": 1}
        with self.progress() as progress:
            stats = fit_from(
                model,
                self.loader,
                context=self.context,
                reference=options.reference,
                provenance={"data": self.data, "fitted for": purpose},
                progress=progress,
                **how,
            )
        return stats if options.t_star is None else replace(stats, selection=None)


class FixedLevel:
    """The criterion where t* is given: zero nats at every level, so the only level is taken."""

    name: ClassVar[str] = "fixed_level"
    unit: ClassVar[str] = "nats"

    def curve(
        self,
        x: Tensor,
        mask: Tensor | None,
        reference: ReferenceGaussian,
        log_snr: Tensor,
        generator: object = None,
        progress: object = None,
    ) -> CriterionCurve:
        """The curve, see `Criterion.curve`."""
        zeros, levels = (0.0,) * len(log_snr), tuple(log_snr.tolist())
        return CriterionCurve(self.name, reference.kind, self.unit, levels, zeros, zeros, len(x))
