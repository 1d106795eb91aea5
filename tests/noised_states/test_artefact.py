"""Statistics of noised states on disk and on screen."""

import contextlib
import json
import random
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from toys import gaussian_molecules, generator, normal

from gaga_adapter import AtomLayout, DenseLayout, FittedStates, GAGAScheduler, GAGAStats
from gaga_adapter.errors import ArtefactError, GAGAError, TruncationError, WriteError
from gaga_adapter.files.pair import digest_of
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.noised_states import MeasuredLevel

CONFIG, TENSORS = "gaga_states.json", "gaga_states.safetensors"
#: Written by `molecules()` below when the format was new: it has to go on loading.
FROZEN = Path(__file__).parents[1] / "goldens" / "artefacts" / "states"


def molecules():
    """Two levels of molecules of two sizes."""
    measured = []
    for level in (0.5, 0.25):
        x, mask = gaussian_molecules([3, 5] * 20, variance=1 - level, seed=int(100 * level))
        moments = ExchangeableMoments(2, table_size=8)
        moments.update(x, mask)
        measured.append(MeasuredLevel(level, moments, level / 2, 0.01, 0.5 + level / 2, 30))
    facts = {"data": "toy", "seed": 3}
    return FittedStates(AtomLayout(2), tuple(measured), "data", "shape", 0.2, 0.25, "ours", facts)


def dense():
    moments = DenseMoments((2, 3), kind="low_rank")
    moments.update(normal(40, 2, 3))
    level = MeasuredLevel(7.0, moments, 0.1, 0.01, 0.5, 30)
    return FittedStates(DenseLayout((2, 3)), (level,), "noise", "low_rank", 0.2, 7.0, "ours")


def positions():
    """One level of molecules without features, as flows with discrete types diffuse them."""
    x, mask = gaussian_molecules([3, 5] * 20, n_features=0)
    moments = ExchangeableMoments(0, table_size=8)
    moments.update(x, mask)
    level = MeasuredLevel(0.5, moments, 0.1, 0.01, 0.5, 30)
    return FittedStates(AtomLayout(0), (level,), "data", "shape", 0.2, 0.5, "ours")


def same(one, other):
    pairs = zip(one.measured, other.measured, strict=True)
    left_right = [(a.moments.state_dict(), b.moments.state_dict()) for a, b in pairs]
    return one.to_dict() == other.to_dict() and all(
        torch.equal(a[name], b[name]) for a, b in left_right for name in a | b
    )


@pytest.mark.parametrize("made", [molecules, positions, dense])
def test_what_is_read_is_what_was_written(made, tmp_path):
    stats = made()
    stats.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {CONFIG, TENSORS}
    again = FittedStates.from_pretrained(tmp_path)
    assert same(stats, again)
    size = (3, 2, 3) if made is dense else [3, 5, 5]
    draws = [one.start().sample(size, generator=generator(1)) for one in (stats, again)]
    assert torch.equal(*draws)


def test_an_artefact_of_the_first_schema_loads():
    stats = FittedStates.from_pretrained(FROZEN)
    assert stats.levels == (0.5, 0.25)
    assert stats.level_star == 0.25
    config = json.loads((FROZEN / CONFIG).read_text(encoding="utf-8"))
    assert stats.to_dict()["digest"] == config["digest"]
    draws = stats.start().sample([3, 5], generator=generator())
    assert draws.shape == (2, 5, 5)


