"""Fit on FlowMol's own noised states, and run its own integration loop from them.

Called as `python flowmol_runner.py` with a checkout of github.com/Dunni3/FlowMol as working
directory; writes one JSON object as its last line. dgl has no wheel for current versions of torch:
a graph here is a dictionary of node and edge features with the few counts that the loop asks for,
and the network is left out. torch_scatter is stood in for by an empty module.
"""

import json
import sys
import types
from pathlib import Path

import torch

CODEBASE = "FlowMol"
LEVELS = (0.05, 0.1, 0.15, 0.2, 0.3)
N_MOLECULES, BATCH, STEPS = 2400, 64, 100
FAR = 5.5  # standard errors: a false alarm in 3e7 for a single comparison
#: `prior_config` of its configs/flowmol3.yml, for positions.
PRIOR = {"x": {"align": True, "type": "centered-normal", "kwargs": {"std": 1.0}}}


def stand_in(name, **members):
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


class Graph:
    """What FlowMol's loops ask of a batch of graphs."""

    def __init__(self, sizes):
        self.ndata, self.edata, self.device = {}, {}, torch.device("cpu")
        self.sizes, self.batch_size = torch.tensor(sizes), len(sizes)

    def num_nodes(self):
        return int(self.sizes.sum())

    def num_edges(self):
        return int((self.sizes * (self.sizes - 1)).sum())

    def batch_num_nodes(self):
        return self.sizes

    def batch_num_edges(self):
        return self.sizes * (self.sizes - 1)


stand_in("flowmol", __path__=[str(Path.cwd() / "flowmol")])  # without its `__init__`
stand_in("dgl", DGLGraph=Graph)
stand_in("dgl.function")
stand_in("dgl.nn")
stand_in("dgl.nn.functional", edge_softmax=None)
stand_in("torch_scatter", segment_csr=None)
sys.modules["dgl"].function = sys.modules["dgl.function"]
sys.dont_write_bytecode = True
sys.path.insert(0, str(Path.cwd()))

from flowmol.data_processing.priors import coupled_node_prior  # noqa: E402 - upstream's, as
from flowmol.models.ctmc_vector_field import CTMCVectorField  # noqa: E402 - the next
from flowmol.models.interpolant_scheduler import InterpolantScheduler  # noqa: E402
from verdicts import findings_of_states  # noqa: E402 - beside this file

from gaga_adapter import AtomLayout, TwoSample, fit_states  # noqa: E402
from gaga_adapter.molecules.qm9 import load_qm9  # noqa: E402
from gaga_adapter.moments import ExchangeableMoments  # noqa: E402
from gaga_adapter.reference import make_reference  # noqa: E402
from gaga_adapter.subspace import mask_from_sizes, project  # noqa: E402
from gaga_adapter.testing import NotApplicable  # noqa: E402


class Field(CTMCVectorField):
    """Its interpolation and its loop, with a prediction that is told instead of a network."""

    canonical_feat_order = ("x", "a", "c", "e")
    n_cat_feats = {"a": 5, "c": 6, "e": 4}  # noqa: RUF012 - upstream's form
    mask_idxs = {"a": 5, "c": 6, "e": 4}  # noqa: RUF012
    eta, hc_thresh, dfm_type = 0.0, 0.0, "campbell"

    def __init__(self, predict=None):
        torch.nn.Module.__init__(self)
        self.interpolant_scheduler = InterpolantScheduler(self.canonical_feat_order, "linear")
        self.cat_temp_func = self.forward_weight_func = lambda t: 1.0
        self.predict, self.times = predict, []

    def forward(self, g, t, upper_edge_mask, **rest):
        self.times.append(float(t[0]))
        rows = {"a": g.num_nodes(), "c": g.num_nodes(), "e": int(upper_edge_mask.sum())}
        flat = {feat: torch.full((n, k), 1 / k) for (feat, n), k in
                zip(rows.items(), self.n_cat_feats.values(), strict=True)}  # fmt: skip
        return {"x": self.predict(g.ndata["x_t"], t[0]), **flat}


