"""The few-step scheduler as an ordinary diffusers scheduler: made, saved, copied, run, refused."""

import copy
import json
import math
import pickle

import diffusers.schedulers as diffusers_schedulers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from scheduler.loops import OPTIONS, SHAPE, STATS, noise, run, wrap

import gaga_adapter
from gaga_adapter import FewStepScheduler, GAGAScheduler, GAGAStats
from gaga_adapter.errors import DataError, TruncationError, UnsupportedSchedulerError
from gaga_adapter.noise.conventions import ROWS, convention_of
from gaga_adapter.scheduler.options import plain_class

CLASSES = [name for name in ROWS if name != "FewStepScheduler" and plain_class(name) is not None]
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # numpy 2 in diffusers

UNLIKE = {"renoise_from": -math.inf, "n_renoised": 3, "match_below": math.inf, "log_snr_max": 5.0}


def few(base=None, **options):
    base = DDPMScheduler() if base is None else base
    return FewStepScheduler.from_scheduler(base, **options)


def said(scheduler):
    """The configuration without what diffusers notes of it."""
    return {key: value for key, value in scheduler.config.items() if key[0] != "_"}


def same_run(one, other, n=6):
    """Whether two schedulers do the same, to the bit."""
    ends = []
    for scheduler in (one, other):
        scheduler.set_timesteps(n)
        x, draw = noise() * float(getattr(scheduler, "init_noise_sigma", 1.0)), None
        draw = torch.Generator().manual_seed(0)
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t)
            x = scheduler.step(0.1 * seen, t, x, generator=draw).prev_sample
        ends.append(x)
    return torch.equal(*ends)


# -- the levels of another class -------------------------------------------------------------------


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("name", [name for name in CLASSES if not ROWS[name].tail])
def test_it_has_the_levels_and_predictions_of_every_class(name, truncated):
    """A network that says the truth brings any noised data back, from any start, in any words."""
    base = plain_class(name)(**OPTIONS.get(name, {}))
    one = few(base, renoise_from=1.0, match_below=-math.inf)
    theirs, ours = convention_of(base), convention_of(one)
    for t in {
        float(torch.lerp(*torch.tensor(theirs.ends, dtype=torch.float64), w)) for w in (0.3, 0.8)
    }:
        t = round(t) if theirs.table is not None else t
        assert ours.seen_level(t) == theirs.seen_level(t)
        assert ours.level(ours.ratio_at(t)) == theirs.level(theirs.ratio_at(t))
        assert ours.relation(ours, ours.seen_level(t)) == theirs.relation(
            theirs, theirs.seen_level(t)
        )
    if truncated:
        one = wrap(one)
    one.set_timesteps(6, device="cpu")
    assert one.timesteps.dtype == (torch.float32 if theirs.table is None else torch.int64)
    truth = noise(seed=5).double()
    x = noise(seed=6).double() * one.init_noise_sigma
    for t in one.timesteps:
        seen = one.scale_model_input(x, t)
        x = one.step(ours.output(truth, seen, t), t, x).prev_sample
    torch.testing.assert_close(x, truth, atol=1e-3, rtol=1e-3)


def test_a_schedule_of_a_few_entries():
    """Forty steps among fifty timesteps move apart; more than there are do not fit."""
    short = few(DDPMScheduler(num_train_timesteps=50, beta_end=0.2))
    short.set_timesteps(40)
    entries = short.timesteps.tolist()
    assert len(entries) == 40
    assert entries == sorted(set(entries), reverse=True)
    with pytest.raises(TruncationError, match=r"60 steps do not fit: of the 50 timesteps"):
        short.set_timesteps(60)
    table = few(DDPMScheduler(num_train_timesteps=200, beta_end=0.09))
    table.set_timesteps(5)
    abar = table.alphas_cumprod.double()
    known, expected = (abar / (1 - abar)).log(), torch.linspace(-4.6, 6.0, 5).double()
    assert int(table.timesteps[0]) == int((known > -4.6).sum())
    nearest = (known - expected[1:, None]).abs().argmin(1)
    assert torch.equal(table.timesteps[1:], nearest)


