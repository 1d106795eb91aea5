"""What a checkout of EDM or GeoLDM does as a diffusers pipeline; prints its findings as JSON.

Run with the root of the checkout as working directory.
"""

import contextlib
import copy
import io
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import torch
from egnn import models
from equivariant_diffusion import en_diffusion
from gaga_adapter.integrations.sampling.pipeline import as_pipeline
from torch import nn

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.moments import ExchangeableMoments

LATENT = hasattr(en_diffusion, "EnLatentDiffusion")
ELEMENTS = ("H", "C", "N", "O", "F")
PAIRS = [(1000, 999), (1000, 990), (501, 500), (700, 300), (11, 10), (2, 1), (1, 0), (10, 0)]
SOLVERS = {"ddpm": None, "ddim": 50, "dpm++": 20, "unipc": 20, "euler": 50, "heun": 25}


def egnn(cls, **options):
    return cls(n_dims=3, hidden_nf=8, n_layers=1, **options)


def build(charges=True, context=0, n_steps=1000, schedule="polynomial_2", dynamics=None):
    features = 2 if LATENT else 5 + charges
    shared = {"n_dims": 3, "norm_values": [1, 4, 10], "include_charges": charges}
    network = {"in_node_nf": features + 1, "context_node_nf": context}
    options = {
        "dynamics": dynamics or egnn(models.EGNN_dynamics_QM9, **network),
        "in_node_nf": features,
        "timesteps": n_steps,
        "noise_schedule": schedule,
        "noise_precision": 1e-5,
        "loss_type": "vlb" if schedule == "learned" else "l2",
        **shared,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        if not LATENT:
            return en_diffusion.EnVariationalDiffusion(**options).eval()
        ends = {"context_node_nf": context, "include_charges": charges}
        vae = en_diffusion.EnHierarchicalVAE(
            encoder=egnn(
                models.EGNN_encoder_QM9, in_node_nf=5 + charges, out_node_nf=features, **ends
            ),
            decoder=egnn(
                models.EGNN_decoder_QM9, in_node_nf=features, out_node_nf=5 + charges, **ends
            ),
            in_node_nf=5 + charges,
            latent_node_nf=features,
            kl_weight=0.01,
            **shared,
        )
        return en_diffusion.EnLatentDiffusion(vae=vae, **options)


def pipeline(model, *arguments, **options):
    pipe = as_pipeline(model, *arguments, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded():
    return torch.Generator().manual_seed(1)


def masks(n_samples, n_atoms):
    edges = (1 - torch.eye(n_atoms)).repeat(n_samples, 1, 1).view(-1, 1)
    return torch.ones(n_samples, n_atoms, 1), edges


def posterior():
    """Errors of mean and standard deviation of p(z_s | z_t) against the class itself, float64.

    Relative: to the largest entry of the mean, and to the deviation.
    """
    model = build()
    scheduler = pipeline(model).scheduler
    model = copy.deepcopy(model).double()
    node_mask, edge_mask = (mask.double() for mask in masks(16, 7))
    draw = model.sample_combined_position_feature_noise
    z, eps = (draw(16, 7, node_mask).double() for _ in range(2))
    model.phi = lambda *arguments: eps
    of_mean, of_deviation = 0.0, 0.0
    for t, s in [*PAIRS, (1000, 0)]:
        kept = {}

        def keep(mu, sigma, mask, fix_noise, kept=kept):
            kept.update(mu=mu, sigma=sigma)
            return mu

        model.sample_normal = keep
        times = (torch.full((16, 1), step / 1000, dtype=torch.float64) for step in (s, t))
        model.sample_p_zs_given_zt(*times, z, node_mask, edge_mask, None)
        scheduler.set_timesteps(timesteps=[t, s])
        whole = scheduler.step(eps, t, z, generator=seeded()).prev_sample
        noise = scheduler.step(0 * eps, t, 0 * z, generator=seeded()).prev_sample
        unit = torch.randn(z.shape, generator=seeded(), dtype=z.dtype)
        error = (whole - noise - kept["mu"]).abs().max() / kept["mu"].abs().max()
        of_mean = max(of_mean, float(error))
        of_deviation = max(of_deviation, float((noise / unit / kept["sigma"] - 1).abs().max()))
    return [of_mean, of_deviation]


def network_calls(name, n_steps):
    """Calls and first time of the network, on the whole path and from step 550 on."""
    model = build()
    moments = ExchangeableMoments(model.in_node_nf)
    scales = torch.tensor([1.4] * 3 + [0.2] * model.in_node_nf)
    moments.update(scales * torch.randn(500, 7, 3 + model.in_node_nf, generator=seeded()))
    forward, times = model.dynamics._forward, []

    def counted(t, *rest):
        times.append(float(t.flatten()[0]))
        return forward(t, *rest)

    model.dynamics._forward = counted
    pipe = pipeline(model, name)
    whole = pipe.scheduler
    stats = GAGAStats(pipe.layout(ELEMENTS), moments, 0.0)
    found = []
    for scheduler in (whole, GAGAScheduler.from_pretrained(whole, stats=stats, t_star=550)):
        pipe.scheduler = scheduler
        times.clear()
        result = pipe(n_atoms=[7, 5], num_inference_steps=n_steps, generator=seeded())
        assert torch.isfinite(result.positions).all()
        assert result.one_hot.sum(-1).eq(result.mask).all()
        assert result.network_calls == len(times)
        found += [len(times), times[0]]
    return found


def conditional():
    """A conditional model without charges, all element classes."""
    pipe = pipeline(
        build(charges=False, context=1), "unipc", elements=ELEMENTS, fix_last_class=True
    )
    context = torch.tensor([[0.5], [-1.0]])
    result = pipe(n_atoms=[9, 9], num_inference_steps=5, context=context)
    return [len(result.molecules), list(result.charges.shape)]


class Gaussian(nn.Module):
    """The exact network of molecules with variances 2 and 0.3."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.schedule = None

    def _forward(self, t, xh, node_mask, edge_mask, context):
        gamma = self.schedule[0](t[:1])
        a2, b2 = torch.sigmoid(-gamma), torch.sigmoid(gamma)
        v = torch.cat([torch.full((3,), 2.0), torch.full((xh.shape[-1] - 3,), 0.3)])
        return (xh - a2 * v / (a2 * v + b2) * xh) / b2.sqrt()


def variances():
    """Of positions and features of z_0: the class's own sampler, then the pipeline's."""
    model = build(n_steps=100, dynamics=Gaussian())
    model.dynamics.schedule = [model.gamma]  # in a list, so that it is no second parent of it
    last, ends = model.sample_p_xh_given_z0, []

    def keep(z_0, *arguments, **options):
        ends.append(z_0)
        return last(z_0, *arguments, **options)

    model.sample_p_xh_given_z0 = keep
    torch.manual_seed(0)
    model.sample(3000, 4, *masks(3000, 4), None)
    pipeline(model)(n_atoms=[4] * 3000, batch_size=3000, generator=seeded())
    degrees = 3000 * 9
    return [
        [float(z[..., :3].square().sum() / degrees), float(z[..., 3:].square().mean())]
        for z in ends
    ]


if __name__ == "__main__":
    torch.manual_seed(0)
    findings = {
        "posterior": posterior(),
        "calls": {name: network_calls(name, n_steps) for name, n_steps in SOLVERS.items()},
        "conditional": conditional(),
        "learned": pipeline(build(schedule="learned", n_steps=200), "unipc")(
            n_atoms=[9], num_inference_steps=20
        ).network_calls,
        "variances": variances(),
    }
    print(json.dumps(findings))