def edit(folder, change):
    """Write the statistics with another configuration."""
    molecules().save_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    change(config)
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c.update(schema_version=9), "schema_version=9, this gaga-adapter reads up to 1"),
        (lambda c: c.update(schema_version=None), "no schema_version from 1 to 1"),
        (lambda c: c.update(towards="up"), "towards of the configuration is 'up'"),
        (lambda c: c.update(level_star=0.3), "level 0.3 was not measured"),
        (lambda c: c.update(reference="nothing"), "unknown reference 'nothing'"),
        (lambda c: c.update(levels=[]), "must be a list of measured levels"),
        (lambda c: c["levels"].pop(), "tensors of a level '1' that is not listed"),
        (lambda c: c["levels"].reverse(), "do not run from data to noise"),
        (lambda c: c["levels"][0].update(auc=2), "auc of level 0 is 2"),
        (lambda c: c["levels"][0].update(extra=2), "level 0 has an unknown entry 'extra'"),
        (lambda c: c["layout"].update(n_features=1), "the layout has 3+1 channels"),
    ],
)
def test_a_configuration_that_is_not_valid(change, what, tmp_path):
    edit(tmp_path, change)
    with pytest.raises(ArtefactError) as refused:
        FittedStates.from_pretrained(tmp_path)
    assert what in str(refused.value)


def test_tensors_that_are_damaged(tmp_path):
    stats = molecules()
    stats.save_pretrained(tmp_path)
    content = bytearray((tmp_path / TENSORS).read_bytes())
    content[-1] ^= 1
    (tmp_path / TENSORS).write_bytes(content)
    with pytest.raises(ArtefactError, match=r"corrupt .*digest.*Write it again with `fit_states`"):
        FittedStates.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_a_byte_that_was_changed_is_refused_or_told_or_means_nothing(name, tmp_path):
    molecules().save_pretrained(tmp_path)
    before = FittedStates.from_pretrained(tmp_path).to_dict()
    whole = (tmp_path / name).read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        content = bytearray(whole)
        content[rng.randrange(len(whole))] = rng.randrange(256)
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(GAGAError), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            stats = FittedStates.from_pretrained(tmp_path)
            stats.start()
            assert told or stats.to_dict() == before


def test_a_folder_without_statistics_of_states(tmp_path):
    with pytest.raises(ArtefactError, match=r"gaga_states\.json and .*not found"):
        FittedStates.from_pretrained(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="is a file"):
        molecules().save_pretrained(tmp_path / "file")


def test_statistics_of_clean_data_are_none_of_states(tmp_path):
    molecules().save_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match=r"statistics of noised states.*FittedStates"):
        GAGAStats.from_pretrained(tmp_path)


def test_levels_out_of_order_make_no_statistics():
    stats = molecules()
    with pytest.raises(TruncationError, match="do not run from data to noise"):
        FittedStates(stats.layout, stats.measured[::-1], "data", "shape", 0.2, 0.25, "")
    with pytest.raises(TruncationError, match="towards='up' is unknown"):
        FittedStates(stats.layout, stats.measured, "up", "shape", 0.2, 0.25, "")


def test_the_digest_is_that_of_the_tensors():
    stats = molecules()
    named = {f"0.{n}": t for n, t in stats.measured[0].moments.state_dict().items()}
    named |= {f"1.{n}": t for n, t in stats.measured[1].moments.state_dict().items()}
    assert stats.to_dict()["digest"] == digest_of(named)


def test_show_prints_the_levels(gaga, tmp_path):
    molecules().save_pretrained(tmp_path)
    done = gaga("show", tmp_path)
    assert done.code == 0, done.err
    assert "two_sample against the shape reference" in done.out
    lines = [line for line in done.out.splitlines() if "0.125" in line or "0.250" in line]
    assert ["start" in line for line in lines] == [False, True]
    assert "time rises towards data; ours" in done.out
    assert json.loads(gaga("show", tmp_path, "--json").out) == molecules().to_dict()
    refused = gaga("show", tmp_path, "--plot", tmp_path / "x.png")
    assert refused.code == 2
    assert "Leave --plot out" in refused.err


if __name__ == "__main__":
    molecules().save_pretrained(FROZEN)


def test_a_scheduler_is_not_cut_by_states():
    with pytest.raises(ArtefactError, match=r"no log-SNR.*own loop at level_star"):
        GAGAScheduler.from_pretrained(DDPMScheduler(), stats=molecules())
