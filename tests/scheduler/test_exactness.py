"""Exactness: for Gaussian data and the analytic network, a truncated run is as good as a full one.

The data are N(mu, diag(sd²)) with unequal means and variances, so the fitted Gaussian is the exact
marginal at every level, and whatever error is left is the solver's own. The "network" is the
closed-form posterior mean in the parametrisation that the scheduler asks for; it is told the
timestep that the loop is at and nothing else, so a wrong timestep shows as a wrong law.

All of it is linear in the starting noise and in the noise that the solver draws. So the law of the
result is computed, not sampled: row 0 of the batch gets no noise and ends at the mean; every
other row gets one unit of one noise variable, and the squares of what they change add up to the
variance. Only the Brownian-tree solvers of torchsde are sampled (6,000 draws; a false alarm in
1e6 runs).
"""

import inspect
import math

import diffusers
import diffusers.schedulers as diffusers_schedulers
import numpy as np
import pytest
import torch

from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments import DenseMoments
from gaga_adapter.noise.conventions import ROWS, convention_of
from gaga_adapter.sampling.loop import walk
from gaga_adapter.scheduler import GAGAScheduler
from gaga_adapter.scheduler.families import FAMILIES
from gaga_adapter.scheduler.options import plain_class
from gaga_adapter.stats import GAGAStats

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* steps are left from t"),  # on purpose
    # `leading` grids begin below the last training timestep, so t* at 100% is out of their reach
    pytest.mark.filterwarnings("ignore:the grid of .* begins at timestep"),
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2, inside of diffusers
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # rounding inside of torchsde
]

MEAN = torch.tensor([0.5, -0.3, 1.0], dtype=torch.float64).reshape(3, 1, 1)
STD = torch.tensor([0.6, 0.2, 1.1], dtype=torch.float64).reshape(3, 1, 1)
DRAWS = 48  # noise variables that a run may draw, unless its case says otherwise


def gaussian_stats(log_snr_star=0.0, mean=MEAN, std=STD, kind="channel"):
    """Statistics with exactly this mean and variance: those of the two points mean ± std."""
    moments = DenseMoments(tuple(mean.shape), kind=kind)
    moments.update(torch.stack([mean - std, mean + std]))
    return GAGAStats(DenseLayout(tuple(mean.shape)), moments, log_snr_star)


# -- the analytic network, from the timestep alone -------------------------------------------------


def table_ratio(scheduler, t):
    """b / a at an index of the table, between two as the scheduler's sigmas interpolate it."""
    abar = scheduler.alphas_cumprod.double()
    ratio = ((1 - abar) / abar).sqrt()
    linear = np.interp(t, np.arange(len(ratio)), ratio)
    log_linear = math.exp(np.interp(t, np.arange(len(ratio)), ratio.log()))
    config = scheduler.config
    names = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    by_sigma = any(config.get(name) for name in names) or getattr(scheduler, "order", 1) == 2
    return log_linear if by_sigma else linear


def wuerstchen_ratio(scheduler, t):
    abar = math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    abar /= math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    abar = min(max(abar, 0.0001), 0.9999)
    return math.sqrt((1 - abar) / abar)


def flow_ratio(scheduler, t):
    s = t / 1000
    if scheduler.config.get("invert_sigmas"):
        s = 1 - s
    return s / (1 - s) if s < 1 else math.inf


RATIO = {
    "table": table_ratio,
    "flow": flow_ratio,
    "data time": lambda scheduler, t: 1 / t - 1,
    "one minus flow": lambda scheduler, t: (1 - t) / t if t else math.inf,
    "karras": lambda scheduler, t: math.exp(4 * t),
    "karras in thousands": lambda scheduler, t: math.exp(t / 250),
    "arctangent": lambda scheduler, t: math.tan(t * math.pi / 2),
    "quarter turn": lambda scheduler, t: abs(math.tan(t * math.pi / 2)),
    "trigflow": lambda scheduler, t: 0.5 * math.tan(t),
    "wuerstchen": wuerstchen_ratio,
}


def posterior(a, b, x):
    """E[x_0 | a x_0 + b eps = x]."""
    var = a**2 * STD**2 + b**2
    return MEAN + a * STD**2 / var * (x - a * MEAN)


