"""The truncated scheduler as an object: class, grid, hand-overs, and what it refuses."""

import copy
import inspect
import json
import math
import pickle
import sys
import warnings
from pathlib import Path

import diffusers.schedulers as diffusers_schedulers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from scheduler.loops import SHAPE, STATS, dense_stats, noise, run, wrap

import gaga_adapter
from gaga_adapter.errors import (
    ArtefactError,
    GAGAError,
    GAGAWarning,
    StatsMismatchError,
    TruncationError,
    UnsupportedSchedulerError,
)
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.conventions import NOT_SCHEDULERS, REFUSED
from gaga_adapter.noise.timesteps import t_star, timestep_log_snr
from gaga_adapter.scheduler import GAGAScheduler, HandoverError
from gaga_adapter.scheduler.families import FAMILIES
from gaga_adapter.scheduler.options import plain_class
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import mask_from_sizes, project

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # numpy 2 in diffusers

# -- the class -------------------------------------------------------------------------------------


def exported():
    structure = diffusers_schedulers._import_structure
    return sorted({name for names in structure.values() for name in names})


@pytest.mark.parametrize("name", exported())
def test_every_exported_name_is_in_the_table(name):
    if name.endswith("Output") or name in NOT_SCHEDULERS:
        return
    assert (name in FAMILIES) != (name in REFUSED), f"{name} is neither supported nor refused"


#: Without those that the installed diffusers does not have, or not without a missing dependency.
BASES = [name for name in FAMILIES if plain_class(name) is not None]


@pytest.mark.parametrize("name", sorted(set(exported()) & set(REFUSED)))
def test_refused_by_name(name):
    cls = getattr(diffusers_schedulers, name)
    base = cls.__new__(cls)
    with pytest.raises(UnsupportedSchedulerError, match=f"cannot use {name}: .*Supported: DDPM"):
        wrap(base)


def test_refused_by_configuration():
    if "HeliosScheduler" not in exported():
        pytest.skip("this diffusers has no HeliosScheduler")
    with pytest.raises(UnsupportedSchedulerError, match=r"stages=3 .* noise of its own"):
        wrap(diffusers_schedulers.HeliosScheduler())


class MyDDIMScheduler(DDIMScheduler):
    """A user's own scheduler."""


class MyScheduler(diffusers_schedulers.SchedulerMixin):
    """Nothing known."""


def test_a_users_subclass_is_found_through_its_bases():
    gaga = wrap(MyDDIMScheduler())
    assert isinstance(gaga, MyDDIMScheduler)
    assert gaga_adapter.scheduler.GAGAMyDDIMScheduler is type(gaga)
    with pytest.raises(
        UnsupportedSchedulerError, match="MyScheduler: it is none of the classes known, nor"
    ):
        wrap(MyScheduler())
    with pytest.raises(UnsupportedSchedulerError, match=r"DDPMScheduler\(\) instead of"):
        wrap(DDPMScheduler)
    with pytest.raises(UnsupportedSchedulerError, match=r"DDPMPipeline.* Pass pipe\.scheduler"):
        wrap(DDPMPipeline(unet=None, scheduler=DDPMScheduler()))
    with pytest.raises(TruncationError, match="t_star='550' is no finite number"):
        wrap(DDPMScheduler(), t_star="550")
    with pytest.raises(AttributeError, match="has no attribute 'GAGANothing'"):
        _ = gaga_adapter.scheduler.GAGANothing


def test_attributes_of_the_base_are_kept():
    """Such as a table in float64 that someone has put there."""
    base = DDPMScheduler(clip_sample=False)
    base.alphas_cumprod = base.alphas_cumprod.double() ** 1.5
    gaga = wrap(base)
    assert torch.equal(gaga.alphas_cumprod, base.alphas_cumprod)
    gaga.set_timesteps(20)
    assert base.num_inference_steps is None  # the base is copied


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("cls", [DDIMScheduler, HeunDiscreteScheduler, MyDDIMScheduler])
def test_copies_go_on_where_the_original_is(cls, copied):
    gaga = wrap(cls(), handover="init")
    expected, _ = run(copy.deepcopy(gaga), noise())
    gaga.set_timesteps(20, device="cpu")
    again = copied(gaga)
    assert type(again) is type(gaga)
    x = noise() * again.init_noise_sigma
    for t in again.timesteps:
        x = again.step(0.1 * again.scale_model_input(x, t), t, x).prev_sample
    assert torch.equal(x, expected)


