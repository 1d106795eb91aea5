"""Everything that was ever saved is read by today's version, and means what it meant.

`goldens/artefacts` has an artefact of each kind and schema, made by the version that introduced it,
with the numbers that this version gave (`then.json`; `goldens/artefacts.py` says how). Where
numbers moved on purpose, `CHANGED` says why and what is claimed instead, and `then.json` has those
of today under `now`.
"""

import ast
import functools
import json
import re
import shutil
import warnings
from dataclasses import fields
from importlib import import_module
from typing import get_args

import pytest
import torch
from folders import ROOT
from goldens.observe import FOLDER, THEN, from_json, is_same, load, observe
from safetensors import safe_open
from safetensors.torch import load_file

from gaga_adapter import layout, moments
from gaga_adapter.errors import ArtefactError
from gaga_adapter.moments.dense import DenseKind
from gaga_adapter.noise.fitted import LEVELS_NAME
from gaga_adapter.reference.refined.refinement import TENSORS as REFINED
from gaga_adapter.scheduler.handover import HANDOVERS
from gaga_adapter.scheduler.options import OPTIONS_NAME, SPACINGS, Options

NAMES = sorted(folder.name for folder in FOLDER.iterdir())
MAKE = "See tests/goldens/artefacts.py: write a maker, and run it at the commit that adds this."
#: Written between two commits of one morning, and by no version: refused in words.
REFUSED = {
    "refined_scattered": "a refinement comes without a table of molecules' tensors",
    "levels_of_search": "Fit the levels again with `gaga levels`, or remove the file",
}
READ = [name for name in NAMES if name not in REFUSED]
#: Files that have a schema, and the rooms that write them.
FORMATS = {
    "gaga_config.json": "gaga_adapter.stats",
    "gaga_states.json": "gaga_adapter.noised_states.artefact",
    LEVELS_NAME: "gaga_adapter.noise.fitted",
    OPTIONS_NAME: "gaga_adapter.scheduler.options",
}
#: Entries whose names are data.
FREE = ("provenance", "by_size", "by_items", "others", "extra")

pytestmark = [
    pytest.mark.filterwarnings("ignore:the grid of .* begins at timestep"),
    pytest.mark.filterwarnings("ignore:.* steps are left from t"),
    pytest.mark.filterwarnings("ignore:t. was chosen for the"),
]


# -- the numbers of then ---------------------------------------------------------------------------


@functools.cache
def stored(name):
    """The values of then, and those that today's version gives otherwise."""
    document = json.loads((FOLDER / name / THEN).read_text(encoding="utf-8"))
    return tuple(
        {key: from_json(value) for key, value in document.get(when, {}).items()}
        for when in ("values", "now")
    )


@functools.cache
def today(name):
    return observe(FOLDER / name)


def common_shift(then, now):
    """The molecule's atoms are where they were, and all their features moved by the same."""
    moved = now - then
    return torch.allclose(moved, moved[:1].expand_as(moved), rtol=0, atol=1e-9)


def within(nats):
    return lambda then, now: bool((now - then).abs().max() <= nats)


def anything(then, now):
    """Nothing is claimed but the value of now."""
    return True


#: Artefact and number by patterns, why it moved, and what is claimed of the two values.
CHANGED = (
    (
        r"(?!states).* start/(size|auto)/.*/3 atoms",
        "Of sizes with few molecules `size` pools the spread of mean features as `shape` does.",
        common_shift,
    ),
    (r"(?!states).* log_prob/(size|auto)/.*/3 atoms", "So its law is another one.", anything),
    (
        r"0_0_molecules log_prob/.*",
        "The first version took the logarithm of the number of atoms in float32.",
        within(1e-6),
    ),
    (
        r"(tensors_as_schema_1|molecules_tensors) log_prob/(shape|auto)/.*",
        "The nodes of the density were placed anew; its stated error is 2e-3 nats.",
        within(2e-3),
    ),
    (
        r"joint start/auto",
        "The vector between the centres has the kind of the other two parts.",
        lambda then, now: torch.allclose(then[:2], now[:2], rtol=0, atol=1e-9),
    ),
    (r"joint log_prob/auto", "So its law is another one.", anything),
    (
        r"scheduler_(few_step|fitted) run",
        "Predictions of dense data are matched to their moments only where that is asked for.",
        anything,
    ),
    (
        r"0_1_weights (trained/loaded|metadata)",
        "Version 0.1 read the record of a state dict only into networks that had one.",
        lambda then, now: then in ("whole path", "{}"),
    ),
    (
        r"(dense|molecules)_order_4 digest",
        "Sums of cumulants are dropped, which nothing reads; see the test of the tensors.",
        anything,
    ),
)


