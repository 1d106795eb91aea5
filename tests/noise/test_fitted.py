"""Fitted levels beside the statistics: what is written is read, and damage is named."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from gaga_adapter import GAGAStats
from gaga_adapter.errors import ArtefactError, DataError, GAGAWarning, TruncationError
from gaga_adapter.noise.fitted import LEVELS_NAME, FittedLevels, ModelMark

MARK = ModelMark("Net", 12, (0.5, 0.25))
LEVELS = FittedLevels((-1.0, 0.5, 3.0), 1, MARK, "shape", 0.8, 0.05, 64, 7, "search")


def test_levels_are_read_as_they_were_written(qm9, tmp_path):
    other = replace(LEVELS, log_snrs=(0.25, 4.0))
    stats = qm9.with_levels(LEVELS).with_levels(other)
    stats.save_pretrained(tmp_path)
    assert GAGAStats.from_pretrained(tmp_path).levels == (other, LEVELS)


def test_levels_for_the_same_run_are_replaced(qm9):
    better = replace(LEVELS, log_snrs=(-1.0, 1.0, 4.0))
    elsewhere = replace(LEVELS, log_snrs=(0.0, 1.0, 4.0))
    size = replace(LEVELS, reference="size")
    levels = qm9
    for one in (LEVELS, elsewhere, size, better):
        levels = levels.with_levels(one)
    assert set(levels.levels) == {better, elsewhere, size}


def test_statistics_without_levels_leave_none_behind(qm9, tmp_path):
    qm9.with_levels(LEVELS).save_pretrained(tmp_path)
    assert (tmp_path / LEVELS_NAME).is_file()
    qm9.save_pretrained(tmp_path)
    assert not (tmp_path / LEVELS_NAME).exists()
    assert GAGAStats.from_pretrained(tmp_path).levels == ()


def test_levels_of_other_statistics_are_left_out(qm9, tmp_path):
    qm9.with_levels(LEVELS).save_pretrained(tmp_path)
    file = tmp_path / LEVELS_NAME
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"digest": "of others"}))
    with pytest.warns(GAGAWarning, match="was fitted with other statistics"):
        assert GAGAStats.from_pretrained(tmp_path).levels == ()


def entry(**changed):
    return {"levels": [LEVELS.to_dict() | changed]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 0}, "schema_version of gaga_levels.json is 0"),
        ({"levels": {}}, "must be a list of fitted levels"),
        ({"levels": [3]}, "must be an object"),
        ({"more": 1}, "unknown entry 'more'"),
        (entry(log_snrs=[1.0, 0.5]), "do not rise"),
        (entry(log_snrs=[1.0, 99.0]), "must be a number from -60 to 60"),
        (entry(log_snrs="1, 2"), "must be a list of numbers"),
        (entry(n_renoised=3), "so many cannot re-noise"),
        (entry(model={"name": "Net"}), "n_weights of model"),
        (entry(model=LEVELS.to_dict()["model"] | {"code": "x"}), "unknown entry 'code'"),
        (entry(std_error=-1.0), "std_error"),
        (entry(distance=None), "distance"),
        (entry(reference="sha\u200bpe"), "reference"),
        (entry(seed=True), "seed"),
    ],
)
def test_a_damaged_file_is_named(qm9, tmp_path, change, message):
    qm9.with_levels(LEVELS).save_pretrained(tmp_path)
    file = tmp_path / LEVELS_NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ArtefactError, match=message) as refused:
        GAGAStats.from_pretrained(tmp_path)
    assert LEVELS_NAME in str(refused.value)
    assert "Fit the levels again" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"levels": NaN}'])
def test_bytes_that_are_no_document_are_named(qm9, tmp_path, content):
    qm9.with_levels(LEVELS).save_pretrained(tmp_path)
    (tmp_path / LEVELS_NAME).write_bytes(content)
    with pytest.raises(ArtefactError, match=LEVELS_NAME):
        GAGAStats.from_pretrained(tmp_path)


def test_a_newer_file_asks_for_an_upgrade(qm9, tmp_path):
    qm9.with_levels(LEVELS).save_pretrained(tmp_path)
    file = tmp_path / LEVELS_NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 2}))
    with pytest.raises(ArtefactError, match=r"reads up to 1\. Upgrade"):
        GAGAStats.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"log_snrs": ()}, TruncationError),
        ({"log_snrs": (0.0, 0.0)}, TruncationError),
        ({"n_renoised": -1}, TruncationError),
        ({"distance": float("nan")}, DataError),
    ],
)
def test_levels_that_are_none_are_refused(changed, error):
    with pytest.raises(error):
        replace(LEVELS, **changed)


def test_a_network_is_known_in_any_precision_and_no_other_is_it():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    mark = ModelMark.of(one)
    assert mark.n_weights == 2 * (64 * 64 + 64)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert mark.is_same(ModelMark.of(nn.Sequential(*one).to(dtype)))
    two = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    assert not mark.is_same(ModelMark.of(two))
    assert ModelMark.of(len) == ModelMark("len")
