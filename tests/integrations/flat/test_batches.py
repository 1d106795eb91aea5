"""Flat batches of atoms and padded molecules: the same numbers, in every order of the atoms."""

from types import SimpleNamespace

import pytest
import torch
from gaga_adapter.integrations.flat import (
    padded_batches,
    prior_term,
    to_flat,
    to_padded,
    transport,
)

from gaga_adapter import fit
from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.layout import AtomLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.stats import GAGAStats

SIZES = (5, 1, 9, 3, 7)
KINDS = ("unit", "paper", "channel", "size", "shape")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def flat(sizes=SIZES, width=5, seed=0):
    """Atoms of these molecules, one molecule after the other, and their indices."""
    index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return torch.randn(len(index), width, generator=generator(seed)), index


def shuffled(index, seed=1):
    """An order of the atoms that mixes the molecules, and keeps each in its own order."""
    keys = torch.rand(len(index), generator=generator(seed))
    for molecule in index.unique():
        mine = index == molecule
        keys[mine] = keys[mine].sort().values
    return keys.argsort()


def one_by_one(x, index):
    """The molecules as a list, by a loop."""
    rows = [[] for _ in range(int(index.max()) + 1)]
    for atom, molecule in zip(x, index.tolist(), strict=True):
        rows[molecule].append(atom)
    return [torch.stack(atoms) for atoms in rows]