def flow_endpoint(a, b, x):
    """End of the probability flow from x: it keeps the standardised coordinate."""
    return MEAN + STD * (x - a * MEAN) / (a**2 * STD**2 + b**2).sqrt()


def input_level(scheduler, where, t):
    """Ratio, a and b of the network's input.

    Variance preserving throughout, but for flow `(1 - s) x_0 + s eps` and Karras
    `c_in (x_0 + sigma eps)`.
    """
    ratio = RATIO[where](scheduler, float(t))
    if where in ("flow", "one minus flow", "data time"):
        a = 1 / (1 + ratio)
        return ratio, a, 1 - a
    if where == "trigflow":
        return ratio, math.cos(float(t)), math.sin(float(t)) * 0.5
    karras = where in ("karras", "arctangent", "karras in thousands")
    a = 1 / math.hypot(ratio, scheduler.config.sigma_data if karras else 1)
    return ratio, a, ratio * a if math.isfinite(ratio) else 1.0


def clean_prediction(kind, a, b, x):
    """What a network of this kind says of the data."""
    return (flow_endpoint if kind[1].startswith("consistent") else posterior)(a, b, x.double())


def network(scheduler, kind, x, t):
    """The network's output for its input x and timestep t."""
    where, output = kind
    ratio, a, b = input_level(scheduler, where, t)
    x, clean = x.double(), clean_prediction(kind, a, b, x)
    noise = (x - a * clean) / max(b, 1e-12)
    if output.endswith("epsilon"):
        return noise
    if output.endswith("sample"):
        return clean
    if output.endswith("v_prediction"):
        return a * noise - b * clean
    if output.endswith("backward flow"):
        return clean - noise
    if output.endswith("flow"):
        return noise - clean
    if output.endswith("angle"):  # x_0 = cos(t) x - sin(t) F
        return (math.cos(float(t)) * x - clean) / math.sin(float(t))
    data = scheduler.config.sigma_data  # Karras: x_0 = c_skip x + c_out F
    total = ratio**2 + data**2
    sigma_min = scheduler.config.sigma_min if output.endswith("boundary") else 0.0
    c_skip = data**2 / ((ratio - sigma_min) ** 2 + data**2)
    c_out = (ratio - sigma_min) * data / math.sqrt(total)
    if not c_out:
        return torch.zeros_like(x)
    sign = -1 if output.endswith("karras v") else 1
    return (clean - c_skip * x / a) / (sign * c_out)


# -- the loops -------------------------------------------------------------------------------------


def ordinary(scheduler, x, see):
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(see(seen, t), t, x).prev_sample
    return x


def unclip(scheduler, x, see):
    timesteps = scheduler.timesteps
    for t, previous in zip(timesteps, [*timesteps[1:], None], strict=True):
        x = scheduler.step(see(x, t), t, x, prev_timestep=previous).prev_sample
    return x


def cogvideox_dpm(scheduler, x, see):
    clean, back = None, None
    for t in scheduler.timesteps:
        x, clean = scheduler.step(see(x, t), clean, t, back, x)
        back = t
    return x


def wuerstchen(scheduler, x, see):
    for t in scheduler.timesteps[:-1]:
        x = scheduler.step(see(x, t), t.expand(len(x)), x).prev_sample
    return x


def trigflow(scheduler, x, see):
    for t in scheduler.timesteps[:-1]:
        x = scheduler.step(see(x, t), t, x).prev_sample
    return x


def repaint(scheduler, x, see):
    """With nothing known: the mask is zero everywhere."""
    last = scheduler.timesteps[0] + 1
    for t in scheduler.timesteps:
        if t < last:
            known = torch.zeros_like(x)
            x = scheduler.step(see(x, t), t, x, known, known).prev_sample
        else:
            x = scheduler.undo_step(x, last)
        last = t
    return x


def proteina(scheduler, x, see):
    mask = torch.ones(x.shape[:2])
    for t in scheduler.timesteps:
        x = scheduler.step(see(x, t).flatten(2), t, x.flatten(2), mask).prev_sample.reshape(x.shape)
    return x


class Draws:
    """Stands in for `randn_tensor`: the k-th draw is one unit in row k + 2, and only there."""

    def __init__(self):
        self.count = 0

    def __call__(self, shape, generator=None, device=None, dtype=None, layout=None):
        noise = torch.zeros(tuple(shape), dtype=dtype)
        noise[2 + self.count] = 1
        self.count += 1
        return noise


