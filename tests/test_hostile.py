"""Artefacts that are damaged on purpose: they are refused in words, or they work.

Every case starts from one of the small artefacts of `tests/goldens/artefacts`. Its configuration
and its tensors are changed, and the digest is made anew, so that nothing but the checks of the
numbers can notice; or the bytes of its files are flipped and cut off. Nothing but an
`ArtefactError` may come out. What can be loaded must have finite starts and densities, must be
shown and saved, and must wrap a scheduler.
"""

import copy
import io
import json
import math
import tracemalloc
import warnings

import pytest
import torch
from diffusers import DDPMScheduler
from goldens import frozen
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file, save

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.cli import show
from gaga_adapter.errors import ArtefactError, DataError, GAGAWarning, TruncationError
from gaga_adapter.files.checked import MOST_BYTES
from gaga_adapter.files.pair import digest_of
from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.stats import CONFIG_NAME, TENSORS_NAME

FOLDER = frozen.FOLDER / "artefacts"
NAMES = sorted(one.name for one in FOLDER.iterdir() if one.name.startswith(("dense", "molecules")))
CONFIGS = {n: json.loads((FOLDER / n / CONFIG_NAME).read_text(encoding="utf-8")) for n in NAMES}
TENSORS = {name: load_file(FOLDER / name / TENSORS_NAME) for name in NAMES}
BYTES = {(n, f): (FOLDER / n / f).read_bytes() for n in NAMES for f in (CONFIG_NAME, TENSORS_NAME)}
BASE = DDPMScheduler()
#: The cases are the same on every run, and take as long as they take.
CASES = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning"),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),  # of an old hypothesis
]


def write(folder, config, tensors, header=None):
    """An artefact whose digest is valid, whatever it holds."""
    config = {**config, "digest": digest_of(tensors)} if isinstance(config, dict) else config
    text = json.dumps(config)
    (folder / CONFIG_NAME).write_text(text)
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    (folder / TENSORS_NAME).write_bytes(save(content, {"gaga_config": header or text}))


def use(stats, folder):
    """Everything that a user does with statistics; a `GAGAError` may say that they cannot."""
    text = io.StringIO()
    show.out, screen = Console(file=text, width=120), show.out
    try:
        show.print_stats(stats)
    finally:
        show.out = screen
    assert not {c for c in text.getvalue() if not c.isprintable()} - {"\n"}
    assert len(repr(stats)) < 10**6
    stats.save_pretrained(folder)
    assert GAGAStats.from_pretrained(folder).to_dict() == stats.to_dict()
    if isinstance(stats.layout, DenseLayout):
        if math.prod(stats.layout.shape) > 10**5:
            return
        kinds, shape, mask = ("auto", "channel", "paper"), (2, *stats.layout.shape), None
    else:
        sizes = stats.moments.sizes.tolist()[:2]
        mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
        kinds = ("auto", "size", "channel", "paper")
        shape = (len(sizes), max(sizes), 3 + stats.moments.n_features)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    z = z if mask is None else z * mask[..., None]
    for kind in kinds:
        reference = stats.reference(kind).at(0.5**0.5, 0.5**0.5)
        assert reference.transport(z, mask).isfinite().all()
        if kind in ("auto", "size"):
            assert reference.log_prob(z, mask).isfinite().all()
    scheduler = GAGAScheduler.from_pretrained(BASE, stats)
    scheduler.set_timesteps(10, device="cpu")
    assert repr(scheduler)


def load_and_use(folder):
    try:
        stats = GAGAStats.from_pretrained(folder)
    except ArtefactError:
        return False
    try:
        use(stats, folder)
    except (DataError, TruncationError):
        pass  # no molecules of two atoms; a level that the scheduler does not have
    return True


# -- changes of the content ------------------------------------------------------------------------

