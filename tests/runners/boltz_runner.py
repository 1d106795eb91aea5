"""Run the checks of structure predictors on Boltz-2's `AtomDiffusion`, in a process of its own.

Called as `python boltz_runner.py` with the folder of `pip install --target FOLDER boltz==2.2.1
einx frozendict` as working directory (dependencies may lie in folders of GAGA_BOLTZ_SITE, too);
writes one JSON object as its last line. The sampler, its schedule and its potentials are the real
ones, with the settings of `boltz predict`; the network is replaced by an exact posterior mean.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [
    *filter(None, os.environ.get("GAGA_BOLTZ_SITE", "").split(os.pathsep)),
    str(Path.cwd()),
    str(Path(__file__).parents[1]),
]

import structure_checks  # noqa: E402
import torch  # noqa: E402
from boltz.model.modules.diffusionv2 import AtomDiffusion  # noqa: E402 - upstream's
from fakes.structures import dumbbell_mean  # noqa: E402


class Network(torch.nn.Module):
    """The score model whose preconditioned output is the posterior mean."""

    def __init__(self, seen):
        super().__init__()
        self.zero = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.first = seen, None

    def forward(self, r_noisy, times, multiplicity=1, feats=None):
        sigma = 16.0 * torch.exp(4 * times[0].double())
        width = (sigma**2 + 16.0**2).sqrt()
        x = r_noisy.double() * width
        self.first = x if not self.seen else self.first
        self.seen.append(float(sigma))
        mean = dumbbell_mean(x, sigma)
        return ((mean - 16.0**2 / width**2 * x) * width / (sigma * 16.0)).to(r_noisy)


def make_sampler(score_model):
    """An `AtomDiffusion` around a network, with the settings of Boltz-2."""
    small = {
        "token_s": 4, "atom_s": 4, "token_transformer_depth": 1, "token_transformer_heads": 1,
        "atom_encoder_depth": 1, "atom_encoder_heads": 1, "atom_decoder_depth": 1,
        "atom_decoder_heads": 1, "dim_fourier": 4,
    }  # fmt: skip
    sampler = AtomDiffusion(
        small,
        num_sampling_steps=200,
        sigma_min=1e-4,
        step_scale=1.5,
        alignment_reverse_diff=True,
        synchronize_sigmas=True,
    )
    sampler.score_model = score_model
    return sampler.eval()


def run(n_samples, n_steps, steering=None, features=None):
    network = Network([])
    steering = {
        "fk_steering": False,
        "physical_guidance_update": False,
        "contact_guidance_update": False,
        "num_particles": 2,
        "num_gd_steps": 20,
        **(steering or {}),
    }
    found = make_sampler(network).sample(
        torch.ones(1, 2), n_steps, n_samples, steering_args=steering, feats=features or {}
    )
    return structure_checks.Run(found["sample_atom_coords"], network.seen, network.first)


def main():
    torch.set_num_threads(1)
    case = structure_checks.Case("boltz", AtomDiffusion, run, lift=1.8, steers=True)
    print(structure_checks.report(case, "boltz 2.2.1"))


if __name__ == "__main__":
    main()