@pytest.fixture(scope="module")
def stats():
    moments = ExchangeableMoments(2)
    sizes = torch.randint(1, 10, (400,), generator=generator(3))
    mask = torch.arange(9) < sizes[:, None]
    x = torch.randn(400, 9, 5, generator=generator(4)) * torch.tensor([2.0, 2.0, 2.0, 0.3, 0.5])
    x[..., 3:] += torch.tensor([0.4, -0.2])
    moments.update(x * mask[..., None], mask)
    return GAGAStats(AtomLayout(2), moments, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("indices", [torch.int64, torch.int32])
def test_molecules_in_any_order(dtype, indices):
    x, index = flat()
    x, index = x.to(dtype), index.to(indices)
    for order in (torch.arange(len(x)), shuffled(index), torch.randperm(len(x))):
        padded, mask = to_padded(x[order], index[order])
        assert padded.dtype == dtype
        assert padded.shape == (5, 9, 5)
        expected = one_by_one(x[order], index[order])
        assert mask.sum(1).tolist() == list(SIZES)
        for row, real, molecule in zip(padded, mask, expected, strict=True):
            assert torch.equal(row[real], molecule)
            assert not row[~real].any()
        assert torch.equal(to_flat(padded, index[order]), x[order])


def test_as_torch_geometric_does():
    utils = pytest.importorskip("torch_geometric.utils", reason="torch_geometric is not installed")
    for sizes in (SIZES, (1,), (4, 4), (1, 1, 2)):
        x, index = flat(sizes)
        padded, mask = to_padded(x, index)
        expected, expected_mask = utils.to_dense_batch(x, index)
        assert torch.equal(padded, expected)
        assert torch.equal(mask, expected_mask)


def test_atoms_that_do_not_exist():
    x, index = flat()
    real = torch.rand(len(x), generator=generator(5)) < 0.7
    real[5] = True  # the only atom of its molecule
    order = shuffled(index)
    padded, mask = to_padded(x[order], index[order], real[order])
    expected, expected_mask = to_padded(x[order][real[order]], index[order][real[order]])
    assert torch.equal(padded, expected)
    assert torch.equal(mask, expected_mask)
    back = to_flat(padded, index[order], real[order])
    assert torch.equal(back, x[order] * real[order][:, None])
    assert torch.equal(to_padded(x, index, torch.ones_like(real))[0], to_padded(x, index)[0])


def test_gradients_flow_both_ways():
    x, index = flat()
    x.requires_grad_()
    order = torch.randperm(len(x), generator=generator(6))
    weight = torch.randn(len(x), 5, generator=generator(7))
    padded, mask = to_padded(x[order], index[order])
    (to_flat(2 * padded, index[order]) * weight).sum().backward()
    assert torch.equal(x.grad[order], 2 * weight)
    assert int(mask.sum()) == len(x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_that_of_each_molecule(stats, kind):
    x, index = flat()
    reference = stats.reference(kind).at(0.7, 0.714)
    padded, mask = to_padded(x, index)
    expected = reference.transport(padded, mask)[mask]
    order = shuffled(index)
    begin = transport(reference, x[order], index[order])
    assert torch.equal(begin, expected[order])
    for row, (molecule, alone) in enumerate(
        zip(one_by_one(x, index), one_by_one(expected, index), strict=True)
    ):
        mine = reference.transport(molecule[None], torch.ones(1, len(molecule), dtype=bool))[0]
        assert torch.allclose(mine, alone, rtol=1e-5, atol=1e-6), row
    if kind != "unit":  # which only scales, and leaves the centring to whoever drew the noise
        means = torch.zeros(5, 3).index_add_(0, index[order], begin[:, :3])
        assert means.abs().max() < 1e-5
        assert not begin[index[order] == 1][:, :3].any()  # one atom is its own centre of mass


def test_a_start_does_not_depend_on_the_order_of_atoms(stats):
    x, index = flat()
    order = torch.randperm(len(x), generator=generator(8))
    for kind in ("channel", "size"):
        reference = stats.reference(kind).at(0.7, 0.714)
        moved = transport(reference, x[order], index[order])
        begin = transport(reference, x, index)[order]
        assert torch.allclose(moved, begin, rtol=1e-5, atol=1e-6), kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_prior_term_is_that_of_each_molecule(stats, kind):
    x, index = flat()
    x = to_flat(stats.reference("unit").project(*to_padded(x, index)), index)
    reference = stats.reference(kind).at(0.7, 0.714)
    order = shuffled(index)
    nats = prior_term(reference, x[order], index[order])
    assert nats.dtype == torch.float64
    expected = [reference.kl_from_posterior(molecule[None]) for molecule in one_by_one(x, index)]
    assert torch.allclose(nats, torch.cat(expected), rtol=1e-5, atol=1e-6)


def graphs(seed, n_molecules=40):
    """A batch as torch_geometric makes it: positions, features, charges and indices."""
    sizes = torch.randint(3, 8, (n_molecules,), generator=generator(seed)).tolist()
    x, index = flat(sizes, 5, seed)
    order = shuffled(index, seed)
    x, index = x[order], index[order]
    kinds = (x[:, 3] > 0).long()
    return SimpleNamespace(pos=3 + x[:, :3], x=x[:, 3:4], z=kinds, batch=index)


def test_a_fit_of_a_loader_of_graphs_is_a_fit_of_its_molecules():
    loader = [graphs(seed) for seed in range(26)]
    options = {"criterion": "cumulant", "tolerance": 3.0, "n_bootstrap": 0, "reference": "size"}
    found = fit(padded_batches(loader, ("pos", "x", "z")), AtomLayout(2), **options)
    as_dicts = fit(padded_batches(map(vars, loader), ("pos", "x", "z")), AtomLayout(2), **options)
    by_hand = []
    for batch in loader:
        atoms = torch.cat([batch.pos, batch.x, batch.z[:, None].float()], -1)
        molecules = [
            m - torch.cat([m[:, :3].mean(0), m.new_zeros(2)])
            for m in one_by_one(atoms, batch.batch)
        ]
        x = torch.nn.utils.rnn.pad_sequence(molecules, batch_first=True)
        by_hand.append((x, torch.arange(x.shape[1]) < torch.tensor([[len(m)] for m in molecules])))
    expected = fit(by_hand, AtomLayout(2), **options)
    for stats in (found, as_dicts):
        assert stats.moments.count == 1040
        assert abs(stats.log_snr_star - expected.log_snr_star) < 1e-3
        for n in (3, 5, 7):
            mine, theirs = stats.moments.at_size(n), expected.moments.at_size(n)
            assert abs(mine.v_x - theirs.v_x) < 1e-5 * theirs.v_x
            assert torch.allclose(mine.feature_mean, theirs.feature_mean, rtol=1e-5, atol=1e-6)
            assert torch.allclose(mine.within, theirs.within, rtol=1e-4, atol=1e-5)


def test_a_function_gives_the_channels_and_a_graph_alone_is_one_molecule():
    batch = graphs(0)
    pairs = list(padded_batches([batch], lambda b: torch.cat([b.pos, b.x / 4], -1)))
    assert pairs[0][0].shape == (40, 7, 4)
    assert pairs[0][0][..., :3].sum(1).abs().max() < 1e-4
    alone = SimpleNamespace(pos=batch.pos[:6], x=batch.x[:6])
    ((x, mask),) = padded_batches([alone], batch_index=None)
    assert x.shape == (1, 6, 4)
    assert bool(mask.all())
    alone.exists = torch.arange(6) < 4
    ((x, mask),) = padded_batches([alone], batch_index=None, real="exists")
    assert x.shape == (1, 4, 4)


def test_what_does_not_fit_is_refused_with_what_to_do(stats):
    x, index = flat()
    with pytest.raises(DataError, match="molecule 1 of 5 has no atoms"):
        to_padded(x[index != 1], index[index != 1])
    with pytest.raises(DataError, match="molecule 5 of 6 has no atoms"):
        to_padded(x, index, n_molecules=6)
    with pytest.raises(DataError, match="molecule 1 of 5 has no atoms"):
        to_padded(x, index, index != 1)
    with pytest.raises(DataError, match="molecule 4 of 5 has no atoms"):
        to_padded(x, index, index != 4)
    with pytest.raises(DataError, match="names molecule 4, and there are 4"):
        to_padded(x, index, n_molecules=4)
    with pytest.raises(DataError, match="the batch has no atoms"):
        to_padded(x[:0], index[:0])
    with pytest.raises(DataError, match="begins at -1"):
        to_padded(x, index - 1)
    with pytest.raises(DataError, match="float32"):
        to_padded(x, index.float())
    with pytest.raises(DataError, match=r"must be \(atoms, C\)"):
        to_padded(x[:-1], index)
    with pytest.raises(DataError, match="24 entries for 25 atoms"):
        to_padded(x, index, torch.ones(24))
    with pytest.raises(DataError, match="5 molecules of up to 9 atoms"):
        to_flat(to_padded(x, index)[0][:, :8], index)
    with pytest.raises(StatsMismatchError, match=r"3\+2"):
        transport(stats.reference(), x[:, :4], index)
    with pytest.raises(DataError, match=r"no tensor 'z'.*pos"):
        list(padded_batches([SimpleNamespace(pos=x[:, :3])], ("pos", "z")))
    with pytest.raises(DataError, match="padded_batches"):
        fit([graphs(0)], AtomLayout(1))
    with pytest.raises(DataError, match="'pos' has the shape"):
        list(padded_batches([{"pos": x[None], "x": x}]))


def test_a_batch_that_does_not_say_the_molecules_is_refused():
    batch = graphs(0)
    entries = r"It has pos, x.*batch_index=None if each batch"
    other = SimpleNamespace(pos=batch.pos, x=batch.x, batch_idx=batch.batch)
    for given in (other, vars(other), SimpleNamespace(pos=batch.pos, x=batch.x, batch=None)):
        with pytest.raises(DataError, match=r"no tensor 'batch'\. " + entries):
            list(padded_batches([given]))
    with pytest.raises(DataError, match=r"no tensor 'batch_id'\. " + entries):
        list(padded_batches([batch], batch_index="batch_id"))
    with pytest.raises(DataError, match=r"no tensor 'real'.*Pass real="):
        list(padded_batches([batch], real="real"))
    (pair,) = padded_batches([other], batch_index="batch_idx")
    (expected,) = padded_batches([batch])
    assert torch.equal(pair[0], expected[0])


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        (("x", "pos"), r"first must be the positions \(atoms, 3\).*\(\d+, 1\)"),
        ("x", r"\('x',\): the first must be the positions"),
        ((), "is missing"),
        (("pos", "few"), "different numbers of atoms.*'few': 3"),
        (lambda batch: (batch.pos, batch.x), r"gave a tuple; .*torch\.cat"),
        (lambda batch: batch.pos[None], r"gave a Tensor of shape \(1, \d+, 3\)"),
        (lambda batch: batch.x, r"gave a Tensor of shape \(\d+, 1\)"),
        (lambda batch: None, "gave a NoneType"),
    ],
)
def test_what_is_diffused_begins_with_positions(channels, words):
    batch = graphs(0)
    batch = SimpleNamespace(pos=batch.pos, x=batch.x[:, :1], batch=batch.batch, few=batch.x[:3])
    with pytest.raises(DataError, match=words):
        list(padded_batches([batch], channels))