HOSTILE = [
    None, True, False, "", "x", "0.5", "NaN", "\x1b[31mred", "\ud800", "\u202e", "a" * 5000, -1, 0,
    1, 2, 3, 0.5, -0.5, 60, 10**9, 2**31, 2**53 + 1, 10**30, 10**400, 1e308, -1e308, 1e-320,
    math.nan, math.inf, [], {}, [[]], [1], [1e9, 1e9], {"a": 1}, ["H", "H"], ["\n"],
]  # fmt: skip
NUMBERS = [math.nan, math.inf, -math.inf, -1.0, 0.0, 0.5, 1.0, 2.0**31, 1e16, 1e30, 1e300, -1e300]


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(entry, (*path, key))


PLACES = {name: [path for path in places(CONFIGS[name]) if path] for name in NAMES}


@st.composite
def configurations(draw, name):
    """A configuration with some of its entries exchanged, left out, added or moved."""
    config = copy.deepcopy(CONFIGS[name])
    for _ in range(draw(st.integers(0, 2))):
        *way, last = draw(st.sampled_from(PLACES[name]))
        inside = config
        try:
            for key in way:
                inside = inside[key]
            kind = draw(st.sampled_from(["set", "set", "set", "drop", "add", "scale"]))
            if kind == "set":
                inside[last] = draw(st.sampled_from(HOSTILE))
            elif kind == "drop":
                del inside[last]
            elif kind == "scale" and isinstance(inside[last], int | float):
                inside[last] = inside[last] * draw(st.sampled_from([-1, 2, 0.5, 10**6]))
            elif isinstance(inside, dict):
                inside[draw(st.sampled_from(["x", "1", "\x1b", ""]))] = draw(
                    st.sampled_from(HOSTILE)
                )
            else:
                inside.insert(last, draw(st.sampled_from(HOSTILE)))
        except (AttributeError, KeyError, IndexError, TypeError, OverflowError):
            assume(False)
    return config


@st.composite
def tensors_of(draw, name):
    """Tensors with some of their numbers, types, shapes or names changed."""
    tensors = {key: tensor.clone() for key, tensor in TENSORS[name].items()}
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(sorted(tensors)))
        tensor = tensors[key]
        kind = draw(
            st.sampled_from(["number", "number", "number", "scale", "shape", "type", "name"])
        )
        if kind == "number" and tensor.numel():
            number = draw(st.sampled_from(NUMBERS))
            if not tensor.is_floating_point():
                number = max(min(number, 2.0**31 - 1), -(2.0**31)) if number == number else 0.0
            tensors[key] = tensor = tensor.contiguous()
            place = draw(st.integers(0, tensor.numel() - 1))
            tensor.view(-1)[place] = torch.tensor(number, dtype=torch.float64).to(tensor.dtype)
        elif kind == "scale":
            tensors[key] = tensor * draw(st.sampled_from([-1, 0, 2, 10**6]))
        elif kind == "shape":
            changes = [tensor[:-1], tensor.mT] if tensor.dim() > 1 else [tensor[None]]
            changes += [tensor.flatten(), torch.cat([tensor[None], tensor[None]]), tensor[None][:0]]
            tensors[key] = draw(st.sampled_from(changes))
        elif kind == "type":
            types = [torch.float64, torch.float32, torch.int64, torch.int32, torch.bool]
            tensors[key] = tensor.to(draw(st.sampled_from(types)))
        else:
            tensors[draw(st.sampled_from(["x", "count", "sums"]))] = tensors.pop(key)
    return tensors


@pytest.mark.parametrize(("name", "n_cases"), [(n, 150 if "order" in n else 400) for n in NAMES])
def test_changed_content_is_refused_or_works(name, n_cases, tmp_path):
    loaded = []

    @given(configurations(name), tensors_of(name))
    @settings(max_examples=n_cases, **CASES)
    def check(config, tensors):
        write(tmp_path, config, tensors)
        loaded.append(load_and_use(tmp_path))

    check()
    assert 0 < sum(loaded) < len(loaded)


