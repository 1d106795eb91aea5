"""Levels that were fitted to a model: their JSON form, their limits, and whose they are."""

import dataclasses
import json
import math
import warnings

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from properties.cases import cases
from properties.test_artefacts import fitted_levels

from gaga_adapter.errors import ArtefactError, DataError, GAGAWarning, TruncationError
from gaga_adapter.noise.fitted import (
    LEVELS_NAME,
    FittedLevels,
    ModelMark,
    load_levels,
    save_levels,
    with_levels,
)
from gaga_adapter.noise.paths import FlowPath, VEPath, named_path

LEAST = FittedLevels((-1.0,), 0, ModelMark("f"), "size", -1e15, 0.0, 1, 0)
MOST = FittedLevels((-59.0, 59.0), 1, ModelMark("é", 2**53, (1e15,)), "shape", 1e15, 1e15, 2**53,
                    2**63 - 1)  # fmt: skip


@cases(60)
@given(fitted_levels())
@example(LEAST)
@example(MOST)
def test_fitted_levels_go_through_json(one):
    text = json.dumps(one.to_dict())
    again = FittedLevels.from_dict(json.loads(text))
    assert again == one
    assert isinstance(again.log_snrs, tuple)
    assert dataclasses.replace(one, log_snrs=list(one.log_snrs)) == one
    assert (one.n_calls, one.starts_at(one.log_snrs[0])) == (len(one.log_snrs), True)
    assert one.starts_at(one.log_snrs[0] + 9e-4)
    assert not one.starts_at(one.log_snrs[0] - 1.1e-3)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("n_renoised", -1), ("n_items", 0), ("seed", -1), ("seed", 2**63), ("distance", 2e15),
        ("distance", -2e15), ("std_error", 2e15), ("std_error", -0.1), ("log_snrs", [-61.0]),
        ("model", {"name": "f", "n_weights": -1, "sizes": []}),
        ("model", {"name": "f", "n_weights": 1, "sizes": [-1.0]}),
        ("model", {"name": "f", "n_weights": 1, "sizes": [], "x": 1}), ("more", 1),
    ],
)  # fmt: skip
def test_entries_out_of_range_are_refused(entry, value):
    data = json.loads(json.dumps(LEAST.to_dict()))
    assert FittedLevels.from_dict(data) == LEAST
    with pytest.raises(ArtefactError, match=rf"\b{entry}( of the fitted levels (is|has)|')"):
        FittedLevels.from_dict({**data, entry: value})


def test_what_is_no_level_is_named():
    with pytest.raises(TruncationError, match="a level=61 is not a plausible"):
        dataclasses.replace(LEAST, log_snrs=(61.0,))
    for levels in ((), (1.0, 0.0), (0.0, 0.9e-5)):
        with pytest.raises(TruncationError, match="do not rise"):
            dataclasses.replace(LEAST, log_snrs=levels)
    for wrong in ({"distance": math.nan}, {"std_error": math.inf}, {"std_error": -1e-9}):
        with pytest.raises(DataError, match="no finite number"):
            dataclasses.replace(LEAST, **wrong)


@cases(30)
@given(st.lists(fitted_levels(), max_size=5))
def test_levels_of_the_same_run_take_the_place_of_the_older(listed):
    kept = ()
    for one in listed:
        kept = with_levels(kept, one)
        assert one in kept
    for one in listed:
        same = [k for k in kept if (k.n_calls, k.reference) == (one.n_calls, one.reference)
                and abs(k.log_snrs[0] - one.log_snrs[0]) <= 1e-3]  # fmt: skip
        assert same
    assert list(kept) == sorted(kept, key=lambda one: (one.n_calls, one.log_snrs))


@cases(20)
@given(st.lists(fitted_levels(), min_size=1, max_size=3))
def test_levels_are_read_as_they_were(tmp_path_factory, listed):
    folder = tmp_path_factory.mktemp("levels")
    save_levels(folder, listed, "digest")
    assert load_levels(folder, "digest") == tuple(listed)
    text = (folder / LEVELS_NAME).read_bytes()
    assert text.decode("utf-8").startswith('{\n  "schema_version": 1,\n  "digest": "digest",\n')
    with pytest.warns(GAGAWarning, match="was fitted with other statistics"):
        assert load_levels(folder, "another") == ()
    newer = json.loads(text) | {"schema_version": 2}
    for changed in (newer, newer | {"levels": 7}):  # whose entries nobody knows
        (folder / LEVELS_NAME).write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ArtefactError, match=r"schema_version=2.*Upgrade"):
            load_levels(folder, "digest")
    for name in (7, {"log_snrs": 7}):
        damaged = json.loads(text) | {"levels": [name]}
        (folder / LEVELS_NAME).write_text(json.dumps(damaged), encoding="utf-8")
        with pytest.raises(ArtefactError, match=r"an entry|the fitted levels"):
            load_levels(folder, "digest")
    save_levels(folder, [], "digest")
    assert load_levels(folder, "digest") == ()


def test_levels_know_the_network_that_they_were_fitted_to():
    mine, other = torch.nn.Linear(3, 2), torch.nn.Linear(4, 2)
    one = dataclasses.replace(LEAST, model=ModelMark.of(mine))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.check_model()
        one.check_model(mine)
        one.check_model(other, mine)
        one.check_model(mine.half())
    mine.float()
    told = r"for 1 calls were fitted to another network \(Linear, 8 weights; this is Linear, 10\)"
    with pytest.warns(GAGAWarning, match=told):
        one.check_model(other)
    assert not ModelMark("f", 1, (1.0, 2.0)).is_same(ModelMark("f", 1, (1.0,)))
    assert not ModelMark("f", 1, (1.0,)).is_same(ModelMark("f", 1, (1.01,)))


def test_the_ends_of_what_paths_take():
    for wrong in ((1.0, 1.0), (1.0, math.inf), (0.0, 1.0), (2.0, 1.0)):
        with pytest.raises(DataError, match="sigma_min"):
            VEPath(*wrong)
    for wrong in (0.0, math.inf, -1.0):
        with pytest.raises(DataError, match="shift"):
            FlowPath(wrong)
    assert named_path("ddpm/linear", 2).n_steps == 1
    for rho in (7.0, None):
        path = VEPath(0.01, 50.0, rho)
        ends = torch.tensor(path.log_snr_range, dtype=torch.float64)
        around = torch.stack([ends[0] - 0.9e-5, ends[1] + 0.9e-5])
        times = path.time_at_log_snr(around)
        assert times.tolist() == pytest.approx([1.0, 0.0], abs=1e-12)
        assert bool(((times >= 0) & (times <= 1)).all())
