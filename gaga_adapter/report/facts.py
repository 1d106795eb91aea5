"""What is said of fitted statistics: the one source of `gaga show`, of the card and of the page.

`starts` maps the one log-SNR to every named schedule; `curve_rows` says of every level of a curve
whether it counts as Gaussian. `savings` counts network calls on real diffusers schedulers: entries
of `timesteps` before and after wrapping. `report_facts` works out everything that a page says.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.errors import GAGAWarning, TruncationError
from gaga_adapter.layout import DenseLayout, Layout, MoleculeLayout
from gaga_adapter.noise.paths import NAMED_PATHS, named_path
from gaga_adapter.report.curves import DEFAULT_PATH, LabelledCurve
from gaga_adapter.report.histograms import HeldOut, Histogram, histograms
from gaga_adapter.selection import Selection
from gaga_adapter.stats import GAGAStats

if TYPE_CHECKING:
    from gaga_adapter.fitting import Verdict
    from gaga_adapter.molecules.data import MoleculeSet
    from gaga_adapter.molecules.metrics.evaluate import MoleculeMetrics

#: Version of the json in the page.
REPORT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Samples:
    """Molecules that a model made.

    Attributes:
        molecules: All molecules; the metrics are computed on them.
        source: Name of the file, or of what sampled them.
        network_calls: Number of network calls per molecule, if known.
    """

    molecules: MoleculeSet
    source: str
    network_calls: int | None = None


@dataclass(frozen=True)
class Saving:
    """Network calls of one solver on one schedule.

    Attributes:
        schedule: Name of the schedule.
        solver: Name of the solver.
        n_steps: Number of steps asked of the solver.
        full: Number of calls along the full trajectory.
        kept: Number of calls from t* on; None if the schedule never gets that noisy.
    """

    schedule: str
    solver: str
    n_steps: int
    full: int
    kept: int | None


@dataclass(frozen=True)
class Start:
    """Place of t* on one named schedule.

    Attributes:
        schedule: Name of the schedule.
        value: Training timestep, time of a flow, or sigma; None if it is never reached.
        kind: `timestep`, `time` or `sigma`.
        share: Share of the path, 0 to 1; None for schedules in sigma, and if it is never reached.
    """

    schedule: str
    value: float | None
    kind: str
    share: float | None

    @property
    def text(self) -> str:
        """The value with the name of its kind."""
        if self.value is None:
            return "never that noisy"
        if self.kind == "timestep":
            return f"timestep {self.value:.0f}"
        return f"{'sigma' if self.kind == 'sigma' else 's'} = {self.value:.3f}"

    @property
    def share_text(self) -> str:
        """The share in per cent."""
        return "–" if self.share is None else f"{100 * self.share:.0f} %"


def starts(log_snr_star: float, n_steps: int = 1000) -> tuple[Start, ...]:
    """t* under every named schedule."""
    return tuple(_start(name, log_snr_star, n_steps) for name in NAMED_PATHS)


def _start(name: str, log_snr_star: float, n_steps: int) -> Start:
    path = named_path(name, n_steps=n_steps)
    kind = "timestep" if path.n_steps else "time" if name.startswith("flow") else "sigma"
    try:
        t = path.first_time(log_snr_star)
    except TruncationError:
        return Start(name, None, kind, None)
    value = {"timestep": round(t * n_steps), "time": t, "sigma": float(path.b(t))}[kind]
    return Start(name, value, kind, None if kind == "sigma" else t)


@dataclass(frozen=True)
class CurveRow:
    """One level of a curve.

    Attributes:
        log_snr: Level of the noise.
        value: Value of the criterion; NaN if it is not computable.
        std_error: Standard error of the value.
        is_gaussian: Whether sampling may start at this level.
    """

    log_snr: float
    value: float
    std_error: float
    is_gaussian: bool


def curve_rows(curve: CriterionCurve, log_snr_star: float | None) -> list[CurveRow]:
    """The levels of a curve, from data to noise."""
    star = -math.inf if log_snr_star is None else log_snr_star + 1e-9
    columns = zip(curve.log_snr, curve.value, curve.std_error, strict=True)
    return [CurveRow(level, value, error, level <= star) for level, value, error in columns]


def savings(stats: GAGAStats) -> tuple[Saving, ...]:
    """Network calls under the common schedules and solvers, EDM's first for molecules."""
    import diffusers

    from gaga_adapter.sampling.solvers import ancestral_scheduler, scheduler_named

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
        path = named_path("edm/polynomial_2")
        base = ancestral_scheduler(path.a(torch.linspace(0, 1, 1001).double()).square())
        rows[:0] = [
            ("edm/polynomial_2", "ancestral", scheduler_named("ddpm", base), 1000),
            ("edm/polynomial_2", "ancestral", scheduler_named("ddpm", base), 200),
            ("edm/polynomial_2", "DPM++", scheduler_named("dpm++", base), 20),
        ]
    return tuple(_saving(stats, *row) for row in rows)


