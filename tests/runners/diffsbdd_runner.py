"""Run the contract inside a checkout of DiffSBDD, in a process of its own.

Called as `python diffsbdd_runner.py` with the checkout as working directory; writes one JSON object
as its last line. The joint and the conditional model, the network and the data set are the real
ones. `torch_scatter` is stood in for by torch's own reductions, and readers of protein files
(`Bio`), which the models do not use, by an empty module.
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

sys.path[:0] = [str(Path.cwd()), str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
import scattering  # noqa: E402 - beside this file

sys.modules["torch_scatter"] = scattering
for name in ("Bio", "Bio.PDB", "Bio.PDB.Polypeptide"):
    sys.modules[name] = mock.MagicMock(__path__=[], __spec__=None)

import torch  # noqa: E402
from dataset import ProcessedLigandPocketDataset  # noqa: E402 - upstream's
from equivariant_diffusion import conditional_model, dynamics, en_diffusion  # noqa: E402
from fakes import joint_cases  # noqa: E402
from gaga_adapter.integrations import apply_patch  # noqa: E402
from gaga_adapter.integrations.flat import fit_complexes  # noqa: E402
from verdicts import QUICK, checks_of, network_calls  # noqa: E402 - beside this file

from gaga_adapter.errors import UnsupportedModelError  # noqa: E402
from gaga_adapter.testing import CHECKS  # noqa: E402

torch.set_num_threads(1)  # sums over atoms are then in one order, to the last bit
ATOM_NF, RESIDUE_NF = joint_cases.ATOM_NF, joint_cases.RESIDUE_NF


def make(n_steps, schedule="polynomial_2", loss="l2", kind=en_diffusion.EnVariationalDiffusion):
    torch.manual_seed(0)
    network = dynamics.EGNNDynamics(
        ATOM_NF,
        RESIDUE_NF,
        3,
        joint_nf=8,
        hidden_nf=8,
        n_layers=1,
        attention=True,
        tanh=True,
        norm_constant=1,
        inv_sublayers=1,
        update_pocket_coords=kind is en_diffusion.EnVariationalDiffusion,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # upstream prints entropies and schedules
        model = kind(
            network,
            ATOM_NF,
            RESIDUE_NF,
            3,
            np.ones((40, 40)),
            timesteps=n_steps,
            noise_schedule=schedule,
            noise_precision=1e-4,
            loss_type=loss,
            norm_values=(1.0, 4.0),
        )
    return model.eval()


CASE = joint_cases.JointCase(
    "DiffSBDD", make, options=frozenset({"schedule", "loss"}), verbs=frozenset({"sample", "loss"})
)


def the_conditional_model_is_refused(case):
    model = make(case.n_steps, kind=conditional_model.ConditionalDDPM)
    with joint_cases.raises(UnsupportedModelError, "a pocket fixes the law of a ligand"):
        apply_patch(model, None, t_star=5)


def complexes(folder):
    """A data set of upstream's own form, of three hundred complexes."""
    generator, columns = np.random.default_rng(0), {}
    for name, width, least in (("lig", ATOM_NF, 4), ("pocket", RESIDUE_NF, 8)):
        sizes = generator.integers(least, least + 6, 300)
        mask = np.repeat(np.arange(300), sizes)
        columns[f"{name}_mask"] = mask
        columns[f"{name}_coords"] = 3 * generator.normal(size=(len(mask), 3)).astype("float32")
        columns[f"{name}_one_hot"] = np.eye(width)[generator.integers(width, size=len(mask))]
    path = Path(folder) / "train.npz"
    np.savez(path, names=np.arange(300).astype(str), **columns)
    return ProcessedLigandPocketDataset(path)


def fits():
    """What a fit from upstream's own loader finds of the parts, and the step."""
    model = CASE.model()
    with tempfile.TemporaryDirectory() as folder:
        data = complexes(folder)
    loader = torch.utils.data.DataLoader(data, batch_size=50, collate_fn=data.collate_fn)
    stats = fit_complexes(model, loader, **{**QUICK, "tolerance": 5.0})
    handle = apply_patch(model, stats)
    CASE.sample(model)
    CASE.loss(model)
    return [[part.layout.describe(), part.moments.count] for part in stats.parts] + [handle.t_star]


def main():
    own = [the_conditional_model_is_refused]
    checks = {**CHECKS, **joint_cases.CHECKS, **{check.__name__: check for check in own}}
    report = {
        "codebase": "DiffSBDD",
        "checks": checks_of("DiffSBDD", checks, CASE),
        "calls": network_calls(CASE),
        "fits": fits(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