@pytest.mark.parametrize("file", [CONFIG_NAME, TENSORS_NAME])
@pytest.mark.parametrize("name", NAMES)
def test_changed_bytes_are_refused_or_work(name, file, tmp_path):
    for other in (CONFIG_NAME, TENSORS_NAME):
        (tmp_path / other).write_bytes(BYTES[name, other])

    @given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3), st.floats(0, 1.3))
    @settings(max_examples=60, **CASES)
    def check(flips, length):
        content = bytearray(BYTES[name, file])
        for where, byte in flips:  # a header is small beside its numbers
            content[int(where**3 * (len(content) - 1))] = byte
        (tmp_path / file).write_bytes(bytes(content[: int(length * len(content)) or None]))
        old = GAGAStats.from_pretrained(FOLDER / name).to_dict()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                stats = GAGAStats.from_pretrained(tmp_path)
            except ArtefactError:
                return
        assert stats.to_dict()["digest"] == old["digest"]
        assert stats.to_dict() == old or any("is not as it was" in str(one.message) for one in told)

    check()


# -- one of each kind ------------------------------------------------------------------------------


def changed(name, **entries):
    """A configuration with some entries exchanged, named by their path with dots."""
    config = copy.deepcopy(CONFIGS[name])
    for path, value in entries.items():
        *way, last = path.split(".")
        inside = config
        for key in way:
            inside = inside[key]
        inside[last] = value
    return config


LONG = "a" * (MOST_BYTES + 1)
CORPUS = [
    ("molecules", {"moments.n_features": 10**9}, {}, "n_features .* is 1000000000"),
    ("molecules", {"moments.n_features": 9}, {}, "has shape"),
    ("molecules", {"moments.n_features": True}, {}, "n_features .* is True, .* whole number"),
    ("molecules", {"moments.n_features": "2"}, {}, "n_features .* is '2'"),
    ("molecules", {"moments.table_size": 10**30}, {}, "table_size .* whole number from 0"),
    ("molecules", {"moments.table_size": 7}, {}, "not that of the counts"),
    ("molecules", {"layout.onehot_scale": "4"}, {}, "onehot_scale of the channel layout is '4'"),
    ("molecules", {"layout.elements": "HC"}, {}, "elements .* list of short texts"),
    ("molecules", {"layout.kind": "crystal"}, {}, "one of molecule, atoms"),
    ("molecules", {"layout.colour": "red"}, {}, "unknown entry 'colour'"),
    ("molecules", {"log_snr_star": "0.5"}, {}, "log_snr_star .* is '0.5'"),
    ("molecules", {"log_snr_star": True}, {}, "log_snr_star .* is True"),
    ("molecules", {"log_snr_star": 61}, {}, "log_snr_star .* from -60 to 60"),
    ("molecules", {"log_snr_star": math.nan}, {}, "no valid JSON"),
    ("molecules", {"selection.log_snr_star": 2.6}, {}, "log_snr_star of the selection is 2.6"),
    ("molecules", {"selection.tolerance": -1}, {}, "tolerance of the selection is -1"),
    ("molecules", {"selection.interval": [1, -1]}, {}, "interval .* noise side"),
    ("molecules", {"selection.by_size": {"-3": 1}}, {}, "by_size"),
    ("molecules", {"selection.curve.unit": "bits"}, {}, "unit of the curve is 'bits'"),
    ("molecules", {"selection.curve.criterion": "a\x1b[2Jb"}, {}, r"criterion .* is 'a\\x1b"),
    ("molecules", {"selection.curve.log_snr": [1, 1]}, {}, "curve is not valid"),
    ("molecules", {"selection.curve.n_samples": 1.5}, {}, "n_samples"),
    ("molecules", {"selection.curve.std_error": [-1] * 15}, {}, "entry 0 of std_error"),
    ("molecules", {"provenance": {"data": LONG}}, {}, "at most"),
    ("molecules", {"provenance": {"data": "\ud800"}}, {}, "no valid JSON"),
    ("molecules", {"provenance": []}, {}, "provenance of the configuration"),
    ("molecules", {}, {"count": lambda x: x - 1}, "tensor 'count'"),
    ("molecules", {}, {"count": lambda x: x + 0.5}, "count molecules"),
    ("molecules", {}, {"count": lambda x: x * 0}, "count molecules"),
    ("molecules", {}, {"mean": lambda x: x * math.nan}, "tensor 'mean' .* holds nan"),
    ("molecules", {}, {"mean": lambda x: -x}, "tensor 'mean' .* holds -"),
    ("molecules", {}, {"mean": lambda x: x * 1e200}, "finite, from 0 to"),
    ("molecules", {}, {"mean": lambda x: x.float()}, "holds float32; it must have"),
    ("molecules", {}, {"scatter": lambda x: -x}, "not symmetric and positive"),
    ("molecules", {}, {"scatter": lambda x: x + torch.eye(3)[[1, 0, 2]]}, "not symmetric"),
    ("molecules", {}, {"table_size": lambda x: x * 0 + 2**31 - 1}, "from 1 to 8"),
    ("molecules", {}, {"table_size": lambda x: x * 0 + 4}, "not that of the counts"),
    ("molecules", {}, {"table_rows": lambda x: -x}, "tensor 'table_rows'"),
    ("molecules", {}, {"table_rows": lambda x: x[:0]}, "must have"),
    ("molecules", {}, {"table_rows": lambda x: x[:, [2, 1, 0, *range(3, x.shape[1])]]}, "not rise"),
    ("molecules", {}, {"more": lambda x: x}, "unknown tensor 'more'"),
    ("dense_full", {"moments.shape": [2, 10**9, 10**9]}, {}, "shape"),
    ("dense_full", {"moments.shape": []}, {}, "shape"),
    ("dense_channel", {"moments.rank": 0}, {}, "rank"),
    ("dense_channel", {"moments.kind": "ful"}, {}, "one of channel, element"),
    ("dense_element", {"moments.shape": [10**9]}, {}, "has shape"),
    ("dense_full", {}, {"scatter": lambda x: -x}, "not a covariance"),
    ("dense_full", {}, {"scatter": lambda x: x + x.triu(1)}, "not a covariance"),
    ("dense_full", {}, {"sums": lambda x: 2 * x}, "with the variances of sums"),
    ("dense_low_rank", {}, {"sketch": lambda x: 2 * x}, "more variance than the sums"),
    ("dense_low_rank", {"moments.rank": 4}, {}, "has shape"),
    ("dense_channel", {}, {"count": lambda x: x * 0}, "tensor 'count'"),
    ("dense_channel", {}, {"entries": lambda x: x * 0 + 1}, "go with the count"),
    ("dense_channel", {}, {"std": lambda x: x * math.inf}, "tensor 'std' .* holds inf"),
]