def upper_edges(graph):
    halves = graph.batch_num_edges() // 2
    pattern = torch.tensor([True, False]).repeat(graph.batch_size)
    return pattern.repeat_interleave(halves.repeat_interleave(2))


def its_states(molecules, level, aligned=True):
    """Batches (x, mask) of its own interpolation, between noise that its prior has paired."""
    config = {"x": {**PRIOR["x"], "align": aligned}}
    field = Field()
    for start in range(0, len(molecules), BATCH):
        some = molecules[start : start + BATCH]
        graph = Graph([len(one) for one in some])
        priors = [coupled_node_prior({"x": one}, config)["x"] for one in some]
        graph.ndata = {"x_0": torch.cat(priors), "x_1_true": torch.cat(some)}
        for feat, rows in (("a", graph.ndata), ("c", graph.ndata), ("e", graph.edata)):
            count = graph.num_edges() if feat == "e" else graph.num_nodes()
            rows[f"{feat}_1_true"] = torch.eye(Field.n_cat_feats[feat])[torch.zeros(count).long()]
        node = torch.arange(len(some)).repeat_interleave(graph.batch_num_nodes())
        edge = torch.arange(len(some)).repeat_interleave(graph.batch_num_edges())
        time_ = torch.full((len(some),), level)
        field.sample_conditional_path(graph, time_, node, edge, upper_edges(graph))
        parts = graph.ndata["x_t"].split(graph.sizes.tolist())
        yield torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), mask_from_sizes(graph.sizes)


def its_run(start, sizes, predict, **options):
    """Its own loop from positions (n, 3) and masked types and bonds: the times, and the ends."""
    graph, field = Graph(sizes), Field(predict)
    one_hot = {feat: torch.eye(k + 1)[k] for feat, k in Field.n_cat_feats.items()}
    graph.ndata = {"x_0": start, **{f"{f}_0": one_hot[f].expand(len(start), -1) for f in "ac"}}
    graph.edata = {"e_0": one_hot["e"].expand(graph.num_edges(), -1)}
    node = torch.arange(len(sizes)).repeat_interleave(graph.sizes)
    field.integrate(graph, node, upper_edges(graph), high_confidence_threshold=0.0,
                    stochasticity=0.0, **options)  # fmt: skip
    return field.times, graph


# -- the checks ------------------------------------------------------------------------------------


def square(x, mask):
    """`|x|² / (3 (N - 1))` of each molecule."""
    return project(x, mask).square().sum((1, 2)) / (3 * (mask.sum(1) - 1))


class Study:
    """What is measured once and looked at by the checks."""

    def __init__(self):
        torch.manual_seed(0)
        data = load_qm9("train")
        self.molecules = [
            torch.from_numpy(x[z > 0] - x[z > 0].mean(0))
            for x, z in zip(
                data.positions[:N_MOLECULES], data.atomic_numbers[:N_MOLECULES], strict=True
            )
        ]
        self.data = ExchangeableMoments(0)
        x = torch.nn.utils.rnn.pad_sequence(self.molecules, batch_first=True)
        self.sizes = torch.tensor([len(one) for one in self.molecules])
        self.data.update(x, mask_from_sizes(self.sizes))
        self.stats = fit_states(
            lambda level: its_states(self.molecules, level),
            LEVELS,
            AtomLayout(0),
            criterion=TwoSample(check_reference=False),
            n_criterion=1200,
        )
        self.ratios, self.calls = {}, None

    def squares(self, level, aligned=True):
        states = its_states(self.molecules, level, aligned)
        return torch.cat([square(x, mask) for x, mask in states])

    def naive(self, level):
        law = make_reference(self.data, "shape").at(level, 1 - level)
        drawn = law.sample(self.sizes, generator=torch.Generator().manual_seed(1))
        return square(drawn, mask_from_sizes(self.sizes))


