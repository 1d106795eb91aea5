"""Run the checks of flows inside a checkout of TABASCO, in a process of its own.

Called as `python tabasco_runner.py` with the checkout as working directory; writes one JSON object,
`{"codebase": ..., "checks": {name: outcome}, "calls": [before, after]}`, as its last line.

Needs tensordict and what that needs (`pip install --no-deps tensordict pyvers orjson`). The flow
and its network are upstream's own. Two packages of theirs have an `__init__` that imports hydra,
lightning and biotite, which none of these modules uses; empty packages stand in for the two, and a
logger for `lightning_utilities`.
"""

import contextlib
import io
import json
import logging
import sys
import types
from pathlib import Path

SOURCE = Path.cwd() / "src"
sys.path[:0] = [str(SOURCE), str(Path(__file__).parents[1])]
for name in ("tabasco", "tabasco.utils"):
    package = types.ModuleType(name)
    package.__path__ = [str(SOURCE / Path(*name.split(".")))]
    sys.modules[name] = package
pylogger = types.ModuleType("tabasco.utils.pylogger")
pylogger.RankedLogger = lambda name, **options: logging.getLogger(name)
sys.modules["tabasco.utils.pylogger"] = sys.modules["tabasco.utils"].pylogger = pylogger

import flow_checks  # noqa: E402
import torch  # noqa: E402
from gaga_adapter.integrations.flows import tabasco as adapter  # noqa: E402
from tabasco.flow.interpolate import DiscreteInterpolant, SDEMetricInterpolant  # noqa: E402
from tabasco.models.components.transformer_module import TransformerModule  # noqa: E402
from tabasco.models.flow_model import FlowMatchingModel  # noqa: E402
from tabasco.sample.noise_schedule import SampleNoiseSchedule  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from verdicts import checks_of  # noqa: E402 - beside this file

torch.set_num_threads(1)  # sums over atoms are then in one order, to the last bit


def make(sample_schedule="log", **noise):
    """The model of TABASCO's own configuration, with a small network."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        net = TransformerModule(
            spatial_dim=3,
            atom_dim=flow_checks.N_TYPES,
            num_heads=2,
            num_layers=1,
            hidden_dim=16,
            implementation="reimplemented",
            cross_attention=True,
        )
    model = FlowMatchingModel(
        net,
        SDEMetricInterpolant(
            key="coords",
            langevin_sampling_schedule=SampleNoiseSchedule(cutoff=0.9),
            white_noise_sampling_scale=0.01,
            **noise,
        ),
        DiscreteInterpolant(key="atomics", loss_weight=0.1),
        time_distribution="beta",
        time_alpha_factor=1.8,
        num_random_augmentations=None,
        sample_schedule=sample_schedule,
    )
    sizes = {"num_atoms_histogram": {4: 2, 6: 3, 7: 1}, "max_num_atoms": 7, "spatial_dim": 3}
    model.set_data_stats({**sizes, "atom_dim": flow_checks.N_TYPES})
    return model.eval()


def batch(**tensors):
    return TensorDict(tensors, batch_size=len(tensors["padding_mask"]))


def main():
    case = flow_checks.Case("TABASCO", make, batch)
    checks = checks_of("TABASCO", flow_checks.CHECKS, case)
    model = make("linear")
    calls = [len(case.seen(model, lambda: case.sample(model, num_steps=100)))]
    adapter.apply_patch(model, case.stats(model), t_star=0.5, reference="mixed_order")
    calls.append(len(case.seen(model, lambda: case.sample(model, num_steps=100))))
    report = {"codebase": "tabasco", "checks": checks, "calls": calls}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
