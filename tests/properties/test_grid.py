"""Cut grids of every scheduler class, in configurations that nobody chose by hand.

The oracle makes the grid of the plain scheduler, works out the log-SNR of every step from its
sigmas, its table or the formula of its timesteps, and goes through them one by one.
"""

import copy
import inspect
import itertools
import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import assume, event, example, given
from hypothesis import strategies as st
from properties.cases import cases
from scheduler.loops import STATS, noise
from scheduler.test_exactness import EVERY_CLASS, RATIO
from scheduler.test_log_snr import OWN_GRID

from gaga_adapter.errors import GAGAError, TruncationError
from gaga_adapter.noise.timesteps import timestep_log_snr, timestep_range
from gaga_adapter.scheduler import GAGAScheduler
from gaga_adapter.scheduler.options import plain_class

pytestmark = [
    pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning"),  # they are not meant
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2, inside of diffusers
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # rounding inside of torchsde
    pytest.mark.filterwarnings("ignore::RuntimeWarning:diffusers.*"),  # of grids that are refused
]
#: Two log-SNRs this close are one, as the manual says.
SAME = 1e-5
CASES = {case.name: case for case in EVERY_CLASS if plain_class(case.name) is not None}
VALUES = {
    "num_train_timesteps": st.sampled_from([20, 100, 300, 1000]),
    "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    "beta_start": st.floats(1e-5, 1e-3),
    "beta_end": st.floats(5e-3, 0.1),
    "timestep_spacing": st.sampled_from(["linspace", "leading", "trailing"]),
    "steps_offset": st.integers(0, 2),
    "rescale_betas_zero_snr": st.booleans(),
    "prediction_type": st.sampled_from(["epsilon", "v_prediction"]),
    "timestep_type": st.sampled_from(["discrete", "continuous"]),
    "final_sigmas_type": st.sampled_from(["zero", "sigma_min"]),
    "solver_order": st.integers(1, 3),
    "lower_order_final": st.booleans(),
    "skip_prk_steps": st.booleans(),
    "use_lu_lambdas": st.booleans(),
    "flow_shift": st.floats(0.3, 8),
    "shift": st.floats(0.3, 8),
    "shift_terminal": st.sampled_from([None, 0.02, 0.2]),
    "invert_sigmas": st.booleans(),
    "sigma_min": st.floats(1e-3, 0.1),
    "sigma_max": st.floats(5, 500),
    "sigma_data": st.floats(0.2, 2),
    "sigma_schedule": st.sampled_from(["karras", "exponential"]),
    "rho": st.floats(1, 9),
    "s": st.floats(0.004, 0.02),
    "scaler": st.floats(0.5, 3),
}
#: Classes that make a grid of all training timesteps entry by entry.
SLOW = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler")
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas")


@st.composite
def schedulers(draw, names=tuple(CASES)):
    """A plain scheduler with some of its options changed, and the options."""
    name = draw(st.sampled_from(names))
    made_by = plain_class(name)
    known = inspect.signature(made_by.__init__).parameters
    options = dict(CASES[name].options)
    if name in SLOW:
        options["num_train_timesteps"] = 100
    for option in draw(st.lists(st.sampled_from([k for k in VALUES if k in known]), max_size=4)
                       if VALUES.keys() & known.keys() else st.just([])):  # fmt: skip
        options[option] = draw(VALUES[option])
    if name in ("SCMScheduler", "UnCLIPScheduler"):  # which have words of their own
        options.pop("prediction_type", None)
    if name == "CosineDPMSolverMultistepScheduler":  # whose step() knows no third order
        options.pop("solver_order", None)
    kinds = [kind for kind in SIGMAS if kind in known]
    if kinds and draw(st.booleans()):
        options[draw(st.sampled_from(kinds))] = True
    if options.get("use_flow_sigmas"):
        options["prediction_type"] = "flow_prediction"
    try:
        return made_by(**options), options
    except (ValueError, NotImplementedError, TypeError):  # options that contradict one another
        assume(False)


def wuerstchen_ratio(scheduler, t):
    """The shifted cosine of the class, with its options `s` and `scaler`."""
    s, scaler = scheduler.config.s, scheduler.config.scaler
    t = 1 - (1 - t) ** scaler if scaler > 1 else t**scaler if scaler < 1 else t
    abar = math.cos((t + s) / (1 + s) * math.pi / 2) ** 2
    abar = min(max(abar / math.cos(s / (1 + s) * math.pi / 2) ** 2, 0.0001), 0.9999)
    return math.sqrt((1 - abar) / abar)


def trigflow_ratio(scheduler, t):
    """The angle of a flow on the circle."""
    return scheduler.config.sigma_data * math.tan(t)


