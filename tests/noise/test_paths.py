"""Paths: published tables, exact inverses, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from fakes.device import SinglePrecision

from gaga_adapter.errors import DataError, TruncationError
from gaga_adapter.noise.levels import TOLERANCE
from gaga_adapter.noise.paths import (
    NAMED_PATHS,
    FlowPath,
    Start,
    TabulatedPath,
    VEPath,
    VPPath,
    named_path,
    starts,
)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


PATHS = {
    **{name: named_path(name) for name in NAMED_PATHS},
    "ve/geometric": VEPath(0.01, 50.0, rho=None),
    "flow/shift": FlowPath(shift=3.0),
    "vp/zero-snr": VPPath.from_alphas_cumprod(f64([1.0, 0.7, 0.3, 0.0])),
    "table/uneven": TabulatedPath(f64([2.0, 1.0, 0.3]), f64([0.1, 0.5, 4.0]), f64([0.0, 0.2, 1.0])),
}
each_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())


# ------------------------------------------------------------------ published tables


def polynomial(n):
    """(1 - 2s)(1 - t²)² + s; the clip of step ratios at 0.001 touches only t = 1."""
    inner = (1 - (np.arange(n + 1) / n) ** 2) ** 2
    inner[-1] = inner[-2] * 0.001
    return (1 - 2e-5) * inner + 1e-5


def cosine(n):
    """The cumulative product telescopes to f(i + 1) / f(0), but for the last, clipped step."""
    f = np.cos((np.arange(n) / (n - 1) + 0.008) / 1.008 * math.pi / 2) ** 2
    abar = f[1:] / f[0]
    abar[-1] = abar[-2] * (1 - 0.999)
    return abar


#: `abar` of the tables, by their number of training steps.
ABAR = {
    "edm/polynomial_2": polynomial,
    "edm/cosine": lambda n: cosine(n + 2),
    "ddpm/linear": lambda n: np.cumprod(1 - np.linspace(1e-4, 0.02, n)),
    "ddpm/scaled_linear": lambda n: np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, n) ** 2),
    "ddpm/cosine": lambda n: cosine(n + 1),
}


@pytest.mark.parametrize("n", [2, 200, 1000])
@pytest.mark.parametrize("name", ABAR)
def test_named_tables_are_their_formulas(name, n):
    path, abar = named_path(name, n), torch.from_numpy(ABAR[name](n))
    assert repr(path) == f"VPPath({len(abar)} nodes)"
    t = torch.arange(len(abar), dtype=torch.float64) / (len(abar) - 1)
    torch.testing.assert_close(path.a(t) ** 2, abar, rtol=1e-10, atol=0)
    torch.testing.assert_close(path.b(t) ** 2, 1 - abar, rtol=1e-10, atol=1e-15)


def test_the_edm_polynomial_has_the_digits_of_its_own_table():
    path = named_path("edm/polynomial_2")
    assert float(path.a(0.55)) ** 2 == pytest.approx(0.48651, abs=5e-6)
    assert float(path.snr(0.55)) == pytest.approx(0.947, abs=5e-4)
    assert float(path.a(0.65)) ** 2 == pytest.approx(0.334, abs=5e-4)
    assert float(path.a(0.70)) ** 2 == pytest.approx(0.260, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "schedule", "betas"),
    [
        ("ddpm/linear", "linear", {}),
        ("ddpm/scaled_linear", "scaled_linear", {"beta_start": 0.00085, "beta_end": 0.012}),
        ("ddpm/cosine", "squaredcos_cap_v2", {}),
    ],
)
def test_ddpm_tables_are_those_of_diffusers(name, schedule, betas):
    """Tolerance: diffusers accumulates 1000 products in float32."""
    scheduler = DDPMScheduler(beta_schedule=schedule, **betas)
    path = named_path(name)
    t = torch.arange(1000, dtype=torch.float64) / path.n_steps
    abar = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(path.a(t) ** 2, abar, rtol=2e-5, atol=0)
    wrapped = VPPath.from_alphas_cumprod(scheduler.alphas_cumprod)
    torch.testing.assert_close(wrapped.a(t) ** 2, abar, rtol=1e-12, atol=0)
    torch.testing.assert_close(wrapped.b(t) ** 2, 1 - abar, rtol=1e-12, atol=0)


def test_karras_sigmas_are_those_of_diffusers():
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    scheduler.set_timesteps(50)
    path = named_path("karras/edm")
    t = 1 - torch.arange(50, dtype=torch.float64) / 49
    torch.testing.assert_close(path.b(t).float(), scheduler.sigmas[:-1], rtol=1e-5, atol=0)
    assert torch.equal(path.a(t), torch.ones(50, dtype=torch.float64))


def test_flow_shift_is_that_of_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    s = torch.arange(1000, 0, -1, dtype=torch.float64) / 1000
    torch.testing.assert_close(FlowPath(3.0).b(s).float(), scheduler.sigmas, rtol=1e-5, atol=0)


# ------------------------------------------------------------------ identities


@each_path
def test_inverse_round_trips(path):
    t = torch.cat([torch.linspace(0, 1, 401), torch.rand(200)]).double()
    torch.testing.assert_close(path.time_at_log_snr(path.log_snr(t)), t, rtol=0, atol=1e-12)
    low, high = (max(min(end, 30.0), -30.0) for end in path.log_snr_range)
    levels = torch.linspace(low, high, 301, dtype=torch.float64)
    again = path.log_snr(path.time_at_log_snr(levels))
    torch.testing.assert_close(again, levels, rtol=1e-9, atol=1e-9)


@each_path
def test_log_snr_falls_and_agrees_with_a_and_b(path):
    t = torch.linspace(0, 1, 1501, dtype=torch.float64)
    log_snr = path.log_snr(t)
    assert bool((log_snr.diff() < 0).all())
    inner = t[1:-1]
    ratio = (path.a(inner) / path.b(inner)) ** 2
    torch.testing.assert_close(path.snr(inner), ratio, rtol=1e-9, atol=0)


@each_path
def test_numbers_of_python_keep_their_digits(path):
    low, high = (max(min(end, 20.0), -20.0) for end in path.log_snr_range)
    star = low + (high - low) / 3
    t = float(path.time_at_log_snr(star))
    assert float(path.log_snr(t)) == pytest.approx(star, rel=1e-9, abs=1e-9)
    if not path.n_steps:  # else it is that of a node
        assert path.first_time(star) == t


@pytest.mark.parametrize("name", ["ddpm/linear", "karras/edm", "ve/geometric", "table/uneven"])
def test_levels_within_the_tolerance_of_an_end_are_that_end(name):
    path = PATHS[name]
    low, high = path.log_snr_range
    for end, sign, t in ((low, -1, 1.0), (high, 1, 0.0)):
        assert float(path.time_at_log_snr(end + sign * 0.99 * TOLERANCE)) == t
        with pytest.raises(TruncationError, match="outside of"):
            path.time_at_log_snr(end + sign * 1.01 * TOLERANCE)


def test_no_rounding_leads_out_of_the_unit_interval():
    """Neither where all of a table is a straight segment, nor at the roots of sigmas."""
    edges = [k / 47 for k in range(1, 47)]
    paths = [TabulatedPath(f64([b, 0.0]), f64([math.sqrt(1 - b**2), 1.0])) for b in edges]
    paths += [TabulatedPath(f64([1.0, b]), f64([0.0, math.sqrt(1 - b**2)])) for b in edges]
    paths += [VEPath(b, 30 + b, rho) for b in edges for rho in (None, 3.0, 7.0)]
    for path in paths:
        t = path.time_at_log_snr(f64(path.log_snr_range))
        torch.testing.assert_close(t, f64([1.0, 0.0]), rtol=0, atol=1e-12)
        assert bool(((t >= 0) & (t <= 1)).all())


@pytest.mark.parametrize("name", ["edm/polynomial_2", "ddpm/linear", "vp/zero-snr"])
def test_vp_nodes_preserve_variance(name):
    path = PATHS[name]
    t = torch.arange(path.n_steps + 1, dtype=torch.float64) / path.n_steps
    total = path.a(t) ** 2 + path.b(t) ** 2
    torch.testing.assert_close(total, torch.ones_like(t), rtol=1e-14, atol=0)


def test_table_is_exact_at_uneven_nodes_and_linear_in_log_snr_between():
    path = PATHS["table/uneven"]
    nodes = f64([0.0, 0.2, 1.0])
    torch.testing.assert_close(path.a(nodes), f64([2.0, 1.0, 0.3]), rtol=1e-14, atol=0)
    torch.testing.assert_close(path.b(nodes), f64([0.1, 0.5, 4.0]), rtol=1e-14, atol=0)
    ends = path.log_snr(nodes)
    assert float(path.log_snr(0.6)) == pytest.approx(float(ends[1] + ends[2]) / 2, rel=1e-13)
    scale = math.hypot(float(path.a(0.6)), float(path.b(0.6)))
    assert scale**2 == pytest.approx(math.hypot(1.0, 0.5) * math.hypot(0.3, 4.0), rel=1e-13)


def test_only_even_times_have_steps():
    a, b = f64([1.0, 0.6, 0.3]), f64([0.1, 0.5, 4.0])
    assert TabulatedPath(a, b).n_steps == TabulatedPath(a, b, f64([0.0, 0.5, 1.0])).n_steps == 2
    assert TabulatedPath(a, b, f64([0.0, 0.6, 1.0])).n_steps is None


def test_a_path_keeps_a_copy_of_its_table():
    table = [f64([1.0, 0.5, 0.0]), f64([0.0, 0.8, 0.9]), f64([0.0, 0.3, 1.0])]
    path, t = TabulatedPath(*table), torch.linspace(0, 1, 5)
    before = torch.stack([path.a(t), path.b(t), path.log_snr(t)])
    for x in table:
        x.mul_(0.5)
    assert torch.equal(torch.stack([path.a(t), path.b(t), path.log_snr(t)]), before)


def test_tables_in_float32_are_taken_at_their_values():
    """Also of a device that has no float64, such as MPS."""

    def there(values):
        return torch.tensor(values).as_subclass(SinglePrecision)

    alphas, betas = np.float32([0.999, 0.7, 0.3, 0.01]), np.float32([1e-4, 0.3, 0.6, 0.9])
    times, even = np.float32([0.0, 0.013, 0.7, 1.0]), np.arange(4) / 3
    abar, kept = np.float64(alphas), np.cumprod(1 - np.float64(betas))
    for path, a, b, t in (
        (VPPath.from_alphas_cumprod(there(alphas)), abar**0.5, (1 - abar) ** 0.5, even),
        (VPPath.from_betas(there(betas)), kept**0.5, (1 - kept) ** 0.5, even),
        (TabulatedPath(*map(there, (alphas, betas, times))), alphas, betas, times),
    ):
        a, b, t = np.float64(a), np.float64(b), np.float64(t)
        dense = np.linspace(0, 1, 14)
        for found, expected in (
            (path.log_snr(torch.from_numpy(dense)), np.interp(dense, t, 2 * np.log(a / b))),
            (path.a(torch.from_numpy(t)), a),
        ):
            torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def test_zero_terminal_snr_reaches_infinity():
    path = PATHS["vp/zero-snr"]
    assert path.log_snr_range == (-math.inf, math.inf)
    assert float(path.a(1.0)) == 0
    assert float(path.b(0.0)) == 0
    assert float(path.time_at_log_snr(-math.inf)) == 1
    assert float(path.time_at_log_snr(math.inf)) == 0


@pytest.mark.parametrize("log_snr", [-11.5, -3.0, -0.0541, 2.7, 11.0, 50.0])
def test_index_at_log_snr_is_the_first_beyond(log_snr):
    path = named_path("edm/polynomial_2")
    t = torch.arange(1001, dtype=torch.float64) / 1000
    expected = next(i for i, level in enumerate(path.log_snr(t).tolist()) if level <= log_snr)
    assert path.index_at_log_snr(log_snr) == expected


@each_path
def test_a_level_cleaner_than_the_path_is_reached_at_once(path):
    highest = path.log_snr_range[1]
    for level in (highest, highest + 3.0):
        assert path.first_time(level) == pytest.approx(0, abs=1e-12)
    with pytest.raises(TruncationError, match="nan"):
        path.first_time(math.nan)


def test_index_at_a_node_is_that_node():
    path = named_path("edm/polynomial_2")
    assert path.index_at_log_snr(float(path.log_snr(0.55))) == 550


@each_path
def test_shapes_and_dtype(path):
    t = torch.rand(2, 3, dtype=torch.float32)
    for values in (path.a(t), path.b(t), path.snr(t), path.log_snr(t)):
        assert values.shape == (2, 3)
        assert values.dtype == torch.float64
    assert path.a(0.5).shape == ()


# ------------------------------------------------------------------ refusals


def test_unreachable_snr_names_the_range():
    with pytest.raises(TruncationError, match=r"log-SNR 30 .*\[-11\.5125, 11\.5129\]"):
        named_path("edm/polynomial_2").time_at_log_snr(30.0)
    with pytest.raises(TruncationError, match=r"\[-8\.76405, 12\.4292\] of VEPath"):
        named_path("karras/edm").time_at_log_snr(-9.0)
    with pytest.raises(TruncationError, match="no node"):
        named_path("edm/polynomial_2").index_at_log_snr(-12.0)
    with pytest.raises(TruncationError, match="nan"):
        FlowPath().time_at_log_snr(math.nan)


@pytest.mark.parametrize("t", [-0.1, 1.5, math.nan])
@each_path
def test_time_outside_of_the_unit_interval(path, t):
    with pytest.raises(TruncationError, match=r"outside of \[0, 1\]"):
        path.log_snr(t)


@pytest.mark.parametrize(
    ("a", "b", "times", "message"),
    [
        ([1.0, 0.5], [0.1], None, "one common length"),
        ([1.0, 0.5, 0.2], [0.1, 0.5], None, "one common length"),
        ([1.0, 0.5], [0.1, 0.5], [0.0, 0.5, 1.0], "one common length"),
        ([[1.0], [0.5]], [[0.1], [0.5]], None, "one common length"),
        (1.0, 0.5, None, "one common length"),
        ([1.0], [0.1], None, "at least 2"),
        ([1.0, math.nan], [0.1, 0.5], None, "finite"),
        ([1.0, -0.5], [0.1, 0.5], None, "non-negative"),
        ([0.5, 1.0], [0.5, 0.1], None, "does not fall from node 0"),
        ([0.8, 0.5, 0.6], [0.2, 0.5, 0.4], None, "does not fall from node 1"),
        ([0.8, 0.5, 0.5, 0.2], [0.2, 0.5, 0.5, 0.6], None, "does not fall from node 1"),
        ([1.0, 0.5], [0.1, 0.5], [0.1, 1.0], "from 0 .* to 1"),
        ([1.0, 0.5], [0.1, 0.5], [0.0, 0.9], "from 0 .* to 1"),
        ([1.0, 0.6, 0.5], [0.1, 0.4, 0.5], [0.0, 0.0, 1.0], "increase strictly"),
    ],
)
def test_malformed_tables(a, b, times, message):
    with pytest.raises(DataError, match=message):
        TabulatedPath(f64(a), f64(b), None if times is None else f64(times))


def test_malformed_parameters():
    with pytest.raises(TruncationError, match=r"unknown path 'edm'\. Known: edm/polynomial_2"):
        named_path("edm")
    with pytest.raises(TruncationError, match="at least 2"):
        named_path("ddpm/linear", 1)
    for ends in ((1.0, 0.5), (1.0, 1.0), (0.0, 1.0), (1.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(DataError, match="sigma_min"):
            VEPath(*ends)
    for shift in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(DataError, match="shift"):
            FlowPath(shift)


# ------------------------------------------------------------------ t* under every schedule


@pytest.mark.parametrize(
    ("star", "options"), [(2.9, {}), (-1.2, {"n_steps": 200}), (-9.3, {}), (-21.0, {}), (14.0, {})]
)
def test_t_star_under_every_named_schedule(star, options):
    """Of a table the place of its first entry at or beyond; sigmas go from 0.002 to 80."""
    s = 1 / (1 + math.exp(star / 2))
    expected = []
    for name, table in ABAR.items():
        abar = table(options.get("n_steps", 1000))
        beyond = np.flatnonzero(np.log(abar / (1 - abar)) <= star)
        first = beyond[0] if len(beyond) else None
        share = None if first is None else pytest.approx(first / (len(abar) - 1), rel=1e-14)
        expected.append(Start(name, first, "timestep", share))
    sigma = max(math.exp(-star / 2), 0.002)
    sigma = pytest.approx(sigma, rel=1e-12) if sigma <= 80 else None
    flow = pytest.approx(s, rel=1e-12)
    expected += [
        Start("karras/edm", sigma, "sigma", None),
        Start("flow/linear", flow, "time", flow),
    ]
    assert list(starts(star, **options)) == expected
    assert list(starts(star, **options, discrete_types=True)) == expected[-1:]


@pytest.mark.parametrize(
    ("start", "text", "share"),
    [
        (Start("a", 547, "timestep", 0.75), "timestep 547", "75 %"),
        (Start("b", 0.31, "time", 0.31), "s = 0.310", "31 %"),
        (Start("c", 4.48169, "sigma", None), "sigma = 4.482", "–"),
        (Start("d", None, "timestep", None), "never that noisy", "–"),
    ],
)
def test_the_words_of_a_start(start, text, share):
    assert (start.text, start.share_text) == (text, share)
