"""Unmodified pipelines of diffusers with small random networks: what these see, how often."""

import re
import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)

from gaga_adapter.errors import GAGAWarning
from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments import DenseMoments
from gaga_adapter.noise.timesteps import timestep_log_snr
from gaga_adapter.scheduler import GAGAScheduler, HandoverError
from gaga_adapter.stats import GAGAStats

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2, inside of diffusers
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of diffusers' own pipelines
]

SIZE = 8
N = 20


def stats(shape, log_snr_star=-1.0):
    generator = torch.Generator().manual_seed(0)
    moments = DenseMoments(shape, kind="element")
    moments.update(0.3 + 0.2 * torch.randn(64, *shape, generator=generator))
    return GAGAStats(DenseLayout(shape), moments, log_snr_star)


class Watched:
    """What a network was given: sample and timestep of every call."""

    def __init__(self, pipe):
        self.samples, self.timesteps = [], []
        network = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
        network.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, network, args, kwargs):
        sample = args[0] if args else kwargs["hidden_states"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        self.samples.append(sample.clone())
        self.timesteps.append(float(torch.as_tensor(timestep).flatten()[0]))


def seeded():
    return torch.Generator().manual_seed(3)


@pytest.fixture(autouse=True)
def quiet_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# -- the pipelines ---------------------------------------------------------------------------------


def unet():
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


def unconditional(kind):
    def make(scheduler):
        pipe = kind(unet(), DDIMScheduler())
        pipe.scheduler = scheduler  # DDIMPipeline would replace it by a plain DDIMScheduler
        return pipe, dict(num_inference_steps=N, output_type="np")

    return make


def conditional_unet():
    return UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()


def vae():
    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4).eval()


