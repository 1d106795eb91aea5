"""Fit end to end on data whose answer is known."""

import math
from dataclasses import dataclass

import pytest
import torch

from gaga_adapter import GAGAStats, compare, fit
from gaga_adapter.criteria import CriterionCurve, TwoSample
from gaga_adapter.errors import DataError, GAGAError, StatsMismatchError, TruncationError
from gaga_adapter.layout import AtomLayout, DenseLayout
from gaga_adapter.streaming import _UniformSample, layout_of
from gaga_adapter.subspace import mask_from_sizes, project


def gaussian_molecules(n=1500, seed=0):
    """Molecules that are Gaussian at every size: any truncation is exact."""
    generator = torch.Generator().manual_seed(seed)
    mask = mask_from_sizes(torch.randint(5, 8, (n,), generator=generator), 7)
    return project(torch.randn(n, 7, 5, generator=generator), mask), mask


def rods(n=1500, seed=0):
    """Straight rods of atoms in a random direction: far from Gaussian until the noise is large."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(n, 1, 3, generator=generator), dim=-1)
    place = torch.arange(6.0)[None, :, None] * 1.5
    x = torch.cat([place * direction, torch.zeros(n, 6, 2)], -1)
    x[:, ::2, 3], x[:, 1::2, 4] = 0.25, 0.25
    mask = torch.ones(n, 6, dtype=torch.bool)
    return project(x, mask), mask


def run(data, layout=None, **arguments):
    arguments = {"n_criterion": 1200, "log_snr": (2.0, 0.0, -2.0, -4.0)} | arguments
    return fit(data, layout or AtomLayout(2), **arguments)


def test_gaussian_data_count_as_gaussian_everywhere():
    x, mask = gaussian_molecules()
    stats = run(zip(x.split(256), mask.split(256), strict=True), reference="size", tolerance=0.5)
    assert stats.log_snr_star == pytest.approx(2.0)
    assert stats.provenance["count"] == 1500


def test_rods_are_gaussian_only_far_out():
    x, mask = rods()
    stats = run([(x, mask)], reference="size", tolerance=0.5)
    assert -4 <= stats.log_snr_star < 0


def test_batches_do_not_matter_for_the_moments():
    x, mask = rods(1200)
    one = run([(x, mask)], tolerance=50)
    many = run(zip(x.split(50), mask.split(50), strict=True), tolerance=50)
    torch.testing.assert_close(one.moments.v_x, many.moments.v_x, rtol=1e-12, atol=0)


def test_dense_data():
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.3, 2.0])[:, None, None]
    x = torch.randn(1500, 2, 3, 3, generator=generator) * scale
    stats = run(x.split(500), DenseLayout((2, 3, 3)), tolerance=0.5)
    assert isinstance(stats, GAGAStats)
    drawn = stats.reference().sample((4000, 2, 3, 3), generator=generator)
    # 36,000 draws per channel: the standard error of a standard deviation is 0.4%
    torch.testing.assert_close(
        drawn.std((0, 2, 3)), x.std((0, 2, 3)), rtol=0.03, atol=0, check_dtype=False
    )


def test_the_kept_sample_is_uniform_and_bounded():
    """Every tenth of the stream is equally likely to be kept."""
    sample = _UniformSample(2000, seed=0)
    for number, start in enumerate(range(0, 20_000, 500)):
        sample.update(torch.arange(start, start + 500), None, number)
        assert len(sample.keys) <= 2 * 2000 + 500
    kept, _ = sample.tensors()
    assert len(kept) == len(kept.unique()) == 2000
    counts = torch.bincount(kept // 2000, minlength=10).double()
    # chi-square with 9 degrees of freedom exceeds 45 once in a million; sampling without
    # replacement only makes it smaller
    assert float(((counts - 200) ** 2 / 200).sum()) < 45


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], DataError, "stream was empty"),
        ([torch.zeros(3, 4, 5)], DataError, r"need pairs \(x, mask\); got 1 tensors"),
        (
            [(torch.zeros(3, 4, 9), torch.ones(3, 4, dtype=torch.bool))],
            StatsMismatchError,
            r"3\+2",
        ),
        (
            [(torch.full((3, 4, 5), torch.nan), torch.ones(3, 4, dtype=torch.bool))],
            DataError,
            "not finite",
        ),
    ],
)
def test_bad_data(data, error, message):
    with pytest.raises(error, match=message):
        run(data)


def test_dense_batches_of_another_form():
    x = torch.randn(1200, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    layout, arguments = DenseLayout((2, 3, 3)), {"tolerance": 5, "log_snr": (0.0, -2.0)}
    alone = run([x], layout, **arguments)
    boxed = run([[x]], layout, **arguments)  # what torch's DataLoader makes of a TensorDataset
    assert boxed.log_snr_star == alone.log_snr_star
    with pytest.raises(DataError, match="dense data are x alone; got batches of 2 entries"):
        run([(x, torch.zeros(1200))], layout)
    with pytest.raises(DataError, match=r"Pass torch\.from_numpy\(batch\)"):
        run([x.numpy()], layout)
    with pytest.raises(DataError, match=r"Pass \[x\]"):
        run(x, layout)
    with pytest.raises(DataError, match=r"shapes \(2, 3, 3\) and \(2, 6, 6\)"):
        run([x, torch.zeros(4, 2, 6, 6)], layout)


def test_settings_that_make_no_sense_are_refused_before_the_data_are_read():
    def unread():
        raise AssertionError("read")
        yield

    with pytest.raises(GAGAError, match="unknown criterion 'guess'"):
        run(unread(), criterion="guess")
    with pytest.raises(DataError, match="n_criterion=-10"):
        run(unread(), n_criterion=-10)
    with pytest.raises(TruncationError, match="tolerance=-1"):
        run(unread(), tolerance=-1)


def test_a_reference_that_cannot_be_had_is_refused_on_the_first_batch():
    def one_batch():
        yield rods(50)
        raise AssertionError("read on")

    with pytest.raises(StatsMismatchError, match="unknown reference 'guess'"):
        run(one_batch(), reference="guess")


# ------------------------------------------------------------- intervals, sizes, other criteria


def rods_of(sizes=(5, 9), n=800, seed=0):
    """Rods of two lengths, the longer twice as far from Gaussian."""
    x = torch.zeros(n * len(sizes), max(sizes), 5)
    mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    for k, size in enumerate(sizes):
        place = torch.arange(float(size))[None, :, None] * 1.2
        generator = torch.Generator().manual_seed(seed + k)
        direction = torch.randn(n, 1, 3, generator=generator)
        rows = slice(k * n, (k + 1) * n)
        x[rows, :size, :3] = place * torch.nn.functional.normalize(direction, dim=-1)
        x[rows, :size, 3] = torch.randint(2, (n, size), generator=generator) / 4
        mask[rows, :size] = True
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(9))
    return project(x, mask)[order], mask[order]


def test_t_star_has_an_interval_and_one_for_every_size():
    x, mask = rods_of()
    levels = (2.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0)
    stats = run([(x, mask)], reference="size", log_snr=levels, by_size=True, n_criterion=1600)
    chosen = stats.selection
    low, high = chosen.interval
    assert low <= stats.log_snr_star <= high
    assert 0 < high - low < 1
    assert set(chosen.by_size) == {5, 9}
    assert chosen.by_size[9] < stats.log_snr_star < chosen.by_size[5]
    assert stats.at_size(9).log_snr_star == chosen.by_size[9]
    assert stats.at_size(7).log_snr_star == chosen.by_size[9]  # unseen: the noisier neighbour
    assert stats.at_size(50).log_snr_star == chosen.by_size[9]
    plain = run([(x, mask)], reference="size", log_snr=levels, n_criterion=1600, n_bootstrap=0)
    assert plain.log_snr_star == stats.log_snr_star
    assert plain.selection.interval is None
    with pytest.raises(StatsMismatchError, match="by_size=True"):
        plain.at_size(9)


def test_several_criteria_judge_the_same_sample():
    class Never:
        name, unit = "never", "nats"

        def curve(self, x, mask, reference, log_snr, generator=None, progress=None):
            seen.append((x, reference.kind))
            raise DataError("these data have no such thing.")

    seen = []
    x, mask = rods(1200)
    judge = TwoSample(max_iter=20)
    found = compare(
        [(x, mask)],
        AtomLayout(2),
        [Never(), judge],
        reference="size",
        log_snr=(0.0, -2.0, -4.0),
        n_criterion=1100,
        tolerances={"nats": 0.7},
    )
    assert (found.count, found.n_criterion) == (1200, 1100)
    assert found.verdicts["never"].reason == "these data have no such thing."
    assert found.verdicts["never"].curve is None
    assert len(seen[0][0]) == 1100
    assert seen[0][1] == "size"
    verdict = found.verdicts["two_sample"]
    assert verdict.selection.tolerance == 0.7
    assert verdict.selection.interval[0] <= verdict.selection.log_snr_star
    # alone or after others, a criterion says the same
    alone = compare(
        [(x, mask)],
        AtomLayout(2),
        [judge],
        reference="size",
        log_snr=(0.0, -2.0, -4.0),
        n_criterion=1100,
        tolerances={"nats": 0.7},
    )
    assert alone.verdicts["two_sample"].curve == verdict.curve


@dataclass(frozen=True)
class Grows:
    """A lower bound in nats that grows with the number of items: `scale n exp(log_snr)`."""

    scale: float
    name: str = "grows"
    unit: str = "nats"
    grows_with_items: bool = True

    def curve(self, x, mask, reference, log_snr, generator=None, progress=None):
        value = tuple((self.scale * len(x) * log_snr.exp()).tolist())
        levels, errors = tuple(log_snr.tolist()), (0.01,) * len(value)
        return CriterionCurve(self.name, reference.kind, "nats", levels, value, errors, len(x))


def test_the_choice_says_what_fewer_items_would_have_shown():
    chosen = run([gaussian_molecules()], criterion=Grows(1e-3), log_snr=(1.0, 0.0, -1.0, -2.0))
    level = chosen.selection.first_level
    assert level <= chosen.log_snr_star
    n = chosen.selection.curve.n_samples
    assert list(chosen.selection.by_items) == [n // 4, n // 2, n]
    for count, (value, _) in chosen.selection.by_items.items():
        assert value == pytest.approx(1e-3 * count * math.exp(level))
    assert f"at {n:,} items" in chosen.selection.meaning


def test_images_want_low_rank_for_channel_does_not_know_how_pixels_depend():
    """Gaussian images, whose pixels are nearly one number: `low_rank` is exact at every level."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3000, 1, 1, 1, generator=generator)
    images = images + 0.1 * torch.randn(3000, 1, 3, 3, generator=generator)
    star = {
        covariance: fit(
            [images], criterion="cumulant", covariance=covariance, n_bootstrap=0
        ).log_snr_star
        for covariance in ("channel", "low_rank")
    }
    assert star["low_rank"] == 2.5  # the level nearest to the data that is asked for
    assert star["channel"] < 0


