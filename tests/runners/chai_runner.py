"""Run the checks of structure predictors on Chai-1's own loop, in a process of its own.

Called as `python chai_runner.py` with the folder of `pip install --target FOLDER chai_lab==0.6.1`
as working directory (dependencies may lie in folders of GAGA_CHAI_SITE, too); writes one JSON
object as its last line. `run_folding_on_context` and its schedule are the real ones; the exported
networks around the loop give zeros, and that of the loop an exact posterior mean.
"""

import contextlib
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

os.environ["DISABLE_PANDERA_IMPORT_WARNING"] = "True"
sys.path[:0] = [
    *filter(None, os.environ.get("GAGA_CHAI_SITE", "").split(os.pathsep)),
    str(Path.cwd()),
    str(Path(__file__).parents[1]),
]

import structure_checks  # noqa: E402
import torch  # noqa: E402
from chai_lab import chai1  # noqa: E402 - upstream's
from fakes.structures import dumbbell_mean  # noqa: E402

N_ATOMS, CROP = 2, 256


class Finished(Exception):
    """The loop is over; what follows needs the real networks."""


class Network:
    """One of the exported networks."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def forward(self, **given):
        zeros = torch.zeros
        if self.name == "diffusion_module.pt":
            x, sigma = given["atom_noised_coords"][0], float(given["noise_sigma"].flatten()[0])
            self.log.inputs.append(x)
            self.log.seen.append(sigma)
            return dumbbell_mean(x, sigma).to(x)
        if self.name == "confidence_head.pt":
            self.log.samples.append(given["atom_coords"])
            if len(self.log.samples) == self.log.n_samples:
                raise Finished
            return zeros(1), zeros(1), zeros(1)
        return {
            "feature_embedding.pt": {
                "TOKEN": zeros(1, 2, 4),
                "TOKEN_PAIR": zeros(1, 2, 2, 8),
                "ATOM": zeros(1, N_ATOMS, 8),
                "ATOM_PAIR": zeros(1, 1, 1, 8),
                "TEMPLATES": zeros(1),
                "MSA": zeros(1),
            },
            "bond_loss_input_proj.pt": zeros(1, 2, 2, 8),
            "token_embedder.pt": (zeros(1, 2, 4), zeros(1, 2, 4), zeros(1, 2, 2, 4)),
            "trunk.pt": (zeros(1, 2, 4), zeros(1, 2, 2, 4)),
        }[self.name]


def inputs():
    """What the collator makes of a context of two atoms."""
    yes = torch.ones
    return {
        "block_atom_pair_q_idces": torch.zeros(1, 1),
        "block_atom_pair_kv_idces": torch.zeros(1, 1),
        "atom_exists_mask": yes(1, N_ATOMS, dtype=torch.bool),
        "atom_token_index": torch.zeros(1, N_ATOMS),
        "token_exists_mask": yes(1, 2, dtype=torch.bool),
        "token_ref_atom_index": torch.zeros(1, 2),
        "atom_within_token_index": torch.zeros(1, 2),
        "msa_mask": yes(1, 1, CROP, dtype=torch.bool),
        "template_mask": yes(1, 1, 2, dtype=torch.bool),
        "block_atom_pair_mask": yes(1, 1, 1, 1, dtype=torch.bool),
    }


def run(n_samples, n_steps):
    log = SimpleNamespace(seen=[], inputs=[], samples=[], n_samples=n_samples)
    context = SimpleNamespace(
        structure_context=SimpleNamespace(num_tokens=2, report_bonds=lambda: None),
        template_context=SimpleNamespace(num_templates=0),
        msa_context=SimpleNamespace(depth=1),
    )
    bonds = SimpleNamespace(generate=lambda batch: SimpleNamespace(data=torch.zeros(1)))
    collated = {"features": {}, "inputs": inputs()}
    with (
        mock.patch.object(chai1, "load_exported", lambda name, device: Network(name, log)),
        mock.patch.object(chai1, "Collate", return_value=lambda contexts: collated),
        mock.patch.object(chai1, "TokenBondRestraint", return_value=bonds),
        contextlib.redirect_stderr(io.StringIO()),  # progress bars
        contextlib.suppress(Finished),
    ):
        chai1.run_folding_on_context(
            context,
            output_dir=Path("nowhere"),
            num_trunk_recycles=1,
            num_diffn_timesteps=n_steps,
            num_diffn_samples=n_samples,
            device=torch.device("cpu"),
            low_memory=False,
        )
    return structure_checks.Run(torch.cat(log.samples), log.seen, log.inputs[0])


def main():
    torch.set_num_threads(1)
    sampler = chai1.InferenceNoiseSchedule
    case = structure_checks.Case("chai", sampler, run, calls_per_step=2)
    print(structure_checks.report(case, "chai_lab 0.6.1"))


if __name__ == "__main__":
    main()
