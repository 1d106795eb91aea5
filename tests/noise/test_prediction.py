"""A clean prediction, said in every scheduler's own words.

Oracle: for data that are a single point c the posterior mean is c at every level, so every sampler
must end at c. And the level of the network's input is checked against diffusers' own `add_noise`.
"""

import math
from types import SimpleNamespace

import diffusers
import pytest
import torch

from gaga_adapter.errors import UnsupportedSchedulerError
from gaga_adapter.noise.conventions import Level, _preconditioned, convention_of

TABLE = {"num_train_timesteps": 1000, "beta_schedule": "linear"}
POINT = torch.tensor([[0.7, -1.3, 0.2, 2.0]])

CASES = [
    ("DDPMScheduler", {"clip_sample": False}),
    ("DDPMScheduler", {"clip_sample": False, "prediction_type": "v_prediction"}),
    ("DDIMScheduler", {"clip_sample": False, "prediction_type": "sample"}),
    ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("UniPCMultistepScheduler", {"prediction_type": "v_prediction"}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", "use_karras_sigmas": True}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", "timestep_type": "continuous"}),
    (
        "DDIMScheduler",
        {
            "clip_sample": False,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
    ),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchHeunDiscreteScheduler", {}),
    ("EDMEulerScheduler", {}),
    ("EDMDPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}),
]


def make(name, options):
    cls = getattr(diffusers, name)
    known = TABLE if "beta_schedule" in cls.__init__.__code__.co_varnames else {}
    known = {} if name.startswith("EDM") else known
    return cls(**known, **options)


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: str(v))
def test_point_data_are_recovered_exactly(name, options):
    scheduler = make(name, options)
    scheduler.set_timesteps(20)
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(POINT.shape, generator=generator)
    sample = sample * getattr(scheduler, "init_noise_sigma", 1.0)
    at = convention_of(scheduler)
    for timestep in scheduler.timesteps:
        seen = sample
        if hasattr(scheduler, "scale_model_input"):
            seen = scheduler.scale_model_input(sample, timestep)
        output = at.output(POINT, seen, timestep)
        sample = scheduler.step(output, timestep, sample).prev_sample
    # DDIM without set_alpha_to_one, PNDM and LMS end at the first level of the table, sigma = 0.01
    torch.testing.assert_close(sample, POINT, atol=0.03, rtol=0)


def test_level_of_a_table_is_that_of_add_noise():
    scheduler = diffusers.DDPMScheduler(**TABLE)
    at = convention_of(scheduler)
    for t in (0, 1, 400, 999):
        timestep = torch.tensor([t])
        a = scheduler.add_noise(torch.ones(1), torch.zeros(1), timestep)
        b = scheduler.add_noise(torch.zeros(1), torch.ones(1), timestep)
        assert at.seen_level(t) == pytest.approx((float(a), float(b)), rel=2e-4)


def test_fractional_timesteps_follow_diffusers_own_conversion():
    scheduler = diffusers.EulerDiscreteScheduler(**TABLE, use_karras_sigmas=True)
    scheduler.set_timesteps(7)
    at = convention_of(scheduler)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        a, b = at.seen_level(timestep)
        assert b / a == pytest.approx(float(sigma), rel=2e-3)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.EDMEulerScheduler(),
        diffusers.CosineDPMSolverMultistepScheduler(),
        diffusers.EulerDiscreteScheduler(
            **TABLE, prediction_type="v_prediction", timestep_type="continuous"
        ),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_timesteps_that_are_formulas_of_sigma(scheduler):
    scheduler.set_timesteps(7)
    at = convention_of(scheduler)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        a, b = at.seen_level(timestep)
        # float32 timesteps: near its end the arctangent resolves sigma = 500 to 5e-5
        assert b / a == pytest.approx(float(sigma), rel=2e-4)


def test_pure_noise_has_a_level():
    scheduler = diffusers.DDIMScheduler(**TABLE, rescale_betas_zero_snr=True)
    assert convention_of(scheduler).seen_level(999) == (0.0, 1.0)
    assert convention_of(diffusers.FlowMatchEulerDiscreteScheduler()).seen_level(1000) == (0.0, 1.0)


