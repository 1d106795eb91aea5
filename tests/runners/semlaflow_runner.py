"""Fit on SemlaFlow's own noised states, and start its own sampler from them.

Called as `python semlaflow_runner.py` with a checkout of github.com/rssrwn/semla-flow as working
directory; writes one JSON object as its last line. Open Babel, lightning and torchmetrics, which
its files import and these checks do not use, are stood in for by empty modules.
"""

import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import torch

CODEBASE = "SemlaFlow"
LEVELS = (0.1, 0.2, 0.3, 0.4)
N_MOLECULES, BATCH, STEPS = 2400, 64, 100
N_TYPES, N_BONDS = 18, 6
COORD_STD = 1.723299503326416  # QM9_COORDS_STD_DEV of its scriptutil
FAR = 5.5  # standard errors: a false alarm in 3e7 for a single comparison


def stand_in(name, **members):
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


class Lightning(torch.nn.Module):
    """What `MolecularCFM` asks of a LightningModule."""

    device = torch.device("cpu")

    def save_hyperparameters(self, values):
        """Accept them."""


class Metric(torch.nn.Module):
    """What its metrics ask of torchmetrics before they count anything."""

    def __init__(self, **options):
        super().__init__()

    def add_state(self, name, default, **options):
        """Accept it."""


stand_in("openbabel", pybel=types.SimpleNamespace())
stand_in("lightning", LightningModule=Lightning)
stand_in("torchmetrics", Metric=Metric, MetricCollection=lambda metrics, **options: None)
sys.dont_write_bytecode = True
sys.path.insert(0, str(Path.cwd()))

from semlaflow.data.interpolate import GeometricInterpolant, GeometricNoiseSampler  # noqa: E402
from semlaflow.models.fm import Integrator, MolecularCFM  # noqa: E402 - upstream's, as the next
from semlaflow.models.semla import EquiInvDynamics, SemlaGenerator  # noqa: E402
from semlaflow.util.functional import one_hot_encode_tensor  # noqa: E402
from semlaflow.util.molrepr import GeometricMol, GeometricMolBatch  # noqa: E402
from verdicts import findings_of_states  # noqa: E402 - beside this file

from gaga_adapter import AtomLayout, TwoSample, fit_states  # noqa: E402
from gaga_adapter.molecules.qm9 import load_qm9  # noqa: E402
from gaga_adapter.moments import ExchangeableMoments  # noqa: E402
from gaga_adapter.reference import make_reference  # noqa: E402
from gaga_adapter.reference.measured import measured_reference  # noqa: E402
from gaga_adapter.subspace import mask_from_sizes, project  # noqa: E402
from gaga_adapter.testing import NotApplicable  # noqa: E402

# -- its data, its states, its model ---------------------------------------------------------------


def geometric(positions, types_):
    """One molecule as its data set has it: scaled, turned at random, centred."""
    n = len(positions)
    pairs = torch.ones(n, n).nonzero()
    bonds = one_hot_encode_tensor(torch.zeros(len(pairs), dtype=torch.int64), N_BONDS)
    made = GeometricMol(positions, one_hot_encode_tensor(types_, N_TYPES), pairs, bonds)
    turn = tuple((2 * torch.pi * torch.rand(3)).tolist())
    return made.scale(1 / COORD_STD).rotate(turn).zero_com()


def qm9_molecules():
    """Molecules of QM9 in batches of like sizes, as its sampler makes them."""
    data, made = load_qm9("train"), []
    for positions, numbers in zip(
        data.positions[:N_MOLECULES], data.atomic_numbers[:N_MOLECULES], strict=True
    ):
        real = numbers > 0
        types_ = torch.from_numpy(numbers[real].astype("int64"))
        made.append(geometric(torch.from_numpy(positions[real]), types_))
    made.sort(key=lambda molecule: molecule.seq_length)
    return [made[k : k + BATCH] for k in range(0, len(made), BATCH)]


def interpolated(batches, level, **options):
    """Batches (noise, data, states) of its own interpolant at a fixed time."""
    prior = GeometricNoiseSampler(
        N_TYPES, N_BONDS, type_noise="uniform-sample", bond_noise="uniform-sample"
    )
    interpolant = GeometricInterpolant(prior, fixed_time=level, **options)
    for batch in batches:
        yield interpolant.interpolate(batch)[:3]


def padded(molecules):
    batch = GeometricMolBatch.from_list(molecules)
    return batch.coords, batch.mask.bool()