def stable_diffusion(scheduler, kind=StableDiffusionPipeline):
    pipe = kind(
        vae=vae(),
        text_encoder=None,
        tokenizer=None,
        unet=conditional_unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    prompt = torch.randn(1, 5, 8, generator=seeded())
    call = dict(
        prompt_embeds=prompt,
        negative_prompt_embeds=-prompt,
        num_inference_steps=N,
        guidance_scale=3.0,
        output_type="latent",
    )
    if kind is StableDiffusionPipeline:
        call |= dict(height=SIZE, width=SIZE)
    return pipe, call


def dit(scheduler):
    transformer = DiTTransformer2DModel(
        sample_size=SIZE,
        num_layers=1,
        patch_size=2,
        attention_head_dim=4,
        num_attention_heads=2,
        in_channels=4,
        out_channels=4,
        num_embeds_ada_norm=1000,
    ).eval()
    pipe = DiTPipeline(transformer, vae(), scheduler)
    call = dict(class_labels=[1], num_inference_steps=N, output_type="np")
    return pipe, call


def flux(scheduler):
    if not hasattr(torch.nn, "RMSNorm"):
        pytest.skip("Flux is made of torch.nn.RMSNorm, which torch has from 2.4 on")
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    pipe = FluxPipeline(scheduler, None, None, None, None, None, transformer)
    call = dict(
        prompt_embeds=torch.randn(1, 5, 8, generator=seeded()),
        pooled_prompt_embeds=torch.randn(1, 8, generator=seeded()),
        height=8 * SIZE,
        width=8 * SIZE,
        num_inference_steps=N,
        output_type="latent",
    )
    return pipe, call


def stable_diffusion_3(scheduler):
    transformer = SD3Transformer2DModel(
        sample_size=SIZE,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=8,
    ).eval()
    pipe = StableDiffusion3Pipeline(transformer, scheduler, None, *[None] * 6)
    prompt, pooled = torch.randn(1, 5, 16, generator=seeded()), torch.randn(1, 8)
    call = dict(
        prompt_embeds=prompt,
        negative_prompt_embeds=-prompt,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=-pooled,
        height=8 * SIZE,
        width=8 * SIZE,
        num_inference_steps=N,
        output_type="latent",
    )
    return pipe, call


IMAGE, LATENT, PACKED = (3, SIZE, SIZE), (4, SIZE, SIZE), (SIZE * SIZE // 4, 16)
PIPELINES = {
    "DDPM": (unconditional(DDPMPipeline), DDPMScheduler, IMAGE),
    "DDIM": (unconditional(DDIMPipeline), DDIMScheduler, IMAGE),
    "SD DDIM": (stable_diffusion, DDIMScheduler, LATENT),
    "SD PNDM": (stable_diffusion, lambda: PNDMScheduler(skip_prk_steps=True), LATENT),
    "SD Euler": (stable_diffusion, EulerDiscreteScheduler, LATENT),
    "SD DPM++": (stable_diffusion, DPMSolverMultistepScheduler, LATENT),
    "SD Heun": (stable_diffusion, HeunDiscreteScheduler, LATENT),
    "SD LCM": (stable_diffusion, LCMScheduler, LATENT),
    "DiT DDIM": (dit, DDIMScheduler, LATENT),
    "DiT DPM++": (dit, DPMSolverMultistepScheduler, LATENT),
    "Flux": (flux, lambda: FlowMatchEulerDiscreteScheduler(shift=3.0), PACKED),
    "Flux dynamic": (
        flux,
        lambda: FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        PACKED,
    ),
    "SD3": (stable_diffusion_3, lambda: FlowMatchEulerDiscreteScheduler(shift=3.0), LATENT),
}
# Network calls more than truncation leaves, by hand-over; None where the loop has no place for it.
EXTRA = {
    "DDPM": {"init": None, "scale": None, "step": 1, "auto": 1, "attach": 0},
    "DDIM": {"init": None, "scale": None, "step": 1, "auto": 1, "attach": 0},
    "SD": {"init": 0, "scale": 0, "step": 1, "auto": 0, "attach": 0},
    "DiT": {"init": None, "scale": 0, "step": 1, "auto": 1, "attach": 0},
    "Flux": {"init": None, "scale": None, "step": 1, "auto": 1, "attach": 0},
    "SD3": {"init": None, "scale": None, "step": 1, "auto": 1, "attach": 0},
}


def sample(name, handover, spacing="suffix", bare=False):
    make, base, shape = PIPELINES[name]
    scheduler = base()
    if not bare:
        mode = "auto" if handover == "attach" else handover
        scheduler = GAGAScheduler.from_pretrained(
            scheduler, stats=stats(shape), handover=mode, spacing=spacing
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe, call = make(scheduler)
    pipe.set_progress_bar_config(disable=True)
    if handover == "attach":
        scheduler.attach(pipe)
    watched = Watched(pipe)
    with torch.no_grad():
        image = pipe(**call, generator=seeded())[0]
    return np.asarray(image, dtype=np.float64), watched, scheduler


def level(name, scheduler, timestep):
    """(a, b) of what the network is to see when it is called at this timestep."""
    timestep = 1000 * timestep if name.startswith("Flux") else timestep
    ratio = np.exp(-timestep_log_snr(scheduler, timestep) / 2)
    norm = (
        1 + ratio if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) else np.hypot(1, ratio)
    )
    return 1 / norm, ratio / norm


@pytest.mark.parametrize("name", PIPELINES)
def test_every_handover_in_every_pipeline(name):
    """The same image from each that has a place, at the calls that truncation leaves."""
    shape = PIPELINES[name][2]
    _, bare, _ = sample(name, "none", bare=True)
    images, n_calls = {}, {}
    for handover, extra in EXTRA[name.split()[0]].items():
        if extra is None:
            with pytest.raises(HandoverError, match="without handing over its noise"):
                sample(name, handover)
            continue
        images[handover], watched, scheduler = sample(name, handover)
        n_calls[handover] = len(watched.timesteps) - extra
        # what the network saw first is the reference at that level, in the scheduler's scaling
        seen = watched.samples[extra][:1]
        reference = stats(shape).reference().at(*level(name, scheduler, watched.timesteps[extra]))
        mean = reference.transport(torch.zeros(1, *shape))
        std = (reference.transport(torch.ones(1, *shape)) - mean).abs()
        z = (seen - mean) / std
        assert abs(float(z.mean())) < 5 / np.sqrt(z.numel())
        assert abs(float(z.square().mean()) - 1) < 5 * np.sqrt(2 / z.numel())
        assert watched.timesteps[extra] <= bare.timesteps[0]
    assert len(set(n_calls.values())) == 1
    assert next(iter(n_calls.values())) < 0.8 * len(bare.timesteps)
    first = next(iter(images.values()))
    for image in images.values():
        np.testing.assert_allclose(image, first, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["DDPM", "SD DDIM", "SD Heun", "SD LCM", "Flux", "SD3"])
def test_respacing_keeps_the_number_of_calls(name):
    _, bare, _ = sample(name, "none", bare=True)
    _, watched, _ = sample(name, "attach", spacing="respace")
    assert len(watched.timesteps) == len(bare.timesteps)
    if name != "SD LCM":  # whose grid is one of 50 timesteps
        assert watched.timesteps[0] < bare.timesteps[0]


def test_ddim_pipeline_replaces_its_scheduler():
    """By DDIMScheduler.from_config: a truncated scheduler has to be assigned afterwards."""
    gaga = GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats(IMAGE))
    pipe = DDIMPipeline(unet(), gaga)
    assert type(pipe.scheduler) is DDIMScheduler
    assert pipe.scheduler.config == DDIMScheduler.from_config(DDIMScheduler().config).config
    pipe.scheduler = gaga
    assert pipe.scheduler is gaga


def test_attach_and_detach():
    gaga = GAGAScheduler.from_pretrained(DDPMScheduler(), stats=stats(IMAGE))
    pipe = DDPMPipeline(unet(), DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    gaga.attach(pipe)
    gaga.attach(pipe)
    assert pipe.scheduler is gaga
    assert len(pipe.unet._forward_pre_hooks) == 1
    gaga.detach()
    gaga.detach()
    assert not pipe.unet._forward_pre_hooks
    with pytest.raises(HandoverError, match="object has no network that takes a timestep"):
        gaga.attach(type("object", (), {})())


def image_to_image(scheduler, strength):
    pipe, call = stable_diffusion(scheduler, StableDiffusionImg2ImgPipeline)
    pipe.set_progress_bar_config(disable=True)
    watched = Watched(pipe)
    image = torch.full((1, 4, SIZE, SIZE), 5.0)  # latents, far from the data that were fitted
    with torch.no_grad():
        result = pipe(**call, image=image, strength=strength, generator=seeded())[0]
    return result, watched


@pytest.mark.parametrize("strength", [0.3, 0.8])
@pytest.mark.parametrize("spacing", ["suffix", "respace"])
@pytest.mark.parametrize("handover", ["auto", "init", "step"])
@pytest.mark.parametrize(
    "base", [DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler]
)
def test_image_to_image_is_the_bare_schedulers_own_run(base, handover, spacing, strength):
    """Also where the image is noised beyond t*: there is no start to replace."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected, bare = image_to_image(base(), strength)
    gaga = GAGAScheduler.from_pretrained(
        base(), stats=stats(LATENT), handover=handover, spacing=spacing
    )
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("error", GAGAWarning)
        torch.manual_seed(0)
        result, watched = image_to_image(gaga, strength)
    assert watched.timesteps == bare.timesteps
    assert torch.equal(result, expected)


@pytest.mark.parametrize("handover", ["auto", "init", "step"])
@pytest.mark.parametrize(
    "base", [DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler]
)
def test_strength_one_forgets_the_image_as_the_whole_path_does(base, handover):
    gaga = GAGAScheduler.from_pretrained(base(), stats=stats(LATENT), handover=handover)
    _, watched = image_to_image(gaga, 1.0)
    n_extra = int(handover == "step")
    first = watched.timesteps[n_extra]
    ratio = float(np.exp(-timestep_log_snr(gaga, first) / 2))
    signal = 1 / np.hypot(1, ratio)
    seen = watched.samples[n_extra][0]
    assert float(seen.mean()) == pytest.approx(0.3 * signal, abs=6 / np.sqrt(seen.numel()))


def test_a_loop_of_ones_own_that_counts_a_strength():
    """It cannot be recognised as a pipeline's; the value to pass is in the warning."""
    gaga = GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats(LATENT), t_star=700)
    plain = DDIMScheduler()
    data, noise = torch.ones(1, *LATENT), torch.randn(1, *LATENT, generator=seeded())
    plain.set_timesteps(N)

    def start(strength):
        gaga.set_timesteps(N, device="cpu")
        place = N - int(N * strength)
        timesteps = gaga.timesteps[place:]
        gaga.add_noise(data, noise, timesteps[:1])
        return float(timesteps[0]) if len(timesteps) else None

    wanted = float(plain.timesteps[N - int(N * 0.6)])
    pattern = rf"Without truncation it would start at {wanted:g}; for that pass strength=(\S+),"
    with pytest.warns(GAGAWarning, match=pattern) as caught:
        assert start(0.6) != wanted
    strength = float(re.search(pattern, str(caught[0].message))[1])
    assert strength == pytest.approx(0.6 + 5 / N)
    with pytest.warns(GAGAWarning, match="a strength counts from t"):
        assert start(strength + 1e-9) == wanted
    with pytest.warns(
        GAGAWarning, match=r"would start at .*; for that use DDIMScheduler\.from_conf"
    ):
        start(0.95)  # beyond t*, where no value can lead
    with pytest.raises(HandoverError, match=r"a strength that is larger by 0\.25, or use DDIM"):
        start(0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside of torch's compiler
@pytest.mark.parametrize("compiled_first", [True, False])
def test_a_compiled_network_is_one_graph(compiled_first):
    """The watcher breaks no graph, and the start comes through `prepare_latents`."""
    images = []
    for compiles in (False, True):
        gaga = GAGAScheduler.from_pretrained(
            FlowMatchEulerDiscreteScheduler(shift=3.0), stats=stats(PACKED)
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipe, call = flux(gaga)
        pipe.set_progress_bar_config(disable=True)

        def compile_it(pipe=pipe):
            pipe.transformer = torch.compile(pipe.transformer, fullgraph=True, backend="eager")

        if compiles and compiled_first:
            compile_it()
        gaga.attach(pipe)
        if compiles and not compiled_first:
            compile_it()
        with torch.no_grad():
            images.append(pipe(**call, generator=seeded())[0])
        gaga.detach()
    torch.testing.assert_close(*images, rtol=1e-4, atol=1e-4)


def test_a_bar_counts_the_steps_that_are_left():
    totals = []
    for attached in (False, True):
        gaga = GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats(LATENT))
        pipe, call = stable_diffusion(gaga)
        own = type(pipe).progress_bar

        class Counted(type(pipe)):
            def progress_bar(self, iterable=None, total=None, own=own):
                totals.append(total)
                return own(self, iterable, total)

        pipe.__class__ = Counted
        pipe.set_progress_bar_config(disable=True)
        if attached:
            gaga.attach(pipe)
        with torch.no_grad():
            pipe(**call, generator=seeded())
    assert totals == [N, gaga.n_calls]


def test_noise_that_is_mixed_with_noised_data_is_a_new_start():
    """As FreeInit does for its second round: its data are noised to the end of the path."""
    gaga = GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats(LATENT))
    reference = stats(LATENT).reference()
    for handover in ("auto", "step"):
        gaga = GAGAScheduler.from_pretrained(gaga, handover=handover)
        gaga.set_timesteps(N, device="cpu")
        noise = torch.randn(1, *LATENT, generator=seeded())
        mixed = gaga.add_noise(torch.full((1, *LATENT), 0.3), noise, torch.tensor([999]))
        first = float(gaga.timesteps[int(handover == "step")])
        ratio = float(np.exp(-timestep_log_snr(gaga, first) / 2))
        start = reference.at(1 / np.hypot(1, ratio), ratio / np.hypot(1, ratio)).transport(mixed)
        if handover == "step":
            seen = gaga.step(mixed, gaga.timesteps[0], mixed).prev_sample
        else:
            seen = gaga.scale_model_input(mixed, gaga.timesteps[0])
        torch.testing.assert_close(seen, start, rtol=1e-4, atol=1e-4)


def test_a_watched_network_is_left_alone_outside_of_a_run():
    """In training, in another pipeline, and after the pipeline has got another scheduler."""
    gaga = GAGAScheduler.from_pretrained(DDPMScheduler(), stats=stats(IMAGE))
    pipe = DDPMPipeline(unet(), DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    gaga.attach(pipe)
    pipe(batch_size=1, num_inference_steps=4, output_type="np", generator=seeded())
    watched = Watched(pipe)
    x = torch.randn(2, *IMAGE, generator=seeded())
    for times in (torch.tensor([100]), torch.tensor([100, 700])):
        with torch.no_grad():
            pipe.unet(x, times)
        assert torch.equal(watched.samples[-1], x)
    pipe.scheduler = DDPMScheduler()
    pipe(batch_size=2, num_inference_steps=2, output_type="np", generator=seeded())
    expected = torch.randn(2, *IMAGE, generator=seeded())
    assert torch.equal(watched.samples[-2], expected)
    other = GAGAScheduler.from_pretrained(DDPMScheduler(), stats=stats(IMAGE))
    pipe.scheduler = gaga
    other.attach(pipe)
    assert len(pipe.unet._forward_pre_hooks) == 2  # the other's, and that of this test
    pipe(batch_size=2, num_inference_steps=4, output_type="np", generator=seeded())