class Case:
    """A scheduler class with its options, its network and its loop."""

    def __init__(
        self,
        name,
        kind,
        loop=ordinary,
        n=20,
        scale=1.0,
        call=None,
        draws=DRAWS,
        multistep=None,
        **options,
    ):
        self.name, self.kind, self.loop, self.n = name, kind, loop, n
        self.options, self.scale, self.call = options, scale, call or {}
        self.draws = draws
        self.multistep = multistep  # options of the one-step member of its family, or its class

    def __repr__(self):
        quiet = {"clip_sample", "stage_range", "schedule_mode", "tsr_k", "tsr_sigma"}
        options = ",".join(f"{k}={v}" for k, v in self.options.items() if k not in quiet)
        return f"{self.name.removesuffix('Scheduler')}({options})"

    def make(self, **options):
        if self.is_sampled():
            pytest.importorskip(
                "torchsde", reason='needs torchsde: pip install "gaga-adapter[sde]"'
            )
        if plain_class(self.name) is None:
            pytest.skip(f"diffusers {diffusers.__version__} has no {self.name}")
        return plain_class(self.name)(**{**self.options, **options})

    def is_sampled(self):
        return self.name in ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler")

    def noise(self, monkeypatch):
        """Starts (B, 3, 1, 1), and a scheduler whose noise is counted."""
        draws = Draws()
        module = inspect.getmodule(plain_class(self.name).step)
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(module, "randn_tensor", draws)
        noise = torch.zeros(2 + self.draws, 3, 1, 1)
        noise[1] = 1
        if self.is_sampled():
            noise = torch.randn(6_000, 3, 1, 1, generator=torch.Generator().manual_seed(0))
        return noise

    def law(self, scheduler, monkeypatch, n=None):
        """Mean and standard deviation (3,) at the end of n steps, and the network calls."""
        noise, calls = self.noise(monkeypatch), 0

        def see(x, t):
            nonlocal calls
            calls += 1
            return network(scheduler, self.kind, x, t).float()

        call = {"num_inference_steps": n or self.n, **self.call}
        if call["num_inference_steps"] is None:
            del call["num_inference_steps"]
        scheduler.set_timesteps(**call, device="cpu")
        x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        if not isinstance(scheduler, GAGAScheduler):
            x = x * self.scale
        return *self.moments(self.loop(scheduler, x, see)), calls

    def moments(self, ends):
        x = ends.double().reshape(len(ends), 3)
        if self.is_sampled():
            return x.mean(0), x.std(0)
        return x[0], (x[1:] - x[0]).square().sum(0).sqrt()


def error(law):
    """Largest distance in W2 of a channel from the truth, in units of its standard deviation."""
    mean, std, _ = law
    off = (mean - MEAN.flatten()) ** 2 + (std - STD.flatten()) ** 2
    return float((off.sqrt() / STD.flatten()).max())


EPS, SAMPLE, V = ("table", "epsilon"), ("table", "sample"), ("table", "v_prediction")
FLOW = ("flow", "flow")
PLAIN = {"clip_sample": False}
ORDER_1 = {"solver_order": 1}
KARRAS = {"use_karras_sigmas": True}
EXPONENTIAL = {"use_exponential_sigmas": True}
BETA = {"use_beta_sigmas": True}
FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def case(name, kind=EPS, loop=ordinary, **given):
    return Case(f"{name}Scheduler", kind, loop, **given)


