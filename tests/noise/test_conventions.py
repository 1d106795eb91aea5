"""Where each kind of scheduler keeps its noise levels, in numbers that are known by hand.

Oracles: the formulas of the papers at points where they are simple. The ratios 3/4, 4/3 and 12/5 of
noise to signal belong to the right triangles (3, 4, 5) and (5, 12, 13), so a sample that preserves
the variance has the coefficients (0.8, 0.6), (0.6, 0.8) and (5/13, 12/13).
"""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import diffusers
import numpy as np
import pytest
import torch
from fakes.device import stand_in

from gaga_adapter import FewStepScheduler
from gaga_adapter.errors import UnsupportedSchedulerError
from gaga_adapter.noise.conventions import (
    REFUSED,
    ROWS,
    Level,
    convention_of,
    exported_schedulers,
    log_snr,
    unknown_schedulers,
)
from gaga_adapter.scheduler.options import plain_class

ABAR = torch.tensor([16 / 25, 9 / 25, 25 / 169], dtype=torch.float64)
NEAR = {"rel": 1e-12, "abs": 1e-12}
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # numpy 2 in diffusers


def make(name, **options):
    """A scheduler; one over a training table has that of the triangles."""
    made_by = plain_class(f"{name}Scheduler")
    if made_by is None:
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}Scheduler")
    scheduler = made_by(**options)
    if hasattr(scheduler, "alphas_cumprod"):
        scheduler.alphas_cumprod = ABAR.clone()
    return scheduler


# -- timesteps and ratios --------------------------------------------------------------------------


def preserving(r):
    return 1 / math.sqrt(1 + r**2)


def exploding(r):
    return 1.0


def preconditioned(r):
    """c_in of Karras et al. 2022, for data of standard deviation 1/2."""
    return 1 / math.sqrt(0.25 + r**2)


def of_flow(r):
    return 1 / (1 + r)


def on_circle(r):
    """Cosine of the angle of TrigFlow, for data of standard deviation 1/2."""
    return 1 / math.sqrt(1 + 4 * r**2)


class Kind(NamedTuple):
    """A way to keep levels: ratios by timestep, signal of a sample and of what a network sees."""

    name: str
    options: dict
    ratios: dict
    signal: Callable
    seen_signal: Callable
    ends: tuple
    is_bare: bool = False
    looks_up: bool = False

    def __repr__(self):
        return f"{self.name}({','.join(map(str, self.options.values()))})"


TABLE = {0: 3 / 4, 1: 4 / 3, 2: 12 / 5}
QUARTER_LOG = {math.log(r) / 4: r for r in (0.3, 1.2, 7.5)}
LOG_250 = {250 * math.log(r): r for r in (0.3, 1.2, 7.5)}
QUARTER_TURN = {0: 0, 1 / 3: 3**-0.5, 1 / 2: 1, 2 / 3: 3**0.5}
ANGLE = {math.pi / 2 * t: r / 2 for t, r in QUARTER_TURN.items()}
FLOW = {0: 0, 125: 1 / 3, 250: 1, 400: 4, 500: math.inf}
BACKWARD = {500 - t: r for t, r in FLOW.items()}
DATA_TIME = {1 - t / 500: r for t, r in FLOW.items()}
OF_500 = {"num_train_timesteps": 500}
OF_KARRAS = {"sigma_min": 0.1, "sigma_max": 3**0.5, "sigma_data": 0.5}
V, CONTINUOUS = {"prediction_type": "v_prediction"}, {"timestep_type": "continuous"}
FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def logs(factor, low, high):
    return factor * math.log(low), factor * math.log(high)


