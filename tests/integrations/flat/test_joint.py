"""The Gaussian of complexes against one dense matrix over all nodes."""

import re

import gaussian_joint
import pytest
import torch
from fakes import diffsbdd_like
from fakes.joint_cases import DIFFSBDD
from gaga_adapter.integrations import apply_patch, fit_from
from gaga_adapter.integrations.flat import fit_complexes
from gaga_adapter.integrations.flat.joint import JointStats, stack, unstack
from gaussian_joint import SIZES
from torch.distributions import MultivariateNormal, kl_divergence

from gaga_adapter.errors import ArtefactError, DataError, StatsMismatchError, UnsupportedModelError
from gaga_adapter.stats import GAGAStats

WIDTHS = (4, 6)


@pytest.fixture(scope="module")
def stats():
    return DIFFSBDD.stats(DIFFSBDD.model())


def complexes(count, seed=0):
    """Unit noise of complexes of three and five nodes, flat, and their indices."""
    generator = torch.Generator().manual_seed(seed)
    atoms, indices = [], []
    for n, width in zip(SIZES, WIDTHS, strict=True):
        atoms.append(torch.randn(count, n, 3 + width, generator=generator).double())
        indices.append(torch.arange(count).repeat_interleave(n))
    centre = torch.cat([part[..., :3] for part in atoms], 1).mean(1, keepdim=True)
    for part in atoms:
        part[..., :3] -= centre
    return [part.flatten(0, 1) for part in atoms], indices


def test_stacking_is_an_isometry_and_has_an_inverse():
    for sizes in (((5, 1, 3), (7, 9, 2)), ((1,), (1,)), ((9, 9), (1, 1))):
        atoms, indices = [], []
        for i, (n, width) in enumerate(zip(sizes, WIDTHS, strict=True)):
            index = torch.arange(len(n)).repeat_interleave(torch.tensor(n))
            index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(i))]
            indices.append(index)
            atoms.append(torch.randn(len(index), 3 + width).double())
        both = torch.cat([part[:, :3] for part in atoms])
        where = torch.cat(indices)
        n = torch.bincount(where).double()[:, None]
        both -= (torch.zeros(len(n), 3).double().index_add_(0, where, both) / n)[where]
        atoms[0][:, :3], atoms[1][:, :3] = both.split([len(part) for part in atoms])
        parts, mask = stack(tuple(zip(atoms, indices, strict=True)))
        norms = parts.square().sum((1, 2)).view(3, -1).sum(0)
        expected = torch.zeros(len(n)).double()
        for part, index in zip(atoms, indices, strict=True):
            expected.index_add_(0, index, part.square().sum(1))
        assert torch.allclose(norms, expected)
        assert not parts[~mask].any()
        for back, part in zip(unstack(parts, indices, WIDTHS), atoms, strict=True):
            assert torch.allclose(back, part, atol=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0.7, 0.714), (0.95, 0.31), (0.0, 1.0)])
def test_density_and_divergence_are_those_of_the_dense_gaussian(stats, a, b):
    reference = stats.reference("size").at(a, b)
    atoms, indices = complexes(6)
    parts = stack(tuple(zip(atoms, indices, strict=True)))
    points = gaussian_joint.coordinates(
        [part.view(6, n, -1) for part, n in zip(atoms, SIZES, strict=True)]
    )
    mean, covariance = gaussian_joint.dense(stats, a, b)
    target = MultivariateNormal(mean, covariance)
    assert torch.allclose(reference.log_prob(*parts), target.log_prob(points), rtol=1e-7, atol=1e-9)
    posteriors = MultivariateNormal(a * points, b**2 * torch.eye(len(mean)).double())
    expected = kl_divergence(posteriors, target)
    assert torch.allclose(reference.kl_from_posterior(*parts), expected, rtol=1e-7, atol=1e-7)
    unit = stats.reference("unit").at(a, b)
    scale = (a**2 + b**2) * torch.eye(len(mean)).double()
    expected = kl_divergence(posteriors, MultivariateNormal(torch.zeros_like(mean), scale))
    assert torch.allclose(unit.kl_from_posterior(*parts), expected, rtol=1e-7, atol=1e-7)