EVERY_CLASS = [
    case("DDPM", **PLAIN),
    case("DDPMParallel", **PLAIN),
    case("DDIM", **PLAIN),
    case("DDIMParallel", **PLAIN),
    case("CogVideoXDDIM", **PLAIN),
    case("CogVideoXDPM", loop=cogvideox_dpm, **PLAIN),
    case("PNDM", multistep="DDIM", skip_prk_steps=True),
    case("PNDM"),
    case("UnCLIP", loop=unclip, **PLAIN),
    case(
        "RePaint",
        loop=repaint,
        n=10,
        call={"jump_length": 2, "jump_n_sample": 2},
        draws=400,
        num_train_timesteps=40,
        beta_start=0.01,
        beta_end=0.4,
        **PLAIN,
    ),
    case("DDPMWuerstchen", ("wuerstchen", "epsilon"), wuerstchen),
    case("IPNDM", ("quarter turn", "v_prediction")),
    case("LCM", ("table", "consistent epsilon"), n=8, **PLAIN),
    case("TCD", n=8, **PLAIN),
    case("DPMSolverMultistep", multistep=ORDER_1),
    case("DPMSolverSinglestep", multistep=ORDER_1),
    case("DEISMultistep", multistep=ORDER_1),
    case("UniPCMultistep", multistep=ORDER_1),
    case("SASolver", multistep={"predictor_order": 1, "corrector_order": 1}),
    case("EulerDiscrete"),
    case("EulerAncestralDiscrete"),
    case("HeunDiscrete"),
    case("KDPM2Discrete"),
    case("KDPM2AncestralDiscrete"),
    case("LMSDiscrete", multistep="EulerDiscrete"),
    case("DPMSolverSDE", noise_sampler_seed=1),
    case("EDMEuler", ("karras", "karras")),
    case("EDMDPMSolverMultistep", ("karras", "karras"), multistep=ORDER_1),
    case("CosineDPMSolverMultistep", ("arctangent", "karras v")),
    case(
        "CMStochasticIterative",
        ("karras in thousands", "consistent boundary"),
        n=10,
        clip_denoised=False,
    ),
    case(
        "SCM",
        ("trigflow", "consistent angle"),
        trigflow,
        n=6,
        scale=0.5,
        call={"intermediate_timesteps": None},
    ),
    case("FlowMatchEulerDiscrete", FLOW),
    case("FlowMatchHeunDiscrete", FLOW),
    case("FlowMatchLCM", ("flow", "consistent flow"), n=8),
    case("FlowMapEulerDiscrete", FLOW),
    case("LTXEulerAncestralRF", FLOW),
    case("MiniMaxH3", ("one minus flow", "backward flow")),
    case("Helios", FLOW, multistep=ORDER_1, stages=1, stage_range=[0, 1]),
    case(
        "RFD4Proteina",
        ("data time", "backward flow"),
        proteina,
        n=40,
        schedule_mode="log",
        noise_mode="1/t",
        tsr_k=1.0,
        tsr_sigma=1.0,
    ),
    # ancestral, since a mean that is noised again has lost variance; the moments that give it back
    # are not linear in the noise: see tests/few_step
    case("FewStep", renoise_from=math.inf, match_below=-math.inf),
]

OPTIONS = [
    *(case("DDPM", timestep_spacing=s, **PLAIN) for s in ("linspace", "trailing")),
    case("DDIM", timestep_spacing="trailing", **PLAIN),
    # its steps have another stride than its linspace grid: held to the grid that it steps exactly
    case("DDIM", multistep={"timestep_spacing": "leading"}, timestep_spacing="linspace", **PLAIN),
    *(
        case("PNDM", timestep_spacing=s, multistep="DDIM", skip_prk_steps=True)
        for s in ("linspace", "trailing")
    ),
    *(
        case("DPMSolverMultistep", timestep_spacing=s, multistep=ORDER_1)
        for s in ("leading", "trailing")
    ),
    *(case("EulerDiscrete", timestep_spacing=s) for s in ("leading", "trailing")),
    *(case("HeunDiscrete", timestep_spacing=s) for s in ("leading", "trailing")),
    *(
        case(name, ("table", kind), prediction_type=kind, **PLAIN)
        for name in ("DDPM", "DDIM")
        for kind in ("sample", "v_prediction")
    ),
    *(
        case(name, ("table", kind), prediction_type=kind, multistep=ORDER_1)
        for name in ("DPMSolverMultistep", "UniPCMultistep")
        for kind in ("sample", "v_prediction")
    ),
    *(case(name, V, prediction_type="v_prediction") for name in ("EulerDiscrete", "HeunDiscrete")),
    *(
        case(name, multistep=first, **sigmas)
        for name, first in (
            ("DPMSolverMultistep", ORDER_1),
            ("UniPCMultistep", ORDER_1),
            ("DEISMultistep", ORDER_1),
            ("EulerDiscrete", None),
            ("HeunDiscrete", None),
            ("LMSDiscrete", "EulerDiscrete"),
            ("KDPM2Discrete", None),
        )
        for sigmas in (KARRAS, EXPONENTIAL, BETA)
    ),
    case("DPMSolverMultistep", multistep=ORDER_1, use_lu_lambdas=True),
    case("DPMSolverMultistep", multistep=ORDER_1, solver_order=3),
    case("DPMSolverMultistep", multistep=ORDER_1, algorithm_type="sde-dpmsolver++"),
    case("DPMSolverSinglestep", multistep=ORDER_1, solver_order=3),
    case(
        "DPMSolverSinglestep",
        multistep=ORDER_1,
        solver_order=2,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    ),
    case("UniPCMultistep", multistep=ORDER_1, solver_order=3),
    *(
        case(name, FLOW, multistep=ORDER_1, **FLOW_SIGMAS)
        for name in ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep")
    ),
    case("DPMSolverSinglestep", FLOW, multistep=ORDER_1, **FLOW_SIGMAS),
    case("EDMEuler", ("karras", "karras"), sigma_schedule="exponential"),
    case("FlowMatchEulerDiscrete", FLOW, shift=3.0),
    case("FlowMatchEulerDiscrete", FLOW, use_dynamic_shifting=True, call={"mu": 0.8}),
    case("FlowMatchEulerDiscrete", FLOW, shift_terminal=0.1),
    *(case("FlowMatchEulerDiscrete", FLOW, **sigmas) for sigmas in (KARRAS, EXPONENTIAL, BETA)),
    case("FlowMatchEulerDiscrete", ("flow", "backward flow"), invert_sigmas=True),
    case("FlowMatchEulerDiscrete", FLOW, stochastic_sampling=True),
    *(
        case(name, V, prediction_type="v_prediction", **ZERO_SNR, **PLAIN)
        for name in ("DDPM", "DDIM")
    ),
    *(
        case(name, V, prediction_type="v_prediction", **ZERO_SNR)
        for name in ("EulerDiscrete", "EulerAncestralDiscrete")
    ),
    case("DPMSolverMultistep", V, multistep=ORDER_1, prediction_type="v_prediction", **ZERO_SNR),
]