KINDS = [
    Kind("DDPM", {}, TABLE, preserving, preserving, (0, 2), looks_up=True),
    Kind("PNDM", {}, TABLE, preserving, preserving, (0, 2), looks_up=True),
    Kind("DPMSolverMultistep", {}, TABLE, preserving, preserving, (0, 2)),
    Kind("LMSDiscrete", {}, TABLE, exploding, preserving, (0, 2)),
    Kind("EulerDiscrete", V, TABLE, exploding, preserving, (0, 2)),
    Kind("EulerDiscrete", CONTINUOUS, TABLE, exploding, preserving, (0, 2)),
    Kind(
        "EulerDiscrete",
        V | CONTINUOUS,
        QUARTER_LOG,
        exploding,
        preserving,
        logs(1 / 4, 3 / 4, 12 / 5),
    ),
    Kind("EDMEuler", OF_KARRAS, QUARTER_LOG, exploding, preconditioned, logs(1 / 4, 0.1, 3**0.5)),
    Kind(
        "CMStochasticIterative",
        OF_KARRAS,
        LOG_250,
        exploding,
        preconditioned,
        logs(250, 0.1, 3**0.5),
    ),
    Kind(
        "CosineDPMSolverMultistep",
        OF_KARRAS,
        QUARTER_TURN,
        exploding,
        preconditioned,
        (math.atan(0.1) * 2 / math.pi, 2 / 3),
    ),
    Kind("FlowMatchEulerDiscrete", OF_500, FLOW, of_flow, of_flow, (0, 500), is_bare=True),
    Kind(
        "FlowMatchEulerDiscrete",
        OF_500 | {"invert_sigmas": True},
        BACKWARD,
        of_flow,
        of_flow,
        (500, 0),
        is_bare=True,
    ),
    Kind("UniPCMultistep", OF_500 | FLOW_SIGMAS, FLOW, of_flow, of_flow, (0, 500), is_bare=True),
    Kind("MiniMaxH3", {}, DATA_TIME, of_flow, of_flow, (1, 0), is_bare=True),
    Kind("IPNDM", {}, QUARTER_TURN, preserving, preserving, (0, 1)),
    Kind("SCM", {"sigma_data": 0.5}, ANGLE, on_circle, on_circle, (0, math.pi / 2), is_bare=True),
]


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("is_borrowed", [False, True])
def test_levels_by_hand(kind, is_borrowed):
    scheduler = make(kind.name, **kind.options)
    if is_borrowed:
        if ROWS[f"{kind.name}Scheduler"].tail:
            with pytest.raises(UnsupportedSchedulerError, match="ends its grid with an entry"):
                FewStepScheduler.from_scheduler(scheduler)
            return
        scheduler = FewStepScheduler.from_scheduler(scheduler)
    at = convention_of(scheduler)
    assert at.scheduler is scheduler
    assert at.row is ROWS[type(scheduler).__name__]
    assert at.noise_is_bare is kind.is_bare
    assert at.looks_up is kind.looks_up
    assert at.ends == pytest.approx(kind.ends, **NEAR)
    for timestep, ratio in kind.ratios.items():
        assert at.ratio_at(timestep) == pytest.approx(ratio, **NEAR)
        assert at.timestep_at(ratio) == pytest.approx(timestep, **NEAR)
        for signal, level in (
            (kind.signal(ratio), at.level(ratio)),
            (kind.seen_signal(ratio), at.seen_level(timestep)),
            (kind.seen_signal(ratio), at.seen_level(torch.tensor(timestep, dtype=torch.float64))),
        ):
            expected = (signal, ratio * signal) if signal else (0, 1)
            assert level == pytest.approx(expected, **NEAR)
            assert level.log_snr == pytest.approx(
                -2 * math.log(ratio) if ratio else math.inf, **NEAR
            )


def test_a_level_of_no_noise_and_one_of_no_signal():
    assert Level(1.0, 0.0).log_snr == math.inf
    assert Level(0.0, 1.0).log_snr == -math.inf
    ratios = torch.tensor([[0.0, math.exp(-1.0)], [math.exp(3.0), math.inf]], dtype=torch.float64)
    expected = torch.tensor([[math.inf, 2.0], [-6.0, -math.inf]], dtype=torch.float64)
    torch.testing.assert_close(log_snr(ratios), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["DDPM", "EulerDiscrete"])
def test_between_two_entries_of_a_table(name):
    """Ratios are even in their logarithm, and the nearest entry is the nearest in that."""
    at = convention_of(make(name))
    assert at.ratio_at(0.5) == pytest.approx(1.0, **NEAR)  # the geometric mean of 3/4 and 4/3
    assert at.ratio_at(1.25) == pytest.approx(4 / 3 * 1.8**0.25, **NEAR)
    assert [at.ratio_at(t) for t in (-7, -0.5, 2.5, 9)] == [at.table[0]] * 2 + [at.table[2]] * 2
    ratios = (
        1e-3,
        0.99,
        1.01,
        1.78,
        1.8,
        1e3,
    )  # 1.02 and 1.87 lie in the middle of two, not in log
    assert [at.timestep_at(r) for r in ratios] == [0, 0, 1, 1, 2, 2]


def test_tables_are_kept_in_double_precision():
    """That of the class is in float32, where 1 - abar of its first entry has four digits."""
    scheduler = diffusers.DDPMScheduler()
    abar = scheduler.alphas_cumprod.numpy().astype(np.float64)
    table = convention_of(scheduler).table
    assert table.dtype == torch.float64
    np.testing.assert_allclose(table.numpy(), np.sqrt(1 / abar - 1), rtol=1e-11)