def test_rewrapping_keeps_what_is_not_given(tmp_path):
    first = wrap(DDIMScheduler(), spacing="respace", t_star=300)
    second = GAGAScheduler.from_pretrained(first, handover="step")
    assert type(second) is type(first)
    assert second.stats is STATS
    second.save_pretrained(tmp_path)
    options = json.loads((tmp_path / "gaga_scheduler.json").read_text())
    expected = {"t_star": 300, "spacing": "respace", "reference": "auto", "handover": "step"}
    assert {name: options[name] for name in expected} == expected


def test_conversion_to_another_class():
    gaga = wrap(DPMSolverMultistepScheduler(beta_schedule="scaled_linear"))
    plain = EulerDiscreteScheduler.from_config(gaga.config)
    assert plain.config.beta_schedule == "scaled_linear"
    assert not isinstance(plain, GAGAScheduler)


# -- levels ----------------------------------------------------------------------------------------


def test_levels_of_known_schedulers():
    """Against the formulas of the papers."""
    abar = DDPMScheduler().alphas_cumprod[400].item()
    assert timestep_log_snr(DDPMScheduler(), 400) == pytest.approx(math.log(abar / (1 - abar)))
    assert timestep_log_snr(EulerDiscreteScheduler(), 400) == pytest.approx(
        -2 * math.log(math.sqrt((1 - abar) / abar)), rel=1e-6
    )
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert timestep_log_snr(flow, 400) == pytest.approx(2 * math.log(0.6 / 0.4))
    karras = diffusers_schedulers.EDMEulerScheduler()
    assert timestep_log_snr(karras, 0.25 * math.log(2.5)) == pytest.approx(-2 * math.log(2.5))


def test_a_t_star_that_the_scheduler_does_not_have():
    with pytest.raises(
        TruncationError,
        match=r"t_star=1200 is outside \[0, 999\] for DDPMScheduler\(num_train_timesteps=1000\). "
        "Pass an entry of scheduler.timesteps.",
    ):
        wrap(DDPMScheduler(), t_star=1200)
    with pytest.raises(TruncationError, match="never reached by DDPMScheduler"):
        t_star(DDPMScheduler(), -50.0)
    assert t_star(DDPMScheduler(), 50.0) == 0


def test_the_first_entry_is_the_last_one_at_or_beyond():
    for spacing in ("suffix", "respace"):
        gaga = wrap(DDPMScheduler(timestep_spacing="trailing"), t_star=400, spacing=spacing)
        gaga.set_timesteps(20, device="cpu")
        assert gaga.timesteps[0] >= 400
        assert gaga.timesteps[1] < 400
    full = DDPMScheduler(timestep_spacing="trailing")
    full.set_timesteps(20)
    cut = wrap(DDPMScheduler(timestep_spacing="trailing"), t_star=400)
    cut.set_timesteps(20, device="cpu")
    assert torch.equal(full.timesteps[-len(cut.timesteps) :], cut.timesteps)


def test_a_grid_that_begins_closer_to_the_data_than_t_star():
    """Leading spacing with 600 of 1000 steps begins at 599."""
    gaga = wrap(DDIMScheduler(), t_star=700)
    with pytest.warns(GAGAWarning, match="begins at timestep 599, closer to the data than t"):
        gaga.set_timesteps(600, device="cpu")
    assert len(gaga.timesteps) == 600


def test_respacing_needs_few_trials():
    trials = 0

    class CountedHeunScheduler(HeunDiscreteScheduler):
        def set_timesteps(self, *args, **kwargs):
            nonlocal trials
            trials += 1
            super().set_timesteps(*args, **kwargs)

    gaga = wrap(CountedHeunScheduler(), spacing="respace", t_star=100)
    gaga.set_timesteps(20)
    assert trials <= 16
    trials = 0
    gaga.set_timesteps(20)
    assert trials == 2  # the plain grid, and the one remembered
    assert (len(gaga.timesteps) - 1) in (38, 39)