def steps(scheduler):
    """Place in `timesteps`, log-SNR, of every step with a network call."""
    name, times = type(scheduler).__name__.removeprefix("GAGA"), scheduler.timesteps.tolist()
    where, config = CASES[name].kind[0], scheduler.config
    if config.get("use_flow_sigmas"):
        where = "flow"
    if name == "EulerDiscreteScheduler" and config.timestep_type == "continuous":
        where = "karras" if config.prediction_type == "v_prediction" else where
    if name == "PNDMScheduler":
        times = scheduler._timesteps[::-1].tolist()
    by_sigma = hasattr(scheduler, "sigmas") and where not in ("one minus flow", "data time")
    if by_sigma:
        ratios = scheduler.sigmas[: len(times)].double().tolist()
        if where == "flow":
            shares = [1 - s if config.get("invert_sigmas") else s for s in ratios]
            # Above one by more than float32's rounding is no share of noise: no run can use it.
            beyond = [math.inf if s < 1 + 1e-6 else math.nan for s in shares]
            ratios = [s / (1 - s) if s < 1 else b for s, b in zip(shares, beyond, strict=True)]
    else:
        own = {"wuerstchen": wuerstchen_ratio, "trigflow": trigflow_ratio}
        at = {**RATIO, **own}[where]
        ratios = [abs(at(scheduler, t)) for t in times]  # 1.5708 is beyond pi / 2
    places = range(0, len(times), getattr(scheduler, "order", 1))
    if name == "RePaintScheduler":
        places = [k for k in places if k == 0 or times[k] < min(times[:k])]
    if name in ("SCMScheduler", "DDPMWuerstchenScheduler"):
        places = places[:-1]
    return [(k, -2 * math.log(ratios[k]) if ratios[k] else math.inf) for k in places]


def made(scheduler, n_steps, call):
    """Whether a scheduler's own grid can be made."""
    try:
        scheduler.set_timesteps(**{"num_inference_steps": n_steps, **call}, device="cpu")
    except (ValueError, IndexError, AssertionError, ZeroDivisionError, RuntimeError, TypeError):
        return False
    return True


def arguments(scheduler):
    """What `set_timesteps` of a class needs beside a number of steps."""
    more = dict(CASES[type(scheduler).__name__].call)
    return {**more, "mu": 0.8} if scheduler.config.get("use_dynamic_shifting") else more


def wrapped(base, share, limit, spacing):
    """A scheduler that is cut at a share of its training path, and its log-SNR there."""
    clean, noisy = timestep_range(base)
    t_star = clean + share * (noisy - clean)
    is_whole = float(clean).is_integer() and float(noisy).is_integer() and abs(noisy - clean) > 10
    t_star = round(t_star) if is_whole else t_star
    star = timestep_log_snr(base, t_star)
    assume(abs(star) < 60)
    cut = GAGAScheduler.from_pretrained(
        base, STATS, t_star=t_star, spacing=spacing, handover="init"
    )
    if limit is not None:
        cut.keep_within(star - limit)
    return cut, star


def calls_of(scheduler, n_steps):
    """Network calls of an ordinary loop, counted."""
    count = 0

    def see(x, t):
        nonlocal count
        count += 1
        return 0.1 * x

    case = CASES[type(scheduler).__name__.removeprefix("GAGA")]
    x = noise(batch=1)
    case.loop(scheduler, x * getattr(scheduler, "init_noise_sigma", 1.0), see)
    return count


shares = st.one_of(st.floats(0.02, 0.98), st.sampled_from([0.5, 1.0]))
limits = st.one_of(st.none(), st.floats(0, 2))


def is_refused_rightly(base, plain, levels):
    """Whether no run can use the scheduler's own grid."""
    no_levels = not levels or any(math.isnan(level) for level in levels)
    rises = any(b < a for a, b in itertools.pairwise(levels))
    flat = len(levels) > 1 and levels[0] == levels[-1]
    last = base.config.get("num_train_timesteps") or math.inf
    pushed_out = bool(base.config.get("steps_offset")) and float(plain.timesteps.max()) >= last
    return no_levels or rises or flat or pushed_out


@cases(100)
@given(schedulers(), st.integers(1, 40), shares, limits)
def test_a_cut_grid_is_the_end_of_the_schedulers_own(made_by, n_steps, share, limit):
    base, _ = made_by
    call, plain = arguments(base), copy.deepcopy(base)
    assume(made(plain, n_steps, call))
    cut, star = wrapped(base, share, limit, "suffix")
    lowest = -math.inf if limit is None else star - limit
    own = steps(plain)
    levels = [level for _, level in own]
    try:
        cut.set_timesteps(**{"num_inference_steps": n_steps, **call}, device="cpu")
    except GAGAError:  # a grid that no run can use, or PNDM's with too few steps
        event("refused")
        if is_refused_rightly(base, plain, levels):
            return
        raise
    at = [k for k, level in enumerate(levels) if level <= star + SAME]
    first = at[-1] if at else 0
    trained = [k for k in range(first, len(own)) if levels[k] >= lowest - SAME]
    first = trained[0] if trained else len(own) - 1
    is_pndm = type(base).__name__ == "PNDMScheduler"
    if is_pndm and not base.config.skip_prk_steps:
        first = min(first, max(0, len(own) - 4))
    event(type(base).__name__)
    event("cut" if first else "whole")
    if is_pndm:
        n_left = len(own) - first
        assert list(cut._timesteps) == list(plain._timesteps)[:n_left]
    else:
        place = own[first][0]
        assert torch.equal(cut.timesteps, plain.timesteps[place:])
        for name in ("sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down", "betas", "alphas"):
            array = getattr(plain, name, None)
            if name in ("betas", "alphas") and type(base).__name__ != "IPNDMScheduler":
                continue
            if array is not None and len(array) >= len(plain.timesteps):
                left = getattr(cut, name)
                assert torch.equal(left.nan_to_num(7.0), array[place:].nan_to_num(7.0)), name
    left = steps(cut)
    assert [level for _, level in left] == levels[first:]
    if at and not is_pndm:
        assert left[0][1] <= star + SAME or left[0][1] >= lowest - SAME
        assert all(level > star + SAME for _, level in left[1:])
    assert cut.n_calls == calls_of(cut, n_steps)
    if not first:
        assert cut.n_calls == calls_of(plain, n_steps)