@pytest.mark.parametrize(("name", "entries", "changes", "message"), CORPUS)
def test_what_is_wrong_is_named_before_memory_is_taken(name, entries, changes, message, tmp_path):
    tensors = dict(TENSORS[name])
    for key, change in changes.items():
        tensors[key] = change(tensors.get(key, torch.zeros(1)))
    write(tmp_path, changed(name, **entries), tensors)
    tracemalloc.start()
    try:
        with pytest.raises(ArtefactError, match=message) as refused:
            GAGAStats.from_pretrained(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 * MOST_BYTES
    finally:
        tracemalloc.stop()
    assert str(refused.value).replace("\n", " ").isprintable()
    assert len(str(refused.value)) < 1000


def test_a_number_that_was_edited_is_used_and_told(tmp_path):
    config = {**CONFIGS["molecules"], "log_snr_star": -1.25}
    write(tmp_path, config, TENSORS["molecules"], json.dumps(CONFIGS["molecules"]))
    with pytest.warns(
        GAGAWarning, match=r"not as it was written.*: log_snr_star\. The file is used"
    ):
        stats = GAGAStats.from_pretrained(tmp_path)
    assert stats.log_snr_star == -1.25


def test_a_copy_of_many_entries_makes_one_short_warning(tmp_path):
    many = {f"\x1b{k:05}" + "x" * 200: 0 for k in range(5000)}
    write(
        tmp_path,
        CONFIGS["molecules"],
        TENSORS["molecules"],
        json.dumps(CONFIGS["molecules"] | many),
    )
    with pytest.warns(GAGAWarning, match=r"x and 4,992 more\. The file is used") as told:
        GAGAStats.from_pretrained(tmp_path)
    assert len(told) == 1
    assert str(told[0].message).isprintable()
    assert len(str(told[0].message)) < 2000


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        "[" * 10**5,
        '{"a": 1e999}',
        "1" * 9999,
    ],
    ids=["duplicate", "deep", "infinite", "long"],
)
def test_json_that_is_none(text, tmp_path):
    write(tmp_path, CONFIGS["molecules"], TENSORS["molecules"])
    (tmp_path / CONFIG_NAME).write_text(text)
    with pytest.raises(ArtefactError, match=r"gaga_config\.json"):
        GAGAStats.from_pretrained(tmp_path)


