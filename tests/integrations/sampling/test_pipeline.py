"""EDM and GeoLDM models as diffusers pipelines: the noise table, the solvers, the last step.

The models are the in-repo stand-ins with the exact network of Gaussian molecules, which is told the
time and nothing else. For such data the fitted Gaussian is exact at every level, and a
deterministic solver is a linear map of its starting noise: the law of z_0 is read off that map, not
sampled.
"""

import inspect
import math

import diffusers
import pytest
import torch
from fakes import edm_like
from gaga_adapter.integrations import apply_patch, in_layout, remove_patch
from gaga_adapter.integrations.sampling.pipeline import as_pipeline
from scheduler import loops
from torch import nn
from upstream import said

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.errors import (
    DataError,
    GAGAWarning,
    StatsMismatchError,
    UnsupportedModelError,
    UnsupportedSchedulerError,
)
from gaga_adapter.layout import AtomLayout, MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.conventions import ROWS
from gaga_adapter.sampling.solvers import scheduler_named
from gaga_adapter.scheduler.options import plain_class
from gaga_adapter.subspace import mask_from_sizes, project

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2 in diffusers
    pytest.mark.filterwarnings("ignore:.* steps are left from t"),  # on purpose
]

ELEMENTS = ("H", "C", "O")
N = 5


# -- the model -----------------------------------------------------------------------------------


class Gaussian(nn.Module):
    """Posterior mean of Gaussian molecules, as epsilon, from the time alone."""

    def __init__(self, moments, n_steps, n_context):
        super().__init__()
        self.sizes = {int(n): moments.at_size(int(n)) for n in moments.sizes}
        self.n_steps, self.context_node_nf = n_steps, n_context
        self.contexts = []  # one per call

    def gamma(self, t):
        """Between two steps, linear."""
        step = float(t.flatten()[0]) * self.n_steps
        low = min(math.floor(step + 1e-4), self.n_steps - 1)
        ends = self.schedule[0](torch.tensor([[low], [low + 1]]) / self.n_steps).double()
        return torch.lerp(ends[0], ends[1], step - low)

    def _forward(self, t, xh, node_mask, edge_mask, context):
        assert t.shape == (len(xh), 1)
        assert edge_mask.shape == (len(xh) * xh.shape[1] ** 2, 1)
        self.contexts.append(context)
        a2 = torch.sigmoid(-self.gamma(t))
        a, b2 = a2.sqrt(), 1 - a2
        z, n_atoms = xh.double(), node_mask.sum((1, 2))
        clean = torch.zeros_like(z)
        for n in n_atoms.unique().long().tolist():
            size, rows = self.sizes[n], n_atoms == n
            clean[rows, :n, :3] = a * size.v_x / (a2 * size.v_x + b2) * z[rows, :n, :3]
            h = z[rows, :n, 3:] - a * size.feature_mean
            bar = h.mean(1, keepdim=True)
            clean[rows, :n, 3:] = (
                size.feature_mean
                + (h - bar) @ gain(size.within, a2, b2)
                + bar @ gain(size.between, a2, b2)
            )
        return ((z - a * clean) / b2.sqrt()).to(xh) * node_mask


def gain(covariance, a2, b2):
    eye = torch.eye(len(covariance), dtype=torch.float64)
    return a2.sqrt() * torch.linalg.solve(a2 * covariance + b2 * eye, covariance)


class Recording:
    """Keeps the z_0 that its last step is given."""

    def sample_p_xh_given_z0(self, z0, node_mask, *arguments, **options):
        self.z_0 = z0
        return super().sample_p_xh_given_z0(z0, node_mask, *arguments, **options)


class EnVariationalDiffusion(Recording, edm_like.EnVariationalDiffusion):
    pass


class EnLatentDiffusion(Recording, edm_like.EnLatentDiffusion):
    pass


