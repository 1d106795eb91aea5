"""Run the contract inside a checkout of GCDM (bio-diffusion), in a process of its own.

Called as `python gcdm_runner.py` with the checkout as working directory; writes one JSON object as
its last line. The diffusion model, both of its networks, the data set and the loader are the real
ones. What the tested path does not use, or what has no version for this Python, is stood in for:

- `torch_scatter.scatter` by torch's own `scatter_reduce`;
- `torchtyping` and `typeguard`, which check shapes with attributes that tensors do not have any
  more, by a class and a function that check nothing;
- trackers, plots, readers of files and the training loop (`EMPTY` below) by empty modules.
"""

import contextlib
import functools
import io
import json
import sys
import types
import warnings
from pathlib import Path
from unittest import mock

sys.path[:0] = [str(Path.cwd()), str(Path(__file__).parents[1])]

import gaussian_bound  # noqa: E402
import torch  # noqa: E402
import torch_geometric.data  # noqa: E402
import torch_geometric.loader  # noqa: E402
import torch_geometric.nn  # noqa: E402 - before the stand-ins, which it would look for
import torch_geometric.utils  # noqa: E402
from fakes import flat_cases  # noqa: E402
from gaga_adapter.integrations import apply_patch, fit_from, patched  # noqa: E402
from scattering import scatter  # noqa: E402 - beside this file
from verdicts import QUICK, checks_of, molecules, network_calls  # noqa: E402 - as well

from gaga_adapter.testing import CHECKS  # noqa: E402

EMPTY = """
imageio msgpack openbabel openbabel.pybel posebusters prody pymol torch_cluster torchviz
hydra hydra.core hydra.core.hydra_config matplotlib.axes._subplots
wandb wandb.sdk wandb.sdk.wandb_run
pytorch_lightning pytorch_lightning.loggers pytorch_lightning.callbacks
pytorch_lightning.utilities pytorch_lightning.utilities.rank_zero
pytorch_lightning.utilities.exceptions pytorch_lightning.utilities.types torchmetrics
"""


class AnyShape:
    def __class_getitem__(cls, shape):
        return torch.Tensor


def module(name, **content):
    made = types.ModuleType(name)
    vars(made).update(content)
    sys.modules[name] = made


def stand_in():
    for name in EMPTY.split():
        sys.modules[name] = mock.MagicMock(__path__=[], __spec__=None)
    sys.modules["pytorch_lightning.utilities"].rank_zero_only = lambda function: function
    module("torch_scatter", scatter=scatter)
    module("torchtyping", TensorType=AnyShape, patch_typeguard=lambda: None)
    module("typeguard", typechecked=lambda function: function)
    for name, classes in {
        "pytorch_lightning": ("Callback", "LightningModule"),
        "pytorch_lightning.callbacks": ("ModelCheckpoint",),
        "matplotlib.axes._subplots": ("Axes",),
        "wandb.sdk.wandb_run": ("Run",),
    }.items():
        for kind in classes:
            setattr(sys.modules[name], kind, object)


warnings.filterwarnings("ignore", category=UserWarning, module="src")
stand_in()

from omegaconf import OmegaConf  # noqa: E402
from src.datamodules.components.edm.datasets_config import QM9_WITH_H  # noqa: E402 - upstream's
from src.datamodules.components.edm_dataset import ProcessedDataset  # noqa: E402
from src.models.components import gcpnet, variational_diffusion  # noqa: E402
from src.models.qm9_mol_gen_ddpm import QM9MoleculeGenerationDDPM  # noqa: E402

torch.set_num_threads(1)  # sums over atoms are then in one order, to the last bit


def configuration(name):
    return OmegaConf.load(Path("configs") / f"{name}.yaml")