def test_respacing_notices_that_the_scheduler_was_changed():
    """Such as by the shift of a flow, which is no argument of set_timesteps."""
    gaga = wrap(FlowMatchEulerDiscreteScheduler(), spacing="respace", t_star=400)
    gaga.set_timesteps(20, device="cpu")
    gaga.set_shift(5.0)
    gaga.set_timesteps(20, device="cpu")
    entries = gaga.timesteps[-20:]
    assert entries[1] < 400 <= entries[0]
    fresh = wrap(FlowMatchEulerDiscreteScheduler(shift=5.0), spacing="respace", t_star=400)
    fresh.sigma_max, fresh.sigma_min = gaga.sigma_max, gaga.sigma_min
    fresh.set_timesteps(20, device="cpu")
    torch.testing.assert_close(entries, fresh.timesteps[-20:])


def test_respacing_restores_the_configuration():
    base = diffusers_schedulers.DPMSolverSinglestepScheduler(
        lower_order_final=False, final_sigmas_type="sigma_min"
    )
    gaga = wrap(base, spacing="respace", t_star=137)
    gaga.set_timesteps(20, device="cpu")
    assert gaga.config.lower_order_final is False


def test_entries_that_cannot_be_resampled():
    gaga = wrap(DDPMScheduler(), spacing="respace", t_star=10)
    with pytest.raises(TruncationError, match="not enough timesteps below t"):
        gaga.set_timesteps(timesteps=list(range(990, 0, -10)))
    gaga = wrap(LCMScheduler(), spacing="respace", t_star=500)
    gaga.set_timesteps(4, original_inference_steps=20, device="cpu")
    assert len(gaga.timesteps) == 4


# -- handing over ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
)
def test_every_handover_gives_the_same_sample(cls):
    z = noise()
    expected, seen = run(wrap(cls(), handover="init"), z)
    for handover, multiply, extra in (("step", True, 1), ("scale", True, 0), ("auto", True, 0)):
        result, also = run(wrap(cls(), handover=handover), z, multiply)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
        assert len(also) == len(seen) + extra
    for handover in ("step", "scale", "auto"):
        result, _ = run(wrap(cls(), handover=handover), z, multiply=False)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_the_start_is_the_reference_at_the_level_of_the_first_entry():
    gaga = wrap(EulerDiscreteScheduler(), handover="init")
    gaga.set_timesteps(20, device="cpu")
    z = noise()
    sigma = float(gaga.sigmas[0])
    assert torch.equal(z * gaga.init_noise_sigma, STATS.reference().at(1.0, sigma).transport(z))
    gaga = wrap(DDIMScheduler(), handover="init")
    gaga.set_timesteps(20, device="cpu")
    abar = float(gaga.alphas_cumprod[gaga.timesteps[0]])
    expected = STATS.reference().at(math.sqrt(abar), math.sqrt(1 - abar)).transport(z)
    torch.testing.assert_close(z * gaga.init_noise_sigma, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "multiply",
    [
        lambda z, s: z * s,
        lambda z, s: s * z,
        lambda z, s: torch.mul(z, s),
        lambda z, s: z.mul(s),
        lambda z, s: z.clone().mul_(s),
        lambda z, s: z * s.to("cpu"),
    ],
)
def test_all_ways_to_multiply(multiply):
    gaga = wrap(DDIMScheduler(), handover="init")
    gaga.set_timesteps(20, device="cpu")
    z = noise()
    expected = z * gaga.init_noise_sigma
    assert torch.equal(multiply(z, gaga.init_noise_sigma), expected)
    with pytest.raises(HandoverError, match="can only be multiplied"):
        _ = torch.add(z, gaga.init_noise_sigma)
    assert float(gaga.init_noise_sigma) == 1.0