def moments_are_those_of_its_interpolant(study):
    for level in LEVELS:
        fresh = study.squares(level)
        moments = study.stats.at(level).moments
        spread = float(fresh.std()) * (1 / len(fresh) + 1 / moments.count) ** 0.5
        shares = moments.counts / moments.counts.sum()
        assert abs(float((shares * moments.v_x).sum() - fresh.mean())) < FAR * spread, level


def the_law_of_independent_noise_is_too_small(study):
    for level in LEVELS[1:]:
        ratio = float(study.naive(level).mean() / study.squares(level).mean())
        study.ratios[level] = round(ratio, 3)
        assert ratio < 0.95, (level, ratio)


def without_pairing_it_is_right(study):
    for level in LEVELS:
        one, other = study.naive(level), study.squares(level, aligned=False)
        error = float((one.var() + other.var()) / len(one)) ** 0.5
        assert abs(float(one.mean() - other.mean())) < FAR * error, level


def its_loop_starts_at_level_star(study):
    star, sizes = study.stats.level_star, [9, 18, 21]
    x = study.stats.start().sample(sizes, generator=torch.Generator().manual_seed(3))
    rows = x[mask_from_sizes(torch.tensor(sizes))]
    full, _ = its_run(rows, sizes, lambda x, t: x, n_timesteps=STEPS + 1)
    steps = round((1 - star) * STEPS)
    times = torch.linspace(star, 1, steps + 1)
    cut, graph = its_run(rows, sizes, lambda x, t: x, n_timesteps=None, tspan=times)
    study.calls = [len(full), len(cut)]
    assert study.calls == [STEPS, steps], study.calls
    assert abs(cut[0] - star) < 1e-6
    assert abs(cut[-1] - (1 - 1 / STEPS)) < 1e-5
    assert torch.allclose(graph.ndata["x_1"], rows)  # whose end was told to be its start


def its_loop_ends_at_the_data_from_there(study):
    """Gaussian data of variance v, of which the best prediction is known."""
    v, t_star, n = 0.5, 0.4, 12
    centre = torch.eye(n) - 1 / n
    mask = torch.ones(2000, n, dtype=torch.bool)

    def states(level):
        x = v**0.5 * centre @ torch.randn(2000, n, 3)
        return level * x + (1 - level) * centre @ torch.randn_like(x), mask

    judge = TwoSample(check_reference=False, max_iter=10, folds=2)
    stats = fit_states(states, [t_star], AtomLayout(0), reference="size", criterion=judge)
    start = stats.start().sample([n] * 2000, generator=torch.Generator().manual_seed(4))

    def best(x, t):
        return t * v / (t**2 * v + (1 - t) ** 2) * x

    times = torch.linspace(t_star, 1, 61)
    _, graph = its_run(start.flatten(0, 1), [n] * 2000, best, n_timesteps=None, tspan=times)
    ends = square(graph.ndata["x_1"].reshape(2000, n, 3), mask)
    spread = (2 / (33 * 1000) + 2 / (33 * 2000)) ** 0.5  # of the fit, and of these draws
    assert abs(float(ends.mean()) / v - 1) < FAR * spread + 0.02, ends.mean()  # and its steps


def types_and_bonds_start_at_their_own_law(study):
    raise NotApplicable(
        f"at t = {study.stats.level_star:g} as large a share of types, charges and bonds shows "
        "already, jointly with the positions; there is no law for bonds, so all start masked"
    )


CHECKS = {
    check.__name__: check
    for check in (
        moments_are_those_of_its_interpolant,
        the_law_of_independent_noise_is_too_small,
        without_pairing_it_is_right,
        its_loop_starts_at_level_star,
        its_loop_ends_at_the_data_from_there,
        types_and_bonds_start_at_their_own_law,
    )
}


def main():
    print(json.dumps(findings_of_states(CODEBASE, CHECKS, Study())))


if __name__ == "__main__":
    main()
