r"""What a report says, as numbers: histograms at t*, network calls, and figures of molecules.

**Histograms.** The noised data `a x_0 + b eps` and draws of the reference, both divided by `a`: the
axis then has the unit of the data (angstrom for positions), and the noise added is `sigma = b / a`,
whatever the schedule. Beside them stands what a sampler without a fit starts from: N(0, I) at the
variance preserving level, `N(0, 1/a²)` here. One histogram sees one channel alone; that channels
fit says nothing of how they depend on each other, which the curve does. So molecules get one more,
of `v_x = |x|² / (3 (N-1))`, their size: there a start that knows only the channels differs from
the data.

**Network calls** are counted on real diffusers schedulers: entries of `timesteps` before and after
wrapping.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaga_adapter.criteria.levels import coefficients, drawn, noised
from gaga_adapter.errors import GAGAWarning, StatsMismatchError, TruncationError
from gaga_adapter.layout import AtomLayout, DenseLayout, Layout, MoleculeLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.paths import NAMED_PATHS, named_path
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import mask_from_sizes

if TYPE_CHECKING:
    from gaga_adapter.molecules.data import MoleculeSet
    from gaga_adapter.molecules.metrics.evaluate import MoleculeMetrics

_Array = NDArray[np.float64]
_BINS = 48
_MOST = 400_000  # numbers of one channel that a histogram is made of
_DRAWS = 2_000_000  # numbers drawn of the reference where there are no data
_MOST_ITEMS = 4000
#: Channels of dense data that are shown.
MOST_CHANNELS = 12


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Data to compare the reference with, in the layout of the statistics.

    Attributes:
        name: where they come from.
        x: molecules (M, N, 3 + F), or dense (M, C, ...).
        mask: molecules: real atoms (M, N), bool; `None` for dense data.
    """

    name: str
    x: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Samples:
    """Molecules that a model made.

    Attributes:
        molecules: all of them; the metrics are theirs.
        source: a file, or what sampled them.
        network_calls: per molecule, if known.
    """

    molecules: MoleculeSet
    source: str
    network_calls: int | None = None


@dataclass(frozen=True)
class Histogram:
    """One channel at t*, divided by `a`.

    Attributes:
        name: of the channel.
        unit: of the axis.
        edges: (K + 1,) of the bins.
        reference: density of the fitted start (K,), per unit.
        data: density of the noised data (K,); None without data.
        unfitted: density of N(0, I) at this level (K,); None where it has no simple form.
        moments: mean and standard deviation by `data`, `reference` and `unfitted`.
    """

    name: str
    unit: str
    edges: tuple[float, ...]
    reference: tuple[float, ...]
    data: tuple[float, ...] | None
    unfitted: tuple[float, ...] | None
    moments: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Saving:
    """Network calls of one solver on one schedule.

    Attributes:
        schedule: its name.
        solver: its name.
        n_steps: asked of the solver.
        full: calls along the full trajectory.
        kept: calls from t* on; None if the schedule never gets that noisy.
    """

    schedule: str
    solver: str
    n_steps: int
    full: int
    kept: int | None


@dataclass(frozen=True)
class Start:
    """Where t* lies on one named schedule.

    Attributes:
        schedule: its name.
        value: training timestep of 1000, time of a flow, or sigma; None if it is never reached.
        kind: `timestep`, `time` or `sigma`.
        share: of the path, 0 to 1; None for schedules in sigma, and if it is never reached.
    """

    schedule: str
    value: float | None
    kind: str
    share: float | None


def starts(log_snr_star: float, n_steps: int = 1000) -> tuple[Start, ...]:
    """t* under every named schedule."""
    found = []
    for name in NAMED_PATHS:
        path = named_path(name, n_steps=n_steps)
        kind = "timestep" if path.n_steps else "time" if name.startswith("flow") else "sigma"
        try:
            t = path.first_time(log_snr_star)
        except TruncationError:
            found.append(Start(name, None, kind, None))
            continue
        value = {"timestep": round(t * n_steps), "time": t, "sigma": float(path.b(t))}[kind]
        found.append(Start(name, value, kind, None if kind == "sigma" else t))
    return tuple(found)