def test_in_place_multiplication():
    gaga = wrap(DDIMScheduler(), handover="init")
    gaga.set_timesteps(20, device="cpu")
    z = noise()
    expected = z * gaga.init_noise_sigma
    z *= gaga.init_noise_sigma
    assert torch.equal(z, expected)
    x = gaga.scale_model_input(z, gaga.timesteps[0])
    assert torch.equal(x, expected)
    gaga.step(0.1 * x, gaga.timesteps[0], z)


def test_bare_loops_get_one_more_timestep():
    """Without a device, `auto` expects a loop that has no place for the start."""
    gaga, z = wrap(DDIMScheduler()), noise()
    expected, seen = run(wrap(DDIMScheduler(), handover="init"), z)
    result, also = run(gaga, z, multiply=False, scale=False, device=None)
    torch.testing.assert_close(result, expected)
    assert len(also) == len(seen) + 1
    # one that multiplies all the same is mapped once
    result, _ = run(gaga, z, multiply=True, scale=False, device=None)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("handover", ["auto", "init", "scale", "hook"])
def test_an_unmapped_start_is_an_error(handover):
    with pytest.raises(HandoverError, match=r"without handing over its noise .*handover='step'"):
        run(wrap(DDIMScheduler(), handover=handover), noise(), multiply=False, scale=False)


def test_init_is_not_scale():
    with pytest.raises(HandoverError, match=r"multiply the noise by scheduler\.init_noise_sigma"):
        run(wrap(DDIMScheduler(), handover="init"), noise(), multiply=False)


@pytest.mark.parametrize("handover", ["init", "step", "scale"])
@pytest.mark.parametrize("scale", [14.6, 2.2, 0.45, 1 / 14.6, 1e-6])
def test_noise_that_is_not_unit_noise(handover, scale):
    """Too small is as wrong as too large: a loop may have divided by its sigma, too."""
    rms = float((scale * noise()).square().mean().sqrt())
    with pytest.raises(
        HandoverError, match=rf"root mean square of {rms:.3g};|likelier by \d+ nats"
    ):
        run(wrap(EulerDiscreteScheduler(), handover=handover), scale * noise())


@pytest.mark.parametrize("scale", [1.8, 0.55])
def test_noise_that_may_be_unit_noise(scale):
    """Noise that was scaled on purpose is neither unit noise nor a start; it is let through."""
    result, _ = run(wrap(DDIMScheduler(), handover="init"), scale * noise())
    assert torch.isfinite(result).all()


def test_mapping_twice_is_an_error():
    for cls in (DDIMScheduler, EulerDiscreteScheduler):
        gaga = wrap(cls(), handover="init", t_star=800)
        gaga.set_timesteps(20, device="cpu")
        with pytest.raises(HandoverError, match="has been mapped already"):
            _ = noise() * gaga.init_noise_sigma * gaga.init_noise_sigma
    # several noises for one run are several starts
    _ = noise(seed=2) * gaga.init_noise_sigma