def _saving(
    stats: GAGAStats,
    schedule: str,
    solver: str,
    scheduler: Any,  # noqa: ANN401 - any scheduler of diffusers
    n_steps: int,
) -> Saving:
    from gaga_adapter.scheduler import GAGAScheduler

    scheduler.set_timesteps(n_steps)
    full = len(scheduler.timesteps)
    try:
        stats.t_star(scheduler)
    except TruncationError:  # the schedule never gets that noisy; the table says so
        return Saving(schedule, solver, n_steps, full, None)
    wrapped: Any = GAGAScheduler.from_pretrained(scheduler, stats=stats)
    with warnings.catch_warnings():
        # A grid that begins within t* saves nothing.
        warnings.simplefilter("ignore", GAGAWarning)
        wrapped.set_timesteps(n_steps)
    return Saving(schedule, solver, n_steps, full, min(len(wrapped.timesteps), full))


def metric_rows(metrics: MoleculeMetrics, of_data: MoleculeMetrics | None) -> list[dict[str, Any]]:
    """Name, unit, and the figures of samples and data with their standard errors."""
    rows: list[dict[str, Any]] = []

    def pair(one: MoleculeMetrics | None, factor: float, pick: Any) -> Any:  # noqa: ANN401
        estimate = None if one is None else pick(one)
        if estimate is None:
            return None
        error = estimate.std_error
        return estimate.value * factor, None if error is None else error * factor

    def row(name: str, unit: str, pick: Any) -> None:  # noqa: ANN401
        samples, data = (pair(m, 100 if unit == "%" else 1, pick) for m in (metrics, of_data))
        if samples is not None:
            rows.append({"name": name, "unit": unit, "samples": samples, "data": data})

    row("atoms stable", "%", lambda m: m.atom_stability)
    row("molecules stable", "%", lambda m: m.molecule_stability)
    row("valid", "%", lambda m: m.validity)
    row("unique among valid", "%", lambda m: m.uniqueness)
    row("novel among distinct", "%", lambda m: m.novelty)
    row("connected", "%", lambda m: m.shape.connected)
    row("size v_x", "Å²", lambda m: m.shape.v_x)
    row("spread of v_x", "Å²", lambda m: m.shape.v_x_spread)
    row("anisotropy", "", lambda m: m.shape.anisotropy)
    for element in metrics.shape.element_shares:
        row(f"{element} atoms", "%", lambda m, e=element: m.shape.element_shares.get(e))
    return rows


@dataclass(frozen=True, eq=False)
class Facts:
    """Everything that a page says.

    Attributes:
        stats: Fitted statistics.
        curves: Labelled curves; the first is that of the statistics, if they hold one.
        without_star: Reasons why other criteria gave no t*, by name.
        starts: Places of t* on the named schedules.
        savings: Network calls under the common schedules and solvers.
        histograms: Histograms of the channels at t*.
        held_out: Name and number of the data that were compared with.
        samples: Molecules, if there are any.
        metrics: Rows of `metric_rows`.
        written: Day on which the statistics were written, if known.
    """

    stats: GAGAStats
    curves: tuple[LabelledCurve, ...]
    without_star: Mapping[str, str]
    starts: tuple[Start, ...]
    savings: tuple[Saving, ...]
    histograms: tuple[Histogram, ...]
    held_out: tuple[str, int] | None
    samples: Samples | None
    metrics: list[dict[str, Any]]
    written: str | None

    @property
    def selection(self) -> Selection | None:
        """The choice behind t*; None if another t* was put in its place."""
        chosen = self.stats.selection
        replaced = chosen is None or chosen.log_snr_star != self.stats.log_snr_star
        return None if replaced else chosen

    @property
    def home(self) -> Start:
        """t* on the schedule that these data usually meet."""
        name = home_schedule(self.stats.layout)
        return next(start for start in self.starts if start.schedule == name)

    @property
    def home_interval(self) -> tuple[float, float] | None:
        """Timesteps of the 90 % interval on that schedule, the early one first."""
        if self.selection is None or self.selection.interval is None or self.home.share is None:
            return None
        path = named_path(self.home.schedule)
        late, early = (1000 * float(path.time_at_log_snr(s)) for s in self.selection.interval)
        return early, late

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
        plain: dict[str, Any] = _finite(document)
        return plain


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
        starts(stats.log_snr_star),
        savings(stats),
        histograms(stats, held_out, torch.Generator().manual_seed(seed)),
        None if held_out is None else (held_out.name, len(held_out.x)),
        samples,
        [] if samples is None else _metrics(stats.layout, held_out, samples),
        written,
    )


def home_schedule(layout: Layout) -> str:
    """The named schedule that data of a layout usually meet."""
    return "ddpm/linear" if isinstance(layout, DenseLayout) else DEFAULT_PATH


def versions_text(versions: object) -> str:
    """The library versions of a provenance in one line; empty if they are not recorded."""
    found = versions if isinstance(versions, Mapping) else {}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _metrics(layout: Layout, held_out: HeldOut | None, samples: Samples) -> list[dict[str, Any]]:
    """Metrics of the samples, beside those of the first 1000 of the data."""
    from gaga_adapter.molecules.encoding import decode
    from gaga_adapter.molecules.metrics.evaluate import evaluate

    truth = None
    if isinstance(layout, MoleculeLayout) and held_out is not None and held_out.mask is not None:
        truth = evaluate(decode(held_out.x[:1000], held_out.mask[:1000], layout))
    return metric_rows(evaluate(samples.molecules), truth)


def _finite(value: Any) -> Any:  # noqa: ANN401 - any json value
    """The value without tuples and without numbers that json does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
