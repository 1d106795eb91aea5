"""Artefacts of every kind go through the disk to the last bit, and damage to them is seen.

The damage here is one byte, in artefacts whose content is drawn; `tests/test_hostile.py` changes
the frozen ones on purpose, with a digest that is made anew.
"""

import json
import string

import pytest
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st
from properties.cases import cases
from properties.test_selection import by_hand, curves
from toys import same_stats

from gaga_adapter import GAGAStats
from gaga_adapter.errors import ArtefactError
from gaga_adapter.files.pair import digest_of
from gaga_adapter.layout import AtomLayout, DenseLayout, MoleculeLayout, TokenLayout
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.moments.mixed import MixedMoments
from gaga_adapter.noise.fitted import FittedLevels, ModelMark
from gaga_adapter.noised_states import FittedStates, MeasuredLevel
from gaga_adapter.reference.refined.refinement import Refinement
from gaga_adapter.selection import select
from gaga_adapter.subspace import mask_from_sizes, project

pytestmark = pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning")
KINDS = ("molecules", "atoms", "tokens", "mixed", "refined", "channel", "element", "low_rank",
         "full")  # fmt: skip
json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(-1e300, 1e300),
        st.text(string.printable.replace("\x0b", "").replace("\x0c", "").replace("\r", "") + "äΩ漢",
                max_size=12),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("aé ", max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip
facts = st.dictionaries(st.text("abcdé_", min_size=1, max_size=6), json_values, max_size=4)
seeds = st.integers(0, 2**31)


def molecules(draw, seed, n_features, n_positions=3, one_hot=False):
    """Random molecules and their mask."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(draw(st.lists(st.integers(1, 7), min_size=3, max_size=30)))
    assume(n_positions == 0 or int(sizes.max()) > 1)
    mask = mask_from_sizes(sizes)
    x = torch.randn(*mask.shape, n_positions + n_features, generator=generator).double()
    x = x * draw(st.floats(1e-3, 1e3)) + draw(st.floats(-2, 2))
    if one_hot:
        kinds = torch.randint(n_features, mask.shape, generator=generator)
        x[..., 3:] = torch.nn.functional.one_hot(kinds, n_features) * 0.25
    return project(x * mask[..., None], mask, n_positions), mask


@st.composite
def moments(draw, kind):
    """Moments and a layout that goes with them."""
    seed = draw(seeds)
    if kind in ("channel", "element", "low_rank", "full"):
        shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
        channels = draw(st.integers(-len(shape), len(shape) - 1))
        made = DenseMoments(shape, kind, draw(st.integers(1, 4)), channels)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(draw(st.integers(1, 3))):
            made.update(torch.randn(draw(st.integers(2, 9)), *shape, generator=generator))
        return DenseLayout(shape, channels), made
    n_features = draw(st.integers(0 if kind == "atoms" else 1, 4))
    table = draw(st.integers(1 if kind in ("mixed", "refined") else 0, 6))
    n_positions = 0 if kind == "tokens" else 3
    if kind == "mixed":
        made = MixedMoments(n_features, table)
    else:
        made = ExchangeableMoments(n_features, table, n_positions)
    for part in range(draw(st.integers(1, 2))):
        made.update(*molecules(draw, seed + part, n_features, n_positions, kind == "mixed"))
    if kind == "tokens":
        return TokenLayout(n_features), made
    if kind == "atoms":
        return AtomLayout(n_features), made
    elements = tuple(draw(st.permutations(["H", "C", "N", "O", "Cl"])))[:n_features]
    scale = draw(st.floats(0.1, 9))
    if kind == "mixed" or draw(st.booleans()):
        return MoleculeLayout(elements, scale, 4.0), made
    return MoleculeLayout(
        elements[1:] or ("H",), scale, 4.0, 10.0 if n_features > 1 else None
    ), made


@st.composite
def fitted_levels(draw):
    gaps = draw(st.lists(st.floats(0.01, 2), min_size=1, max_size=5))
    start = draw(st.floats(-9, 0))
    sizes = tuple(draw(st.lists(st.floats(0, 9), max_size=3)))
    return FittedLevels(
        tuple(start + sum(gaps[:k]) for k in range(len(gaps))),
        draw(st.integers(0, len(gaps) - 1)),
        ModelMark(draw(st.text("abcZ_", min_size=1, max_size=9)), draw(st.integers(0, 9)), sizes),
        draw(st.sampled_from(["shape", "size", "channel"])),
        draw(st.floats(-5, 5)),
        draw(st.floats(0, 5)),
        draw(st.integers(1, 10**9)),
        draw(st.integers(0, 2**62)),
    )


@st.composite
def statistics(draw):
    kind = draw(st.sampled_from(KINDS))
    layout, made = draw(moments(kind))
    star, chosen = draw(st.floats(-40, 40)), None
    if draw(st.booleans()):
        curve = draw(curves())
        if by_hand(curve, 0.5, None) is not None:
            chosen = select(curve, 0.5)
            star = chosen.log_snr_star
    refinement = None
    if kind == "refined":
        weights = torch.ones(len(made.table_sizes), dtype=torch.float64)
        weights *= torch.rand(len(weights), generator=torch.Generator().manual_seed(draw(seeds)))
        total = torch.zeros(99, dtype=torch.float64).index_add_(0, made.table_sizes, weights)
        weights = weights / total[made.table_sizes]
        refinement = Refinement(draw(st.floats(-9, 9)), 9, 7, (0.5, 0.1), (0.2, 0.1), weights)
    stats = GAGAStats(layout, made, star, chosen, draw(facts), refinement)
    for one in draw(st.lists(fitted_levels(), max_size=2)):
        stats = stats.with_levels(one)
    return stats


@st.composite
def states(draw):
    kind = draw(st.sampled_from([k for k in KINDS if k not in ("refined", "mixed")]))
    n = draw(st.integers(1, 3))
    layout, made = draw(moments(kind))
    gaps = draw(st.lists(st.floats(0.01, 3), min_size=n, max_size=n))
    towards = draw(st.sampled_from(["data", "noise"]))
    sign = -1 if towards == "data" else 1
    share, error = st.floats(0, 1), st.floats(0, 1)
    measured = tuple(
        MeasuredLevel(
            sign * sum(gaps[: k + 1]), made, draw(st.floats(-1, 5)), draw(error), draw(share),
            draw(st.integers(1, 10**6)),
        )
        for k in range(n)
    )  # fmt: skip
    star = measured[draw(st.integers(0, n - 1))].level
    dense = isinstance(layout, DenseLayout)
    reference = draw(st.sampled_from(["channel", "unit"] if dense else ["size", "unit", "channel"]))
    return FittedStates(layout, measured, towards, reference, 0.2, star, "drawn", draw(facts))


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@cases(60)
@given(statistics())
def test_statistics_are_read_as_they_were(tmp_path_factory, stats):
    event(type(stats.moments).__name__)
    one, two = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    stats.save_pretrained(one)
    again = GAGAStats.from_pretrained(one)
    assert same_stats(stats, again)
    assert again.layout == stats.layout
    assert again.log_snr_star == stats.log_snr_star
    assert repr(again.levels) == repr(stats.levels)
    assert again.provenance == stats.provenance
    assert again.to_dict()["digest"] == stats.to_dict()["digest"]
    if stats.refinement is not None:
        assert torch.equal(again.refinement.weights, stats.refinement.weights)
        assert again.refinement.to_dict() == stats.refinement.to_dict()
    again.save_pretrained(two)
    assert content(one) == content(two)
    text = json.loads((one / "gaga_config.json").read_text(encoding="utf-8"))
    assert text["digest"] == stats.to_dict()["digest"]


@cases(30)
@given(states())
def test_states_are_read_as_they_were(tmp_path_factory, made):
    one, two = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    made.save_pretrained(one)
    again = FittedStates.from_pretrained(one)
    assert again.to_dict() == made.to_dict()
    assert again.level_star == made.level_star
    for left, right in zip(again.measured, made.measured, strict=True):
        a, b = left.moments.state_dict(), right.moments.state_dict()
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    again.save_pretrained(two)
    assert content(one) == content(two)


@cases(60)
@given(st.one_of(statistics(), states()), st.data())
def test_one_wrong_byte_is_refused_or_changes_nothing_of_the_tensors(tmp_path_factory, made, data):
    """A number of the readable file can be changed by hand, and so by damage; no tensor can."""
    folder = tmp_path_factory.mktemp("a")
    made.save_pretrained(folder)
    files = sorted(file.name for file in folder.iterdir())
    name = data.draw(st.sampled_from(files))
    whole = (folder / name).read_bytes()
    blob = bytearray(whole)
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(bytes(blob))
    event(name)
    try:
        again = type(made).from_pretrained(folder)
    except ArtefactError as error:
        event("refused")
        told = str(error)
        assert str(folder) in told
        assert "\n" not in told
        return
    event("the same" if again.to_dict() == made.to_dict() else "readable text changed")
    assert again.to_dict()["digest"] == made.to_dict()["digest"]
    assert digest_of(again._tensors()) == digest_of(made._tensors())
    if name.endswith(".safetensors"):
        assert again.to_dict() == made.to_dict()


@cases(20)
@given(st.one_of(statistics(), states()), st.floats(0, 1), st.data())
def test_a_file_that_was_cut_off_is_refused(tmp_path_factory, made, share, data):
    folder = tmp_path_factory.mktemp("a")
    made.save_pretrained(folder)
    name = data.draw(st.sampled_from(sorted(file.name for file in folder.iterdir())))
    blob = (folder / name).read_bytes()
    cut = blob[: int(share * (len(blob) - 2))]
    (folder / name).write_bytes(cut)
    with pytest.raises(ArtefactError):
        type(made).from_pretrained(folder)