# -- grids -----------------------------------------------------------------------------------------

INF, OVER = math.inf, {"timesteps": [9] * 3}
SIGMAS = OVER | {"sigmas": [2, 0.25, 0.125, 0]}  # with one more at the end
GRIDS = [
    # a table, whose steps_offset may lead out of it
    ("DDPM", {}, {"timesteps": [7, 3, 2, 1, 0]}, [INF, INF, 12 / 5, 4 / 3, 3 / 4]),
    ("PNDM", {}, {"_timesteps": np.array([0, 2, 3])}, [INF, 12 / 5, 3 / 4]),
    ("DPMSolverMultistep", {}, SIGMAS, [2, 0.25, 0.125]),
    ("LMSDiscrete", {}, SIGMAS, [2, 0.25, 0.125]),
    ("EDMEuler", {}, SIGMAS, [2, 0.25, 0.125]),
    ("FlowMatchEulerDiscrete", {}, OVER | {"sigmas": [1, 0.75, 0.25, 0]}, [INF, 3, 1 / 3]),
    (
        "FlowMatchEulerDiscrete",
        {"invert_sigmas": True},
        OVER | {"sigmas": [0, 0.25, 0.75, 1]},
        [INF, 3, 1 / 3],
    ),
    ("MiniMaxH3", {}, {"timesteps": [0, 0.25, 0.75]}, [INF, 3, 1 / 3]),
    ("IPNDM", {}, {"timesteps": [1.5, 0.5, 1.25]}, [1, 1, 1 + math.sqrt(2)]),
]


@pytest.mark.parametrize(("name", "options", "kept", "ratios"), GRIDS, ids=str)
def test_grids_by_hand(name, options, kept, ratios):
    scheduler = make(name, **options)
    for attribute, values in kept.items():
        setattr(scheduler, attribute, torch.tensor(values) if type(values) is list else values)
    grid = convention_of(scheduler).grid()
    assert grid.dtype == torch.float64
    assert grid.tolist() == pytest.approx(ratios, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LMSDiscrete", {}),
        ("EDMEuler", {}),
        ("FlowMatchEulerDiscrete", {}),
        ("FlowMatchEulerDiscrete", {"invert_sigmas": True}),
        ("UniPCMultistep", FLOW_SIGMAS),
        ("MiniMaxH3", {}),
    ],
    ids=str,
)
def test_sigmas_are_what_the_class_itself_has_for_its_timesteps(name, options):
    scheduler = make(name, **options)
    scheduler.set_timesteps(7)
    at = convention_of(scheduler)
    sigmas = [at.sigma_at(at.ratio_at(t)) for t in scheduler.timesteps.tolist()]
    assert sigmas == pytest.approx(scheduler.sigmas[: len(sigmas)].tolist(), rel=2e-3, abs=2e-3)


def test_the_grid_of_few_steps():
    scheduler = FewStepScheduler.from_scheduler(make("FlowMatchEulerDiscrete"))
    scheduler.set_timesteps(sigmas=[0.8, 0.5, 0.25])
    grid = convention_of(scheduler).grid()
    assert grid.tolist() == pytest.approx([4, 1, 1 / 3], rel=1e-6, abs=0)


# -- Wuerstchen ------------------------------------------------------------------------------------


def test_the_shifted_cosine_of_wuerstchen():
    """abar = cos²((t + s) / (1 + s) pi / 2) over its value at 0, which the class has in float32.

    With s = 1/128 only that value is rounded, and it leaves the quotient of two abar as it is.
    """
    at = convention_of(diffusers.DDPMWuerstchenScheduler(s=1 / 128))

    def cosine(t):
        return math.cos((t + 1 / 128) / (1 + 1 / 128) * math.pi / 2) ** 2

    def abar(t):
        return 1 / (1 + at.ratio_at(t) ** 2)

    assert at.ends == (0, 1)
    for t in (0.1, 0.5, 0.9):
        assert abar(t) == pytest.approx(cosine(t) / cosine(0), rel=1e-6, abs=0)
        assert abar(t) / abar(0.3) == pytest.approx(cosine(t) / cosine(0.3), rel=1e-12, abs=0)
        assert at.timestep_at(at.ratio_at(t)) == pytest.approx(t, rel=1e-9, abs=0)
        assert at.level(at.ratio_at(t)).a == pytest.approx(math.sqrt(abar(t)), **NEAR)
    # abar is held in [0.0001, 0.9999], so several timesteps have either end
    assert at.ratio_at(0.0) == at.ratio_at(1e-3) == pytest.approx(1 / math.sqrt(9999), rel=1e-6)
    assert at.ratio_at(1.0) == at.ratio_at(1 - 1e-3) == pytest.approx(math.sqrt(9999), rel=1e-6)
    assert at.timestep_at(at.ratio_at(0.0)) == pytest.approx(0, abs=1e-15)  # the cleanest of them
    assert at.timestep_at(1e9) == 1


