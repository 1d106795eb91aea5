"""Where channels are, tokens without positions, and what is passed in place of batches."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch.distributions import MultivariateNormal
from toys import dense_fitted, generator, normal

from gaga_adapter import GAGAScheduler, GAGAStats, compare, fit, truncate_sigmas
from gaga_adapter.criteria import KSMI, TwoSample
from gaga_adapter.errors import DataError, GAGAWarning, StatsMismatchError, TruncationError
from gaga_adapter.layout import AtomLayout, DenseLayout, MoleculeLayout, TokenLayout
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.reference import make_reference
from gaga_adapter.report.histograms import histograms
from gaga_adapter.subspace import mask_from_sizes

pytestmark = pytest.mark.filterwarnings("ignore:[0-9]+ data items (may lack|make a loose)")

STD = torch.tensor([0.2, 1.16, 2.0])
QUICK = {"criterion": "cumulant", "log_snr": (0.0, -2.0), "n_bootstrap": 0, "tolerance": 1e9}
# Event, axis of its three channels, and the same channels at another size.
EVENTS = [
    ((3, 6, 5), 0, (3, 9, 4)),
    ((40, 3), -1, (64, 3)),
    ((7, 3, 4, 2), 1, (2, 3, 6, 6)),
    ((6, 5, 3), 2, (3, 3, 3)),
]
each_event = pytest.mark.parametrize(("shape", "axis", "other"), EVENTS)


def channelled(shape, axis, n=1200):
    """Gaussian events whose three channels have the deviations STD and the means 1, 2, 3."""
    view = [1] * len(shape)
    view[axis] = 3
    noise = torch.randn(n, *shape, generator=generator(1))
    return noise * STD.reshape(view) + torch.tensor([1.0, 2.0, 3.0]).reshape(view)


# -- the axis of the channels ----------------------------------------------------------------------


@each_event
def test_channels_are_found_on_every_axis(shape, axis, other, tmp_path):
    fit([channelled(shape, axis)], channels=axis, **QUICK).save_pretrained(tmp_path)
    stats = GAGAStats.from_pretrained(tmp_path)
    assert stats.layout == DenseLayout(shape, channels=axis)
    assert stats.moments.channels == stats.layout.channels
    # 1200 events of 20 places or more: a standard error of 0.5 % of a deviation
    torch.testing.assert_close(stats.moments.channel_var.sqrt().float(), STD, rtol=0.03, atol=0)
    for size in (shape, other):
        drawn = stats.reference().sample((3000, *size), generator=generator(2))
        rows = drawn.movedim(1 + stats.layout.channels, 1).flatten(2)
        torch.testing.assert_close(rows.std((0, 2)), STD, rtol=0.04, atol=0)
        torch.testing.assert_close(rows.mean((0, 2)), torch.arange(1.0, 4), rtol=0, atol=0.12)


@each_event
def test_the_density_is_that_of_the_same_events_with_channels_first(shape, axis, other):
    x = channelled(shape, axis, 60).double()
    first = x.movedim(1 + axis if axis >= 0 else axis, 1)
    for kind in ("channel", "element", "full"):
        moments = DenseMoments(shape, kind, channels=axis)
        moments.update(x[:30])
        moments.update(x[30:])
        for reference in {kind, "channel"}:
            here = make_reference(moments, reference).at(0.8, 0.6)
            there = dense_fitted(first, kind) if kind == reference else None
            there = there or make_reference(DenseMomentsOf(first, kind), reference)
            there = there.at(0.8, 0.6)
            for verb in ("log_prob", "kl_from_posterior"):
                torch.testing.assert_close(
                    getattr(here, verb)(x), getattr(there, verb)(first), rtol=1e-9, atol=1e-9
                )


def DenseMomentsOf(x, kind):
    moments = DenseMoments(tuple(x.shape[1:]), kind)
    moments.update(x)
    return moments


@pytest.mark.parametrize("kind", ["element", "low_rank", "full"])
def test_other_sizes_are_refused_where_the_covariance_knows_entries(kind):
    moments = DenseMoments((6, 3), kind, rank=2, channels=-1)
    moments.update(channelled((6, 3), -1, 50))
    with pytest.raises(StatsMismatchError, match="Only covariance='channel' serves other sizes"):
        make_reference(moments).transport(torch.zeros(1, 8, 3))


def test_shape_errors_name_the_next_step():
    reference = dense_fitted(channelled((3, 4, 4), 0, 50), "channel")
    with pytest.raises(StatsMismatchError, match=r"DenseLayout\(\(16, 3\), channels=1\)"):
        reference.transport(torch.zeros(1, 16, 3))
    with pytest.raises(StatsMismatchError, match="packed as the pipeline packs them"):
        reference.transport(torch.zeros(1, 4, 12))
    with pytest.raises(StatsMismatchError, match=r"\(B, \*event\)"):
        DenseMoments((3, 2)).update(torch.zeros(4))


def test_old_artefacts_and_old_readers():
    """The first axis goes without saying, and version 0.1 is told to upgrade for another one."""
    stats = fit([channelled((3, 4, 4), 0, 50)], **QUICK)
    config = stats.to_dict()
    assert config["schema_version"] == 1
    assert config["layout"] == {"kind": "dense", "shape": (3, 4, 4)}
    assert "channels" not in config["moments"]
    last = fit([channelled((4, 3), -1, 50)], channels=-1, **QUICK).to_dict()
    assert (last["schema_version"], last["layout"]["channels"]) == (2, 1)


def test_criteria_see_the_channels_wherever_they_are():
    """Skewed channels: the features of the same events, channels first or last, are the same."""
    first = channelled((3, 12), 0, 200).exp()
    last = first.mT.contiguous()
    references = [make_reference(DenseMomentsOf(first, "channel"))]
    moments = DenseMoments((12, 3), channels=-1)
    moments.update(last)
    references.append(make_reference(moments))
    level, kept = torch.tensor([-30.0]), {}  # noise alone: the layouts differ by their order
    for name, x, reference in (("first", first, references[0]), ("last", last, references[1])):
        judge = TwoSample(max_iter=5, check_reference=False)
        with pytest.warns(GAGAWarning, match="loose lower bound"):
            kept[name] = judge.curve(x, None, reference, level, generator(0)).value
        KSMI(n_samples=60).curve(x, None, reference, level, generator(0))
    assert kept["first"] == pytest.approx(kept["last"], abs=0.2)


def test_the_guess_of_the_first_axis_is_doubted():
    tokens = channelled((40, 3), -1, 100)
    with pytest.warns(GAGAWarning, match=r"more along axis 1 \(3\)\. Pass channels=1"):
        assert fit([tokens], **QUICK).layout == DenseLayout((40, 3))
    with pytest.warns(GAGAWarning, match=r"more along axis 1 \(3\)"):
        fit([channelled((2, 3, 4, 4), 1, 100)], **QUICK)
    assert fit([tokens], channels=0, **QUICK).layout.channels == 0  # said, so no warning
    fit([channelled((3, 40), 0, 100)], **QUICK)
    with pytest.raises(DataError, match="Pass one of the two"):
        fit([tokens], DenseLayout((40, 3)), channels=-1)


def test_square_events_may_be_images_without_an_axis_of_channels():
    square = torch.randn(60, 8, 8, generator=generator(1))
    with pytest.warns(GAGAWarning) as caught:
        assert fit([square], **QUICK).layout == DenseLayout((8, 8))
    (text,) = (str(one.message) for one in caught if "square" in str(one.message))
    assert "the first axis of events (8, 8) is taken for the channels (8)" in text
    assert "add its axis, x[:, None] of shape (M, 1, 8, 8)" in text
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*square")
        assert fit([square[:, None]], **QUICK).layout == DenseLayout((1, 8, 8))
        assert fit([square], channels=0, **QUICK).layout == DenseLayout((8, 8))
        fit([square[:, :, :7]], channels=0, **QUICK)
        fit([torch.randn(60, 8, 9, generator=generator(1))], **QUICK)


@pytest.mark.parametrize("colours", [1, 3])
def test_images_with_their_colours_last_are_doubted_whatever_their_numbers_are(colours):
    images = torch.randn(60, 8, 8, colours, generator=generator(1))
    with pytest.warns(GAGAWarning) as caught:
        assert fit([images], **QUICK).layout == DenseLayout((8, 8, colours))
    (text,) = (str(one.message) for one in caught if "look like images" in str(one.message))
    assert f"whose last axis ({colours}) holds the colours. Pass channels=-1" in text
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*look like images")
        last = fit([images], channels=-1, **QUICK).layout
        assert last == DenseLayout((8, 8, colours), channels=-1)
        assert fit([images], channels=0, **QUICK).layout == DenseLayout((8, 8, colours))
        fit([images.movedim(-1, 1)], **QUICK)
        fit([images.repeat(1, 1, 1, 8)], channels=0, **QUICK)


def test_tokens_of_several_lengths_are_not_padded_in_silence():
    batches = [channelled((8, 3), -1, 30), channelled((5, 3), -1, 30)]
    with pytest.raises(DataError, match="one resolution at a time"):
        fit(batches, DenseLayout((8, 3), channels=-1), **QUICK)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenseLayout((4.5, 2)), "axis 0 of the shape is 4.5"),
        (lambda: DenseLayout((4, 0)), "axis 1 of the shape is 0"),
        (lambda: DenseLayout((True, 2)), "axis 0 of the shape is True"),
        (lambda: DenseLayout(()), "has no axis"),
        (lambda: DenseLayout(64), "shape=64 is no shape"),
        (lambda: DenseLayout("44"), "is no shape"),
        (lambda: DenseLayout((4, 2), channels=2), "channels=2 is no axis.*-2 to 1"),
        (lambda: DenseMoments((4, -2)), "axis 1 of the shape is -2"),
        (lambda: AtomLayout(-1), "n_features is -1"),
        (lambda: TokenLayout(0), "n_features is 0"),
        (lambda: MoleculeLayout("HCl"), "no sequence of symbols"),
        (lambda: MoleculeLayout((1, 6)), "elements are"),
        (lambda: MoleculeLayout(("H",), "1"), "position_scale='1'"),
    ],
)
def test_layouts_that_make_no_sense(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_a_shape_may_be_any_sequence_of_integers():
    assert DenseLayout([4, np.int64(2)]) == DenseLayout(torch.zeros(4, 2).shape)
    json.dumps(DenseLayout([np.int64(4)]).shape)
    assert MoleculeLayout(["H", "C"]) == MoleculeLayout(("H", "C"))


# -- tokens without positions ----------------------------------------------------------------------

SIZES = (1, 2, 4)


def tokens(n=3000):
    """Gaussian sets of tokens of two channels: a mean and two covariances of every size's own."""
    sizes = torch.tensor(SIZES).repeat(n // 3)
    mask = mask_from_sizes(sizes)
    within = torch.tensor([[1.0, 0.6], [0.0, 0.5]], dtype=torch.float64)
    shared = torch.tensor([[0.3, 0.0], [-1.0, 0.7]], dtype=torch.float64)
    x = normal(n, 4, 2, seed=3) @ within + (normal(n, 1, 2, seed=4) @ shared)
    x = x * sizes.double().sqrt()[:, None, None] + sizes.double()[:, None, None]
    return x * mask[..., None], mask


def test_tokens_have_the_mean_and_covariances_of_each_size():
    """Against the sample moments of the flattened sets, averaged over exchanges of tokens."""
    x, mask = tokens()
    moments = ExchangeableMoments(2, table_size=0, n_positions=0)
    for part, real in zip(x.split(700), mask.split(700), strict=True):
        moments.update(part, real.float()[..., None])  # as EDM's loaders give it
    a, b = 0.8, 0.6
    reference = make_reference(moments).at(a, b)
    assert reference.kind == "size"
    for n in SIZES:
        rows = x[mask.sum(1) == n][:, :n]
        mean = rows.mean((0, 1))
        centred = rows - mean
        same = torch.einsum("bif,big->fg", centred, centred) / (len(rows) * n)
        whole = centred.sum(1)
        other = (whole.mT @ whole / len(rows) - n * same) / max(n * (n - 1), 1)
        eye = torch.eye(n, dtype=torch.float64)
        covariance = torch.kron(eye, same) + torch.kron(1 - eye, other)
        noised = a**2 * covariance + b**2 * torch.eye(2 * n, dtype=torch.float64)
        law = MultivariateNormal(a * mean.repeat(n), noised)
        points = normal(5, n, 2, seed=n)
        torch.testing.assert_close(
            reference.log_prob(points), law.log_prob(points.flatten(1)), rtol=1e-9, atol=1e-9
        )
        noise = torch.cat([torch.zeros(1, 2 * n), torch.eye(2 * n)]).double().reshape(-1, n, 2)
        real = torch.ones(len(noise), n, dtype=torch.bool)
        moved = reference.transport(noise, real).flatten(1)
        root = (moved[1:] - moved[0]).T
        torch.testing.assert_close(moved[0], law.mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(root @ root.T, noised, rtol=1e-8, atol=1e-8)
        posterior = MultivariateNormal(
            a * points.flatten(1), b**2 * torch.eye(2 * n, dtype=torch.float64)
        )
        expected = torch.distributions.kl_divergence(posterior, law)
        torch.testing.assert_close(
            reference.kl_from_posterior(points), expected, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("criterion", ["cumulant", "two_sample"])
def test_gaussian_tokens_go_from_fit_to_samples(criterion, tmp_path):
    x, mask = tokens()
    x, mask = x[mask.sum(1) == 4], mask[mask.sum(1) == 4]  # 1000 sets of four
    stats = fit(
        [(x.float(), mask)], TokenLayout(2), criterion=criterion, log_snr=(1.0, -1.0), n_bootstrap=0
    )
    assert stats.log_snr_star == 1.0  # Gaussian at every level
    assert abs(stats.selection.curve.value[0]) < 0.3
    stats.save_pretrained(tmp_path)
    again = GAGAStats.from_pretrained(tmp_path)
    assert again.layout == TokenLayout(2)
    assert again.to_dict() == stats.to_dict()
    assert "symmetry" in again.to_dict()
    assert again.to_dict()["symmetry"] == "permutations"
    scheduler = GAGAScheduler.from_pretrained(DDIMScheduler(), stats=tmp_path, handover="init")
    scheduler.set_timesteps(20)
    z = torch.randn(4000, 6, 2, generator=generator(5))
    z[:, 4:] = 0  # padding
    start = z * scheduler.init_noise_sigma
    assert bool((start[:, 4:] == 0).all())
    a2 = float(DDIMScheduler().alphas_cumprod[int(scheduler.timesteps[0])])
    expected = math.sqrt(a2) * x.mean((0, 1)).float()
    # The mean of a start has a standard error of 0.03 here; the positions of atoms would have 0.
    torch.testing.assert_close(start[:, :4].mean((0, 1)), expected, rtol=0.02, atol=0.15)
    panels = histograms(again, None, generator(0))
    assert [panel.name for panel in panels] == ["channel 0", "channel 1"]


def test_tokens_far_from_gaussian_are_seen():
    """Two points: every token of a set is plus or minus one, together."""
    sign = torch.randint(2, (1200, 1, 1), generator=generator(0)) * 2.0 - 1
    x = sign.expand(1200, 3, 2) + 0.05 * torch.randn(1200, 3, 2, generator=generator(1))
    mask = torch.ones(1200, 3, dtype=torch.bool)
    found = compare(
        [(x, mask)], TokenLayout(2), ["cumulant", "two_sample"], log_snr=(3.0, -6.0), n_bootstrap=0
    )
    # Cumulants up to the fourth see 2²/48 = 0.083 nats of a number that is plus or minus one.
    for name, least in (("cumulant", 0.05), ("two_sample", 0.4)):
        value = found.verdicts[name].curve.value
        assert value[0] > least
        assert abs(value[1]) < 0.05


def test_tokens_have_no_shape():
    moments = ExchangeableMoments(2, 0, n_positions=0)
    moments.update(*tokens(30))
    with pytest.raises(StatsMismatchError, match="unknown reference 'shape'"):
        make_reference(moments, "shape")
    with pytest.raises(StatsMismatchError, match=r"tokens without positions \(B, N, 2\)"):
        make_reference(moments).transport(torch.ones(1, 4, 5))
    with pytest.raises(DataError, match=r"layout=TokenLayout\(2\)"):
        fit([tokens(30)])


# -- what is passed in place of batches ------------------------------------------------------------

X = torch.randn(8, 4, 5, generator=generator())
MASK = torch.ones(8, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "data is None"),
        ("latents.npy", "data is the path 'latents.npy'.*gaga fit"),
        (Path("x.sdf"), "data is the path"),
        ({"latents": X}, r"one dict with the keys latents.*\[data\[key\]\]"),
        (X.numpy(), r"numpy ndarray.*split\(512\)"),
        ((X, MASK), r"one pair of tensors.*\[\(x, mask\)\]"),
        (torch.utils.data.TensorDataset(X), "single items.*DataLoader"),
        (lambda: iter([X]), "call it"),
        (7, "data is a int"),
        (iter([]), "read only once"),
        ([{"positions": X, "mask": MASK}], r"a batch is a dict with the keys positions, mask"),
        (["x.pt"], "a batch is the text 'x.pt'"),
        ([[]], "entry 0 of a batch is nothing"),
        ([(X, None)], "entry 1 of a batch is nothing"),
        ([[1.0, 2.0]], "entry 0 of a batch is a float"),
        ([object()], "a batch is a object, not a tensor"),
        ([(X * 100).to(torch.uint8)], r"torch\.uint8.*127\.5"),
        ([X > 0], r"torch\.bool"),
        ([X.to(torch.complex64)], r"torch\.complex64"),
    ],
)
def test_what_is_no_stream_of_batches_is_refused(data, message):
    for verb in (fit, compare):
        again = iter([]) if not hasattr(data, "__len__") and hasattr(data, "__next__") else data
        with pytest.raises(DataError, match=message):
            verb(again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("axes", [(), (1,)])
def test_masks_of_other_types_mean_the_same(dtype, axes):
    mask = mask_from_sizes(torch.tensor([2, 3, 4] * 10))
    x = torch.randn(30, 4, 5, generator=generator()) * mask[..., None]
    layout, options = AtomLayout(2), QUICK | {"reference": "size"}
    plain = fit([(x, mask)] * 3, layout, **options)
    other = fit([(x, mask.to(dtype).reshape(30, 4, *axes))] * 3, layout, **options)
    assert other.to_dict() == plain.to_dict()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK.float() / 2, "other values than 0 and 1"),
        (MASK[:, :3], r"bool \(8, 3\)"),
        (torch.ones(8, 4, 4), r"float32 \(8, 4, 4\)"),
    ],
)
def test_ambiguous_masks_are_refused(mask, message):
    with pytest.raises(DataError, match=message):
        fit([(X, mask)], AtomLayout(2))