# -- the tests -------------------------------------------------------------------------------------


def t_star_at(scheduler, fraction):
    """A timestep at a fraction of the training path, in the scheduler's own units."""
    clean, noisy = convention_of(scheduler).ends
    t_star = clean + fraction * (noisy - clean)
    return round(t_star) if isinstance(clean, int) else t_star


def truncate(scheduler, fraction, **options):
    options = {"stats": gaussian_stats(), "handover": "init", **options}
    t_star = t_star_at(scheduler, fraction)
    return GAGAScheduler.from_pretrained(scheduler, t_star=t_star, **options)


_BARE = {}


def bare_error(case, monkeypatch, n=None, one_step=False):
    """Error of the untouched scheduler in a full run."""
    key = (repr(case), n or case.n, one_step)
    if key not in _BARE:
        scheduler = case.make()
        if one_step and isinstance(case.multistep, str):
            scheduler = getattr(diffusers_schedulers, f"{case.multistep}Scheduler").from_config(
                case.make().config, clip_sample=False
            )
            other = Case(f"{case.multistep}Scheduler", case.kind)
            _BARE[key] = error(other.law(scheduler, monkeypatch, n or case.n))
        else:
            options = case.multistep if one_step else {}
            _BARE[key] = error(case.law(case.make(**options), monkeypatch, n))
    return _BARE[key]


def bound(case, monkeypatch, calls):
    """Error that a truncated run may have: that of the bare scheduler in a full run of its n steps.

    A multistep solver starts without history wherever it starts. Its first step is then one of
    first order, and shows where few steps follow.
    """
    allowed = bare_error(case, monkeypatch) + 0.003
    if case.is_sampled():  # two standard deviations from 6,000 draws each
        allowed += 2 * 4.9 / math.sqrt(2 * 6_000)
    if case.multistep and calls >= 6:
        allowed += 0.025
    elif case.multistep:
        allowed = max(allowed, bare_error(case, monkeypatch, one_step=True) + 0.003)
    return allowed


@pytest.mark.parametrize("spacing", ["suffix", "respace"])
@pytest.mark.parametrize("case", EVERY_CLASS, ids=repr)
def test_every_class(case, spacing, monkeypatch):
    base = case.make()
    full = case.law(base, monkeypatch)[2]
    for fraction in (0.05, 0.2, 0.4, 0.7, 1.0):
        law = case.law(truncate(base, fraction, spacing=spacing), monkeypatch)
        assert error(law) <= bound(case, monkeypatch, law[2]), fraction
        if spacing == "suffix" and fraction < 0.5:
            assert law[2] < full
        if spacing == "respace" and case.loop is not repaint:  # which walks up and down
            assert law[2] == full