def test_a_table_that_somebody_has_put_there_is_kept():
    base = DDPMScheduler()
    base.alphas_cumprod = base.alphas_cumprod.double() ** 1.5
    one = few(base)
    assert torch.equal(one.alphas_cumprod, base.alphas_cumprod)
    one.alphas_cumprod[0] = 0.5
    assert base.alphas_cumprod[0] != 0.5
    assert not hasattr(few(EDMEulerScheduler()), "alphas_cumprod")


def test_made_from_a_truncated_scheduler_and_from_itself():
    one = few(wrap(EulerDiscreteScheduler()), n_renoised=2)
    assert one.config.noise_class == "EulerDiscreteScheduler"
    for other in (few(one), few(wrap(one)), FewStepScheduler.from_config(one.config)):
        assert type(other) is FewStepScheduler
        assert said(other) == said(one)
        assert same_run(other, one)
    assert few(one, n_renoised=4).config.n_renoised == 4


def test_configurations():
    one = FewStepScheduler.from_config(DDIMScheduler(beta_schedule="scaled_linear").config)
    assert one.config.noise_class == "DDPMScheduler"  # whose levels are the same table
    assert one.config.beta_schedule == "scaled_linear"
    assert torch.equal(
        one.alphas_cumprod, DDPMScheduler(beta_schedule="scaled_linear").alphas_cumprod
    )
    named = {
        **FlowMatchEulerDiscreteScheduler(shift=3.0).config,
        "_class_name": "FlowMatchEulerDiscreteScheduler",
    }
    flow = FewStepScheduler.from_config(named, log_snr_max=4.0)
    assert (flow.config.noise_class, flow.config.log_snr_max) == (named["_class_name"], 4.0)
    assert flow.config.shift == 3.0
    v = FewStepScheduler.from_config(one.config, prediction_type="v_prediction")
    assert (
        convention_of(v).relation
        is convention_of(DDIMScheduler(prediction_type="v_prediction")).relation
    )
    back = DPMSolverMultistepScheduler.from_config(one.config)
    assert back.config.beta_schedule == "scaled_linear"
    assert torch.equal(back.alphas_cumprod, one.alphas_cumprod)
    made, unused = FewStepScheduler.from_config(one.config, return_unused_kwargs=True, other=1)
    assert (type(made), unused["other"]) == (FewStepScheduler, 1)
    lcm = diffusers_schedulers.LCMScheduler()  # whose defaults are other ones
    assert torch.equal(FewStepScheduler.from_config(lcm.config).alphas_cumprod, lcm.alphas_cumprod)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FewStepScheduler.from_config(EDMEulerScheduler().config), "does not say which"),
        (lambda: FewStepScheduler.from_config("folder"), "got a str and no configuration"),
        pytest.param(
            lambda: few(diffusers_schedulers.HeliosScheduler()),
            "stages=3",
            marks=pytest.mark.skipif(
                not hasattr(diffusers_schedulers, "HeliosScheduler"),
                reason="this diffusers has no HeliosScheduler",
            ),
        ),
        (lambda: few(diffusers_schedulers.VQDiffusionScheduler(4)), "discrete tokens"),
        (lambda: few(DDPMScheduler(prediction_type="score")), "has no rule"),
        (lambda: few(DDPMScheduler), r"DDPMScheduler\(\) instead of"),
        (lambda: FewStepScheduler(noise_class="NoScheduler"), "diffusers has no scheduler 'NoSch"),
        (lambda: FewStepScheduler(noise_class="DDIMInverseScheduler"), "from data to noise"),
    ],
)
def test_what_has_no_levels_is_refused(make, words):
    with pytest.raises(UnsupportedSchedulerError, match=words):
        make()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_renoised": -1}, "n_renoised=-1 is out of range"),
        ({"n_renoised": True}, "n_renoised=True is no whole number"),
        ({"n_renoised": 1.5}, "n_renoised=1.5 is no whole number"),
        ({"renoise_from": math.nan}, "renoise_from=nan is no log-SNR"),
        ({"match_below": True}, "match_below=True is no log-SNR"),
        ({"match_below": "3"}, "match_below='3' is no log-SNR"),
        ({"log_snr_max": math.inf}, "log_snr_max=inf is no finite number"),
        ({"log_snr_max": 70.0}, "not a plausible log-SNR"),
        ({"log_snr_min": 6.0}, "levels from log-SNR 6 to 6 do not rise"),
    ],
)
def test_numbers_out_of_range_are_refused(options, words):
    with pytest.raises(TruncationError, match=words):
        FewStepScheduler(**options)


