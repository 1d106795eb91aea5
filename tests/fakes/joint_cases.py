"""Joint models of ligands and pockets as cases of the contract."""

import functools
from dataclasses import dataclass
from unittest import mock

import gaussian_joint
import torch
from gaga_adapter.integrations import apply_patch
from gaga_adapter.integrations.flat.joint import JointStats, stack, unstack

from gaga_adapter.errors import UnsupportedModelError
from gaga_adapter.layout import AtomLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.stats import GAGAStats
from gaga_adapter.testing import SIZES, Case, same
from gaga_adapter.testing.adapter.case import raises

from . import diffsbdd_like
from .flat_cases import with_warnings

ATOM_NF, RESIDUE_NF = 4, 6
#: Of 360 statistics in all, the chance that a standard normal one is beyond is below 1e-6.
MOST = 6.2


def pocket_sizes(sizes):
    """Pockets are larger than their ligands."""
    return [n + 3 for n in sizes]


@dataclass
class JointCase(Case):
    """A joint model of DiffSBDD; sizes are those of the ligands."""

    @staticmethod
    def indices(sizes):
        rows = torch.arange(len(sizes))
        return [rows.repeat_interleave(torch.tensor(n)) for n in (sizes, pocket_sizes(sizes))]

    def masks(self, sizes=SIZES):
        pairs = [(torch.zeros(len(i), 3), i) for i in self.indices(sizes)]
        return stack(tuple(pairs))[1][..., None].float(), None

    def sample(self, model, sizes=SIZES, seed=1, **options):
        torch.manual_seed(seed)
        both = torch.tensor(sizes), torch.tensor(pocket_sizes(sizes))
        return model.sample(len(sizes), *both, **options)[:2]

    def molecules(self, model, sizes=SIZES, seed=2):
        """What the Lightning module hands to the loss."""
        generator, given = torch.Generator().manual_seed(seed), []
        for index, width in zip(self.indices(sizes), (ATOM_NF, RESIDUE_NF), strict=True):
            kinds = torch.randint(width, index.shape, generator=generator)
            given.append(
                {
                    "x": 2 * torch.randn(len(index), 3, generator=generator),
                    "one_hot": torch.nn.functional.one_hot(kinds, width).float(),
                    "size": torch.bincount(index),
                    "mask": index,
                }
            )
        indices = [part["mask"] for part in given]
        x = diffsbdd_like.centred(torch.cat([part["x"] for part in given]), torch.cat(indices))
        given[0]["x"], given[1]["x"] = x[: len(indices[0])], x[len(indices[0]) :]
        return given

    def loss(self, model, sizes=SIZES, seed=1):
        """The terms as the Lightning module puts them together, with its own number of steps."""
        self.needs("loss")
        given = self.molecules(model, sizes)
        n_steps = model._gaga.n_steps if hasattr(model, "_gaga") else model.T
        torch.manual_seed(seed)
        volume, *errors, weight, l0_lig, l0_pocket, l0_h, constants, kl, _, _, _ = model(*given)
        if model.training and model.loss_type == "l2":
            return 0.5 * sum(errors) / 9 + l0_lig + l0_pocket + l0_h + kl
        loss_t = -n_steps * 0.5 * weight * sum(errors)
        return loss_t + l0_lig + l0_pocket + l0_h + constants + kl - volume

    def noise(self, model, sizes=SIZES, n_samples=None):
        indices = self.indices(sizes)
        z = model.sample_combined_position_feature_noise(*indices)
        return stack(tuple(zip(z, indices, strict=True)))[0]

    @staticmethod
    def atoms(parts, node_mask):
        """The atoms of ligands and pockets with these parts, and their indices."""
        n_atoms = node_mask.sum((1, 2)).long().chunk(3)
        indices = [torch.arange(len(n)).repeat_interleave(n) for n in n_atoms[:2]]
        return unstack(parts, indices, (ATOM_NF, RESIDUE_NF)), indices

    def given_to_network(self, z, node_mask):
        """The atoms of the parts, and these parts again."""
        atoms, indices = self.atoms(z, node_mask)
        return stack(tuple(zip(atoms, indices, strict=True)))[0]

    def prior_term(self, model, xh, node_mask):
        atoms, indices = self.atoms(xh, node_mask)
        n_nodes = sum(torch.bincount(index) for index in indices)
        return model.kl_prior_with_pocket(*atoms, *indices, n_nodes)

    def network_method(self, model):
        return model._modules["dynamics"], "forward"

    def network_inputs(self, model, draw):
        network, name = self.network_method(model)
        inner, seen = getattr(network, name), []

        def record(xh_atoms, xh_residues, t, mask_atoms, mask_residues):
            pairs = ((xh_atoms, mask_atoms), (xh_residues, mask_residues))
            seen.append((t.clone(), stack(pairs)[0].clone()))
            return inner(xh_atoms, xh_residues, t, mask_atoms, mask_residues)

        with mock.patch.object(network, name, record):
            draw()
        return seen

    def stats(self, model, log_snr_star=0.5):
        """Statistics far from N(0, I) of all three parts."""
        generator, parts = torch.Generator().manual_seed(5), []
        for width, v_x in ((model.atom_nf, 2.0), (model.residue_nf, 5.0), (0, 9.0)):
            n = torch.randint(3, 15, (600,), generator=generator) if width else torch.tensor([2])
            mask = (torch.arange(15) < n[:, None]).expand(600, 15)
            x = torch.randn(600, 15, 3 + width, generator=generator)
            x *= torch.tensor([v_x**0.5] * 3 + [0.3] * width)
            x *= 0.5 + torch.rand(600, 1, 1, generator=generator)
            x[..., 3:] += torch.linspace(-0.5, 0.8, width)
            moments = ExchangeableMoments(width)
            moments.update(x * mask[..., None], mask)
            parts.append(GAGAStats(AtomLayout(width), moments, log_snr_star))
        return JointStats.of(parts)


