"""Fitted levels beside the statistics: what is written is read, and damage is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from gaga_adapter import GAGAStats
from gaga_adapter.errors import ArtefactError, DataError, GAGAWarning, TruncationError
from gaga_adapter.noise.fitted import (
    LEVELS_NAME,
    FittedLevels,
    ModelMark,
    load_levels,
    save_levels,
)
from gaga_adapter.noise.levels import TOLERANCE

MARK = ModelMark("Net", 12, (0.5, 0.25))
LEVELS = FittedLevels((-1.0, 0.5, 3.0), 1, MARK, "shape", 0.8, 0.05, 64, 7, "search")


def test_levels_are_read_as_they_were_written(qm9, tmp_path):
    other = replace(LEVELS, log_snrs=(0.25, 4.0))
    stats = qm9.with_levels(LEVELS).with_levels(other)
    stats.save_pretrained(tmp_path)
    assert GAGAStats.from_pretrained(tmp_path).levels == (other, LEVELS)


def test_a_thousand_levels_are_read_and_no_more(tmp_path):
    for n in (1000, 1001):
        save_levels(tmp_path, [LEVELS] * n, "digest")
        if n == 1000:
            assert load_levels(tmp_path, "digest") == (LEVELS,) * n
    with pytest.raises(
        ArtefactError, match=r"levels of gaga_levels\.json .* list of fitted levels"
    ):
        load_levels(tmp_path, "digest")


def test_levels_are_plain_numbers_whatever_they_were_made_of():
    made = replace(LEVELS, log_snrs=[torch.tensor(-1.0), np.float32(0.5), 3])
    assert made == LEVELS
    assert json.loads(json.dumps(made.to_dict())) == json.loads(json.dumps(LEVELS.to_dict()))


def test_a_start_is_known_to_a_thousandth_of_a_log_snr():
    at_zero = replace(LEVELS, log_snrs=(0.0, 1.0))
    near, far = (0.0, 1e-3, -1e-3), (1.01e-3, -1.01e-3, 1.0)
    assert [at_zero.starts_at(x) for x in (*near, *far)] == [True] * 3 + [False] * 3


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
    for _ in range(2):  # whether there is a file or not
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
        ({"levels": [3]}, r"\(the fitted levels is 3, and must be an object"),
        ({"more": 1}, "unknown entry 'more'"),
        (entry(log_snrs=[1.0, 0.5]), "do not rise"),
        (entry(log_snrs=[1.0, 99.0]), "must be a number from -60 to 60"),
        (entry(log_snrs="1, 2"), "must be a list of numbers"),
        (entry(n_renoised=3), r"\(the fitted levels are not valid: .* so many cannot re-noise"),
        (entry(n_renoised=-1), r"\(n_renoised of the fitted levels is -1"),
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
    ("changed", "message"),
    [
        ({"log_snrs": ()}, "do not rise"),
        ({"log_snrs": (0.0, 0.0)}, "do not rise"),
        ({"log_snrs": (0.0, TOLERANCE)}, "do not rise"),
        ({"log_snrs": (0.0, 61.0)}, "^a level=61 is not a plausible log-SNR"),
        ({"n_renoised": -1}, "so many cannot re-noise"),
        ({"n_renoised": 3}, "so many cannot re-noise"),
        ({"distance": float("nan")}, "no finite number"),
        ({"std_error": -1e-9}, "no finite number"),
    ],
)
def test_levels_that_are_none_are_refused(changed, message):
    with pytest.raises((TruncationError, DataError), match=message):
        replace(LEVELS, **changed)


def test_levels_may_be_close_certain_and_without_noise_between():
    close = replace(LEVELS, log_snrs=(0.0, 1.01 * TOLERANCE), n_renoised=0, std_error=0.0)
    assert FittedLevels.from_dict(json.loads(json.dumps(close.to_dict()))) == close


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