def test_a_network_call_without_noise():
    """A grid that names its end at the data: the output is finite, and what was right stays so."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.5, 0.0])
    view = convention_of(scheduler)
    assert view.seen_level(scheduler.timesteps[-1]) == (1.0, 0.0)
    sample = torch.randn(POINT.shape, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        sample = scheduler.step(view.output(POINT, sample, timestep), timestep, sample).prev_sample
    torch.testing.assert_close(sample, POINT)
    torch.testing.assert_close(view.output(POINT, POINT, 0.0), 0 * POINT, rtol=0, atol=0)
    assert torch.isfinite(view.output(POINT, POINT + 1, 0.0)).all()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_table_that_begins_at_the_data(kind):
    scheduler = diffusers.DDPMScheduler(**TABLE, prediction_type=kind)
    scheduler.alphas_cumprod[0] = 1.0
    view = convention_of(scheduler)
    assert view.seen_level(0) == (1.0, 0.0)
    expected = POINT if kind == "sample" else torch.zeros_like(POINT)
    torch.testing.assert_close(view.output(POINT, POINT, 0), expected, rtol=0, atol=0)
    assert torch.isfinite(view.output(POINT, POINT + 1, 0)).all()


def test_a_scheduler_of_its_own_kind_is_refused_by_name():
    with pytest.raises(UnsupportedSchedulerError, match="VQDiffusionScheduler"):
        convention_of(diffusers.VQDiffusionScheduler(num_vec_classes=8))


@pytest.mark.parametrize(
    ("scheduler", "timestep"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), 0.0),
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), 1000.0),
        (diffusers.IPNDMScheduler(), 0.0),
        (diffusers.SCMScheduler(), 0.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_without_noise_the_sample_is_the_clean_data(scheduler, timestep):
    """b = 0: no prediction, however wrong, makes an output that is large or not finite."""
    at = convention_of(scheduler)
    assert at.seen_level(timestep) == (1.0, 0.0)
    output = at.output(POINT + 0.1, POINT, timestep)
    assert torch.equal(output, torch.zeros_like(POINT))
    assert torch.equal(at.clean(output, POINT, timestep), POINT)
    assert torch.equal(at.clean(output + 7, POINT, timestep), POINT)


def test_an_epsilon_without_noise():
    """A table whose first entry has none."""
    scheduler = diffusers.DDPMScheduler(**TABLE)
    scheduler.alphas_cumprod[0] = 1.0
    at = convention_of(scheduler)
    assert at.seen_level(0) == (1.0, 0.0)
    assert torch.equal(at.output(POINT + 0.1, POINT, 0), torch.zeros_like(POINT))
    assert torch.equal(at.clean(torch.ones_like(POINT), POINT, 0), POINT)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_the_inverse_finds_the_clean_prediction_again(name, options, share):
    scheduler = make(name, options)
    at = convention_of(scheduler)
    clean_end, noisy_end = at.ends
    timestep = clean_end + share * (noisy_end - clean_end)
    a, b = at.seen_level(timestep)
    clean = POINT.double()
    noise = torch.randn(POINT.shape, generator=torch.Generator().manual_seed(1)).double()
    seen = a * clean + b * noise
    output = at.output(clean, seen, timestep)
    torch.testing.assert_close(at.clean(output, seen, timestep), clean, atol=1e-9, rtol=0)
    if at.wants_epsilon:
        torch.testing.assert_close(output, noise, atol=1e-9, rtol=0)
    assert at.ratio_at(at.timestep_at(b / a)) == pytest.approx(b / a, rel=0.01)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
@pytest.mark.parametrize(("sign", "sigma_min"), [(1, None), (-1, None), (1, 0.02), (-1, 0.02)])
@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 45.0])
def test_the_preconditioning_of_karras(sigma, sign, sigma_min, sigma_data):
    """`D(x) = c_skip x + c_out F(c_in x)` with the columns of Table 1, for any output F.

    A consistency model takes sigma less sigma_min in c_skip and in the numerator of c_out, so that
    D(x) = x at sigma_min (Song et al. 2023, appendix C).
    """
    config = SimpleNamespace(sigma_data=sigma_data, sigma_min=sigma_min)
    at = SimpleNamespace(scheduler=SimpleNamespace(config=config))
    c_in = (sigma**2 + sigma_data**2) ** -0.5
    above = sigma - (sigma_min or 0.0)
    c_skip = sigma_data**2 / (above**2 + sigma_data**2)
    c_out = sign * above * sigma_data / math.sqrt(sigma_data**2 + sigma**2)
    rule = _preconditioned(sign, has_boundary=sigma_min is not None)
    scale, of_clean, of_seen = rule(at, Level(c_in, sigma * c_in))
    for x, output in ((0.0, 1.0), (1.0, 0.0), (-2.5, 0.7)):
        clean = c_skip * x + c_out * output
        assert scale * output == pytest.approx(of_clean * clean + of_seen * c_in * x, abs=1e-12)
    if sigma == sigma_min:
        assert scale == pytest.approx(0.0, abs=1e-15)