def test_the_start_has_exactly_the_covariance(stats):
    """The map of the kind `size` is affine: its matrix times its transpose is the covariance."""
    a, b = 0.7, 0.714
    mean, covariance = gaussian_joint.dense(stats, a, b)
    n = len(mean)
    n_positions = 3 * (sum(SIZES) - 1)
    unit = torch.cat([torch.zeros(1, n), torch.eye(n)]).double()
    x = gaussian_joint.basis() @ unit[:, :n_positions].view(n + 1, -1, 3)
    h = unit[:, n_positions:].split([k * w for k, w in zip(SIZES, WIDTHS, strict=True)], 1)
    atoms = [
        torch.cat([p, f.view(n + 1, k, w)], -1).flatten(0, 1)
        for p, f, k, w in zip(x.split(SIZES, 1), h, SIZES, WIDTHS, strict=True)
    ]
    indices = [torch.arange(n + 1).repeat_interleave(k) for k in SIZES]
    parts, mask = stack(tuple(zip(atoms, indices, strict=True)))
    begin = unstack(stats.reference("size").at(a, b).transport(parts, mask), indices, WIDTHS)
    found = gaussian_joint.coordinates(
        [part.view(n + 1, k, -1) for part, k in zip(begin, SIZES, strict=True)]
    )
    assert torch.allclose(found[0], mean, atol=1e-9)
    matrix = found[1:] - found[0]
    assert torch.allclose(matrix.T @ matrix, covariance, rtol=1e-9, atol=1e-9)


def test_it_is_saved_and_read(stats, tmp_path):
    stats.save_pretrained(tmp_path / "complexes")
    again = JointStats.from_pretrained(tmp_path / "complexes")
    assert again.log_snr_star == stats.log_snr_star
    assert repr(again) == repr(stats)
    parts = stack(tuple(zip(*complexes(4), strict=True)))
    for kind in ("size", "shape"):
        left, right = (s.reference(kind).at(0.7, 0.714).transport(*parts) for s in (stats, again))
        assert torch.equal(left, right)
    model = DIFFSBDD.model()
    assert apply_patch(model, again).t_star == apply_patch(model, stats).t_star


def test_where_saved_complexes_are_it_says_how_they_are_read(stats, tmp_path):
    folder = tmp_path / "complexes"
    stats.save_pretrained(folder)
    words = re.escape(f"JointStats.from_pretrained('{folder}')")
    for read in (GAGAStats.from_pretrained, lambda name: apply_patch(DIFFSBDD.model(), name)):
        with pytest.raises(ArtefactError, match=words):
            read(str(folder))
    stats.parts[0].save_pretrained(folder / "other")  # no folder of complexes any more
    with pytest.raises(ArtefactError, match=r"Pass .*displacement"):
        GAGAStats.from_pretrained(folder)


def loader_of(model, count):
    """Batches as DiffSBDD's loader gives them."""
    loader = []
    for seed in range(count):
        given = DIFFSBDD.molecules(model, (5, 6, 7, 6) * 10, seed)
        batch = {}
        for name, part in zip(("lig", "pocket"), given, strict=True):
            keys = {"coords": part["x"], "one_hot": part["one_hot"], "mask": part["mask"]}
            batch |= {f"{name}_{key}": value for key, value in keys.items()}
        loader.append(batch)
    return loader


OPTIONS = {"criterion": "cumulant", "reference": "size", "tolerance": 5.0, "n_bootstrap": 0}
OPTIONS["log_snr"] = (0.0, -3.0, -6.0)


def test_a_fit_of_a_loader_finds_the_parts():
    model = DIFFSBDD.model()
    model.norm_values = (2.0, 4.0)
    stats = fit_complexes(model, loader_of(model, 25), **OPTIONS)
    assert [part.layout.n_features for part in stats.parts] == [4, 6, 0]
    assert [part.moments.count for part in stats.parts] == [1000, 1000, 1000]
    assert stats.log_snr_star == min(part.log_snr_star for part in stats.parts)
    # Positions of N(0, 4) in units of 2, so that each part has variance 1; 1000 * 3 numbers at
    # least a part, of which six standard errors are 0.16.
    for part, n in zip(stats.parts, (6, 9, 2), strict=True):
        assert abs(part.moments.at_size(n).v_x - 1) < 0.16
    handle = apply_patch(model, stats)
    DIFFSBDD.sample(model, (5, 6, 7))
    assert 1 <= handle.t_star <= 20