# -- files and copies ------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path):
    one = few(
        DDPMScheduler(prediction_type="v_prediction", trained_betas=[0.1, 0.2, 0.3] * 5), **UNLIKE
    )
    one.save_pretrained(tmp_path / "alone")
    again = FewStepScheduler.from_pretrained(tmp_path / "alone")
    assert said(again) == said(one)
    assert again.config.renoise_from == -math.inf
    assert same_run(again, one, 4)
    plain = DDPMScheduler.from_pretrained(tmp_path / "alone")
    assert torch.equal(plain.alphas_cumprod, one.alphas_cumprod)
    EulerDiscreteScheduler().save_pretrained(tmp_path / "euler")
    assert (
        FewStepScheduler.from_pretrained(tmp_path / "euler").config.noise_class
        == "EulerDiscreteScheduler"
    )


def test_saved_and_loaded_truncated(tmp_path):
    gaga = wrap(few(**UNLIKE), t_star=400)
    assert gaga.spacing == "log_snr"
    gaga.save_pretrained(tmp_path)
    again = GAGAScheduler.from_pretrained(tmp_path)
    assert isinstance(again, FewStepScheduler)
    assert (again.spacing, again.t_star) == ("log_snr", 400)
    assert said(again) == said(gaga)
    expected, _ = run(gaga, noise(), n=3)
    found, _ = run(again, noise(), n=3)
    assert found.shape == expected.shape
    assert type(FewStepScheduler.from_pretrained(tmp_path)) is FewStepScheduler
    # what was saved before there was this spacing cuts as it did
    about = json.loads((tmp_path / "gaga_scheduler.json").read_text())
    del about["spacing"]
    (tmp_path / "gaga_scheduler.json").write_text(json.dumps(about))
    assert GAGAScheduler.from_pretrained(tmp_path).spacing == "suffix"


@pytest.mark.parametrize("truncated", [False, True])
def test_inside_of_a_pipeline(truncated, tmp_path):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=6,
        in_channels=3,
        out_channels=3,
        block_out_channels=(4,),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=2,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    one = few(**UNLIKE)
    pipe = DDPMPipeline(unet, wrap(one) if truncated else one)
    pipe.save_pretrained(tmp_path)
    again = DDPMPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is type(pipe.scheduler)
    images = []
    for ready in (pipe, again):
        ready.set_progress_bar_config(disable=True)
        draw = torch.Generator().manual_seed(0)
        images.append(ready(2, draw, num_inference_steps=4, output_type="np").images)
    assert (images[0] == images[1]).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("truncated", [False, True])
def test_copies_go_on_where_the_original_is(copied, truncated):
    one = wrap(few(), handover="init") if truncated else few()
    one.set_timesteps(5, device="cpu")
    x = noise() * one.init_noise_sigma
    draw = torch.Generator().manual_seed(0)
    for t in one.timesteps[:2]:
        x = one.step(0.1 * x, t, x, draw).prev_sample
    ends, state = [], draw.get_state()
    for each in (copied(one), one):
        y = x
        draw.set_state(state)
        for t in each.timesteps[2:]:
            y = each.step(0.1 * y, t, y, draw).prev_sample
        ends.append(y)
    assert torch.equal(*ends)


def test_where_it_is_imported_from():
    assert gaga_adapter.FewStepScheduler is gaga_adapter.few_step.FewStepScheduler
    assert gaga_adapter.scheduler.GAGAFewStepScheduler is type(wrap(few()))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = gaga_adapter.few_step.Nothing


# -- grids -----------------------------------------------------------------------------------------


def test_levels_are_even_in_log_snr():
    one = few(FlowMatchEulerDiscreteScheduler(), log_snr_min=-3.0, log_snr_max=5.0)
    one.set_timesteps(5, mu=0.8)
    share = one.timesteps.double() / 1000
    assert share[0] == 1  # pipelines of flow models start from noise alone
    torch.testing.assert_close(
        2 * (1 / share[1:] - 1).log(), torch.tensor([-1.0, 1, 3, 5]).double(), atol=1e-5, rtol=0
    )
    one = few(EDMEulerScheduler(), log_snr_min=-3.0, log_snr_max=5.0)
    one.set_timesteps(5)
    expected = torch.exp(-torch.tensor([-3.0, -1, 1, 3, 5]).double() / 2)
    torch.testing.assert_close(one.sigmas[:-1], expected, atol=1e-6, rtol=1e-6)
    assert float(one.init_noise_sigma) == pytest.approx(math.hypot(1, math.exp(1.5)))


