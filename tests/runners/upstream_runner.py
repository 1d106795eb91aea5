"""Run the contract inside a checkout of EDM or GeoLDM, in a process of its own.

The two repositories have modules of the same names, so one process sees one of them. Called as
`python upstream_runner.py KIND` with the checkout as working directory; writes one JSON object,
`{"checks": {name: outcome}, "calls": ..., "bound": ...}`, as its last line.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path.cwd()), str(Path(__file__).parents[1])]

import gaussian_bound  # noqa: E402
import torch  # noqa: E402
from equivariant_diffusion import en_diffusion  # noqa: E402 - upstream's
from family import ALL, Fork  # noqa: E402 - beside this file
from gaga_adapter.integrations import apply_patch, fit_from  # noqa: E402
from qm9.data.collate import PreprocessQM9  # noqa: E402 - upstream's
from qm9.data.dataset_class import ProcessedDataset  # noqa: E402
from verdicts import QUICK, checks_of, molecules, network_calls  # noqa: E402 - beside this file

from gaga_adapter import testing  # noqa: E402

torch.set_num_threads(1)  # sums over atoms are then in one order, to the last bit

CASES = {
    "edm": Fork("EDM"),
    "geoldm": Fork("GeoLDM", kind="EnLatentDiffusion", options=ALL | {"trainable"}),
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
        loader = torch.utils.data.DataLoader(
            ProcessedDataset(molecules(), subtract_thermo=False),
            batch_size=64,
            shuffle=True,
            collate_fn=PreprocessQM9(load_charges=charges).collate_fn,
        )
        stats = fit_from(model, loader, **QUICK)
        handle = apply_patch(model, stats, fix_last_class=True)
        case.sample(model)
        case.loss(model)
        found[str(charges)] = [stats.layout.describe(), stats.moments.count, handle.t_star]
    return found


def main():
    case = CASES[sys.argv[1]]
    report = {
        "checks": checks_of(case.name, testing.CHECKS, case),
        "calls": network_calls(case),
        "fits": fits(case),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # upstream prints its schedules
        report["bound"] = bounds()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