@pytest.mark.parametrize("name", READ)
def test_an_old_artefact_gives_what_it_gave(name):
    (then, now), values = stored(name), today(name)
    assert then.keys() <= values.keys()
    moved = {key for key in then if not is_same(key, values[key], (then | now)[key])}
    assert not moved, f"these give other numbers than they gave: {sorted(moved)}"
    for key, value in now.items():
        assert not is_same(key, then[key], value), f"{key} has not moved"
        claims = [claim for where, _, claim in CHANGED if re.fullmatch(where, f"{name} {key}")]
        assert claims, f"{key} has moved, and `CHANGED` does not say why"
        assert claims[0](then[key], value), key


def test_every_reason_for_a_change_is_needed():
    moved = [f"{name} {key}" for name in READ for key in stored(name)[1]]
    for pattern, why, _ in CHANGED:
        assert any(re.fullmatch(pattern, one) for one in moved), why


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_version_wrote_is_refused_in_words(name):
    assert stored(name)[0], "it was read then"
    with pytest.raises(ArtefactError, match=re.escape(REFUSED[name])):
        load(FOLDER / name)


# -- tensors and files -----------------------------------------------------------------------------

#: Version 0.1 could stream sums for cumulants of order 3 and 4, which nothing reads any more. The
#: tensor that shrinks when they are dropped, by artefact, and its length.
HIGHER_SUMS = {"dense_order_4": ("sums", 2), "molecules_order_4": ("atoms", 0)}


@pytest.mark.parametrize("name", HIGHER_SUMS)
def test_sums_that_nothing_reads_are_dropped_and_nothing_else(name):
    tensors = load_file(FOLDER / name / "gaga_stats.safetensors")
    shrunk, length = HIGHER_SUMS[name]
    state = load(FOLDER / name).moments.state_dict()
    tensors[shrunk] = tensors[shrunk][:length].reshape(state[shrunk].shape)
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[key], tensor) for key, tensor in state.items())


@pytest.fixture(scope="module")
def resaved(tmp_path_factory):
    """A function that has an artefact read and written by today's version; it gives the folder."""

    @functools.cache
    def folder(name):
        place = tmp_path_factory.mktemp("again") / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(FOLDER / name).save_pretrained(place)
        return place

    return folder


@pytest.mark.parametrize("name", READ)
def test_an_old_artefact_is_saved_in_todays_form_and_read_again(name, resaved):
    again = observe(resaved(name))
    assert again.keys() == today(name).keys()
    for key, value in today(name).items():
        assert is_same(key, again[key], value), key


def test_line_endings_are_no_part_of_a_digest(tmp_path):
    """Git may check the configuration out with other ones."""
    shutil.copytree(FOLDER / "0_1_molecules", tmp_path, dirs_exist_ok=True)
    config = tmp_path / "gaga_config.json"
    config.write_bytes(config.read_bytes().replace(b"\n", b"\r\n"))
    assert load(tmp_path).to_dict() == load(FOLDER / "0_1_molecules").to_dict()


# -- newer ones ------------------------------------------------------------------------------------


def configurations(folder):
    """Files with a schema in a folder and the folders in it."""
    return sorted(file for file in folder.rglob("*.json") if file.name in FORMATS)


@pytest.mark.parametrize("file", FORMATS)
def test_a_schema_of_the_future_is_refused_by_both_numbers(file, tmp_path):
    newest = import_module(FORMATS[file]).SCHEMA_VERSION
    name = next(one for one in READ if (FOLDER / one / file).is_file())
    shutil.copytree(FOLDER / name, tmp_path, dirs_exist_ok=True)
    document = json.loads((tmp_path / file).read_text(encoding="utf-8"))
    document |= {"schema_version": newest + 1, "of the future": {"any": "thing"}}
    (tmp_path / file).write_text(json.dumps(document), encoding="utf-8")
    both = (
        rf"{re.escape(file)} has schema_version={newest + 1}, this .* reads up to {newest}\. Upgr"
    )
    with pytest.raises(ArtefactError, match=both):
        load(tmp_path)


# -- nothing is forgotten --------------------------------------------------------------------------


def sources():
    """Every file of the package, parsed, by the name of its module."""
    for folder, room in ((ROOT / "gaga_adapter", "gaga_adapter"), (ROOT / "integrations", "")):
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            module = ".".join((room or "gaga_adapter.integrations", *parts))
            yield module.removesuffix(".__init__"), ast.parse(file.read_text(encoding="utf-8"))