def test_what_comes_after_the_last_level_is_reported_before_it_is_done():
    steps = []

    class Told(Grows):
        def curve(self, x, *rest, **options):
            steps.append(f"curve of {len(x)} items")
            return super().curve(x, *rest, **options)

    run(
        [gaussian_molecules()],
        criterion=Told(1e-3),
        log_snr=(1.0, 0.0, -1.0, -2.0),
        progress=lambda *step: steps.append(step),
    )
    whole = next(place for place, step in enumerate(steps) if str(step).startswith("curve"))
    n = int(steps[whole].split()[2])
    assert steps[whole + 1 :] == [
        ("grows on fewer items", 0, 2),
        f"curve of {n // 4} items",
        ("grows on fewer items", 1, 2),
        f"curve of {n // 2} items",
    ]


def test_of_several_lower_bounds_the_largest_decides():
    judges = [Grows(1e-3), Grows(2e-3, "tighter")]
    levels = (1.0, 0.0, -1.0, -2.0)
    alone = [run([gaussian_molecules()], criterion=judge, log_snr=levels) for judge in judges]
    both = run([gaussian_molecules()], criterion=judges, log_snr=levels)
    assert both.log_snr_star == alone[1].log_snr_star < alone[0].log_snr_star
    assert both.selection.curve.criterion == "tighter"
    assert both.selection.others == {"grows": alone[0].log_snr_star}
    for none in ([], [Grows(1.0), "ks_mi"]):
        with pytest.raises(DataError, match="need one, or several in nats"):
            run([gaussian_molecules()], criterion=none)