def network():
    """A tiny SemlaFlow with random weights."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_message": 8, "n_coord_sets": 4, "n_layers": 3}
    dynamics = EquiInvDynamics(**sizes, n_attn_heads=4, d_message_hidden=8, d_edge=8)
    net = SemlaGenerator(16, dynamics, N_TYPES, N_TYPES + 1, d_edge=8, n_edge_types=N_BONDS)
    integrator = Integrator(STEPS, type_strategy="uniform-sample", bond_strategy="uniform-sample")
    model = MolecularCFM(net, None, 1e-3, integrator, use_ema=False, compile_model=False)
    return model.eval()


def its_prior(sizes):
    """The first state of its sampler, as the batch that `_generate` takes."""
    sampler = GeometricNoiseSampler(
        N_TYPES, N_BONDS, type_noise="uniform-sample", bond_noise="uniform-sample"
    )
    batch = sampler.sample_batch(sizes)
    return {
        "coords": batch.coords,
        "atomics": batch.atomics.float(),
        "bonds": batch.adjacency.float(),
        "mask": batch.mask.long(),
    }


def start_at(model, t_star):
    """Let SemlaFlow's own loop, which runs from 0 to 1, run from t* to 1."""
    forward, step = model.forward, model.integrator.step

    def later(t):
        return t_star + (1 - t_star) * t

    model.forward = lambda batch, t, **rest: forward(batch, later(t), **rest)
    model.integrator.step = lambda now, predicted, prior, t, size: step(
        now, predicted, prior, later(t), (1 - t_star) * size
    )


def times_of(model, prior, steps):
    """The times that its network sees in one run of its own loop, and what comes out."""
    seen, forward = [], model.gen.forward

    def watch(coords, features, **rest):
        seen.append(float(features[0, 0, 0]))
        return forward(coords, features, **rest)

    model.gen.forward = watch
    try:
        return seen, model._generate(prior, steps)
    finally:
        del model.gen.forward


# -- the checks ------------------------------------------------------------------------------------


def square(x, mask):
    """`|x|² / (3 (N - 1))` of each molecule."""
    return project(x, mask).square().sum((1, 2)) / (3 * (mask.sum(1) - 1))


def agree(one, other):
    """Whether the averages of two samples agree within their standard errors."""
    error = math.hypot(*(float(s.std()) / len(s) ** 0.5 for s in (one, other)))
    return abs(float(one.mean() - other.mean())) < FAR * error


class Study:
    """What is measured once and looked at by the checks."""

    def __init__(self):
        torch.manual_seed(0)
        self.batches = qm9_molecules()
        self.paired = {"equivariant_ot": True, "coord_noise_std": 0.2}  # its default training
        self.data = ExchangeableMoments(0)
        for batch in self.batches:
            self.data.update(*padded(batch))
        self.stats = fit_states(
            lambda level: self.states(level, **self.paired),
            LEVELS,
            AtomLayout(0),
            criterion=TwoSample(check_reference=False),
            n_criterion=1200,
        )

    def states(self, level, **options):
        return (padded(made) for _, _, made in interpolated(self.batches, level, **options))

    def naive(self, level, kind="shape"):
        """The law of `t x + (1 - t) eps` with independent noise, and its noise on coordinates."""
        noise = math.hypot(1 - level, self.paired["coord_noise_std"])
        return make_reference(self.data, kind).at(level, noise)

    def squares(self, level, **options):
        return torch.cat([square(x, mask) for x, mask in self.states(level, **options)])


def moments_are_those_of_its_interpolant(study):
    for level in LEVELS:
        fresh = study.squares(level, **study.paired)
        moments = study.stats.at(level).moments
        spread = float(fresh.std()) * (1 / len(fresh) + 1 / moments.count) ** 0.5
        shares = moments.counts / moments.counts.sum()
        assert abs(float((shares * moments.v_x).sum() - fresh.mean())) < FAR * spread, level


def the_law_of_independent_noise_is_too_small(study):
    for level in LEVELS[1:]:
        sizes = torch.cat([mask.sum(1) for _, mask in map(padded, study.batches)])
        naive = study.naive(level).sample(sizes, generator=torch.Generator().manual_seed(1))
        ratio = float(square(naive, mask_from_sizes(sizes)).mean()) / float(
            study.squares(level, **study.paired).mean()
        )
        study.ratios[level] = round(ratio, 3)
        assert ratio < 0.9, (level, ratio)


def without_pairing_it_is_right(study):
    for level in LEVELS:
        sizes = torch.cat([mask.sum(1) for _, mask in map(padded, study.batches)])
        naive = study.naive(level).sample(sizes, generator=torch.Generator().manual_seed(1))
        unpaired = study.squares(level, coord_noise_std=0.2)
        assert agree(square(naive, mask_from_sizes(sizes)), unpaired), level