def test_several_runs_and_several_noises():
    """Each after its own set_timesteps; DDIM also runs again on the same grid."""
    gaga = wrap(DDIMScheduler())
    first, _ = run(gaga, noise(seed=1))
    second, _ = run(gaga, noise(seed=2))
    again, _ = run(gaga, noise(seed=1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    x = noise(seed=2) * gaga.init_noise_sigma
    for t in gaga.timesteps:
        x = gaga.step(0.1 * x, t, x).prev_sample
    assert torch.equal(x, second)


def test_init_noise_sigma_at_the_wrong_time():
    gaga = wrap(DDIMScheduler())
    assert gaga.init_noise_sigma == DDIMScheduler().init_noise_sigma
    gaga.set_timesteps(20, device="cpu")
    x = noise() * gaga.init_noise_sigma
    gaga.step(x, gaga.timesteps[0], x)
    with pytest.raises(HandoverError, match="in the middle of a run"):
        _ = noise() * gaga.init_noise_sigma
    with pytest.raises(HandoverError, match=r"before set_timesteps\. Call scheduler\.set_timest"):
        wrap(DDIMScheduler()).step(x, 5, x)


def test_the_sample_of_the_first_step_has_to_be_known():
    """After `scale`, the loop passes its noise, or what scale_model_input gave; nothing else."""
    gaga, z = wrap(EulerDiscreteScheduler(), handover="scale"), noise()
    gaga.set_timesteps(20, device="cpu")
    t = gaga.timesteps[0]
    double = gaga.scale_model_input(torch.cat([z, z]), t)  # guidance
    sigma = gaga.sigmas[0]
    expected = STATS.reference().at(1.0, float(sigma)).transport(z)
    torch.testing.assert_close(double[:4], expected / (sigma**2 + 1).sqrt())
    with pytest.raises(HandoverError, match="neither the noise that the network saw nor"):
        gaga.step(z, t, z + 1)
    torch.testing.assert_close(
        gaga.step(torch.zeros_like(z), t, z).prev_sample, expected, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("cls", [DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler])
def test_starts_from_noised_data_are_left_alone(cls):
    data, z = torch.ones(4, *SHAPE), noise()
    for handover in ("auto", "init", "step"):
        gaga = wrap(cls(), handover=handover)
        gaga.set_timesteps(20, device="cpu")
        timesteps = gaga.timesteps
        with pytest.warns(GAGAWarning, match="Without truncation it would start at 9"):
            x = gaga.add_noise(data, z, timesteps[:1])
        n_extra = 1 if handover == "step" else 0
        sigma = math.exp(-timestep_log_snr(gaga, float(timesteps[n_extra])) / 2)
        a = 1.0 if cls is HeunDiscreteScheduler else 1 / math.hypot(1, sigma)
        expected = a * data + a * sigma * z
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)
        for entry, t in enumerate(timesteps):
            before = x
            x = gaga.step(gaga.scale_model_input(x, t) * 0, t, x).prev_sample
            if entry < n_extra:
                assert torch.equal(before, x)


@pytest.mark.parametrize("handover", ["auto", "step"])
@pytest.mark.parametrize("cls", [DPMSolverMultistepScheduler, HeunDiscreteScheduler])
def test_image_to_image_starts_inside_of_the_grid(cls, handover):
    base = wrap(cls(), spacing="respace", handover=handover)
    base.set_timesteps(20, device="cpu")
    timesteps = base.timesteps[4 * base.order :]
    with pytest.warns(GAGAWarning, match="a strength counts from t"):
        base.set_begin_index(4 * base.order)
    x = base.add_noise(torch.ones(4, *SHAPE), noise(), timesteps[:1])
    for t in timesteps:
        x = base.step(0.1 * base.scale_model_input(x, t), t, x).prev_sample
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("handover", ["init", "step"])
@pytest.mark.parametrize("begin", [None, 0, 3])
@pytest.mark.parametrize("cls", [DPMSolverMultistepScheduler, DEISMultistepScheduler])
def test_a_begin_index_counts_from_the_first_entry_that_is_left(cls, begin, handover):
    """These solvers get their whole grid back, since they end a run of under 15 steps otherwise."""
    plain = cls()
    plain.set_timesteps(20)
    gaga = wrap(cls(), handover=handover)
    gaga.set_timesteps(20, device="cpu")
    n_extra = 1 if handover == "step" else 0
    n_cut = 20 - (len(gaga.timesteps) - n_extra)
    assert 20 - n_cut < 15
    if begin:
        with pytest.warns(GAGAWarning, match="a strength counts from t"):
            gaga.set_begin_index(begin + n_extra)
    elif begin == 0:
        gaga.set_begin_index(0)
    begin = begin or 0
    timesteps = gaga.timesteps[len(gaga.timesteps) - (20 - n_cut - begin) :]
    assert timesteps.tolist() == plain.timesteps[n_cut + begin :].tolist()
    if begin:
        x = expected = gaga.add_noise(torch.ones(4, *SHAPE), noise(), timesteps[:1])
    elif handover == "init":
        x = expected = noise() * gaga.init_noise_sigma
    else:
        x = expected = gaga.step(noise(), gaga.timesteps[0], noise()).prev_sample
    plain.set_begin_index(n_cut + begin)
    for t in timesteps:
        x = gaga.step(0.1 * x, t, x).prev_sample
        expected = plain.step(0.1 * expected, t, expected).prev_sample
        assert gaga.step_index + n_cut == plain.step_index + n_extra
    assert torch.equal(x, expected)


def test_image_to_image_beyond_the_end_of_the_grid():
    gaga = wrap(DDIMScheduler(), t_star=100)
    gaga.set_timesteps(20, device="cpu")
    with pytest.raises(HandoverError, match="beyond the end of the truncated grid"):
        gaga.add_noise(torch.ones(4, *SHAPE), noise(), gaga.timesteps[10:11])


@pytest.mark.parametrize(
    "cls",
    [
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        DEISMultistepScheduler,
        UniPCMultistepScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
    ],
)
def test_add_noise_before_and_after_set_timesteps(cls):
    """Also off the grid, where the solvers in sigma would take some other level."""
    gaga = wrap(cls(beta_start=1e-4, beta_end=0.02))
    data, z = torch.full((3, *SHAPE), 2.0), noise(3)
    timesteps = torch.tensor([950, 437, 3])
    abar = gaga.alphas_cumprod[timesteps].reshape(3, 1, 1, 1)
    a, b = abar.sqrt(), (1 - abar).sqrt()
    if cls in (EulerDiscreteScheduler, HeunDiscreteScheduler):
        a, b = torch.ones_like(a), b / a
    expected = a * data + b * z
    torch.testing.assert_close(gaga.add_noise(data, z, timesteps), expected, rtol=1e-4, atol=1e-4)
    gaga.set_timesteps(20, device="cpu")
    torch.testing.assert_close(gaga.add_noise(data, z, timesteps), expected, rtol=1e-4, atol=1e-4)
    on_grid = gaga.timesteps[3:4].expand(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh = cls(beta_start=1e-4, beta_end=0.02)
        fresh.set_timesteps(20)
        torch.testing.assert_close(
            gaga.add_noise(data, z, on_grid),
            fresh.add_noise(data, z, on_grid),
            rtol=1e-4,
            atol=1e-4,
        )


def test_scale_noise_of_flows():
    gaga = wrap(FlowMatchEulerDiscreteScheduler(shift=3.0))
    data, z = torch.full((2, *SHAPE), 2.0), noise(2)
    for _ in range(2):
        result = gaga.scale_noise(data, torch.tensor([300.0, 610.0]), z)
        s = torch.tensor([0.3, 0.61]).reshape(2, 1, 1, 1)
        torch.testing.assert_close(result, (1 - s) * data + s * z)
        gaga.set_timesteps(20, device="cpu")


def test_stats_of_other_channels():
    for handover in ("init", "step", "scale"):
        gaga = wrap(DDIMScheduler(), handover=handover)
        with pytest.raises(
            StatsMismatchError, match=r"events of shape \(3, 6, 6\), got \(4, 6, 6\)"
        ):
            run(gaga, torch.randn(2, 4, 6, 6))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"spacing": "even"}, "spacing='even' is unknown. Known: suffix, respace"),
        (
            {"handover": "magic"},
            "handover='magic' is unknown. Known: auto, init, step, scale, hook",
        ),
        ({"reference": "cubist"}, "unknown reference 'cubist'. Known here: auto, unit, paper"),
        ({"reference": "full"}, "needs moments of kind full"),
    ],
)
def test_unknown_options(option, message):
    with pytest.raises(GAGAError, match=message):
        wrap(DDIMScheduler(), **option)