def test_levels_that_are_given():
    one = few()
    one.set_timesteps(timesteps=[900, 500.5, 20])
    assert one.timesteps.tolist() == [900, 500.5, 20]
    one.set_timesteps(timesteps=torch.tensor([900, 20]))
    assert one.timesteps.dtype == torch.int64
    ratio = ((1 - one.alphas_cumprod) / one.alphas_cumprod).double().sqrt()
    one.set_timesteps(sigmas=[float(ratio[700]), float(ratio[30]) * 1.001, 0.0], device="cpu")
    assert one.timesteps.tolist() == [700, 30]
    assert one.num_inference_steps == 2
    flow = few(FlowMatchEulerDiscreteScheduler(shift=3.0))
    flow.set_timesteps(sigmas=[1.0, 0.75, 0.25], mu=1.0)
    assert flow.timesteps.tolist() == [1000, 750, 250]
    inverted = few(FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
    inverted.set_timesteps(sigmas=[1.0, 0.75, 0.25])
    assert inverted.timesteps.tolist() == [0, 250, 750]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "num_inference_steps=None is no whole number"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 is out of range"),
        ({"num_inference_steps": True}, "is no whole number"),
        ({"num_inference_steps": 2.0}, "is no whole number"),
        ({"timesteps": [1], "sigmas": [1]}, "got timesteps and sigmas"),
        ({"timesteps": []}, r"timesteps \[\]"),
        ({"timesteps": [1200, 5]}, r"those of DDPMScheduler lie in \[0, 999\]"),
        ({"timesteps": [math.nan]}, r"timesteps \[nan\]"),
        ({"timesteps": [5, 20]}, "do not fall towards the data"),
        ({"timesteps": [20, 20]}, "do not fall towards the data"),
        ({"timesteps": ["a"]}, "timesteps is no list of numbers"),
        ({"timesteps": 5}, "timesteps is no list of numbers"),
        ({"sigmas": [1.0, -1.0]}, "Pass noise levels within"),
        ({"sigmas": [1.0, 0.0, 0.5]}, "Pass noise levels within"),
        ({"sigmas": [0.0]}, r"timesteps \[\]"),
    ],
)
def test_grids_that_are_none(given, words):
    with pytest.raises(TruncationError, match=words):
        few().set_timesteps(**given)


# -- steps -----------------------------------------------------------------------------------------


def test_places_in_the_grid():
    one = few()
    x = noise()
    with pytest.raises(TruncationError, match="there is no grid"):
        one.step(x, 5, x)
    one.set_timesteps(4)
    with pytest.raises(TruncationError, match=r"timestep 7\.5 is no entry of scheduler.timesteps"):
        one.step(x, 7.5, x)
    assert one.step_index is one.begin_index is None
    one.step(x, one.timesteps[1], x)
    assert one.step_index == 2
    one.set_timesteps(4)
    one.set_begin_index(3)
    assert one.begin_index == 3
    last = one.step(x, one.timesteps[3], x)
    assert torch.equal(last.prev_sample, last.pred_original_sample)
    with pytest.raises(TruncationError, match="the grid is used up"):
        one.step(x, one.timesteps[3], x)
    assert one.begin_index == 3
    one.set_timesteps(4)
    assert one.begin_index is None
    assert same_run(one, one)  # a second run is like the first
    assert len(one) == 1000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("base", [DDPMScheduler, EulerDiscreteScheduler])