def test_a_criterion_that_never_holds_keeps_its_curve():
    found = compare(
        [rods(1200)], AtomLayout(2), [TwoSample(max_iter=20)], "size", log_snr=(2.0, 1.0)
    )
    verdict = found.verdicts["two_sample"]
    assert verdict.selection is None
    assert verdict.curve.value[0] > 1
    assert "does not stay within 0.5 nats" in verdict.reason


def test_single_atoms_have_no_positions_to_judge():
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(1200, 1, 5)
    x[torch.arange(1200), 0, torch.randint(3, 5, (1200,), generator=generator)] = 0.25
    stats = run([(x, torch.ones(1200, 1, dtype=torch.bool))], log_snr=(0.0, -2.0), tolerance=5)
    assert stats.selection.curve.reference == "shape"
    assert torch.isfinite(torch.tensor(stats.selection.curve.value)).all()


def test_one_molecule_is_too_few():
    x, mask = gaussian_molecules(1)
    with pytest.raises(GAGAError):
        run([(x, mask)])


# -- the layout of the first batch -----------------------------------------------------------------


def test_the_layout_of_dense_data_is_their_shape():
    x = torch.randn(1200, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    arguments = {"criterion": "cumulant", "tolerance": 5, "log_snr": (0.0, -2.0), "n_bootstrap": 0}
    read = fit(iter([x[:600], x[600:]]), **arguments)
    assert read.layout == DenseLayout((2, 3, 3))
    assert read.to_dict() == fit([x[:600], x[600:]], read.layout, **arguments).to_dict()
    assert compare([[x]], criteria=["cumulant"], n_bootstrap=0).layout == read.layout


def test_the_layout_of_atoms_is_unnamed():
    x, mask = torch.randn(4, 5, 6), torch.ones(4, 5, dtype=torch.bool)
    assert layout_of((x, mask)) == AtomLayout(3)
    assert layout_of((x[..., :3], mask)) == AtomLayout(0)
    assert layout_of(x) == DenseLayout((5, 6))


def test_elements_have_to_be_named():
    mask = mask_from_sizes(torch.tensor([2, 4]))
    onehot = torch.eye(3)[torch.tensor([[0, 1, 0, 0], [2, 1, 1, 0]])] / 4 * mask[..., None]
    x = torch.cat([torch.randn(2, 4, 3), onehot], -1)
    with pytest.raises(DataError, match=r"which 3 elements.*_scale=4, .*=None.*AtomLayout\(3"):
        fit([(x, mask)])
    charged = torch.cat([x, torch.rand(2, 4, 1)], -1)
    with pytest.raises(DataError, match=r"which 3 elements.*charge_scale=\.\.\..*AtomLayout\(4"):
        fit([(charged, mask)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the stream was empty"),
        ([torch.zeros(4)], r"\(4,\) has no channels"),
        ([(torch.zeros(4, 3), torch.zeros(4, 3))], "neither dense data nor pairs"),
        ([torch.zeros(4, 3).numpy()], "not a tensor"),
    ],
)
def test_data_without_a_layout(data, message):
    with pytest.raises(DataError, match=message):
        fit(data)


def test_what_stands_in_the_place_of_the_layout_must_be_one():
    with pytest.raises(DataError, match=r"layout='cumulant' is no layout.*criterion='cumulant'"):
        fit([torch.zeros(4, 3, 2)], "cumulant")
