r"""`fit_levels`: the levels of a few network calls, chosen for one model by its own samples.

    fitted = fit_levels(pipe, stats, n_calls=8, data=(x, mask))
    stats.with_levels(fitted).save_pretrained("stats/")

Two families of levels compete, each with an end for every half unit of log-SNR: the even ones, and
those of the smallest variational bound between t* and the end (`bound.py`). The best of them are
tried with more levels near the noise or near the data, and with ends in between; and one with other
numbers of re-noised steps. So few numbers can be found from some hundred held-out items, where free
levels would follow the noise of the measurement. What is made small is the distance of samples from
held-out items (`distance.py`). Candidates are compared on the same starts and noises by successive
halving (Jamieson and Talwalkar 2016): all of them on a quarter of the items, the better ones on
half, the best and their neighbours on all. A choice flatters itself, so winner and even levels are
sampled again with other noise, and the distance is what these show. Where nothing is gained, the
even levels are the result.

Geometry-inspired schedules (Chen et al. 2024) and LD3 (Tong et al. 2025) choose levels for solvers
of an ODE, whose samples have a target of their own for every noise. Steps that draw new noise have
none, so laws are compared here, and not samples one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.criteria.certificate.denoisers import Denoiser, as_denoiser
from gaga_adapter.criteria.levels import check_data
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import (
    DataError,
    StatsMismatchError,
    TruncationError,
    UnsupportedModelError,
    check_seed,
    whole_number,
)
from gaga_adapter.few_step import FewStepScheduler
from gaga_adapter.few_step.levels import even_log_snrs
from gaga_adapter.layout import DenseLayout
from gaga_adapter.level_fitting.bound import ErrorCurve
from gaga_adapter.level_fitting.distance import Apart, Yardstick, relative
from gaga_adapter.level_fitting.rollouts import Plan, Rollouts, plan_timesteps
from gaga_adapter.noise.fitted import FittedLevels, ModelMark
from gaga_adapter.sampling.solvers import use_exact_table
from gaga_adapter.scheduler.options import Options
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import as_mask, atoms_first
from gaga_adapter.trained import check_trained, trained_log_snr

METHODS = ("bound", "search")
#: Held-out items of a fit.
DEFAULT_ITEMS = 512
_FEWEST_ITEMS = 16
#: Ends of the search, beside the scheduler's own last level.
_ENDS = (-1.5, -1.0, -0.5, 0.0, 0.5)
_WARPS = (0.8, 1.25)
_NEAR_ENDS = (-0.25, 0.25)
_SECOND, _THIRD = 4, 2  # candidates left in the second and third round
_N_RESIDUALS = 3


def fit_levels(
    model: Any,  # noqa: ANN401 - any model
    stats: GAGAStats,
    n_calls: int,
    data: Tensor | tuple[Tensor, Tensor],
    *,
    scheduler: Any = None,  # noqa: ANN401 - any diffusers scheduler
    t_star: float | None = None,
    reference: str = "auto",
    method: str = "bound",
    n_items: int = DEFAULT_ITEMS,
    seed: int = 0,
    progress: Progress | None = None,
) -> FittedLevels:
    """Choose the levels of a run of few network calls for a model, without training.

    The bound takes seconds for a small network: the model's error at some levels, and two rollouts
    that say what is gained. The search takes minutes: about 25 rollouts, most of them of a part of
    the items.

    Args:
        model: Pipeline, such as a `MoleculePipeline`, that of `as_pipeline`, or one of diffusers
            with an unconditional network; or a network or a callable as `as_denoiser` takes it.
        stats: Fitted statistics, for the start and the moments.
        n_calls: Number of network calls, 2 or more.
        data: Held-out items that neither model nor statistics have seen, encoded as the model sees
            them: molecules `(x, mask)` of shapes (M, N, 3 + F) and (M, N), or dense x (M, C, ...).
        scheduler: Diffusers scheduler that a network was trained for; a pipeline brings its own.
        t_star: First timestep in the scheduler's own units, instead of the fitted point.
        reference: Kind of the start, as in `GAGAScheduler.from_pretrained`.
        method: Way of choosing. `bound` takes the levels of the smallest variational bound up to
            the scheduler's own last level, from the model's errors alone. `search` compares
            samples on these and on many other levels with the data.
        n_items: Number of items to use, drawn at random if there are more.
        seed: Seed of everything random.
        progress: Function that is called with ("levels", rollouts done, rollouts in all).

    Returns:
        The levels, with the distance of their samples from the data. Keep them with
        `stats.with_levels(...)`.

    Raises:
        DataError: If the items are too few, not finite or of another shape, or `method` is unknown.
        TruncationError: If the number of calls is below 2, `t_star` is no timestep, or the network
            was not trained as far as the start.
        StatsMismatchError: If the statistics describe other channels than the data have.
        UnsupportedModelError: If no denoiser can be made of the model.
        UnsupportedSchedulerError: If the scheduler is refused or unknown.
    """
    n = whole_number("n_calls", n_calls, 2, error=TruncationError)
    if method not in METHODS:
        raise DataError(f"method={method!r} is unknown. Known: {', '.join(METHODS)}.")
    seed, most = check_seed(seed), whole_number("n_items", n_items, _FEWEST_ITEMS)
    network, denoiser, base = _resolved(model, scheduler)
    few: FewStepScheduler = FewStepScheduler.from_scheduler(base)
    use_exact_table(few)
    few.take_moments(stats.moments)  # as the wrapper does, whose runs these levels are for
    x, mask = _items(data, stats, most, seed)
    if mask is not None:
        tokens = getattr(stats.moments, "n_positions", 3) == 0
        denoiser = Denoiser(denoiser.predict, denoiser.levels, 0 if tokens else 3)
    star = Options(t_star=t_star).log_snr_star(few, stats)
    check_trained(trained_log_snr(network), star)
    start = stats.start(reference, None if t_star is None else star)
    contest = _Contest(
        Rollouts(denoiser, few, start, x, mask, seed),
        Family(star, float(few.config.log_snr_max), n),
        progress,
    )
    chosen = contest.winner() if method == "search" else contest.of_the_bound()
    verdict = contest.judge(chosen)
    if method == "search" and verdict.distance >= 1:
        verdict = _Verdict(contest.even, 1.0, 0.0)
    return FittedLevels(
        log_snrs=verdict.plan.log_snrs,
        n_renoised=verdict.plan.n_renoised,
        model=ModelMark.of(network),
        reference=start.kind,
        distance=verdict.distance,
        std_error=verdict.std_error,
        n_items=len(x),
        seed=seed,
        method=method,
    )


# -- what a caller passed --------------------------------------------------------------------------


def _resolved(model: Any, scheduler: Any) -> tuple[Any, Denoiser, Any]:  # noqa: ANN401
    """The network, its denoiser, and a scheduler that has its levels."""
    if hasattr(model, "components") and hasattr(model, "scheduler"):
        for name in ("denoiser", "unet", "transformer"):
            network = getattr(model, name, None)
            if network is not None:
                break
        else:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no denoiser, unet or transformer. Pass its network "
                "and the scheduler: fit_levels(network, ..., scheduler=pipe.scheduler)."
            )
        base = model.scheduler if scheduler is None else scheduler
        if name == "denoiser":  # it takes sigma, or says itself how it is asked
            return network, as_denoiser(getattr(network, "predict_clean", network)), base
        return network, as_denoiser(network, base), base
    denoiser = as_denoiser(model, scheduler)
    if scheduler is None:
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler()  # levels are log-SNRs: any table that reaches them will do
    return getattr(model, "predict", model), denoiser, scheduler


def _items(
    data: Tensor | tuple[Tensor, Tensor], stats: GAGAStats, most: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Checked items and their mask, at most so many."""
    x, mask = data if isinstance(data, tuple | list) and len(data) == 2 else (data, None)
    if not isinstance(x, Tensor) or not (mask is None or isinstance(mask, Tensor)):
        raise DataError(
            f"data={type(data).__name__}: pass a tensor (M, C, ...), or molecules as a pair of "
            "tensors (x, mask)."
        )
    is_dense = isinstance(stats.layout, DenseLayout)
    if is_dense != (mask is None):
        kind, other = ("dense data", "molecules") if is_dense else ("molecules", "dense data")
        raise StatsMismatchError(
            f"the statistics are of {kind}, and the items are {other}. Pass x alone for dense "
            "data, and (x, mask) for molecules."
        )
    mask = mask if mask is None else as_mask(mask, x)
    check_data(x, mask)
    if mask is None:
        shape: Any = getattr(stats.layout, "shape", None)
        fits = shape is None or tuple(x.shape[1:]) == tuple(shape)
    else:
        fits = x.shape[-1] == stats.layout.n_channels
    if not fits:
        raise StatsMismatchError(
            f"the items are {tuple(x.shape[1:])}, and the statistics describe "
            f"{stats.layout.describe()}. Pass items that are encoded as those of the fit."
        )
    if len(x) < _FEWEST_ITEMS:
        raise DataError(f"found {len(x)} items, need at least {_FEWEST_ITEMS}. Pass more data.")
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:most]
    x = x if x.dtype == torch.float64 else x.float()
    return (x[rows], None) if mask is None else atoms_first(x[rows], mask[rows])