def test_without_statistics():
    with pytest.raises(
        ArtefactError, match=r"no fitted statistics for DDIMScheduler\. Pass stats="
    ):
        GAGAScheduler.from_pretrained(DDIMScheduler())
    generated = type(wrap(DDIMScheduler()))
    with pytest.raises(ArtefactError, match=r"Pass DDIMScheduler.from_config\(config\) to GAGA"):
        generated.from_config(DDIMScheduler().config)
    with pytest.raises(ArtefactError, match="has no statistics"):
        generated().set_timesteps(20)


def test_molecules_get_their_padding_and_centre_of_mass_right():
    generator = torch.Generator().manual_seed(0)
    mask = mask_from_sizes(torch.randint(4, 9, (300,), generator=generator), 9)
    x = project(torch.randn(300, 9, 8, generator=generator) * 1.4, mask)
    moments = ExchangeableMoments(5)
    moments.update(x, mask)
    stats = GAGAStats(MoleculeLayout(), moments, 0.0)
    gaga = GAGAScheduler.from_pretrained(DDPMScheduler(clip_sample=False), stats=stats)
    gaga.set_timesteps(20, device="cpu")
    start = x.sign() * 0 + project(torch.randn(300, 9, 8, generator=generator), mask)
    start = start * gaga.init_noise_sigma
    assert torch.equal((start != 0).any(-1), mask)
    assert start[..., :3].sum(1).abs().max() < 1e-4


