"""Run the contract inside a checkout of EDM or GeoLDM, in a process of its own.

The two repositories have modules of the same names, so one process sees one of them. Called as
`python upstream_runner.py KIND` with the checkout as working directory; writes one JSON object,
`{"checks": {name: outcome}, "calls": ..., "bound": ...}`, as its last line.
"""

import contextlib
import io
import json
import sys
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path.cwd()), str(Path(__file__).parents[1])]

import gaussian_bound  # noqa: E402
import torch  # noqa: E402
from egnn import models  # noqa: E402 - upstream's, as the next three
from equivariant_diffusion import en_diffusion  # noqa: E402
from gaga_adapter.integrations import apply_patch, fit_from  # noqa: E402
from qm9.data.collate import PreprocessQM9  # noqa: E402
from qm9.data.dataset_class import ProcessedDataset  # noqa: E402

from gaga_adapter import testing  # noqa: E402


def network(n_in, n_context, **options):
    return models.EGNN_dynamics_QM9(
        in_node_nf=n_in + 1,
        context_node_nf=n_context,
        n_dims=3,
        device="cpu",
        hidden_nf=8,
        n_layers=1,
        attention=True,
        tanh=True,
        inv_sublayers=1,
        **options,
    )


def diffusion(kind, n_features, n_steps, schedule, loss, charges, context, **options):
    return kind(
        dynamics=network(n_features, context),
        in_node_nf=n_features,
        n_dims=3,
        timesteps=n_steps,
        noise_schedule=schedule,
        noise_precision=1e-4,
        loss_type=loss,
        norm_values=(1.0, 4.0, 10.0),
        include_charges=charges,
        **options,
    )


def make_edm(n_steps, schedule="polynomial_2", loss="l2", charges=True, context=0):
    torch.manual_seed(0)
    kind = en_diffusion.EnVariationalDiffusion
    return diffusion(kind, 5 + charges, n_steps, schedule, loss, charges, context).eval()


def make_geoldm(
    n_steps, schedule="polynomial_2", loss="l2", charges=True, context=0, trainable=False
):
    torch.manual_seed(0)
    coder = {
        "context_node_nf": context,
        "n_dims": 3,
        "device": "cpu",
        "hidden_nf": 8,
        "n_layers": 1,
        "include_charges": charges,
    }
    vae = en_diffusion.EnHierarchicalVAE(
        encoder=models.EGNN_encoder_QM9(in_node_nf=5 + charges, out_node_nf=2, **coder),
        decoder=models.EGNN_decoder_QM9(in_node_nf=2, out_node_nf=5 + charges, **coder),
        in_node_nf=5 + charges,
        n_dims=3,
        latent_node_nf=2,
        kl_weight=0.01,
        include_charges=charges,
    )
    kind, options = en_diffusion.EnLatentDiffusion, {"vae": vae, "trainable_ae": trainable}
    return diffusion(kind, 2, n_steps, schedule, loss, charges, context, **options).eval()


torch.set_num_threads(1)  # sums over atoms are then in one order, to the last bit

CASES = {
    "edm": testing.Case("EDM", make_edm),
    "geoldm": testing.Case(
        "GeoLDM",
        make_geoldm,
        options=frozenset({"schedule", "loss", "charges", "context", "trainable"}),
    ),
}


def bounds():
    """Measured and closed-form bounds of the unmodified class by t*, for Gaussian data."""
    model = en_diffusion.EnVariationalDiffusion(
        dynamics=torch.nn.Linear(1, 1),
        in_node_nf=1,
        n_dims=3,
        timesteps=1000,
        noise_schedule="polynomial_2",
        noise_precision=1e-5,
        loss_type="vlb",
        norm_values=(1.0, 4.0, 10.0),
        include_charges=False,
    )
    gamma = gaussian_bound.gamma_of(model)
    return {
        t_star: [gaussian_bound.measured(model, t_star), *gaussian_bound.closed_form(gamma, t_star)]
        for t_star in (1, 100, 300, 550, 800, 1000)
    }


def fits(case):
    """The layout and the elements that a fit from upstream's own loader finds, by charges."""
    found = {}
    for charges in (True, False):
        model = case.model(charges=charges)
        generator = torch.Generator().manual_seed(3)
        n_atoms = torch.randint(4, 10, (600,), generator=generator)
        mask = torch.arange(9) < n_atoms[:, None]
        numbers = torch.tensor([1, 6, 7, 8, 9])[torch.randint(5, mask.shape, generator=generator)]
        data = {
            "num_atoms": n_atoms,
            "charges": numbers * mask,
            "positions": torch.randn(600, 9, 3, generator=generator) * mask[..., None],
        }
        loader = torch.utils.data.DataLoader(
            ProcessedDataset(data, subtract_thermo=False),
            batch_size=64,
            shuffle=True,
            collate_fn=PreprocessQM9(load_charges=charges).collate_fn,
        )
        stats = fit_from(
            model,
            loader,
            criterion="cumulant",
            reference="size",
            tolerance=3.0,
            log_snr=(0.0, -3.0, -6.0),
            n_bootstrap=0,
        )
        handle = apply_patch(model, stats, fix_last_class=True)
        case.sample(model)
        case.loss(model)
        found[str(charges)] = [stats.layout.describe(), stats.moments.count, handle.t_star]
    return found


def outcome(check, case):
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # upstream prints its schedules
            check(case)
    except testing.NotApplicable as reason:
        return f"skipped: {reason}"
    except BaseException:
        return f"failed: {traceback.format_exc()}"
    return "passed"


def main():
    case = CASES[sys.argv[1]]
    started = time.perf_counter()
    checks = {name: outcome(check, case) for name, check in testing.CHECKS.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        model = case.model(1000)
        full = len(case.network_inputs(model, lambda: case.sample(model)))
        apply_patch(model, case.stats(model), t_star=550)
        cut = len(case.network_inputs(model, lambda: case.sample(model)))
        bound, fitted = bounds(), fits(case)
    seconds = time.perf_counter() - started
    report = {"checks": checks, "calls": [full, cut], "bound": bound, "fits": fitted}
    print(json.dumps({**report, "seconds": seconds}))


if __name__ == "__main__":
    main()