def savings(stats: GAGAStats) -> tuple[Saving, ...]:
    """Network calls under the common schedules and solvers, EDM's first for molecules."""
    import diffusers

    from gaga_adapter.sampling.solvers import ancestral_scheduler, scheduler_named
    from gaga_adapter.scheduler import GAGAScheduler

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
        molecules = [
            ("ancestral", "ddpm", 1000),
            ("ancestral", "ddpm", 200),
            ("DPM++", "dpm++", 20),
        ]
        rows[:0] = [
            ("edm/polynomial_2", solver, scheduler_named(name, base), n)
            for solver, name, n in molecules
        ]
    found = []
    for schedule, solver, scheduler, n in rows:
        scheduler.set_timesteps(n)
        full = len(scheduler.timesteps)
        try:
            stats.t_star(scheduler)
        except TruncationError:  # the schedule never gets that noisy; the table says so
            found.append(Saving(schedule, solver, n, full, None))
            continue
        wrapped: Any = GAGAScheduler.from_pretrained(scheduler, stats=stats)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", GAGAWarning
            )  # a grid that begins within t* saves nothing
            wrapped.set_timesteps(n)
        kept = min(len(wrapped.timesteps), full)
        found.append(Saving(schedule, solver, n, full, kept))
    return tuple(found)


def histograms(
    stats: GAGAStats, held_out: HeldOut | None, generator: torch.Generator
) -> tuple[Histogram, ...]:
    """The channels at t*, reference against data.

    Args:
        stats: whose reference is drawn from, of the kind that t* was chosen with.
        held_out: data; without them the reference stands beside N(0, I) alone.
        generator: of the noise and the draws.

    Raises:
        StatsMismatchError: data with other channels.
    """
    a, b = coefficients(stats.log_snr_star)
    chosen = stats.selection
    reference = stats.reference("auto" if chosen is None else chosen.curve.reference).at(a, b)
    noisy = mask = None
    if held_out is None:
        fitted, fitted_mask = _draws(stats, reference, generator)
    else:
        _check_channels(stats.layout, held_out)
        x, mask = held_out.x.double(), held_out.mask
        noisy = noised(x, mask, reference, generator) / a
        fitted = drawn(x, mask, reference, generator)
        fitted_mask = None if mask is None else mask_from_sizes(mask.sum(1))
    fitted = fitted / a
    names = channels(stats.layout)
    found = []
    for name, unit, columns, scale in names:
        data = None if noisy is None else _numbers(noisy, mask, columns) * scale
        unfitted = scale / a
        found.append(
            _histogram(name, unit, _numbers(fitted, fitted_mask, columns) * scale, data, unfitted)
        )
    if fitted_mask is not None:
        _, unit, _, scale = names[0]
        data = None if noisy is None or mask is None else _sizes(noisy, mask) * scale**2
        squared = "model units²" if unit == "model units" else f"{unit}²"
        found.append(
            _histogram(
                "size of a molecule, v_x",
                squared,
                _sizes(fitted, fitted_mask) * scale**2,
                data,
                None,
            )
        )
    return tuple(found)


def channels(layout: Layout) -> list[tuple[str, str, slice, float]]:
    """Name, unit, columns, and what a channel is multiplied by to have that unit."""
    if isinstance(layout, DenseLayout):
        count = min(layout.n_channels, MOST_CHANNELS)
        return [(f"channel {k}", "model units", slice(k, k + 1), 1.0) for k in range(count)]
    if isinstance(layout, AtomLayout):
        features = range(min(layout.n_features, MOST_CHANNELS))
        return [
            ("positions x, y, z", "model units", slice(0, 3), 1.0),
            *((f"feature {k}", "model units", slice(3 + k, 4 + k), 1.0) for k in features),
        ]
    named = [
        ("positions x, y, z", "Å", slice(0, 3), layout.position_scale),
        *(
            (f"is {element}", "one-hot entry", slice(3 + k, 4 + k), layout.onehot_scale)
            for k, element in enumerate(layout.elements)
        ),
    ]
    if layout.charge_scale is not None:
        named.append(
            ("atomic number", "elementary charges", slice(layout.n_channels - 1, None),
             layout.charge_scale)
        )  # fmt: skip
    return named


def metric_rows(metrics: MoleculeMetrics, of_data: MoleculeMetrics | None) -> list[dict[str, Any]]:
    """Name, unit, and the figures of samples and data with their standard errors."""
    rows: list[dict[str, Any]] = []

    def row(name: str, unit: str, factor: float, pick: Any) -> None:  # noqa: ANN401
        pair = []
        for one in (metrics, of_data):
            estimate = None if one is None else pick(one)
            pair.append(
                None
                if estimate is None
                else (
                    estimate.value * factor,
                    None if estimate.std_error is None else estimate.std_error * factor,
                )
            )
        if pair[0] is not None:
            rows.append({"name": name, "unit": unit, "samples": pair[0], "data": pair[1]})

    row("atoms stable", "%", 100, lambda m: m.atom_stability)
    row("molecules stable", "%", 100, lambda m: m.molecule_stability)
    row("valid", "%", 100, lambda m: m.validity)
    row("unique among valid", "%", 100, lambda m: m.uniqueness)
    row("novel among distinct", "%", 100, lambda m: m.novelty)
    row("connected", "%", 100, lambda m: m.shape.connected)
    row("size v_x", "Å²", 1, lambda m: m.shape.v_x)
    row("spread of v_x", "Å²", 1, lambda m: m.shape.v_x_spread)
    row("anisotropy", "", 1, lambda m: m.shape.anisotropy)
    for element in metrics.shape.element_shares:
        row(f"{element} atoms", "%", 100, lambda m, e=element: m.shape.element_shares.get(e))
    return rows