def the_measured_start_is_nearer_than_that_of_independent_noise(study):
    star = study.stats.level_star
    batches = list(study.states(star, **study.paired))
    real = [one[row] for x, mask in batches for one, row in zip(x, mask, strict=True)]
    x = torch.nn.utils.rnn.pad_sequence(real, batch_first=True)
    mask = mask_from_sizes(torch.tensor([len(one) for one in real]))
    generator = torch.Generator().manual_seed(2)
    drawn = study.naive(star).sample(mask.sum(1), generator=generator)
    naive = ExchangeableMoments(0)
    naive.update(drawn, mask)
    judge = TwoSample(check_reference=False, n_samples=1200)
    value, wrong = (
        judge.of_states(x, mask, measured_reference(moments), generator)
        for moments in (study.stats.at(star).moments, naive)
    )
    study.nats = {"measured": round(value.kl, 3), "independent": round(wrong.kl, 3)}
    assert wrong.kl - FAR * wrong.kl_std_error > value.kl + FAR * value.kl_std_error, study.nats


def its_sampler_starts_at_level_star(study):
    star, sizes = study.stats.level_star, [7, 18, 23, 18]
    model, prior = network(), its_prior(sizes)
    full, _ = times_of(model, prior, STEPS)
    assert full[0] == 0.0, full[0]
    start = study.stats.start().sample(sizes, generator=torch.Generator().manual_seed(3))
    steps = round((1 - star) * STEPS)
    start_at(model, star)
    cut, made = times_of(model, {**prior, "coords": start}, steps)
    study.calls = [len(full), len(cut)]
    assert study.calls == [STEPS, steps], study.calls
    assert np.allclose(cut, np.arange(STEPS - steps, STEPS) / STEPS, atol=1e-5), cut
    assert torch.isfinite(made["coords"]).all()


def its_integrator_ends_at_the_data_from_there(study):
    """Gaussian data of variance v, of which the best prediction is known: its loop from t*."""
    v, t_star, n = 0.5, 0.4, 12
    centre = torch.eye(n) - 1 / n

    def gaussian(count):
        return v**0.5 * centre @ torch.randn(count, n, 3)

    class Best(torch.nn.Module):
        hparams: dict = {}  # noqa: RUF012 - upstream reads it

        def forward(self, coords, features, edge_feats, atom_mask):
            t = features[:, :1, :1]
            best = t * v / (t**2 * v + (1 - t) ** 2) * coords
            return best, features[..., 1:], edge_feats.float(), torch.zeros(*coords.shape[:2], 7)

    def states(level):
        for _ in range(20):
            x = gaussian(100)
            yield level * x + (1 - level) * centre @ torch.randn_like(x)

    mask = torch.ones(2000, n, dtype=torch.bool)
    stats = fit_states(
        lambda level: ((x, mask[:100]) for x in states(level)),
        [t_star],
        AtomLayout(0),
        reference="size",
        criterion=TwoSample(check_reference=False, max_iter=10, folds=2),
    )
    model = network()
    model.gen = Best()
    start_at(model, t_star)
    prior = its_prior([n] * 2000)
    start = stats.start().sample([n] * 2000, generator=torch.Generator().manual_seed(4))
    ends = model._generate({**prior, "coords": start}, 60)["coords"]
    assert (
        agree(square(ends, mask), square(gaussian(2000), mask))
        or abs(float(square(ends, mask).mean()) / v - 1) < 0.02
    ), float(square(ends, mask).mean())


def types_and_bonds_start_at_their_own_law(study):
    star = study.stats.level_star
    same = total = 0
    for _, data, made in interpolated(study.batches[:10], star, **study.paired):
        for one, other in zip(data, made, strict=True):
            same += int((one.atomics.argmax(-1) == other.atomics.argmax(-1)).sum())
            total += one.seq_length
    raise NotApplicable(
        f"at t = {star:g} {100 * same / total:.0f} % of the types are those of the data already, "
        "and as many bonds, jointly with the positions; there is no law for bonds, so the start "
        "leaves types and bonds at those of t = 0"
    )


CHECKS = {
    check.__name__: check
    for check in (
        moments_are_those_of_its_interpolant,
        the_law_of_independent_noise_is_too_small,
        without_pairing_it_is_right,
        the_measured_start_is_nearer_than_that_of_independent_noise,
        its_sampler_starts_at_level_star,
        its_integrator_ends_at_the_data_from_there,
        types_and_bonds_start_at_their_own_law,
    )
}


def main():
    study = Study()
    study.ratios, study.nats, study.calls = {}, {}, None
    findings = findings_of_states(CODEBASE, CHECKS, study)
    print(json.dumps({**findings, "nats_at_level_star": study.nats}))


if __name__ == "__main__":
    main()
