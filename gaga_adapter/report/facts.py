"""The facts about fitted statistics: the source of `gaga show`, card, page, doctor and explain.

Where t* lies on a schedule is worked out in `noise.paths` (`starts`), and which levels of a curve
count as Gaussian in `selection` (`curve_rows`). `savings` counts network calls on real diffusers
schedulers: entries of `timesteps` before and after wrapping. `report_facts` works out all that a
page says.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from gaga_adapter.criteria.two_sample.criterion import FEW_ITEMS
from gaga_adapter.errors import GAGAWarning, TruncationError, check_seed
from gaga_adapter.layout import DenseLayout, Layout, MoleculeLayout
from gaga_adapter.molecules.encoding import decode
from gaga_adapter.noise.paths import Start, named_path, starts
from gaga_adapter.report.curves import DEFAULT_PATH, LabelledCurve
from gaga_adapter.report.histograms import HeldOut, Histogram, histograms
from gaga_adapter.report.quality import Row, metric_rows
from gaga_adapter.selection import LOWER_BOUNDS, Selection
from gaga_adapter.stats import GAGAStats

if TYPE_CHECKING:
    from gaga_adapter.fitting import Verdict
    from gaga_adapter.molecules.data import MoleculeSet

#: Version of the json in the page.
REPORT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Samples:
    """Molecules that a model made."""

    molecules: MoleculeSet
    source: str  # name of the file or of the model
    network_calls: int | None = None  # per molecule, if known
    further: tuple[Row, ...] = ()  # of figures that take their time, below the others


@dataclass(frozen=True)
class Saving:
    """Network calls of one solver on one schedule."""

    schedule: str
    solver: str
    n_steps: int
    full: int  # calls along the full trajectory
    kept: int | None  # calls from t* on; None if the schedule never gets that noisy


def savings(stats: GAGAStats) -> tuple[Saving, ...]:
    """Network calls under the common schedules and solvers, EDM's first for molecules.

    There are none for statistics of discrete types, which no scheduler starts from.
    """
    if stats.has_discrete_types:
        return ()
    import diffusers

    from gaga_adapter.sampling.solvers import scheduler_named

    latent = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    rows: list[tuple[str, str, Any, int]] = [
        ("ddpm/linear", "DDPM", diffusers.DDPMScheduler(beta_schedule="linear"), 1000),
        ("ddpm/linear", "DDIM", diffusers.DDIMScheduler(beta_schedule="linear"), 50),
        ("ddpm/scaled_linear", "Euler", diffusers.EulerDiscreteScheduler(**latent), 30),
        ("ddpm/scaled_linear", "DPM++", diffusers.DPMSolverMultistepScheduler(**latent), 20),
        ("ddpm/cosine", "DDPM", diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"), 250),
        ("karras/edm", "Euler", diffusers.EDMEulerScheduler(), 40),
        ("karras/edm", "DPM++", diffusers.EDMDPMSolverMultistepScheduler(), 20),
        ("flow/linear", "Euler", diffusers.FlowMatchEulerDiscreteScheduler(), 28),
    ]
    if not isinstance(stats.layout, DenseLayout):
        base = _edm_scheduler()
        rows[:0] = [
            ("edm/polynomial_2", "ancestral", scheduler_named("ddpm", base), 1000),
            ("edm/polynomial_2", "ancestral", scheduler_named("ddpm", base), 200),
            ("edm/polynomial_2", "DPM++", scheduler_named("dpm++", base), 20),
        ]
    return tuple(
        Saving(schedule, solver, n_steps, *_calls(stats, scheduler, n_steps))
        for schedule, solver, scheduler, n_steps in rows
    )


def home_savings(stats: GAGAStats, numbers: Sequence[int] = (1000, 200, 50)) -> tuple[Saving, ...]:
    """Network calls of the ancestral sampler on the schedule that such data usually meet.

    There are none for statistics of discrete types, which no scheduler starts from.

    Args:
        stats: Fitted statistics.
        numbers: Numbers of steps of the full trajectory.
    """
    if stats.has_discrete_types:
        return ()
    import diffusers

    from gaga_adapter.sampling.solvers import scheduler_named

    schedule = home_schedule(stats)
    is_dense = isinstance(stats.layout, DenseLayout)
    base = diffusers.DDPMScheduler(beta_schedule="linear") if is_dense else _edm_scheduler()
    return tuple(
        Saving(schedule, "ancestral", n, *_calls(stats, scheduler_named("ddpm", base), n))
        for n in numbers
    )


def _edm_scheduler() -> Any:  # noqa: ANN401 - a diffusers scheduler
    """The ancestral sampler of EDM, on the 1001 levels of `polynomial_2`."""
    from gaga_adapter.sampling.solvers import ancestral_scheduler

    path = named_path("edm/polynomial_2")
    return ancestral_scheduler(path.a(torch.linspace(0, 1, 1001).double()).square())


def _calls(stats: GAGAStats, scheduler: Any, n_steps: int) -> tuple[int, int | None]:  # noqa: ANN401
    """Network calls along the full trajectory and from t* on, see `Saving`."""
    from gaga_adapter.scheduler import GAGAScheduler

    scheduler.set_timesteps(n_steps)
    full = len(scheduler.timesteps)
    try:
        stats.t_star(scheduler)
    except TruncationError:  # the schedule never gets that noisy; the table says so
        return full, None
    wrapped: Any = GAGAScheduler.from_pretrained(scheduler, stats=stats)
    with warnings.catch_warnings():  # a grid that begins within t* saves nothing
        warnings.simplefilter("ignore", GAGAWarning)
        wrapped.set_timesteps(n_steps)
    return full, min(len(wrapped.timesteps), full)


def _metrics(layout: Layout, held_out: HeldOut | None, samples: Samples) -> list[dict[str, Any]]:
    """Name, unit, and the figures of samples and of the first 1000 data, with standard errors."""
    truth = None
    if isinstance(layout, MoleculeLayout) and held_out is not None and held_out.mask is not None:
        truth = decode(held_out.x[:1000], held_out.mask[:1000], layout)
    return [*metric_rows(samples.molecules, truth), *samples.further]


@dataclass(frozen=True, eq=False)
class Facts:
    """Everything that a page says."""

    stats: GAGAStats
    curves: tuple[LabelledCurve, ...]  # the first is that of the statistics, if they hold one
    without_star: Mapping[str, str]  # reasons why other criteria gave no t*, by name
    starts: tuple[Start, ...]
    savings: tuple[Saving, ...]
    histograms: tuple[Histogram, ...]
    held_out: tuple[str, int] | None  # name and number of the data that were compared with
    samples: Samples | None
    metrics: list[dict[str, Any]]
    written: str | None  # day on which the statistics were written, if known

    @property
    def selection(self) -> Selection | None:
        """The choice behind t*; None if another t* was put in its place."""
        chosen = self.stats.selection
        return chosen if chosen and chosen.log_snr_star == self.stats.log_snr_star else None

    @property
    def home(self) -> Start:
        """t* on the schedule that these data usually meet."""
        name = home_schedule(self.stats)
        return next(start for start in self.starts if start.schedule == name)

    @property
    def home_interval(self) -> tuple[float, float] | None:
        """Timesteps of the 90 % interval on that schedule, the early one first."""
        interval = None if self.selection is None else self.selection.interval
        if interval is None or self.home.share is None or self.home.kind != "timestep":
            return None
        late, early = map(named_path(self.home.schedule).time_at_log_snr, interval)
        return 1000 * float(early), 1000 * float(late)

    def to_dict(self) -> dict[str, Any]:
        """The json of the page; a figure that is not finite is null in it."""
        document = {
            "report_version": REPORT_VERSION,
            "stats": self.stats.to_dict(),
            "written": self.written,
            "t_star": [asdict(start) for start in self.starts],
            "criteria": {
                one.name: {
                    "curve": one.curve.to_dict(),
                    "log_snr_star": one.selection and one.selection.log_snr_star,
                    "interval": one.selection and one.selection.interval,
                    "tolerance": one.selection and one.selection.tolerance,
                }
                for one in self.curves
            },
            "not_judged": dict(self.without_star),
            "network_calls": [asdict(saving) for saving in self.savings],
            "data": self.held_out and {"name": self.held_out[0], "count": self.held_out[1]},
            "histograms": [asdict(histogram) for histogram in self.histograms],
            "samples": self.samples
            and {
                "source": self.samples.source,
                "count": len(self.samples.molecules),
                "network_calls": self.samples.network_calls,
                "metrics": self.metrics,
            },
        }
        return dict(_finite(document))


def report_facts(
    stats: GAGAStats,
    held_out: HeldOut | None = None,
    verdicts: Mapping[str, Verdict] | None = None,
    samples: Samples | None = None,
    written: str | None = None,
    seed: int = 0,
) -> Facts:
    """Work out everything that a page says, with the arguments and errors of `page.report`."""
    curves, without_star = [], {}
    own = stats.selection
    if own is not None:
        curves.append(LabelledCurve(own.curve.criterion, own.curve, own))
    for name, verdict in (verdicts or {}).items():
        label = f"{name}, these data" if own and name == own.curve.criterion else name
        if verdict.curve is not None:
            curves.append(LabelledCurve(label, verdict.curve, verdict.selection))
        if verdict.selection is None:
            without_star[label] = verdict.reason
    return Facts(
        stats,
        tuple(curves),
        without_star,
        starts(stats.log_snr_star, discrete_types=stats.has_discrete_types),
        savings(stats),
        histograms(stats, held_out, torch.Generator().manual_seed(check_seed(seed))),
        None if held_out is None else (held_out.name, len(held_out.x)),
        samples,
        [] if samples is None else _metrics(stats.layout, held_out, samples),
        written,
    )


def home_schedule(stats: GAGAStats) -> str:
    """The named schedule that such data usually meet."""
    if stats.has_discrete_types:
        return "flow/linear"
    return "ddpm/linear" if isinstance(stats.layout, DenseLayout) else DEFAULT_PATH


def cautions(stats: GAGAStats) -> tuple[str, ...]:
    """What whoever starts from these statistics should know first, each as a sentence or two."""
    chosen, told = stats.selection, []
    if chosen is None:
        return (
            "t* was given by hand, and no curve was drawn: how far the start is from the noised "
            "data was not measured. Fit again without a t* of your own to measure it.",
        )
    curve, judged = chosen.curve, stats.judged_reference
    stars = {chosen.log_snr_star, *chosen.by_size.values()}
    if stats.log_snr_star not in stars:
        told.append(
            f"t* is at log-SNR {stats.log_snr_star:.3g}, and the criterion chose "
            f"{chosen.log_snr_star:.3g}: another t* was put in its place."
        )
    if curve.n_samples < FEW_ITEMS:
        if curve.unit == "p-value":
            so = "it tells little apart, and t* is too near to the data"
        elif LOWER_BOUNDS.get(curve.criterion) == "more items":
            so = "its bound is loose, and t* is too near to the data"
        else:
            so = "its values are uncertain, and so is t*"
        told.append(
            f"The criterion saw {curve.n_samples:,} items, which is few: {so}. Fit on "
            f"{FEW_ITEMS:,} items or more."
        )
    if curve.unit == "p-value":
        told.append(
            "t* was chosen by p-values, which fall with the number of items and do not say how far "
            "the start is from the data. Fit with a criterion in nats, such as two_sample."
        )
    if chosen.log_snr_star >= curve.log_snr[0]:
        told.append(
            "t* is the first level of its curve, so it may lie nearer to the data than was looked. "
            "Fit with a curve that begins nearer to the data."
        )
    found = stats.reference().kind
    if found != judged:
        told.append(
            f"t* was chosen for the {judged!r} reference, which cannot be made from these moments; "
            f"the start is the {found!r} one, whose distance was not measured. Fit with "
            f"reference={found!r}."
        )
    return tuple(told)


def versions_text(versions: object) -> str:
    """The library versions of a provenance in one line; empty if they are not recorded."""
    items = versions.items() if isinstance(versions, Mapping) else ()
    return ", ".join(f"{name} {version}" for name, version in items)


def _finite(value: Any) -> Any:  # noqa: ANN401 - any json value
    """The value without tuples and without numbers that json does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
