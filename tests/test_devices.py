"""Nothing breaks on a GPU: every path is run on a stand-in for one, and gives what the CPU gives.

The stand-in (`fakes/device.py`) holds its numbers on the CPU, so that results agree to the bit, and
refuses what a GPU refuses: operands of two devices, a generator of another one, `.numpy()`.
"""

import diffusers
import pytest
import torch
from fakes.cases import make_edm
from fakes.device import stand_in
from gaga_adapter.integrations.karras import truncate_sigmas
from gaga_adapter.integrations.sampling.pipeline import as_pipeline
from toys import dense_moments, gaussian_molecules, generator

from gaga_adapter import (
    FewStepScheduler,
    FlowPath,
    GAGAScheduler,
    GAGAStats,
    TruncatedTimesteps,
    apply_patch,
    fit,
    fit_levels,
    named_path,
    truncated_elbo,
)
from gaga_adapter.criteria import Certificate
from gaga_adapter.criteria import criterion as criterion_named
from gaga_adapter.layout import DenseLayout, MoleculeLayout
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.molecules.pipeline import MoleculePipeline, edm_scheduler
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.training.decoders import Continuous

pytestmark = pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning")  # few items

ELEMENTS = ("H", "C", "N", "O", "F")
X, MASK = gaussian_molecules([3, 4, 5, 6] * 40, n_features=5)
IMAGES = torch.randn(200, 3, 4, 4, generator=generator())


def molecule_stats(n_features=5):
    x, mask = gaussian_molecules([3, 4, 5, 6] * 40, n_features)
    moments = ExchangeableMoments(n_features)
    moments.update(x, mask)
    charges = 10 if n_features == 6 else None
    return GAGAStats(MoleculeLayout(ELEMENTS, charge_scale=charges), moments, 0.0)


def dense_stats(kind="channel"):
    return GAGAStats(DenseLayout((3, 4, 4)), dense_moments(IMAGES, kind), 0.0)


def denoiser():
    torch.manual_seed(0)
    return MoleculeDenoiser(width=16, pair_width=8, n_layers=1, n_vectors=2, n_heads=2).eval()


def agree(work):
    """What `work(device)` gives on both, tensors or numbers by name, is the same."""
    here = work("cpu")
    with stand_in() as device:
        there = work(device)
        there = {name: torch.as_tensor(value).cpu() for name, value in there.items()}
    for name, value in here.items():
        torch.testing.assert_close(there[name], torch.as_tensor(value), msg=name)


# -- the stand-in itself ---------------------------------------------------------------------------


def test_the_stand_in_refuses_what_a_gpu_refuses():
    with stand_in() as device:
        there, here = torch.zeros(3, 4, device=device), torch.ones(3, 4)
        assert there.device == device
        assert (there + 1).device == torch.ones(2).to(device).device == device
        assert torch.as_tensor(there, dtype=torch.float64).device == device
        assert there[torch.tensor([0, 1])].shape == (2, 4)
        assert torch.tensor([1.0], device=device).item() == 1.0
        for mixed in (
            lambda: there + here,
            lambda: here + there,
            lambda: here.add_(there[0, 0]),
            lambda: torch.cat([there, here]),
            lambda: torch.where(there > 0, here, there),
            lambda: here[there[0].long()],
            lambda: torch.nn.Linear(4, 2)(there),
        ):
            with pytest.raises(RuntimeError, match="on the same device"):
                mixed()
        with pytest.raises(RuntimeError, match="type for generator"):
            torch.randn(3, device=device, generator=generator())
        with pytest.raises(TypeError, match="to numpy"):
            there.numpy()
    assert torch.zeros(1).device.type == "cpu"


# -- fit and judge ---------------------------------------------------------------------------------


def test_fits():
    def work(device):
        of_molecules = fit(
            [(X.to(device), MASK.to(device))],
            criterion="cumulant",
            tolerance=1e6,
            n_bootstrap=0,
            log_snr=(0.0, -1.0),
        )
        of_images = fit(
            [IMAGES.to(device)],
            criterion="cumulant",
            tolerance=1e6,
            n_bootstrap=0,
            log_snr=(0.0, -1.0),
        )
        return {
            "molecules": of_molecules.log_snr_star,
            "images": of_images.log_snr_star,
            **{f"moments {k}": v for k, v in of_molecules.moments.state_dict().items()},
        }

    agree(work)