def gaussian_moments(n_features=4, sizes=(N,), spread=0.6):
    """Moments that are the truth of the fake: of Gaussian molecules with correlated features."""
    generator = torch.Generator().manual_seed(0)
    mix = spread * torch.randn(n_features, n_features, generator=generator)
    moments = ExchangeableMoments(n_features)
    for n in sizes:
        positions = math.sqrt(1 + 0.2 * n) * torch.randn(400, n, 3, generator=generator)
        features = torch.randn(400, n, n_features, generator=generator) @ mix + 0.3
        mask = torch.ones(400, n, dtype=torch.bool)
        moments.update(project(torch.cat([positions, features], -1), mask))
    return moments


MOMENTS = gaussian_moments()


def stats_of(moments=MOMENTS, layout=None, log_snr_star=0.0):
    layout = layout or MoleculeLayout(ELEMENTS, 1, 4, 10)
    return GAGAStats(layout, moments, log_snr_star)


def made(cls, moments, n_steps, n_context=0, **options):
    dynamics = Gaussian(moments, n_steps, n_context)
    options = {"timesteps": n_steps, "noise_precision": 1e-5, **options}
    model = cls(dynamics=dynamics, in_node_nf=moments.n_features, **options)
    dynamics.schedule = [model.gamma]  # in a list, so that it has no second parent
    return model.requires_grad_(False)


def edm(moments=MOMENTS, n_steps=1000, **options):
    return made(EnVariationalDiffusion, moments, n_steps, **options)


def geoldm(charges=True):
    torch.manual_seed(0)
    ends = edm_like.TinyCoder(3 + charges, 1), edm_like.TinyCoder(1, 3 + charges)
    vae = edm_like.EnHierarchicalVAE(*ends, 3 + charges, 1, include_charges=charges)
    return made(EnLatentDiffusion, gaussian_moments(1), 1000, vae=vae, include_charges=charges)


def pipeline(model=None, scheduler=None, **options):
    pipe = as_pipeline(model or edm(), scheduler, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def calls_of(pipe):
    return len(pipe.denoiser.model.dynamics.contexts)


def run(pipe, n_atoms=(N,) * 8, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return pipe(n_atoms=list(n_atoms), generator=generator, **options)


def truncated(pipe, **options):
    options = {"stats": stats_of(), "reference": "size", **options}
    return GAGAScheduler.from_pretrained(pipe.scheduler, **options)


# -- the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["polynomial_2", "learned"])
def test_the_table_is_the_models_own(schedule, tmp_path):
    """Index i is step i, T + 1 entries, to nine digits also of 1 - abar; in every scheduler."""
    model = edm(noise_schedule=schedule)
    pipe = pipeline(model)
    assert pipe.scheduler.config.num_train_timesteps == 1001
    assert pipe.scheduler.config.prediction_type == "epsilon"
    steps = torch.arange(1001)[:, None] / 1000
    exact = model.gamma(steps).flatten().double()
    a2, b2 = torch.sigmoid(-exact), torch.sigmoid(exact)

    def error(scheduler):
        abar = torch.as_tensor(scheduler.alphas_cumprod).double()
        return max(float((abar / a2 - 1).abs().max()), float(((1 - abar) / b2 - 1).abs().max()))

    assert error(pipe.scheduler) < 1e-9
    assert error(truncated(pipe)) < 1e-9
    assert error(scheduler_named("heun", pipe.scheduler)) < 1e-9
    pipe.scheduler.save_pretrained(tmp_path)
    for other in (
        diffusers.DDPMScheduler.from_pretrained(tmp_path),
        diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config),
    ):
        pipe.scheduler = other  # float32, until it is used
        run(pipe, [N], num_inference_steps=3)
        assert error(pipe.scheduler) < 1e-9


PAIRS = [(1000, 999), (1000, 990), (501, 500), (700, 300), (11, 10), (2, 1), (1, 0), (10, 0)]


def edms_posterior(gamma_t, gamma_s):
    """Coefficients of z and epsilon in the mean of p(z_s | z_t), and its standard deviation."""
    a_t, a_s = (math.sqrt(1 / (1 + math.exp(g))) for g in (gamma_t, gamma_s))
    b_t, b_s = (math.sqrt(1 / (1 + math.exp(-g))) for g in (gamma_t, gamma_s))
    a_ts = a_t / a_s
    b2_ts = b_t**2 - a_ts**2 * b_s**2
    return 1 / a_ts, -b2_ts / (a_ts * b_t), math.sqrt(b2_ts) * b_s / b_t


def ancestral_step(scheduler, z, eps, t, s, seed=0):
    """Mean and noise of one step of the ancestral sampler from entry t to entry s."""
    scheduler.set_timesteps(timesteps=[t, s] if s else [t, 0])
    step = [
        scheduler.step(e, t, x, generator=torch.Generator().manual_seed(seed)).prev_sample
        for x, e in ((z, eps), (torch.zeros_like(z), torch.zeros_like(z)))
    ]
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=z.dtype)
    return step[0] - step[1], float((step[1] / noise).mean())


