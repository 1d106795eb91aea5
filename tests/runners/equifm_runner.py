"""Start the sampler of EquiFM at a measured level, on states of the pairing that its paper names.

Called as `python equifm_runner.py` with the folder `sampling` of a checkout of
github.com/AlgoMole/MolFM as working directory, and with torchdiffeq installed; writes one JSON
object as its last line. The repository publishes the sampler alone.
"""

import json
import sys
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path.cwd()))

import cnf_models  # noqa: E402 - upstream's
from verdicts import findings_of_states  # noqa: E402 - beside this file

from gaga_adapter import MoleculeLayout, TwoSample, fit_states  # noqa: E402
from gaga_adapter.molecules.encoding import encode  # noqa: E402
from gaga_adapter.molecules.qm9 import load_qm9  # noqa: E402
from gaga_adapter.moments import ExchangeableMoments  # noqa: E402
from gaga_adapter.subspace import mask_from_sizes, project  # noqa: E402
from gaga_adapter.testing import NotApplicable  # noqa: E402

CODEBASE = "EquiFM"
LEVELS = (0.7, 0.8, 0.85, 0.9, 0.95)  # t = 1 is noise
N_MOLECULES = 2400
#: `normalize_factors` and `include_charges` of its args.pickle.
LAYOUT = MoleculeLayout(onehot_scale=4.0, charge_scale=10.0)


def model():
    """Its sampler with the settings of its args.pickle, and a tiny network of random weights."""
    torch.manual_seed(0)
    dynamics = cnf_models.EGNN_dynamics_QM9(
        in_node_nf=7, context_node_nf=0, n_dims=3, hidden_nf=16, n_layers=2, attention=True,
        tanh=True, norm_constant=1, inv_sublayers=1, normalization_factor=1,
    )  # fmt: skip
    made = cnf_models.Cnflows(
        dynamics, in_node_nf=6, n_dims=3, norm_values=(1, 4, 10), discrete_path="HB_path",
        cat_loss="l2_masked_mean", ode_method="dopri5",
    )  # fmt: skip
    return made.eval()


def paired(x, mask, generator):
    """Noise (B, N, 9) for molecules, reordered and turned to lie near them (paper, section 4.1)."""
    noise = project(torch.randn(x.shape, generator=generator), mask)
    for one, other, real in zip(noise, x, mask, strict=True):
        there, here = other[real, :3], one[real, :3]
        here = here[linear_sum_assignment(torch.cdist(there, here).square())[1]]
        u, _, v = torch.linalg.svd(here.T @ there)
        turn = u @ torch.diag(torch.tensor([1.0, 1.0, float(torch.det(u @ v))])) @ v
        one[real, :3] = here @ turn
    return noise


def states(x, mask, level, generator):
    """The hybrid path: a straight line for positions, variance preserving for features."""
    noise = paired(x, mask, generator)
    keep = torch.exp(-cnf_models.T(torch.tensor(level)))
    position = (1 - level) * x[..., :3] + level * noise[..., :3]
    features = keep.sqrt() * x[..., 3:] + (1 - keep).sqrt() * noise[..., 3:]
    return torch.cat([position, features], -1) * mask[..., None], mask


def square(x, mask):
    """`|x|² / (3 (N - 1))` of each molecule's positions."""
    return project(x, mask)[..., :3].square().sum((1, 2)) / (3 * (mask.sum(1) - 1))


class Study:
    """What is measured once and looked at by the checks."""

    def __init__(self):
        data = load_qm9("train")
        x, mask = (part[:N_MOLECULES] for part in encode(data, LAYOUT))
        self.x, self.mask = project(x.float(), mask), mask
        generator = torch.Generator().manual_seed(1)
        self.stats = fit_states(
            lambda level: states(self.x, self.mask, level, generator),
            LEVELS,
            LAYOUT,
            towards="noise",
            criterion=TwoSample(check_reference=False),
            n_criterion=1200,
        )
        self.ratios, self.calls = {}, None


def its_own_states_are_measured(study):
    missing = [name for name in ("forward", "loss", "compute_loss", "nll")
               if name in vars(cnf_models.Cnflows)]  # fmt: skip
    assert not missing, f"{missing} may make states: measure these"
    raise NotApplicable(
        "the repository holds the sampler alone: nothing in it pairs noise or makes a state of "
        "training, so the states are those of the pairing and path that the paper names"
    )


def the_law_of_independent_noise_is_too_small(study):
    data = ExchangeableMoments(6)
    data.update(study.x, study.mask)
    v = float((data.counts * data.v_x).sum() / data.counts.sum())
    for one in study.stats.measured:
        t, moments = one.level, one.moments
        measured = float((moments.counts * moments.v_x).sum() / moments.counts.sum())
        study.ratios[t] = round(((1 - t) ** 2 * v + t**2) / measured, 3)
        assert study.ratios[t] < 0.95, study.ratios


def its_sampler_starts_at_level_star(study):
    flow, sizes = model(), torch.tensor([9, 18, 21])
    mask = mask_from_sizes(sizes)
    edges = mask[:, :, None] & mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool)
    node, edge = mask[..., None].float(), edges.reshape(-1, 1).float()
    star, seen, phi = study.stats.level_star, [], flow.phi

    def watch(t, *rest):
        seen.append(float(t))
        return phi(t, *rest)

    flow.phi = watch
    with torch.no_grad():
        noise = flow.sample_combined_position_feature_noise(3, mask.shape[1], node)
        full = flow.decode(noise, node, edge, None)[-1]
        n_full = len(seen)
        same = flow.decode_chain(noise, [1.0, 0.0], node, edge, None)[-1]
        assert torch.equal(full, same)
        seen.clear()
        start = study.stats.start().sample(sizes, generator=torch.Generator().manual_seed(2))
        cnf_models.assert_mean_zero_with_mask(start[..., :3], node)
        ends = flow.decode_chain(start, [star, 0.0], node, edge, None)[-1]
    study.calls = [n_full, len(seen)]
    assert max(seen) <= star + 1e-6
    assert torch.isfinite(ends).all()


CHECKS = {
    check.__name__: check
    for check in (
        its_own_states_are_measured,
        the_law_of_independent_noise_is_too_small,
        its_sampler_starts_at_level_star,
    )
}


def main():
    print(json.dumps(findings_of_states(CODEBASE, CHECKS, Study())))


if __name__ == "__main__":
    main()