class Shrinking(torch.nn.Module):
    """The best denoiser of unit noise."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, noisy, sigma, mask=None):
        return self.one / (self.one + sigma**2) * noisy


@pytest.mark.parametrize("name", ["two_sample", "cumulant", "ks_mi", "certificate"])
def test_criteria(name):
    def work(device):
        if name == "certificate":
            network = Shrinking().to(device).eval()
            judge = Certificate(network, n_samples=32, noisiest=-3.0, step=1.0)
        else:
            judge = criterion_named(name)
        levels, found = torch.tensor([0.5]), {}
        for what, stats, data in (
            ("molecules", molecule_stats(), (X, MASK)),
            ("images", dense_stats(), (IMAGES, None)),
        ):
            x, mask = (None if one is None else one.to(device) for one in data)
            curve = judge.curve(x, mask, stats.reference(), levels, generator=generator())
            found[what] = torch.tensor(curve.value)
        return found

    agree(work)


# -- references ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shape", "size", "channel", "unit", "paper"])
def test_references_of_molecules(kind):
    law = molecule_stats().reference(kind).at(0.7, 0.7)

    def work(device):
        x, mask = X[:16].to(device), MASK[:16].to(device)
        return {
            "transport": law.transport(x, mask),
            "density": law.log_prob(x, mask),
            "divergence": law.kl_from_posterior(x, mask),
            "draw": law.sample(mask.sum(1), generator=generator(), device=device),
        }

    agree(work)


@pytest.mark.parametrize("kind", ["channel", "element", "low_rank", "full"])
def test_references_of_images(kind):
    law = dense_stats(kind).reference().at(0.7, 0.7)

    def work(device):
        x = IMAGES.to(device)
        return {
            "transport": law.transport(x),
            "density": law.log_prob(x),
            "divergence": law.kl_from_posterior(x),
            "draw": law.sample((2, 3, 4, 4), generator=generator(), device=device),
        }

    agree(work)


# -- sample ----------------------------------------------------------------------------------------

SCHEDULERS = {
    "DDPM": lambda base: base,
    "few steps": FewStepScheduler.from_scheduler,
    "DPM-Solver": lambda base: diffusers.DPMSolverMultistepScheduler.from_config(base.config),
    "Euler": lambda base: diffusers.EulerDiscreteScheduler.from_config(base.config),
    "flow": lambda base: diffusers.FlowMatchEulerDiscreteScheduler(),
    "Karras": lambda base: diffusers.EDMEulerScheduler(),
}


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_molecule_pipelines(name, truncated):
    def work(device):
        pipe = MoleculePipeline(denoiser().to(device), edm_scheduler())
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = SCHEDULERS[name](pipe.scheduler)
        if truncated:
            pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, molecule_stats())
        options = {"num_inference_steps": 20, "generator": generator(), "output_type": "tensor"}
        return {"samples": pipe(n_atoms=[3, 5, 4], **options).molecules}

    agree(work)


@pytest.mark.parametrize("handover", ["init", "step"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_loops_of_diffusers(name, handover):
    base = SCHEDULERS[name](diffusers.DDPMScheduler())

    def work(device):
        scheduler = GAGAScheduler.from_pretrained(base, dense_stats(), handover=handover)
        scheduler.set_timesteps(20, device=device)
        x = IMAGES[:8].to(device) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            seen = x
            if hasattr(scheduler, "scale_model_input"):
                seen = scheduler.scale_model_input(x, t)
            drawn = {"generator": generator()}
            x = scheduler.step(0.1 * seen, t, x, **drawn).prev_sample
        return {"samples": x}

    agree(work)


def test_other_codebases():
    def work(device):
        model = make_edm(50).to(device)
        pipe = as_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        stats = molecule_stats(6)
        pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats)
        ends = pipe(n_atoms=[3, 5], num_inference_steps=10, generator=generator())
        sigmas, start = truncate_sigmas(torch.linspace(5, 0.01, 20).to(device), dense_stats())
        return {
            "calls": ends.network_calls,
            "sigmas": sigmas,
            "start": start.transport(IMAGES.to(device)),
            "drawn": start.initial_sample((2, 3, 4, 4), generator=generator(), device=device),
        }

    agree(work)


def test_patched_models_train_and_sample():
    with stand_in() as device:
        model = make_edm(50).to(device)
        apply_patch(model, molecule_stats(6), t_star=20)
        x, mask = (one[:4].to(device) for one in gaussian_molecules([3, 4, 5, 6], 6))
        nodes = mask[..., None].float()
        edges = (mask[:, :, None] & mask[:, None]).reshape(-1, 1).float()
        features = {"categorical": x[..., 3:8], "integer": x[..., 8:]}
        loss = model.train()(x[..., :3], features, nodes, edges, None)
        loss.mean().backward()
        assert next(model.parameters()).grad.device == device
        positions, _ = model.eval().sample(4, mask.shape[1], nodes, edges, None)
        assert positions.device == device


# -- train -----------------------------------------------------------------------------------------


def test_training():
    def work(device):
        scheduler = GAGAScheduler.from_pretrained(edm_scheduler(), molecule_stats())
        x, mask = X.to(device), MASK.to(device)
        timesteps = scheduler.sample_timesteps(len(x), generator(), device=device)
        noisy = scheduler.add_noise(x, x.flip(0), timesteps)
        denoiser().to(device)(noisy, 0.5, mask).sample.sum().backward()
        found = {"timesteps": timesteps, "noisy": noisy}
        for law in (
            TruncatedTimesteps.table(scheduler.training_timesteps(), importance=True),
            TruncatedTimesteps.uniform(0.5, importance=True),
            TruncatedTimesteps.log_normal(1.0, importance=True),
            TruncatedTimesteps.logit_normal(0.5, importance=True),
        ):
            for _ in range(2):
                drawn = law.sample(8, generator(), device=device)
                found[type(law.density).__name__] = law.weights(drawn)
                law.update(drawn, drawn.float() + 1)
        return found

    agree(work)


def test_bounds():
    def work(device):
        bound = truncated_elbo(
            denoiser().to(device),
            X[:8].to(device),
            MASK[:8].to(device),
            named_path("edm/polynomial_2"),
            molecule_stats(),
            n_levels=4,
            decoder=Continuous(),
            generator=generator(),
        )
        return {"prior": bound.prior, "nats": bound.nats}

    agree(work)


def test_fitted_levels():
    def work(device):
        data = X[:24].to(device), MASK[:24].to(device)
        pipe = MoleculePipeline(denoiser().to(device), edm_scheduler())
        found = fit_levels(pipe, molecule_stats(), 3, data, n_items=24)
        return {"levels": torch.tensor(found.log_snrs)}

    agree(work)


def test_paths():
    def work(device):
        t = torch.linspace(0.1, 0.9, 5).to(device)
        found = {}
        for path in (named_path("edm/polynomial_2"), named_path("karras/edm"), FlowPath(2.0)):
            levels = path.log_snr(t)
            values = torch.stack([path.a(t), path.b(t), path.time_at_log_snr(levels)])
            assert values.device == levels.device == t.device
            found[repr(path)] = values
        return found

    agree(work)