@pytest.mark.parametrize("case", OPTIONS, ids=repr)
def test_options(case, monkeypatch):
    base = case.make()
    for spacing, fraction in (("suffix", 0.05), ("suffix", 0.4), ("respace", 0.2)):
        law = case.law(truncate(base, fraction, spacing=spacing), monkeypatch)
        assert error(law) <= bound(case, monkeypatch, law[2]), (spacing, fraction)


def test_every_supported_class_is_tested():
    assert {case.name for case in EVERY_CLASS} == set(FAMILIES) == set(ROWS)


ROBUST = [
    case
    for case in EVERY_CLASS
    if case.name
    in {
        "DDPMScheduler",
        "DDIMScheduler",
        "PNDMScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "EDMEulerScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
    }
]


@pytest.mark.parametrize("n", [1, 2, 300])
@pytest.mark.parametrize("case", ROBUST, ids=repr)
def test_any_number_of_steps(case, n, monkeypatch):
    """One, two, and more than there are training timesteps below t* = 5%."""
    if case.name == "PNDMScheduler" and n < 4 and not case.options:
        pytest.skip("four Runge-Kutta entries are the least that PNDM itself can run")
    case = Case(case.name, case.kind, n=n, draws=310, multistep=case.multistep, **case.options)
    base, allowed = case.make(), bound(case, monkeypatch, calls=1) + 0.01
    for spacing in ("suffix", "respace"):
        for fraction in (0.05,) if n > 2 else (0.05, 0.4):
            law = case.law(truncate(base, fraction, spacing=spacing), monkeypatch)
            # two steps of a two-stage solver from pure noise leave its region of stability
            assert error(law) <= allowed or (allowed > 1 and n == 2), (spacing, fraction)


EXPLICIT = [
    (case("FlowMatchEulerDiscrete", FLOW), "sigmas", np.linspace(1, 1 / 20, 20)),
    (
        case("FlowMatchEulerDiscrete", FLOW, shift=3.0),
        "sigmas",
        np.linspace(1, 1 / 20, 20).tolist(),
    ),
    (case("FlowMapEulerDiscrete", FLOW), "sigmas", np.linspace(1, 1 / 20, 20).tolist()),
    (case("LTXEulerAncestralRF", FLOW), "sigmas", np.linspace(1, 0, 21).tolist()),
    (
        case("MiniMaxH3", ("one minus flow", "backward flow")),
        "sigmas",
        np.linspace(1, 0, 21).tolist(),
    ),
    (
        case("UniPCMultistep", FLOW, multistep=ORDER_1, **FLOW_SIGMAS),
        "sigmas",
        np.linspace(1, 1 / 20, 20),
    ),
    (case("DDPM", **PLAIN), "timesteps", list(range(975, -1, -50))),
    (case("DPMSolverMultistep", multistep=ORDER_1), "timesteps", list(range(975, -1, -50))),
    (case("HeunDiscrete"), "timesteps", list(range(975, -1, -50))),
    (case("EulerDiscrete"), "timesteps", list(range(975, -1, -50))),
    (case("EulerDiscrete", **EXPONENTIAL), "sigmas", [*np.geomspace(150, 0.01, 20).tolist(), 0.0]),
]


@pytest.mark.parametrize(("case", "name", "values"), EXPLICIT, ids=lambda x: str(x)[:40])
def test_grids_named_entry_by_entry(case, name, values, monkeypatch):
    """Cut like the scheduler's own; or as many entries, resampled from t* on."""
    case = Case(case.name, case.kind, call={name: values}, multistep=case.multistep, **case.options)
    case.call["num_inference_steps"] = None
    base = case.make()
    if name not in inspect.signature(base.set_timesteps).parameters:
        pytest.skip(f"{case.name} of diffusers {diffusers.__version__} takes no {name}")
    full = case.law(base, monkeypatch)
    allowed = max(error(full), bare_error(Case(case.name, case.kind, **case.options), monkeypatch))
    calls = {}
    for spacing in ("suffix", "respace"):
        scheduler = truncate(case.make(), 0.4, spacing=spacing)
        law = case.law(scheduler, monkeypatch)
        assert error(law) <= allowed + 0.03  # the last entry stays where the caller put it
        calls[spacing] = law[2]
    assert calls["suffix"] < calls["respace"] == full[2]