def make_diffsbdd(n_steps, schedule="polynomial_2", loss="l2"):
    torch.manual_seed(0)
    return diffsbdd_like.EnVariationalDiffusion(
        diffsbdd_like.EGNNDynamics(ATOM_NF, RESIDUE_NF),
        ATOM_NF,
        RESIDUE_NF,
        3,
        (40, 40),
        timesteps=n_steps,
        noise_schedule=schedule,
        loss_type=loss,
    ).eval()


DIFFSBDD = JointCase(
    "the fake DiffSBDD",
    make_diffsbdd,
    options=frozenset({"schedule", "loss"}),
    verbs=frozenset({"sample", "loss"}),
)


# -- what is DiffSBDD's own ------------------------------------------------------------------------


def frames_of_a_chain_divide_its_steps(case):
    model = case.model()
    apply_patch(model, case.stats(model), t_star=13)
    for frames, steps in ((5, 10), (13, 13), (100, 13), (1, 13)):
        draw = functools.partial(case.sample, model, return_frames=frames)
        assert len(case.network_inputs(model, draw)) == steps + 1, frames
        for part in draw():
            assert part.shape[:-2] == (() if frames == 1 else (min(frames, 13),))
            assert bool(torch.isfinite(part).all())


def no_sample_takes_a_step_twice(case):
    model = case.model()
    apply_patch(model, case.stats(model), t_star=11)
    whole = case.sample(model)
    assert same(whole, case.sample(model, timesteps=case.n_steps))
    for steps in (*range(1, 15), case.n_steps, case.n_steps - 1, 2 * case.n_steps):
        more = 11 < steps != case.n_steps
        draw = functools.partial(case.sample, model, timesteps=steps)
        seen, said = with_warnings(functools.partial(case.network_inputs, model, draw))
        assert ["the 11 steps from t*" in text for text in said] == [True] * more
        times = [round(float(t.flatten()[0]) * case.n_steps) for t, _ in seen]
        assert len(times) == len(set(times)) == min(steps, 11) + 1
        assert (times[0], times[-1]) == (11, 0)


def what_means_something_else_is_refused(case):
    model = case.model()
    stats = case.stats(model)
    apply_patch(model, stats, t_star=11)
    with raises(UnsupportedModelError, "inpaint cannot run truncated", "whole complexes"):
        model.inpaint({}, {}, None, None)


def samples_have_exactly_the_moments_of_gaussian_data(case):
    model = case.make(40)
    stats, n, m = case.stats(model), *gaussian_joint.SIZES
    gamma = model.gamma(torch.arange(41)[:, None] / 40).flatten().detach()
    model.dynamics = network = gaussian_joint.ExactDenoiser(stats, gamma)
    both = torch.full((1000,), n), torch.full((1000,), m)
    for t_star, reference in ((22, "size"), (8, "size"), (22, "unit")):
        apply_patch(model, stats, t_star=t_star, reference=reference)
        torch.manual_seed(1)
        model.sample(1000, *both)
        scores = gaussian_joint.scores(stats, gamma, t_star, network.last)
        worst = max(map(abs, scores))
        if reference == "size":
            assert worst < MOST, (t_star, scores)
        else:
            assert worst > 2 * MOST  # so that it can fail


def the_weights_of_the_terms_are_those_of_t_star_steps(case):
    model = case.model(loss="vlb")
    apply_patch(model, case.stats(model), t_star=8, reference="size")
    for mode in (True, False):
        terms = model.train(mode)(*case.molecules(model, (4,) * 32))
        t = terms[10]
        gamma_s, gamma_t = model.gamma((t - 1)[:, None] / 8), model.gamma(t[:, None] / 8)
        expected = -8 * torch.expm1(gamma_t - gamma_s).flatten()
        inside = t > 0
        weights = case.n_steps * terms[3]
        assert torch.allclose(weights[inside], expected[inside], rtol=1e-4, atol=1e-5)


CHECKS = {
    check.__name__: check
    for check in (
        frames_of_a_chain_divide_its_steps,
        no_sample_takes_a_step_twice,
        what_means_something_else_is_refused,
        samples_have_exactly_the_moments_of_gaussian_data,
        the_weights_of_the_terms_are_those_of_t_star_steps,
    )
}