def test_results_have_the_dtype_of_the_sample(base, dtype):
    """And the accuracy: the last step, which draws nothing, against the same in float64."""
    one = few(base())
    one.moments = STATS.moments
    one.set_timesteps(3)
    x = noise().to(dtype) * one.init_noise_sigma
    for t in one.timesteps:
        said, double = (0.1 * x).to(dtype), copy.deepcopy(one)
        out = one.step(said, t, x, torch.Generator().manual_seed(0))
        assert out.prev_sample.dtype == out.pred_original_sample.dtype == dtype
        before, x = x, out.prev_sample
        assert torch.isfinite(x).all()
    exact, _ = double.step(said.double(), t, before.double(), return_dict=False)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(x.double(), exact, atol=4 * max(eps, 1e-6), rtol=4 * max(eps, 1e-6))


def test_a_source_of_noise_for_each_example():
    one = few()
    x = noise()
    ends = []
    for seeds in ((0, 1, 2, 3), (9, 1, 2, 3)):
        one.set_timesteps(3)
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        ends.append(one.step(x, one.timesteps[0], x, draws, return_dict=False)[0])
    assert not torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1:], ends[1][1:])
    one.set_timesteps(3)
    alone = one.step(x[1:2], one.timesteps[0], x[1:2], torch.Generator().manual_seed(1))
    torch.testing.assert_close(alone.prev_sample, ends[0][1:2])


@pytest.mark.parametrize(
    "base", [DDPMScheduler, FlowMatchEulerDiscreteScheduler, EDMEulerScheduler]
)
def test_noised_data(base):
    one = few(base())
    at = convention_of(one)
    times = [at.timestep_at(0.5), at.timestep_at(3.0)]
    levels = torch.tensor([at.level(at.ratio_at(t)) for t in times], dtype=torch.float64)
    data, eps = noise(2).double(), noise(2, seed=3).double()
    a, b = levels.T.reshape(2, 2, 1, 1, 1)
    for found in (
        one.add_noise(data, eps, torch.tensor(times)),
        one.scale_noise(data, torch.tensor(times), eps),
    ):
        torch.testing.assert_close(found, a * data + b * eps, atol=1e-5, rtol=1e-5)
    assert one.add_noise(data.half(), eps.half(), torch.tensor(times)).dtype == torch.float16
    assert one.add_noise(data, eps, torch.tensor(times[0])).shape == (2, *SHAPE)


def test_wrapped_it_matches_the_moments_of_molecules_only():
    """Statistics of molecules; a network of images may know more than those say."""
    stats = GAGAStats.from_pretrained("qm9")
    assert GAGAScheduler.from_pretrained(few(), stats).moments is stats.moments
    assert wrap(few()).moments is None


def test_wrapped_it_matches_the_moments_that_it_is_given():
    """And starts from the fitted Gaussian at its own first level, beyond t*."""
    gaga = wrap(few(), handover="init")
    gaga.moments = STATS.moments
    assert FewStepScheduler.from_scheduler(gaga).moments is STATS.moments
    gaga.set_timesteps(4, device="cpu")
    level = convention_of(gaga).seen_level(gaga.timesteps[0])
    assert level.log_snr <= -1.0
    z = noise()
    torch.testing.assert_close(z * gaga.init_noise_sigma, STATS.reference().at(*level).transport(z))
    matched, _ = run(gaga, z, n=4)
    gaga.moments = None
    torch.manual_seed(0)
    assert not torch.equal(run(gaga, z, n=4)[0], matched)


@pytest.mark.parametrize("name", ["SCMScheduler", "DDPMWuerstchenScheduler"])
def test_a_class_whose_pipelines_skip_the_last_entry_is_refused(name):
    with pytest.raises(UnsupportedSchedulerError, match="do not call the network at"):
        FewStepScheduler.from_scheduler(getattr(diffusers_schedulers, name)())


def test_a_learned_variance_is_left_out_and_other_shapes_are_refused():
    one = FewStepScheduler.from_scheduler(DDPMScheduler(variance_type="learned_range"))
    one.set_timesteps(1)
    both = torch.randn(2, 6, 4, 4)
    plain = FewStepScheduler.from_scheduler(DDPMScheduler())
    plain.set_timesteps(1)
    t, x = one.timesteps[0], torch.randn(2, 3, 4, 4)
    alone = plain.step(both[:, :3], t, x).prev_sample
    torch.testing.assert_close(one.step(both, t, x, eta=0.0).prev_sample, alone)
    plain.set_timesteps(1)
    with pytest.raises(DataError, match="and the sample"):
        plain.step(both, t, x)