def test_the_output_of_the_extra_timestep_is_of_the_bases_own_type():
    gaga, z = wrap(LCMScheduler(), handover="step"), noise()
    gaga.set_timesteps(4, device="cpu")
    output = gaga.step(z, gaga.timesteps[0], z)
    assert type(output).__name__ == "LCMSchedulerOutput"
    gaga.set_timesteps(4, device="cpu")
    sample, denoised = gaga.step(z, gaga.timesteps[0], z, return_dict=False)
    assert torch.equal(sample, output.prev_sample)
    assert denoised is None


def test_a_slow_path_that_is_left_at_once():
    """From the second step on nothing of ours is called but what stands in for `step`."""
    gaga = wrap(DDIMScheduler(), handover="init")
    gaga.set_timesteps(20, device="cpu")
    x = noise() * gaga.init_noise_sigma
    timesteps = gaga.timesteps
    x = gaga.step(x, timesteps[0], x).prev_sample
    package, calls = str(Path(gaga_adapter.__file__).parent), []

    def count(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(package):
            calls.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for t in timesteps[1:]:
            x = gaga.step(x, t, x).prev_sample
    finally:
        sys.setprofile(before)
    assert len(calls) == len(timesteps) - 1  # the look at the counter


# -- what it tells ---------------------------------------------------------------------------------

TOLD = ("stats", "log_snr_star", "t_star", "spacing", "reference", "handover", "n_calls")


def test_it_tells_how_it_is_truncated():
    gaga = wrap(DDIMScheduler(), spacing="respace", handover="init")
    assert gaga.t_star == t_star(gaga, STATS.log_snr_star) == STATS.t_star(DDIMScheduler())
    assert (gaga.spacing, gaga.reference, gaga.handover) == ("respace", "channel", "init")
    assert gaga.n_calls is None
    begin = f"t_star={gaga.t_star:g}, spacing=respace, reference=channel, handover=init, n_calls="
    assert repr(gaga).startswith(f"GAGADDIMScheduler({begin}None) {{")
    assert repr(gaga).endswith(repr(DDIMScheduler())[-40:])
    gaga.set_timesteps(20)
    assert gaga.n_calls == 20
    assert f"({begin}20) {{" in repr(gaga)
    assert wrap(DDIMScheduler(), t_star=400).t_star == 400
    assert "t_star=400," in repr(wrap(DDIMScheduler(), t_star=400))
    short = wrap(DDIMScheduler(num_train_timesteps=10))
    assert "t_star=beyond the path," in repr(short)
    assert repr(type(gaga)()).startswith("GAGADDIMScheduler {")


@pytest.mark.parametrize("handover", ["init", "step"])
@pytest.mark.parametrize(
    "base", [DDIMScheduler(), HeunDiscreteScheduler(), FlowMatchEulerDiscreteScheduler()]
)
def test_n_calls_are_those_of_a_loop(base, handover):
    gaga = wrap(base, handover=handover)
    calls = 0

    def network(x, t):
        nonlocal calls
        calls += 1
        return 0.1 * x

    run(gaga, noise(), multiply=handover == "init", scale=base.order == 2, network=network)
    assert gaga.n_calls == calls
    assert copy.deepcopy(gaga).n_calls == calls
    assert GAGAScheduler.from_pretrained(gaga).n_calls is None


def test_n_calls_leave_out_what_repaint_undoes():
    gaga = wrap(diffusers_schedulers.RePaintScheduler())
    gaga.set_timesteps(20, jump_length=5, jump_n_sample=3)
    last, calls = float("inf"), 0
    for t in gaga.timesteps.tolist():  # as RePaintPipeline does
        calls, last = calls + (t < last), t
    assert gaga.n_calls == calls < len(gaga.timesteps)


@pytest.mark.parametrize("name", BASES)
def test_what_it_tells_hides_nothing_of_the_base(name):
    base = plain_class(name)
    source = inspect.getsource(inspect.getmodule(base))
    for attribute in TOLD:
        assert not hasattr(base, attribute)
        assert f"self.{attribute} " not in source
        assert attribute not in inspect.signature(base.__init__).parameters


def test_statistics_come_second(tmp_path):
    gaga = GAGAScheduler.from_pretrained(DDPMScheduler(), "qm9")
    assert gaga.stats.layout == MoleculeLayout()
    STATS.save_pretrained(tmp_path / "stats")
    DDPMScheduler().save_pretrained(tmp_path / "pipe" / "scheduler")
    for stats in (STATS, tmp_path / "stats", str(tmp_path / "stats")):
        gaga = GAGAScheduler.from_pretrained(tmp_path / "pipe", stats, subfolder="scheduler")
        assert gaga.stats.log_snr_star == STATS.log_snr_star
    with pytest.raises(ArtefactError, match="Pass subfolder='scheduler'"):
        GAGAScheduler.from_pretrained(tmp_path / "pipe", "scheduler")


def test_type_checkers_keep_the_base_class(tmp_path):
    mypy = pytest.importorskip("mypy.api")
    config, file = tmp_path / "mypy.ini", tmp_path / "user.py"
    config.write_text(  # without the libraries below, whose analysis takes a minute
        f"[mypy]\nfollow_imports = silent\nmypy_path = {Path(gaga_adapter.__file__).parents[1]}\n"
        "[mypy-torch.*,numpy.*,safetensors.*,diffusers.*,scipy.*,sklearn.*,rdkit.*,einops.*]\n"
        "follow_imports = skip\nignore_missing_imports = True\n"
    )
    file.write_text(
        "from gaga_adapter import GAGAScheduler\n"
        "class Sampler: ...\n"
        "reveal_type(GAGAScheduler.from_pretrained(Sampler(), 'qm9', t_star=400))\n"
        "reveal_type(GAGAScheduler.from_pretrained('folder', subfolder='scheduler'))\n"
    )
    options = ["--config-file", str(config), "--cache-dir", str(tmp_path / "cache"), str(file)]
    out, err, code = mypy.run(options)
    assert code == 0, out + err
    assert 'Revealed type is "user.Sampler"' in out
    assert 'Revealed type is "gaga_adapter.scheduler.wrapper.GAGAScheduler"' in out


def test_add_noise_off_the_path_is_refused():
    """Solvers in sigma look the level up; beyond the table there is none."""
    gaga = GAGAScheduler.from_pretrained(EulerDiscreteScheduler(), dense_stats())
    for timestep in (1500, -3):
        with pytest.raises(TruncationError, match=rf"{timestep}, which is outside \[0, 999\]"):
            gaga.add_noise(torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.tensor([timestep]))


def test_warnings_point_at_the_users_line():
    gaga = GAGAScheduler.from_pretrained(DDIMScheduler(), dense_stats(-9.1))
    with pytest.warns(GAGAWarning, match="begins at timestep") as caught:
        gaga.set_timesteps(5)
    assert caught[0].filename == __file__
    with pytest.warns(GAGAWarning, match="begins at timestep") as caught:
        torch.no_grad()(gaga.set_timesteps)(5)  # as the call of a pipeline is decorated
    assert caught[0].filename == __file__


def test_the_repr_is_short_however_long_the_table_is():
    betas = torch.linspace(1e-4, 2e-2, 1000).tolist()
    gaga = GAGAScheduler.from_pretrained(DDIMScheduler(trained_betas=betas), dense_stats())
    assert repr(gaga).startswith("GAGADDIMScheduler(t_star=")
    assert "[... 1000 entries]" in repr(gaga)
    assert len(repr(gaga)) < 2000