@pytest.mark.parametrize(("t", "s"), [*PAIRS, (1000, 0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ancestral_steps_have_edms_mean_and_variance(t, s, dtype):
    model = edm()
    scheduler = pipeline(model).scheduler
    gamma = model.gamma.gamma.double()
    c_z, c_eps, std = edms_posterior(float(gamma[t]), float(gamma[s]))
    z, eps = torch.randn(2, 64, 9, dtype=dtype, generator=torch.Generator().manual_seed(1))
    mean, noise = ancestral_step(scheduler, z, eps, t, s)
    expected = c_z * z.double() + c_eps * eps.double()
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    if dtype == torch.float32 and (t, s) == (1000, 0):
        tolerance = 3e-5  # c_z is 316 and both terms nearly cancel: float32 itself
    scale = float(expected.abs().max())
    assert float((mean - expected).abs().max()) < tolerance * max(scale, 1)
    assert abs(noise / std - 1) < (1e-9 if dtype == torch.float64 else 1e-5)


def test_all_steps_of_the_ancestral_sampler():
    """T + 1 network calls, and the law of the data: chi-square, false alarm 1e-6."""
    pipe = pipeline()
    result = run(pipe, (N,) * 600, batch_size=600)
    assert result.network_calls == calls_of(pipe) == 1001
    squares = float(result.positions.square().sum())
    variance = MOMENTS.at_size(N).v_x + math.exp(float(pipe.denoiser.log_sigma[0]) * 2)
    degrees = 600 * 3 * (N - 1)
    assert abs(squares / variance - degrees) < 4.9 * math.sqrt(2 * degrees)


# -- the solvers -----------------------------------------------------------------------------------


def law_of_z_0(pipe, **options):
    """Variance of positions per degree of freedom, and covariances of features, of z_0.

    A deterministic solver maps the noise linearly; the map is fitted, and must fit exactly.
    """
    n_molecules = 24
    run(pipe, (N,) * n_molecules, **options)
    z = pipe.denoiser.model.z_0.double()
    noise = torch.randn(*z.shape, generator=torch.Generator().manual_seed(0))
    noise = project(noise, torch.ones(z.shape[:2], dtype=torch.bool)).double()
    x, e = z[..., :3], noise[..., :3]
    factor = float((x * e).sum() / (e * e).sum())
    torch.testing.assert_close(x, factor * e, atol=2e-4, rtol=0)
    mean = z[..., 3:].mean(1, keepdim=True), noise[..., 3:].mean(1, keepdim=True)
    inside = linear_map(
        (noise[..., 3:] - mean[1]).flatten(0, 1), (z[..., 3:] - mean[0]).flatten(0, 1)
    )
    design = torch.cat([mean[1][:, 0], torch.ones(n_molecules, 1)], 1).double()
    across = linear_map(design, mean[0][:, 0])
    return factor**2, inside.T @ inside, across[:-1].T @ across[:-1], across[-1]


def linear_map(source, image):
    found = torch.linalg.lstsq(source, image).solution
    torch.testing.assert_close(source @ found, image, atol=5e-4, rtol=0)
    return found


def errors_of(pipe, **options):
    """Relative errors of the law of z_0: positions, features within and across, their mean."""
    v_x, within, between, mean = law_of_z_0(pipe, **options)
    size, sigma_0 = MOMENTS.at_size(N), math.exp(float(pipe.denoiser.log_sigma[0]))
    a2 = 1 / (1 + sigma_0**2)
    eye = torch.eye(4, dtype=torch.float64)

    def relative(found, truth):
        exact = a2 * truth + (1 - a2) * eye
        return float((found - exact).norm() / exact.norm())

    return (
        abs(v_x / (a2 * size.v_x + 1 - a2) - 1),
        relative(within, size.within),
        relative(between, size.between),
        float((mean - math.sqrt(a2) * size.feature_mean).norm() / size.feature_mean.norm()),
    )


# Name, steps asked for, network calls on the whole path and from t*, and the largest error allowed
# on each: the solver's own at that many steps. The whole path starts from a noise of 316 times the
# data, where first order solvers lose variance and Heun makes its worst step.
SOLVERS = [
    ("ddim", 20, 20, 12, 0.16, 0.045),
    ("ddim", 100, 100, 56, 0.035, 0.009),
    ("dpm++", 20, 21, 12, 0.05, 0.006),
    ("dpm++", 50, 51, 29, 0.011, 0.002),
    ("unipc", 20, 21, 12, 0.005, 0.004),
    ("unipc", 50, 51, 29, 0.005, 0.0008),
    ("euler", 100, 100, 55, 0.035, 0.009),
    ("heun", 50, 99, 55, 0.065, 0.0003),
]


@pytest.mark.parametrize(("name", "n_steps", "calls", "_", "most", "__"), SOLVERS)
def test_solvers_sample_the_data(name, n_steps, calls, _, most, __):
    pipe = pipeline(scheduler=name)
    assert max(errors_of(pipe, num_inference_steps=n_steps)) < most
    assert calls_of(pipe) == calls


@pytest.mark.parametrize("spacing", ["suffix", "respace"])
@pytest.mark.parametrize(("name", "n_steps", "calls", "fewer", "_", "most"), SOLVERS)
def test_solvers_sample_the_data_from_t_star(name, n_steps, calls, fewer, _, most, spacing):
    """Half the calls and a smaller error, or as many calls and one smaller still."""
    pipe = pipeline(scheduler=name)
    pipe.scheduler = truncated(pipe, spacing=spacing)
    assert max(errors_of(pipe, num_inference_steps=n_steps)) < most
    assert calls_of(pipe) == (fewer if spacing == "suffix" else calls)


@pytest.mark.parametrize(
    ("scheduler", "calls", "most"),
    [
        (diffusers.DPMSolverMultistepScheduler, 41, 0.013),  # ends in clean data, by its default
        (diffusers.FlowMatchEulerDiscreteScheduler, 40, 0.075),  # ends below the model's step 0
        (diffusers.EDMEulerScheduler, 40, 0.13),
        (diffusers.LMSDiscreteScheduler, 41, 0.02),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_schedulers_with_tables_of_their_own(scheduler, calls, most):
    """The network is told the time at which the model's schedule has their ratio of noise."""
    pipe = pipeline(scheduler=scheduler())
    errors = law_of_a_scheduler_with_another_start(pipe, 40)
    assert errors < most
    assert calls_of(pipe) == calls


def law_of_a_scheduler_with_another_start(pipe, n_steps):
    """Relative error of the variance of positions, from 300 molecules and their own noise."""
    result = run(pipe, (N,) * 300, batch_size=300, num_inference_steps=n_steps)
    noise = torch.randn(300, N, 7, generator=torch.Generator().manual_seed(0))
    noise = project(noise, torch.ones(300, N, dtype=torch.bool))[..., :3]
    factor = float((result.positions * noise).sum() / noise.square().sum())
    return abs(factor**2 / MOMENTS.at_size(N).v_x - 1)


CONSISTENT = {  # made for a network that predicts the end of the path, and not the mean
    "LCMScheduler",
    "TCDScheduler",
    "CMStochasticIterativeScheduler",
    "SCMScheduler",
    "FlowMatchLCMScheduler",
}
OPTIONS = {
    **loops.OPTIONS,
    # re-noising loses variance, which only known moments can give back
    "FewStepScheduler": {"renoise_from": math.inf},
}
EVERY_CLASS = [n for n, row in ROWS.items() if n not in CONSISTENT and not row.unserved]


@pytest.mark.filterwarnings("ignore:Should have t:UserWarning")  # rounding inside of torchsde
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("name", EVERY_CLASS)
def test_every_class_samples_the_data(name, cut):
    """The variance of positions: the solver's own error at 40 steps, and 4.9 standard errors."""
    cls = plain_class(name)
    if cls is None:
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}, or needs more for it")
    options = dict(OPTIONS.get(name, {}))
    if "clip_sample" in inspect.signature(cls.__init__).parameters:
        options["clip_sample"] = False
    pipe = pipeline(scheduler=cls(**options))
    if cut:
        pipe.scheduler = truncated(pipe)
    n = 400
    positions = run(pipe, (N,) * n, batch_size=n, num_inference_steps=40).positions
    degrees = n * 3 * (N - 1)
    variance = float(positions.square().sum()) / degrees
    own = name == "CogVideoXDPMScheduler"  # whose last steps leave as much, cut or not
    most = 0.15 if cut and not own else 0.3
    assert abs(variance / MOMENTS.at_size(N).v_x - 1) < most + 4.9 * math.sqrt(2 / degrees)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_other_predictions_than_epsilon(prediction):
    """The same solver on the same table, asked in other words, makes the same molecules."""
    pipe = pipeline(scheduler="dpm++")
    expected = run(pipe, num_inference_steps=30).positions
    config = {**pipe.scheduler.config, "prediction_type": prediction}
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(config)
    found = run(pipe, num_inference_steps=30).positions
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_learned_schedules():
    """Their step 0 has a noise of 0.05, which the model's last step takes off."""
    pipe = pipeline(edm(n_steps=500, noise_schedule="learned"), "unipc")
    assert 0.04 < math.exp(pipe.denoiser.log_sigma[0]) < 0.1
    assert max(errors_of(pipe, num_inference_steps=50)) < 0.04  # a_T = 0.03 of the mean is lost
    pipe.scheduler = truncated(pipe)
    assert max(errors_of(pipe, num_inference_steps=50)) < 0.002


# -- the last step ---------------------------------------------------------------------------------


def test_the_last_step_is_the_models_own():
    model = edm()
    pipe = pipeline(model, "dpm++")
    sizes = [3, N, N, 4]
    model.dynamics.sizes = dict.fromkeys(sizes, MOMENTS.at_size(N))
    state = torch.get_rng_state()
    result = run(pipe, sizes, num_inference_steps=20)
    assert torch.equal(torch.get_rng_state(), state)  # upstream's generator is left alone
    order = [0, 3, 1, 2]  # by size: one batch
    z_0 = torch.empty_like(model.z_0)
    z_0[order] = model.z_0
    scores = z_0[..., 3:6].argmax(-1)
    expected = nn.functional.one_hot(scores, 3) * result.mask[..., None]
    assert torch.equal(result.one_hot, expected)
    charges = torch.round(10 * z_0[..., 6:]).long() * result.mask[..., None]
    assert torch.equal(result.charges, charges)
    assert result.mask.sum(1).tolist() == sizes
    assert float(result.positions.sum(1).abs().max()) < 1e-5
    assert float(result.positions[~result.mask].abs().max()) == 0
    again = run(pipe, sizes, num_inference_steps=20)
    assert torch.equal(again.positions, result.positions)
    assert not torch.equal(
        run(pipe, sizes, seed=1, num_inference_steps=20).positions, result.positions
    )
    split = run(pipe, sizes, num_inference_steps=20, batch_size=3)
    torch.testing.assert_close(split.one_hot, result.one_hot)
    assert float((split.positions - result.positions).abs().max()) < 0.05  # noise of the last step


def test_molecules_of_known_elements():
    model = edm(norm_values=(2.0, 4.0, 10.0))
    pipe = pipeline(model, "unipc", elements=ELEMENTS)
    result = run(pipe, [N, N], num_inference_steps=10)
    assert isinstance(result.molecules, MoleculeSet)
    numbers = torch.tensor([1, 6, 8])[result.one_hot.argmax(-1)]
    assert torch.equal(torch.tensor(result.molecules.atomic_numbers.astype(int)), numbers)
    assert (result.molecules.positions == result.positions.numpy()).all()
    z_0 = model.z_0[..., :3]
    assert float((result.positions - 2 * z_0).abs().max()) < 0.1  # angstrom, not model units
    pipe = pipeline(model, "unipc")
    assert run(pipe, [N], num_inference_steps=10).molecules is None


def test_sizes_of_the_data():
    pipe = pipeline(scheduler="unipc", size_counts={N: 7})
    generator = torch.Generator().manual_seed(0)
    result = pipe(3, num_inference_steps=5, generator=generator)
    assert result.mask.sum(1).tolist() == [N] * 3
    with pytest.raises(DataError, match=r"no size_counts. Pass n_atoms"):
        pipeline()(3)
    with pytest.raises(DataError, match="sizes must be 1 or more"):
        as_pipeline(edm(), size_counts={0: 3})


def test_the_lost_element_class():
    """Models without charges never sample their last class, unless it is given back."""
    moments = gaussian_moments(3)
    model = edm(moments, include_charges=False)
    with pytest.warns(GAGAWarning, match=r"never have the last element class.*as_pipeline\("):
        pipe = as_pipeline(model, "unipc")
    pipe.set_progress_bar_config(disable=True)
    lost = run(pipe, (N,) * 20, num_inference_steps=10)
    assert lost.one_hot[..., 2].sum() == 0
    assert lost.charges.shape == (20, N, 0)
    fixed = run(pipeline(model, "unipc", fix_last_class=True), (N,) * 20, num_inference_steps=10)
    assert torch.equal(fixed.one_hot.argmax(-1), model.z_0[..., 3:].argmax(-1))
    assert fixed.one_hot[..., 2].sum() > 0


# -- contexts --------------------------------------------------------------------------------------


def test_context_reaches_the_network_of_its_molecule():
    model = edm(n_context=2)
    model.dynamics.sizes[3] = MOMENTS.at_size(N)
    pipe = pipeline(model, "unipc")
    context = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    run(pipe, [N, 3, N], num_inference_steps=4, context=context)
    expected = context[[1, 0, 2], None] * mask_from_sizes(torch.tensor([3, N, N]))[..., None]
    assert all(torch.equal(seen, expected) for seen in model.dynamics.contexts)
    model.dynamics.contexts.clear()
    per_atom = context[:, None].expand(3, 9, 2)
    run(pipe, [N, 3, N], num_inference_steps=4, context=per_atom)
    assert all(torch.equal(seen, expected) for seen in model.dynamics.contexts)


def test_a_context_narrows_the_law_that_t_star_was_chosen_for():
    model = edm(n_context=2)
    context = torch.zeros(2, 2)
    run(pipeline(model, "unipc"), [N, N], num_inference_steps=3, context=context)  # silent
    pipe = pipeline(model, "unipc")
    pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats=stats_of())
    with pytest.warns(GAGAWarning, match="the context narrows what is to be sampled"):
        run(pipe, [N, N], num_inference_steps=3, context=context)


@pytest.mark.parametrize(
    ("n_context", "context", "message"),
    [
        (2, None, r"conditional. Pass context, \(2, 2\)"),
        (0, torch.zeros(2, 1), "not conditional"),
        (2, torch.zeros(2, 3), r"got a context \(2, 3\). Pass one row per molecule \(2, 2\)"),
        (2, torch.zeros(3, 2), r"got a context \(3, 2\)"),
        (2, torch.zeros(2, 4, 2), "the context is of 4 atoms, a molecule has 5"),
    ],
)
def test_contexts_that_do_not_fit(n_context, context, message):
    with pytest.raises(DataError, match=message):
        run(pipeline(edm(n_context=n_context)), [N, N], num_inference_steps=3, context=context)


# -- GeoLDM ----------------------------------------------------------------------------------------


def test_latents_are_decoded():
    model = geoldm()
    pipe = pipeline(model, "heun", elements=ELEMENTS)
    assert pipe.layout() == AtomLayout(1)
    latents = []
    decode = model.vae.decode

    def keep(z, *masks):
        latents.append(z)
        return decode(z, *masks)

    model.vae.decode = keep
    result = run(pipe, [N, N, N], num_inference_steps=20)
    assert result.network_calls == calls_of(pipe) == 39
    z_0 = model.z_0
    assert float((latents[0][..., :3] - z_0[..., :3]).abs().max()) < 0.05  # the last noise, 0.003
    x, h = decode(latents[0], torch.ones(3, N, 1))
    torch.testing.assert_close(result.positions, x, atol=1e-5, rtol=0)
    assert torch.equal(result.one_hot, h["categorical"].long())
    assert torch.equal(result.charges, h["integer"])
    assert len(result.molecules) == 3


def test_the_lost_class_of_an_autoencoder():
    model = geoldm(charges=False)
    model.vae.decoder.linear.bias[2] = 9  # it wants the last class, always
    with pytest.warns(GAGAWarning, match="never have the last element class"):
        pipe = as_pipeline(model, "unipc")
    pipe.set_progress_bar_config(disable=True)
    assert run(pipe, num_inference_steps=10).one_hot[..., 2].max() == 0
    pipe = pipeline(model, "unipc", fix_last_class=True)
    assert run(pipe, num_inference_steps=10).one_hot[..., 2].min() == 1
    assert type(model.vae) is edm_like.EnHierarchicalVAE


def test_statistics_of_another_latent():
    pipe = pipeline(geoldm(), "unipc")
    elsewhere = {"latent": [[9.0] * 4] * 6}
    stats = GAGAStats(AtomLayout(1), gaussian_moments(1), 0.0, provenance=elsewhere)
    pipe.scheduler = truncated(pipe, stats=stats)
    with pytest.raises(StatsMismatchError, match=r"of another latent.*Fit again"):
        run(pipe, num_inference_steps=10)


# -- what does not fit -----------------------------------------------------------------------------


def test_patched_models_are_refused():
    model = edm()
    pipe = pipeline(model, "unipc")
    apply_patch(model, stats_of(), t_star=500)
    for use in (lambda: as_pipeline(model), lambda: run(pipe, num_inference_steps=5)):
        with pytest.raises(UnsupportedModelError, match=r"is patched. Call remove_patch\(model\)"):
            use()
    remove_patch(model)
    assert run(pipe, num_inference_steps=5).network_calls == 6


@pytest.mark.parametrize("name", ["few-step", "dpm++", None])
def test_a_name_starts_from_pure_noise_until_there_are_statistics(name):
    pipe = pipeline(edm(), name)
    pipe.scheduler.set_timesteps(12)
    assert float(pipe.scheduler.timesteps[0]) >= 950  # of T = 1000
    pipe.scheduler = truncated(pipe)
    pipe.scheduler.set_timesteps(12)
    assert float(pipe.scheduler.timesteps[0]) < 700  # the step of the grid at or beyond t*, 542


def test_other_models_and_names():
    with pytest.raises(UnsupportedModelError, match="Linear"):
        as_pipeline(nn.Linear(2, 2))
    with pytest.raises(UnsupportedSchedulerError, match=r"'ddmp' is unknown. Known: ddpm, ddim"):
        as_pipeline(edm(), "ddmp")
    with pytest.raises(DataError, match=r"got 2 elements \(H, C\), the model has 3 classes"):
        as_pipeline(edm(), elements=("H", "C"))


def test_a_schedule_that_is_no_table():
    model = edm()
    with torch.no_grad():
        model.gamma.gamma[7] = model.gamma.gamma[6]
    with pytest.raises(UnsupportedModelError, match="does not fall at each of its 1000 steps"):
        as_pipeline(model)


def test_statistics_in_other_units(tmp_path):
    """Refused, with the way to use them: the same elements, other scales."""
    pipe = pipeline(scheduler="unipc")
    other = stats_of(gaussian_moments(3), MoleculeLayout(ELEMENTS, 1, 8))
    pipe.scheduler = truncated(pipe, stats=other)
    with pytest.raises(
        StatsMismatchError, match=r"one-hot\[H,C,O\] /8.*the model has .*/4.*in_layout"
    ):
        run(pipe, num_inference_steps=5)
    other.save_pretrained(tmp_path)
    with pytest.warns(GAGAWarning, match="were fitted on"):
        here = in_layout(tmp_path, pipe.layout(ELEMENTS))
    pipe.scheduler = truncated(pipe, stats=here)
    assert torch.isfinite(run(pipe, num_inference_steps=5).positions).all()


def test_saving_is_refused(tmp_path):
    pipe = pipeline()
    with pytest.raises(UnsupportedModelError, match="cannot save a EnVariationalDiffusion"):
        pipe.save_pretrained(tmp_path)


def test_attaching_and_handing_over():
    """Every hand-over starts the same molecules."""
    pipe = pipeline(scheduler="euler")
    own = pipe.scheduler
    made = {}
    for handover in ("auto", "init", "hook"):
        pipe.scheduler = GAGAScheduler.from_pretrained(
            own, stats=stats_of(), reference="size", handover=handover
        )
        if handover == "hook":
            pipe.scheduler.attach(pipe)
        made[handover] = run(pipe, num_inference_steps=20).positions
    torch.testing.assert_close(made["init"], made["auto"])
    torch.testing.assert_close(made["hook"], made["auto"])


# -- the real classes ------------------------------------------------------------------------------


@pytest.mark.upstream
@pytest.mark.parametrize("variable", ["GAGA_EDM_REPO", "GAGA_GEOLDM_REPO"])
def test_the_real_classes(variable):
    found = said(variable, "upstream_pipeline.py")
    assert max(found["posterior"]) < 1e-9
    expected = {  # calls and first time: on the whole path, and from step 550
        "ddpm": [1001, 1.0, 551, 0.55],
        "ddim": [50, 0.98, 29, 0.56],
        "dpm++": [21, 1.0, 12, 0.55],
        "unipc": [21, 1.0, 12, 0.55],
        "euler": [50, 1.0, 28, 0.55102],
        "heun": [49, 1.0, 29, 0.58333],
    }
    assert {name: pytest.approx(row, abs=1e-5) for name, row in expected.items()} == found["calls"]
    assert found["conditional"] == [2, [2, 9, 0]]
    assert found["learned"] == 21
    # variances of z_0 by the class's own sampler and by the pipeline: chi-square each, so that
    # their ratio strays by more than 5 deviations once in 2e6
    (x_own, h_own), (x, h) = found["variances"]
    features = 2 if variable == "GAGA_GEOLDM_REPO" else 6
    assert abs(x / x_own - 1) < 5 * math.sqrt(4 / (3000 * 9))
    assert abs(h / h_own - 1) < 5 * math.sqrt(4 / (3000 * 4 * features))