def make(
    n_steps,
    schedule="polynomial_2",
    loss="l2",
    charges=True,
    context=0,
    self_condition=False,
    n_types=5,
    precision=1e-4,
):
    """A model by upstream's own configuration of QM9, with a small network."""
    diffusion = configuration("model/diffusion_cfg/qm9_mol_gen_ddpm")
    diffusion.merge_with(
        {
            "num_timesteps": n_steps,
            "noise_schedule": schedule,
            "noise_precision": precision,
            "loss_type": loss,
            "self_condition": self_condition,
        }
    )
    data = configuration("datamodule/dataloader_cfg/edm_qm9_dataloader")
    data.merge_with({"include_charges": charges, "num_atom_types": n_types})
    model = configuration("model/model_cfg/qm9_mol_gen_ddpm_gcp_model")
    small = {"h_hidden_dim": 8, "chi_hidden_dim": 4, "e_hidden_dim": 8, "xi_hidden_dim": 4}
    model.merge_with({**small, "num_encoder_layers": 1})
    layers = configuration("model/layer_cfg/qm9_mol_gen_ddpm_gcp_interaction_layer")
    layers.mp_cfg = configuration("model/layer_cfg/mp_cfg/qm9_mol_gen_ddpm_gcp_mp")
    layers.mp_cfg.num_message_layers = 1
    plain = OmegaConf.to_container(configuration("model/module_cfg/qm9_mol_gen_ddpm_gcp_module"))
    plain |= {"nonlinearities": ["silu", "silu"], "conditioning": ["alpha", "gap"][:context]}
    plain["selected_GCP"] = functools.partial(gcpnet.GCP2)
    parts = OmegaConf.create(plain, flags={"allow_objects": True})
    torch.manual_seed(0)
    network = gcpnet.GCPNetDynamics(
        model_cfg=model,
        module_cfg=parts,
        layer_cfg=layers,
        diffusion_cfg=diffusion,
        dataloader_cfg=data,
    )
    kind = variational_diffusion.EquivariantVariationalDiffusion
    return kind(network, diffusion, data, QM9_WITH_H).eval()


CASE = flat_cases.GCDMCase(
    "GCDM",
    make,
    options=flat_cases.GCDM_OPTIONS - {"schedule"},  # upstream's GammaNetwork cannot be made
    verbs=frozenset({"sample", "loss"}),
    elements=("H", "C", "N", "O", "F"),
    graphs=torch_geometric.data.Batch,
)


def fits():
    """The layout, the count and the step of a fit from upstream's own loader, by charges."""
    found = {}
    for charges in (True, False):
        model = CASE.model(charges=charges)
        data = {**molecules(), "index": torch.arange(600)}
        data = ProcessedDataset(data, subtract_thermo=False)
        loader = torch_geometric.loader.DataLoader(data, batch_size=64, shuffle=True)
        stats = fit_from(model, loader, **QUICK)
        handle = apply_patch(model, stats)
        CASE.sample(model)
        CASE.loss(model)
        found[str(charges)] = [stats.layout.describe(), stats.moments.count, handle.t_star]
    return found


class ExactDenoiser(gaussian_bound.ExactDenoiser):
    """The exact network of these data as one of GCDM."""

    def forward(self, batch, xh, t, **kwargs):
        molecules = xh.view(-1, gaussian_bound.N_ATOMS, xh.shape[-1])
        t = t.view(len(molecules), -1)[:, 0]
        return batch, self._forward(t, molecules, None, None, None).flatten(0, 1)


def bounds():
    """Measured and closed-form bounds by t*, for Gaussian data, as the training loop adds them up.

    The terms are put together by upstream's own Lightning module, which multiplies by its own
    number of steps; the prior of the sizes is taken off.
    """
    model = make(1000, loss="vlb", charges=False, n_types=1, precision=1e-5)
    gamma = gaussian_bound.gamma_of(model)
    return {
        t_star: [measured(model, gamma, t_star), *gaussian_bound.closed_form(gamma, t_star)]
        for t_star in (1, 100, 550, 1000)
    }


def measured(model, gamma, t_star):
    """The mean of the loss in evaluation mode, every time drawn equally often."""
    x = gaussian_bound.data(t_star * -(-4000 // t_star))
    model.dynamics_network = network = ExactDenoiser(gamma)
    stats = gaussian_bound.stats_of(x)
    index = torch.arange(len(x)).repeat_interleave(gaussian_bound.N_ATOMS)
    batch = torch_geometric.data.Batch(
        x=x.flatten(0, 1),
        one_hot=torch.ones(len(index), 1),
        charges=torch.zeros(0),
        batch=index,
        mask=torch.ones_like(index).bool(),
    )
    loop = types.SimpleNamespace(
        ddpm=model,
        T=1000,
        training=False,
        loss_type="vlb",
        num_x_dims=3,
        condition_on_context=False,
        metrics_to_monitor=[],
    )
    torch.manual_seed(1)  # not the seed of the data: the noise would be the data
    with (
        patched(model.eval(), stats, t_star=t_star, reference="size"),
        torch.no_grad(),
        mock.patch.object(torch, "randint", gaussian_bound.equally),
    ):
        nll, _ = QM9MoleculeGenerationDDPM.forward(loop, batch)
        nll = nll + model.log_pN(torch.tensor([gaussian_bound.N_ATOMS]))
        return float((nll.double() - t_star * network.surprise(x)).mean())


def main():
    report = {
        "codebase": "GCDM",
        "checks": checks_of("GCDM", {**CHECKS, **flat_cases.GCDM_CHECKS}, CASE),
        "calls": network_calls(CASE),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # upstream prints entropies
        report |= {"fits": fits(), "bound": bounds()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