# -- the search ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """Grids of n levels from `star` on, even ones to `end`.

    Attributes:
        star: Log-SNR of the start.
        end: Log-SNR of the last call where nothing was fitted.
        n: Number of levels.
    """

    star: float
    end: float
    n: int

    def even(self, end: float) -> tuple[float, ...]:
        """Even levels up to an end."""
        return tuple(even_log_snrs(self.n, self.star, end).tolist())

    def ends(self) -> list[float]:
        """Last levels to try, with room for all steps before them."""
        least = self.star + 0.1 * self.n
        return [self.end + by for by in _ENDS if self.end + by > least] or [self.end]

    def switches(self) -> list[int]:
        """Numbers of steps that re-noise to try."""
        return sorted({0, (self.n - 1) // 2, self.n - 1})


@dataclass(frozen=True)
class _Verdict:
    plan: Plan
    distance: float
    std_error: float


class _Contest:
    """Candidates side by side."""

    def __init__(self, rollouts: Rollouts, family: Family, progress: Progress | None) -> None:
        self.rollouts, self.family, self.progress = rollouts, family, progress
        config = rollouts.scheduler.config
        self.renoise_from = float(config.renoise_from)
        self.most_renoised = config.n_renoised
        self.even = self._with_usual_steps(
            even_log_snrs(family.n, family.star, family.end).tolist()
        )
        self.curve: ErrorCurve | None = None
        self.done, self.total = 0, 2

    def _with_usual_steps(self, levels: Sequence[float]) -> Plan:
        """The plan of these levels whose steps re-noise where the scheduler's own would."""
        n = sum(level >= self.renoise_from for level in levels[:-1])
        most = self.most_renoised
        return Plan(tuple(levels), n if most is None else min(n, most))

    def of_the_bound(self) -> Plan:
        """The grid of the smallest bound between the ends of the even one."""
        return self._bound(self.family.end)

    def winner(self) -> Plan:
        """The best plan on all items, before it is judged on other noise."""
        m = len(self.rollouts.like)
        candidates = self._candidates()
        self.total += 3 + len(candidates) + _SECOND + len(_WARPS) + _THIRD + len(_NEAR_ENDS)
        second = self._best(candidates, max(m // 4, _FEWEST_ITEMS), _SECOND)
        second += self._warped(second[0])
        third = self._best(second, max(m // 2, _FEWEST_ITEMS), _THIRD)
        return self._best([*third, *self._moved(third[0])], m, 1)[0]

    def judge(self, plan: Plan) -> _Verdict:
        """A plan beside the even one, on other noise."""
        fresh = Rollouts(
            self.rollouts.denoiser, self.rollouts.scheduler, self.rollouts.reference,
            self.rollouts.like, self.rollouts.mask, self.rollouts.seed + 1,
        )  # fmt: skip
        yardstick = self._yardstick(fresh)
        even = self._compare(fresh, yardstick, self.even)
        return _Verdict(plan, *relative(self._compare(fresh, yardstick, plan), even))

    def _candidates(self) -> list[Plan]:
        family = self.family
        plans = [self._with_usual_steps(family.even(end)) for end in family.ends()]
        plans += [self._bound(end) for end in family.ends()]
        middle = family.even(family.ends()[len(family.ends()) // 2])
        plans += [Plan(middle, k) for k in family.switches()]
        return self._possible(dict.fromkeys([self.even, *plans]))

    def _warped(self, plan: Plan) -> list[Plan]:
        """Plans with more of their levels near the noise, or near the data."""
        star, end = plan.log_snrs[0], plan.log_snrs[-1]
        shares = (torch.tensor(plan.log_snrs, dtype=torch.float64) - star) / (end - star)
        return self._possible(
            Plan(tuple((star + (end - star) * shares**warp).tolist()), plan.n_renoised)
            for warp in _WARPS
        )

    def _moved(self, plan: Plan) -> list[Plan]:
        """Plans with another end."""
        star, end = plan.log_snrs[0], plan.log_snrs[-1]
        levels = torch.tensor(plan.log_snrs, dtype=torch.float64)
        return self._possible(
            Plan(
                tuple((star + (levels - star) * (1 + by / (end - star))).tolist()), plan.n_renoised
            )
            for by in _NEAR_ENDS
            if end + by > star
        )

    def _possible(self, plans: Iterable[Plan]) -> list[Plan]:
        """The plans that the table of the scheduler has room for."""
        found = []
        for plan in plans:
            try:
                plan_timesteps(self.rollouts.scheduler, plan.log_snrs)
            except TruncationError:
                continue
            found.append(plan)
        return found

    def _bound(self, end: float) -> Plan:
        """The levels of the smallest bound up to an end."""
        if self.curve is None:
            some = self.rollouts.first(max(len(self.rollouts.like) // 2, _FEWEST_ITEMS))
            last = max(*self.family.ends(), self.family.end)
            self.curve = ErrorCurve.of(
                some.denoiser, some.like, some.mask, self.family.star, last, some.seed
            )
        renoise_from = math.inf if self.most_renoised == 0 else self.renoise_from
        return self._with_usual_steps(self.curve.best_levels(end, self.family.n, renoise_from))

    def _best(self, plans: list[Plan], n_items: int, n_best: int) -> list[Plan]:
        """The best plans on the first items."""
        rollouts = self.rollouts.first(n_items)
        yardstick = self._yardstick(rollouts)
        even = self._compare(rollouts, yardstick, self.even)
        scores = {self.even: 1.0}
        for plan in plans:
            if plan not in scores:
                scores[plan] = relative(self._compare(rollouts, yardstick, plan), even)[0]
        return sorted(scores, key=lambda plan: scores[plan])[:n_best]

    def _yardstick(self, rollouts: Rollouts) -> Yardstick:
        levels = even_log_snrs(_N_RESIDUALS + 1, self.family.star, self.family.end)[1:]
        return Yardstick(
            rollouts.like, rollouts.mask, rollouts.denoiser, rollouts.reference,
            tuple(levels.tolist()), rollouts.seed,
        )  # fmt: skip

    def _compare(self, rollouts: Rollouts, yardstick: Yardstick, plan: Plan) -> Apart:
        found = yardstick.compare(rollouts.sample(plan), rollouts.mask)
        self.done += 1
        if self.progress is not None:
            self.progress("levels", self.done, max(self.done, self.total))
        return found