def test_integers_of_a_function_become_floating_point():
    x, index = torch.arange(20).view(5, 4), torch.tensor([0, 0, 1, 1, 1])
    ((padded, _),) = padded_batches([{"all": x, "batch": index}], lambda batch: batch["all"])
    ((expected, _),) = padded_batches([{"all": x.float(), "batch": index}], lambda b: b["all"])
    assert torch.equal(padded, expected)
    assert padded.is_floating_point()


def test_a_mask_is_bool_or_zeros_and_ones(stats):
    x, index = flat()
    real = torch.arange(len(index)) % 5 > 0
    real[5] = True
    expected = to_padded(x, index, real)[0]
    for mask in (real.float(), real.long(), real.tolist(), real.numpy(), real[:, None]):
        assert torch.equal(to_padded(x, index, mask)[0], expected)
    reference = stats.reference("size").at(0.7, 0.714)
    for wrong in (torch.arange(len(index)), torch.full((len(index),), 0.5), 2 * real.long()):
        for call in (
            lambda m: to_padded(x, index, m),
            lambda m: to_flat(expected, index, m),
            lambda m: transport(reference, x, index, m),
        ):
            with pytest.raises(DataError, match=r"must be bool, or 0 and 1: it holds (2|0\.5)"):
                call(wrong)