# -- other devices ---------------------------------------------------------------------------------


def test_levels_are_read_on_the_cpu_wherever_the_scheduler_keeps_them():
    kept = ("alphas_cumprod", "sigmas", "timesteps", "s", "_init_alpha_cumprod")
    for name in ("DDPM", "LMSDiscrete", "FlowMatchEulerDiscrete", "DDPMWuerstchen"):
        scheduler = make(name)
        scheduler.timesteps = torch.tensor([2, 1, 0])
        at = convention_of(scheduler)
        here = at.grid().tolist(), at.ratio_at(1)
        with stand_in() as device:
            for attribute in kept:
                if hasattr(scheduler, attribute):
                    setattr(scheduler, attribute, getattr(scheduler, attribute).to(device))
            at = convention_of(scheduler)
            assert at.grid().device.type == "cpu"
            assert (at.grid().tolist(), at.ratio_at(1)) == here
            assert at.table is None or at.table.device.type == "cpu"


# -- classes ---------------------------------------------------------------------------------------


class OwnScheduler(diffusers.EDMEulerScheduler):
    """Somebody's own class, of one that is known."""


class OwnTokensScheduler(diffusers.VQDiffusionScheduler):
    """Somebody's own class, of one that is refused."""


def test_a_class_is_known_by_its_bases():
    scheduler = OwnScheduler(sigma_min=0.1, sigma_max=20.0)
    assert convention_of(scheduler).row is ROWS["EDMEulerScheduler"]
    assert convention_of(scheduler).ends == pytest.approx(logs(1 / 4, 0.1, 20.0), **NEAR)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (OwnTokensScheduler(num_vec_classes=8), f"OwnTokens.*: {REFUSED['VQDiffusionScheduler']}"),
        (SimpleNamespace(), "cannot use SimpleNamespace: it is none of the classes known"),
        (diffusers.DDPMScheduler, r"got a class, .* Pass pipe\.scheduler, or DDPMScheduler\(\)"),
        (diffusers.DDPMPipeline(None, diffusers.DDPMScheduler()), "got the pipeline DDPMPipeline"),
    ],
    ids=["refused", "unknown", "class", "pipeline"],
)
def test_what_has_no_convention(given, told):
    with pytest.raises(UnsupportedSchedulerError, match=told) as caught:
        convention_of(given)
    message = str(caught.value)
    if "cannot use" in message:  # then all that can be used are named
        assert message.rstrip(".").split("Supported: ")[1].split(", ") == list(ROWS)
    else:
        assert "Supported" not in message


def test_stages_that_start_from_noise_of_their_own():
    """HeliosScheduler renoises at every stage; one stage is a flow like any other."""
    assert convention_of(make("Helios", stages=1, stage_range=[0, 1])).ratio_at(250) == 1 / 3
    for stages in (2, 3):
        scheduler = make(
            "Helios", stages=stages, stage_range=[k / stages for k in range(stages + 1)]
        )
        with pytest.raises(UnsupportedSchedulerError, match=f"Helios.*: with stages={stages} .*=1"):
            convention_of(scheduler)


def test_the_exported_classes_are_those_that_diffusers_lists():
    from diffusers import schedulers

    named = {name for name in dir(schedulers) if name.endswith("Scheduler")}
    named = {name for name in named if not name.startswith("Flax")}  # of old versions, for jax
    assert exported_schedulers() == tuple(sorted(named))
    assert set(unknown_schedulers()) == named - ROWS.keys() - REFUSED.keys()


@pytest.mark.parametrize(
    "library",
    [
        SimpleNamespace(
            _import_structure={
                "scheduling_new": ["NewScheduler", "NewSchedulerOutput"],
                "scheduling_ddim": ["DDIMScheduler", "VQDiffusionScheduler"],
                "utils": ["SchedulerMixin", "AysSchedules"],
            }
        ),
        SimpleNamespace(NewScheduler=1, NewSchedulerOutput=2, DDIMScheduler=3, utils=4),
    ],
)
def test_a_new_class_is_unknown(library):
    assert unknown_schedulers(library) == ("NewScheduler",)