def test_every_file_with_a_schema_is_known_here():
    constants, writers = set(), set()
    for module, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                constants |= {module} if node.id == "SCHEMA_VERSION" else set()
            elif isinstance(node, ast.Dict):
                keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
                writers |= {module} if "schema_version" in keys else set()
    writers.discard("gaga_adapter.doctor.statistics")  # it reports the number of a file
    assert constants == writers == set(FORMATS.values()), MAKE


@pytest.mark.parametrize("file", FORMATS)
def test_every_schema_number_is_frozen(file):
    newest = import_module(FORMATS[file]).SCHEMA_VERSION
    frozen = {
        json.loads(one.read_text(encoding="utf-8"))["schema_version"]
        for name in READ
        for one in configurations(FOLDER / name)
        if one.name == file
    }
    assert frozen == set(range(1, newest + 1)), MAKE


def references():
    """The class of each reference that a frozen artefact gives, with the kinds of it."""
    found = {}
    for name in READ:
        saved, keys = load(FOLDER / name), stored(name)[0]
        made = {key.split("/")[1] for key in keys if key.startswith("start/")}
        if hasattr(saved, "measured"):
            found.setdefault(type(saved.start()).__name__, set()).update(made)
        elif hasattr(saved, "reference") and hasattr(saved, "log_snr_star"):
            for kind in made:
                reference = saved.reference(kind) if callable(saved.reference) else None
                if reference is not None:
                    found.setdefault(type(reference).__name__, set()).update((reference.kind, kind))
    return found


def test_every_reference_and_kind_is_frozen():
    classes = {}
    for _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).split("[")[0] for base in node.bases}
                classes[node.name] = (bases, node)
    known = {"ReferenceGaussian"}
    while more := {name for name, (bases, _) in classes.items() if bases & known} - known:
        known |= more
    frozen = references()
    assert known - {"ReferenceGaussian"} == frozen.keys(), MAKE
    for name, kinds in frozen.items():
        own = [
            ast.literal_eval(line.value)
            for line in classes[name][1].body
            if isinstance(line, ast.AnnAssign)
            and ast.unparse(line.target) == "kinds"
            and isinstance(line.value, ast.Tuple)
        ]
        named = own[0] if name not in ("JointReference",) and own else ()
        assert set(named) <= kinds, f"{name}: {set(named) - kinds}. {MAKE}"
    assert set(get_args(DenseKind)) <= frozen["DenseReference"], MAKE


def entries(document, before=""):
    """Names of all entries of a configuration, with those that they stand in."""
    for name, value in document.items() if isinstance(document, dict) else ():
        yield f"{before}{name}"
        if name not in FREE:
            yield from entries(value, f"{before}{name}.")
    for one in document if isinstance(document, list) else ():
        yield from entries(one, before)


def contents(folder):
    """What files with a schema in a folder hold: (file, entry), and (file, tensor)."""
    for file in configurations(folder):
        for entry in entries(json.loads(file.read_text(encoding="utf-8"))):
            yield file.name, entry
    for file in folder.rglob("gaga_st*.safetensors"):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():
                yield file.name, re.sub(r"^\d+\.", "", name)


def test_every_entry_and_tensor_that_is_written_today_is_frozen(resaved):
    frozen = {one for name in READ for one in contents(FOLDER / name)}
    written = {one for name in READ for one in contents(resaved(name))}
    assert written <= frozen, MAKE


def test_every_choice_is_frozen():
    """Layouts, moments, refinements, and the options of a scheduler, each once."""
    configs, options = [], []
    for name in READ:
        for file in configurations(FOLDER / name):
            document = json.loads(file.read_text(encoding="utf-8"))
            if file.name == "gaga_config.json":
                configs.append(document)
            elif file.name == OPTIONS_NAME:
                options.append(document)
    assert {one["layout"]["kind"] for one in configs} == set(layout._KINDS), MAKE
    assert {one["moments"]["moments"] for one in configs} == set(moments._KINDS), MAKE
    methods = {tuple(one["refinement"]["methods"]) for one in configs if "refinement" in one}
    assert methods == {("em",), ("tilt",), ("em", "tilt")}, MAKE
    tensors = {name for one in READ for _, name in contents(FOLDER / one)}
    assert set(REFINED) <= tensors, MAKE
    assert {one["spacing"] for one in options} == set(SPACINGS), MAKE
    assert {one["handover"] for one in options} == set(HANDOVERS), MAKE
    for field in fields(Options):
        assert any(one.get(field.name) not in (None, field.default) for one in options), field.name