def test_a_named_flow_grid_is_respaced_from_t_star_exactly():
    """Flux names linspace(1, 1/n, n): 20 even steps from s = 0.4."""
    scheduler = truncate(
        diffusers_schedulers.FlowMatchEulerDiscreteScheduler(), 0.4, spacing="respace"
    )
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 20, 20), device="cpu")
    expected = torch.linspace(0.4, 0, 21)
    torch.testing.assert_close(scheduler.sigmas, expected, rtol=0, atol=2e-6)


def test_multistep_solvers_in_short_cuts_end_as_in_the_full_run(monkeypatch):
    """DEIS lowers its last orders in runs of less than 15 steps; 8 cut out of 20 are none."""
    deis = case("DEISMultistep")
    cut = error(deis.law(truncate(deis.make(), 0.4), monkeypatch))
    assert cut < 1.05 * bare_error(deis, monkeypatch)


# Not the one of Proteina, which has a fine and a coarse part, nor steps that are even in log-SNR.
UNEVEN = ("SCMScheduler", "RFD4ProteinaScheduler", "FewStepScheduler")
SMOOTH = [case for case in EVERY_CLASS if case.name not in UNEVEN and not case.is_sampled()]


@pytest.mark.parametrize("case", SMOOTH, ids=repr)
def test_respaced_runs_are_as_good_as_full_runs_of_their_step_size(case, monkeypatch):
    """n steps in 40% of the path against n / 0.4 in all of it, with a tenth for uneven grids."""
    fine = Case(case.name, case.kind, case.loop, draws=max(case.draws, 110), **case.options)
    fine.scale, fine.call = case.scale, case.call
    law = case.law(truncate(case.make(), 0.4, spacing="respace"), monkeypatch)
    assert error(law) <= 1.1 * bare_error(fine, monkeypatch, n=round(case.n / 0.4)) + 0.003


# -- the same through the loop over sets of atoms --------------------------------------------------


@pytest.mark.parametrize(
    "case", [c for c in EVERY_CLASS + OPTIONS if c.loop is not repaint], ids=repr
)
def test_the_loop_over_atoms_ends_at_the_same_law(case, monkeypatch):
    """One atom, whose position is zero; the clean prediction is told in the package's words."""
    if "mu" in case.call:
        pytest.skip("a loop over atoms has no resolution to shift by")
    nothing = torch.zeros(1, 3, dtype=torch.float64)
    mean, std = (torch.cat([nothing, x.reshape(1, 3)], 1) for x in (MEAN, STD))
    stats = gaussian_stats(mean=mean, std=std, kind="element")
    base = case.make()
    truncated = truncate(base, 0.4, stats=stats, handover="auto")
    for scheduler in (base, truncated):
        noise = case.noise(monkeypatch).reshape(-1, 1, 3)
        mask = torch.ones(len(noise), 1, dtype=torch.bool)

        def network(seen, t, at):
            if isinstance(at.scheduler, GAGAScheduler) and at.scheduler._gaga_start.is_lead(
                float(t)
            ):
                return seen
            _, a, b = input_level(at.scheduler, case.kind[0], t)
            assert tuple(at.seen_level(t)) == pytest.approx((a, b), rel=0.01, abs=1e-5)
            x = seen[..., 3:].reshape(-1, 3, 1, 1)
            clean = torch.zeros_like(seen)
            clean[..., 3:] = clean_prediction(case.kind, a, b, x).reshape(-1, 1, 3)
            return at.output(clean, seen, t)

        noise = torch.cat([torch.zeros_like(noise), noise], 2)
        end = walk(scheduler, noise, mask, case.n, network)
        law = *case.moments(end.sample[..., 3:]), end.network_calls
        assert float(end.sample[..., :3].abs().max()) == 0
        # the bare scheduler as in its own loop; the truncated one as above
        same = bare_error(case, monkeypatch) + (0.09 if case.is_sampled() else 0.001)
        assert error(law) <= (same if scheduler is base else bound(case, monkeypatch, law[2]))