def test_a_mask_of_the_padding_is_refused():
    real = mask_from_sizes(torch.tensor([2] * 8), 4)
    with pytest.raises(DataError, match="Pass ~mask"):
        fit([(X * real[..., None], ~real)], AtomLayout(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_snr": 0.0}, "no list of levels"),
        ({"log_snr": ()}, "list of finite levels"),
        ({"log_snr": (math.nan,)}, "list of finite levels"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**70}, "seed="),
        ({"n_criterion": 10.5}, r"n_criterion=10\.5"),
        ({"n_bootstrap": -1}, "n_bootstrap=-1"),
        ({"provenance": {"x": X}}, "JSON"),
        ({"criterion": TwoSample}, "is no criterion"),
        ({"layout": DenseLayout}, r"Pass DenseLayout\(\.\.\.\)"),
        ({"channels": 7}, "channels=7 is no axis"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(DataError, match=message):
        fit([X], **arguments)


def test_comparisons_that_make_no_sense():
    with pytest.raises(DataError, match="criteria='cumulant'"):
        compare([X], criteria="cumulant")
    with pytest.raises(DataError, match="criteria="):
        compare([X], criteria=[])
    with pytest.raises(DataError, match="'cumulant' is none"):
        compare([X], tolerances={"cumulant": 0.3})


def test_half_precision_is_judged_in_single():
    x = channelled((3, 4), 0, 100).bfloat16()
    assert fit([x], **QUICK).to_dict() == fit([x.float()], **QUICK).to_dict()


def test_statistics_that_make_no_sense():
    moments = DenseMomentsOf(channelled((3, 4), 0, 20), "channel")
    with pytest.raises(StatsMismatchError, match="layout=None is none"):
        GAGAStats(None, moments, 0.0)
    with pytest.raises(StatsMismatchError, match="moments=None is none"):
        GAGAStats(DenseLayout((3, 4)), None, 0.0)
    with pytest.raises(StatsMismatchError, match="the layout has"):
        GAGAStats(DenseLayout((3, 4), channels=-1), moments, 0.0)
    with pytest.raises(TruncationError, match="is no finite number"):
        GAGAStats(DenseLayout((3, 4)), moments, "low")
    stats = GAGAStats(DenseLayout((3, 4)), moments, torch.tensor(-1.0))
    json.dumps(stats.to_dict())
    assert repr(stats) == "GAGAStats(dense 3x4, 20 items, log_snr_star=-1)"


# -- the reference of t* ---------------------------------------------------------------------------


def test_auto_is_the_reference_that_t_star_was_chosen_for():
    x, mask = torch.randn(60, 4, 5, generator=generator()), torch.ones(60, 4, dtype=torch.bool)
    options = QUICK
    stats = fit([(x, mask)], AtomLayout(2), reference="size", **options)
    assert stats.judged_reference == "size"
    assert stats.reference().kind == stats.start().kind == "size"
    assert GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats).reference == "size"
    assert fit([(x, mask)], AtomLayout(2), **options).reference().kind == "shape"
    assert "size reference" in repr(stats)
    with pytest.warns(GAGAWarning, match="chosen for the 'size' reference.*'paper'"):
        assert stats.start("paper").kind == "paper"
    assert stats.start("paper", log_snr_star=-9.0).kind == "paper"  # chosen by hand: no warning
    with pytest.warns(GAGAWarning, match="'unit'"):
        truncate_sigmas([80.0, 10.0, 1.0, 0.0], stats, reference="unit")
    dense = fit([channelled((3, 4), 0, 60)], covariance="full", reference="channel", **QUICK)
    assert dense.reference().kind == "channel"


# -- autocast --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["channel", "element", "low_rank", "full"])
def test_autocast_leaves_the_start_alone(kind):
    reference = dense_fitted(channelled((3, 4), 0, 100), kind).at(0.8, 0.6)
    z = torch.randn(5, 3, 4, generator=generator())
    plain = reference.transport(z)
    exact = reference.transport(z.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reference.transport(z), plain)
        assert torch.equal(reference.log_prob(z), reference.log_prob(z.double()))
    # Worked out in float64: what is left is the rounding of the result.
    torch.testing.assert_close(plain.double(), exact, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("kind", ["unit", "size", "shape"])
def test_autocast_leaves_molecules_alone(kind):
    moments = ExchangeableMoments(2)
    moments.update(X, MASK)
    reference = make_reference(moments, kind).at(0.8, 0.6)
    z = torch.randn(5, 4, 5, generator=generator())
    plain = reference.transport(z, torch.ones(5, 4, dtype=torch.bool))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reference.transport(z, torch.ones(5, 4, dtype=torch.bool)), plain)


@pytest.mark.parametrize("criterion", ["cumulant", "two_sample", "ks_mi"])
def test_autocast_leaves_a_fit_alone(criterion):
    x = channelled((3, 8), 0, 1000)
    judge = TwoSample(max_iter=5, check_reference=False) if criterion == "two_sample" else criterion
    options = {"covariance": "full", "log_snr": (-1.0,), "n_bootstrap": 0, "criterion": judge}
    plain = fit([x], **options).to_dict()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fit([x], **options).to_dict() == plain