def header(**entries):
    content = json.dumps(entries).encode()
    return len(content).to_bytes(8, "little") + content


F64 = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (2**62).to_bytes(8, "little") + b"{}",
        header(a={**F64, "shape": [2**60]}) + bytes(8),
        header(a={**F64, "shape": [2**40, 2**40, 0], "data_offsets": [0, 0]}),
        header(a=F64, b=F64) + bytes(8),  # they overlap
        header(a=F64) + bytes(16),
        header(a={**F64, "data_offsets": [8, 0]}) + bytes(8),
        header(a={**F64, "dtype": "F8"}) + bytes(8),
        header(a={**F64, "data_offsets": [0, 8, 8]}) + bytes(8),
        header(__metadata__={"gaga_config": 1}, a=F64) + bytes(8),
    ],
)
def test_a_file_of_tensors_that_is_none(content, tmp_path):
    write(tmp_path, CONFIGS["molecules"], TENSORS["molecules"])
    (tmp_path / TENSORS_NAME).write_bytes(content)
    with pytest.raises(ArtefactError, match=r"is corrupt .*gaga_stats\.safetensors"):
        GAGAStats.from_pretrained(tmp_path)


def test_control_characters_of_provenance_are_shown_as_escapes(tmp_path):
    config = changed("molecules", provenance={"data": "a\x1b[2J\u202eb\n", "k\x00": ["\x07é"]})
    write(tmp_path, config, TENSORS["molecules"])
    stats = GAGAStats.from_pretrained(tmp_path)
    assert stats.provenance == {"data": r"a\x1b[2J\u202eb\n", r"k\x00": [r"\x07é"]}
    use(stats, tmp_path)


# -- what would be written -------------------------------------------------------------------------


@pytest.mark.parametrize("provenance", [{"a": math.nan}, {"a": object()}, {"a": "x" * MOST_BYTES}])
def test_what_could_not_be_read_again_is_not_written(provenance, tmp_path):
    stats = GAGAStats(DenseLayout((2,)), dense(torch.zeros(3, 2)), 0.0, provenance=provenance)
    with pytest.raises(ArtefactError, match="cannot be written"):
        stats.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def dense(x):
    moments = DenseMoments(tuple(x.shape[1:]))
    moments.update(x)
    return moments


def test_data_beyond_what_covariances_can_hold_are_refused():
    with pytest.raises(DataError, match=r"not finite, or beyond 1e\+15"):
        dense(torch.full((3, 2), 1e16))
    x = torch.ones(2, 3, 5)
    x[1, 0, 0] = 1e16
    moments = ExchangeableMoments(2)
    with pytest.raises(DataError, match=r"molecule 1 .* beyond 1e\+15"):
        moments.update(x)
    assert moments.count == 0


@pytest.mark.parametrize("number", [True, "0.5", None, math.nan, [0.5], torch.zeros(2), 10**400])
def test_a_log_snr_that_is_none(number):
    with pytest.raises(TruncationError, match=r"log_snr_star=.* is no finite number"):
        GAGAStats(DenseLayout((2,)), dense(torch.zeros(3, 2)), number)


def test_a_log_snr_of_a_tensor_is_a_number():
    stats = GAGAStats(DenseLayout((2,)), dense(torch.zeros(3, 2)), torch.tensor(0.5))
    assert stats.log_snr_star == 0.5
    assert type(stats.log_snr_star) is float