@cases(60)
@given(schedulers(), st.integers(2, 20), shares, limits)
def test_a_respaced_grid_has_as_many_steps_and_ends_as_the_schedulers_own(
    made_by, n_steps, share, limit
):
    base, _ = made_by
    assume(not base.config.get("shift_terminal"))  # which may end above 1 by rounding
    n_steps = min(n_steps, 3) if type(base).__name__ in SLOW else n_steps
    call, plain = arguments(base), copy.deepcopy(base)
    assume(made(plain, n_steps, call))
    assume(bool(plain.timesteps.isfinite().all()))
    cut, star = wrapped(base, share, limit, "respace")
    own = [level for _, level in steps(plain)]
    try:
        cut.set_timesteps(**{"num_inference_steps": n_steps, **call}, device="cpu")
    except GAGAError:
        event("refused")
        if is_refused_rightly(base, plain, own):
            return
        raise
    event(type(base).__name__)
    levels = [level for _, level in steps(cut)]
    lowest = -math.inf if limit is None else star - limit
    assert len(levels) == len(own) or levels[0] >= lowest - SAME
    assert all(b > a for a, b in itertools.pairwise(levels)) or levels == own
    assert levels[0] <= star + SAME or own[0] > star + SAME or own[0] < lowest - SAME
    assert levels[0] >= own[0] - SAME  # no noisier than the scheduler's own
    # Its steps of `T // n` training timesteps leave out up to half of the path near the data.
    is_uneven = isinstance(base, plain_class("CMStochasticIterativeScheduler"))
    assert levels[-1] >= own[-1] - SAME or is_uneven
    if hasattr(plain, "sigmas"):  # flows of DEIS end at a level of their own grid
        last, usual = float(cut.sigmas[-1]), float(plain.sigmas[-1])
        assert last == usual or (last < usual and base.config.get("use_flow_sigmas"))
    assert cut.n_calls == calls_of(cut, n_steps)
    first = copy.deepcopy(cut.timesteps)
    cut.set_timesteps(**{"num_inference_steps": n_steps, **call}, device="cpu")
    assert torch.equal(cut.timesteps, first)  # the search is remembered


@cases(60)
@example((DDPMScheduler(beta_schedule="squaredcos_cap_v2"), {}), 8, 1.0, None)  # was refused
@given(
    schedulers(tuple(name for name in CASES if name not in OWN_GRID | {"LCMScheduler"})),
    st.integers(2, 12),
    shares,
    limits,
)
def test_levels_even_in_log_snr_begin_at_t_star_and_fall(made_by, n_steps, share, limit):
    base, _ = made_by
    call, plain = arguments(base), copy.deepcopy(base)
    assume(made(plain, n_steps, call))
    cut, star = wrapped(base, share, limit, "log_snr")
    own = [level for _, level in steps(plain)]
    try:
        cut.set_timesteps(**{"num_inference_steps": n_steps, **call}, device="cpu")
    except TruncationError as error:
        event(f"refused: {str(error)[:20]}")
        table, too_few = getattr(base, "alphas_cumprod", None), False
        if table is not None and "do not fit" in str(error):
            table = (table.double() / (1 - table.double())).log()
            lowest = star if limit is None else star - limit
            nearest = int((table - 6).abs().argmin())
            too_few = int((table >= lowest - SAME).sum()) - nearest < len(own)
        too_clean = "do not rise" in str(error) and star > 5
        if too_few or too_clean or is_refused_rightly(base, plain, own):
            return
        raise
    levels = [level for _, level in steps(cut)]
    lowest = -math.inf if limit is None else star - limit
    assert len(levels) == len([level for level in own if level < math.inf])
    assert all(b > a for a, b in itertools.pairwise(levels))
    assert levels[0] <= star + 2e-3 or levels[0] < lowest + 0.5
    assert levels[0] >= lowest - 2e-3