def test_integers_are_no_noise(stats):
    x, index = flat()
    reference = stats.reference("size").at(0.7, 0.714)
    for call in (transport, prior_term):
        for wrong, kind in ((x.long(), "int64"), (x.numpy(), "ndarray")):
            with pytest.raises(DataError, match=f"{kind}; it must be a tensor of floating point"):
                call(reference, wrong, index)


def test_indices_beyond_the_atoms_are_refused_before_they_are_counted():
    x, index = flat()
    far = index + 10**15  # sizes of so many molecules would be 8 petabytes
    for call in (lambda: to_padded(x, far), lambda: to_flat(to_padded(x, index)[0], far)):
        with pytest.raises(DataError, match=r"of 1000000000000005 molecules, and there are 25 at"):
            call()
    with pytest.raises(DataError, match="of 1000000000000000 molecules, and there are 25 atoms"):
        to_padded(x, index, n_molecules=10**15)


def test_indices_are_lists_and_arrays_as_well(stats):
    x, index = flat()
    expected, reference = to_padded(x, index)[0], stats.reference("size").at(0.7, 0.714)
    begin = transport(reference, x, index)
    for same in (index.tolist(), index.numpy(), tuple(index.tolist())):
        assert torch.equal(to_padded(x, same)[0], expected)
        assert torch.equal(to_flat(expected, same), x)
        assert torch.equal(transport(reference, x, same), begin)
    for wrong in (None, "batch", [[0], [1, 2]], [None] * len(x)):
        for call in (lambda i: to_padded(x, i), lambda i: to_flat(expected, i)):
            with pytest.raises(DataError, match=r"batch_index is a .* that makes no tensor"):
                call(wrong)