def test_a_loader_is_judged_by_its_first_batch():
    model = DIFFSBDD.model()
    batch, *others = loader_of(model, 2)

    class Counted(list):
        read = 0

        def __iter__(self):
            for batch in super().__iter__():
                self.read += 1
                yield batch

    def other(**parts):
        return {**batch, **parts}

    n_atoms = len(batch["lig_mask"])
    for first, error, words in (
        ({"x": 1}, DataError, "no tensor 'lig_coords'. It has x. Pass the loader"),
        ({k: batch[k] for k in batch if k != "pocket_mask"}, DataError, "no tensor 'pocket_mask'"),
        (
            other(lig_one_hot=torch.eye(5)[torch.zeros(n_atoms).long()]),
            StatsMismatchError,
            "lig_one_hot of the loader has 5 classes, the model 4",
        ),
        (
            other(pocket_one_hot=batch["pocket_one_hot"][:, :5]),
            StatsMismatchError,
            "pocket_one_hot of the loader has 5 classes, the model 6",
        ),
        (other(lig_coords=batch["lig_coords"][:-1]), DataError, "coords, one_hot and mask of lig"),
        (other(lig_coords=batch["lig_coords"][:, :2]), DataError, "must be .atoms, 3."),
        (other(pocket_mask=batch["pocket_mask"][:-1]), DataError, "mask of pocket have the shapes"),
        (other(lig_one_hot=torch.zeros(n_atoms)), DataError, "mask of lig have the shapes"),
    ):
        loader = Counted([first, *others])
        with pytest.raises(error, match=words):
            fit_complexes(model, loader, **OPTIONS)
        assert loader.read == 1


def test_what_cannot_be_read_three_times_is_refused_before_it_is_read():
    model = DIFFSBDD.model()
    loader = loader_of(model, 1)
    for once in (iter(loader), (batch for batch in loader), map(dict, loader), None, 7):
        with pytest.raises(DataError, match="reads its loader three times, and a"):
            fit_complexes(model, once, **OPTIONS)


def test_models_of_other_kinds_are_not_fitted():
    class Module(torch.nn.Module):
        ddpm = DIFFSBDD.model()

    for model, words in (
        (torch.nn.Linear(1, 1), "Linear is none: no attribute 'T'"),
        (None, "NoneType is none"),
        (Module(), "Pass its `ddpm`"),
    ):
        with pytest.raises(UnsupportedModelError, match=words):
            fit_complexes(model, loader_of(DIFFSBDD.model(), 1), **OPTIONS)
    conditional = DIFFSBDD.model()
    conditional.__class__ = diffsbdd_like.ConditionalDDPM
    with pytest.raises(UnsupportedModelError, match="it is conditional"):
        fit_complexes(conditional, loader_of(conditional, 1), **OPTIONS)


@pytest.mark.parametrize("widths", [(5, 6), (3, 6), (6, 4), (4, 5), (4, 7)])
def test_statistics_of_other_features_are_refused(stats, widths):
    network = diffsbdd_like.EGNNDynamics(*widths)
    model = diffsbdd_like.EnVariationalDiffusion(network, *widths, 3, (40, 40), timesteps=20)
    words = rf"\[4, 6, 0\] features, and those of the model \[{widths[0]}, {widths[1]}, 0\]"
    with pytest.raises(StatsMismatchError, match=words):
        apply_patch(model, stats, t_star=5)


def test_statistics_of_other_units_are_refused(tmp_path):
    model, other = DIFFSBDD.model(), DIFFSBDD.model()
    fitted = fit_complexes(model, loader_of(model, 25), provenance={"source": "mine"}, **OPTIONS)
    fitted.save_pretrained(tmp_path)
    for stats in (fitted, JointStats.from_pretrained(tmp_path)):
        assert stats.parts[0].provenance["source"] == "mine"
        for name, value in (("norm_values", (1.0, 4.0)), ("norm_biases", (None, 0.5))):
            kept = getattr(other, name)
            setattr(other, name, value)
            with pytest.raises(StatsMismatchError, match=r"other units.*\[\[1.0, 1.0\]"):
                apply_patch(other, stats, t_star=5)
            setattr(other, name, kept)
        apply_patch(other, stats, t_star=5).remove()


def test_what_is_no_complex_is_refused(stats):
    model = DIFFSBDD.model()
    with pytest.raises(StatsMismatchError, match=r"is two molecules.*again: fit_complexes\("):
        apply_patch(model, stats.parts[1], t_star=5)
    model.__class__ = diffsbdd_like.ConditionalDDPM
    with pytest.raises(UnsupportedModelError, match="a pocket fixes the law of a ligand"):
        apply_patch(model, stats, t_star=5)
    with pytest.raises(UnsupportedModelError, match="fit_complexes"):
        fit_from(DIFFSBDD.model(), [None])
    with pytest.raises(DataError, match="not drawn by one size"):
        stats.reference("size").sample([3])
    atoms, indices = complexes(3)
    keep = indices[0] < 2
    with pytest.raises(DataError, match="molecule 2 of 3 has no atoms"):
        stack(((atoms[0][keep], indices[0][keep]), (atoms[1], indices[1])))