def as_molecules(layout: Layout, held_out: HeldOut, most: int = 1000) -> MoleculeSet | None:
    """The first of the data as molecules; None for data that are none."""
    if not isinstance(layout, MoleculeLayout) or held_out.mask is None:
        return None
    from gaga_adapter.molecules.encoding import decode

    return decode(held_out.x[:most], held_out.mask[:most], layout)


def fact_dict(fact: Histogram | Saving | Start) -> dict[str, Any]:
    """JSON form."""
    return asdict(fact)


def _check_channels(layout: Layout, held_out: HeldOut) -> None:
    shape = tuple(held_out.x.shape[1:])
    dense = isinstance(layout, DenseLayout)
    fits = (
        shape == layout.shape
        if isinstance(layout, DenseLayout)
        else len(shape) == 2 and shape[-1] == layout.n_channels
    )
    if not fits or (held_out.mask is None) != dense:
        raise StatsMismatchError(
            f"the statistics describe {layout.describe()}, {held_out.name} has items of shape "
            f"{shape}. Pass data in the layout of the statistics."
        )


def _draws(
    stats: GAGAStats,
    reference: Any,  # noqa: ANN401 - either family
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None]:
    """Draws of a reference without data: as many of each size as the data had."""
    moments = stats.moments
    if isinstance(moments, ExchangeableMoments):
        order = torch.multinomial(moments.counts, _MOST_ITEMS, True, generator=generator)
        sizes = moments.sizes[order]
        x = reference.sample(sizes, generator=generator, dtype=torch.float64)
        return x, mask_from_sizes(sizes)
    count = min(_MOST_ITEMS, max(2, _DRAWS // max(1, math.prod(moments.shape))))
    shape = (count, *moments.shape)
    return reference.sample(shape, generator=generator, dtype=torch.float32), None


def _numbers(x: Tensor, mask: Tensor | None, columns: slice) -> _Array:
    """All numbers of some channels (n,), thinned evenly."""
    values = x[:, columns].flatten() if mask is None else x[mask][:, columns].flatten()
    stride = max(1, math.ceil(len(values) / _MOST))
    thinned: _Array = values[::stride].to(torch.float64).numpy()
    return thinned


def _sizes(x: Tensor, mask: Tensor) -> _Array:
    """`v_x` of every molecule of at least two atoms (m,), in the square of the positions' unit."""
    degrees = 3 * (mask.sum(1) - 1)
    sizes: _Array = (x[..., :3].square().sum((1, 2)) / degrees)[degrees > 0].numpy()
    return sizes


def _histogram(
    name: str, unit: str, reference: _Array, data: _Array | None, unfitted: float | None
) -> Histogram:
    known = [reference] if data is None else [reference, data]
    ends = [np.quantile(values, (0.002, 0.998)) for values in known]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if not high > low:  # a constant
        low, high = low - 1.0, high + 1.0
    edges = np.linspace(low, high, _BINS + 1)
    moments = {"reference": _moments(reference)}
    if data is not None:
        moments["data"] = _moments(data)
    bell = None
    if unfitted is not None:
        moments["unfitted"] = (0.0, unfitted)
        middle = (edges[1:] + edges[:-1]) / 2
        bell = np.exp(-0.5 * (middle / unfitted) ** 2) / (unfitted * math.sqrt(2 * math.pi))
    return Histogram(
        name,
        unit,
        _rounded(edges),
        _rounded(_density(reference, edges)),
        None if data is None else _rounded(_density(data, edges)),
        None if bell is None else _rounded(bell),
        moments,
    )


def _density(values: _Array, edges: _Array) -> _Array:
    counts, _ = np.histogram(values, edges)
    density: _Array = counts / (len(values) * np.diff(edges))
    return density


def _moments(values: _Array) -> tuple[float, float]:
    return float(f"{values.mean():.4g}"), float(f"{values.std():.4g}")


def _rounded(values: _Array | Sequence[float]) -> tuple[float, ...]:
    """Five digits: enough for a picture, and small in the page."""
    return tuple(float(f"{value:.5g}") for value in values)
