"""The artefact: round trips, atomic writes, and errors that say what to do."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import dense_stats, same_stats

from gaga_adapter import GAGAStats, named_path
from gaga_adapter.errors import (
    ArtefactError,
    StatsMismatchError,
    TruncationError,
    WriteError,
)
from gaga_adapter.layout import AtomLayout, DenseLayout, MoleculeLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.stats import CONFIG_NAME, TENSORS_NAME
from gaga_adapter.subspace import mask_from_sizes, project


def molecule_stats(seed=0, log_snr_star=0.25):
    generator = torch.Generator().manual_seed(seed)
    mask = mask_from_sizes(torch.randint(3, 9, (600,), generator=generator), 9)
    x = project(torch.randn(600, 9, 8, generator=generator), mask)
    moments = ExchangeableMoments(5)
    moments.update(x, mask)
    return GAGAStats(MoleculeLayout(), moments, log_snr_star, provenance={"data": "noise"})


def test_positions_alone_are_saved_and_read(tmp_path):
    x = project(torch.randn(600, 5, 3, generator=torch.Generator().manual_seed(0)))
    moments = ExchangeableMoments(0)
    moments.update(x)
    stats = GAGAStats(AtomLayout(0), moments, 0.25)
    stats.save_pretrained(tmp_path)
    assert same_stats(stats, GAGAStats.from_pretrained(tmp_path))


@pytest.mark.parametrize("make", [molecule_stats, dense_stats])
def test_round_trip(make, tmp_path):
    stats = make()
    stats.save_pretrained(tmp_path / "a" / "b")
    again = GAGAStats.from_pretrained(tmp_path / "a" / "b")
    assert same_stats(stats, again)
    assert again.layout == stats.layout
    z = torch.randn(4, *((9, 8) if make is molecule_stats else (3, 4, 4)))
    assert torch.equal(stats.reference().transport(z), again.reference().transport(z))
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [CONFIG_NAME, TENSORS_NAME]


def test_nothing_is_pickled(tmp_path):
    molecule_stats().save_pretrained(tmp_path)
    json.loads((tmp_path / CONFIG_NAME).read_text())
    load_file(tmp_path / TENSORS_NAME)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failed_write_leaves_one_complete_artefact(tmp_path, monkeypatch, failing):
    """The disk fills up, or the process dies, at the first or the second rename."""
    old, new = molecule_stats(0), molecule_stats(1, log_snr_star=0.75)
    old.save_pretrained(tmp_path)
    real, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) == failing + 1:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WriteError, match=r"No space left on device.*intact"):
        new.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert same_stats(GAGAStats.from_pretrained(tmp_path), old if failing == 0 else new)
    assert sorted(p.name for p in tmp_path.iterdir()) == [CONFIG_NAME, TENSORS_NAME]


def test_an_interrupt_leaves_the_old_artefact(tmp_path, monkeypatch):
    old = molecule_stats(0)
    old.save_pretrained(tmp_path)

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        molecule_stats(1).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert same_stats(GAGAStats.from_pretrained(tmp_path), old)
    assert len(list(tmp_path.iterdir())) == 2


def test_newer_schema(tmp_path):
    molecule_stats().save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config | {"schema_version": 99}))
    with pytest.raises(ArtefactError, match=r"schema_version=99.*up to 4.*pip install -U"):
        GAGAStats.from_pretrained(tmp_path)


def test_damaged_tensors(tmp_path):
    molecule_stats().save_pretrained(tmp_path)
    blob = bytearray((tmp_path / TENSORS_NAME).read_bytes())
    blob[-20] ^= 0xFF
    (tmp_path / TENSORS_NAME).write_bytes(bytes(blob))
    with pytest.raises(ArtefactError, match="do not match their digest"):
        GAGAStats.from_pretrained(tmp_path)
    (tmp_path / TENSORS_NAME).write_bytes(bytes(blob[:100]))
    with pytest.raises(ArtefactError, match="corrupt"):
        GAGAStats.from_pretrained(tmp_path)


def test_swapped_tensors(tmp_path):
    stats = molecule_stats()
    stats.save_pretrained(tmp_path)
    tensors = {k: v.clone() for k, v in load_file(tmp_path / TENSORS_NAME).items()}
    save_file({k: v + 1 for k, v in tensors.items()}, tmp_path / TENSORS_NAME)
    with pytest.raises(ArtefactError, match="do not match their digest"):
        GAGAStats.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}'])
def test_damaged_config(tmp_path, text):
    molecule_stats().save_pretrained(tmp_path)
    (tmp_path / CONFIG_NAME).write_text(text)
    with pytest.raises(ArtefactError):
        GAGAStats.from_pretrained(tmp_path)


def test_missing(tmp_path):
    with pytest.raises(ArtefactError, match=r"no fitted statistics in .*nowhere.*qm9"):
        GAGAStats.from_pretrained(tmp_path / "nowhere")


def test_a_file_instead_of_the_folder(tmp_path):
    molecule_stats().save_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match=f"is a file, .* Pass {re.escape(str(tmp_path))}"):
        GAGAStats.from_pretrained(tmp_path / CONFIG_NAME)
    data = tmp_path / "a.sdf"
    data.touch()
    with pytest.raises(ArtefactError, match=r"`gaga fit .*a\.sdf --out stats/` makes one"):
        GAGAStats.from_pretrained(data)


def test_a_hub_id_that_cannot_be_read(tmp_path):
    with pytest.raises(ArtefactError, match="neither a folder here nor readable on the hub"):
        GAGAStats.from_pretrained("someone/nothing", cache_dir=tmp_path, local_files_only=True)


def test_hub_download_comes_from_the_cache(tmp_path):
    """A repository as huggingface_hub keeps it on disk is read without a network."""
    stats = molecule_stats()
    repo = tmp_path / "models--someone--stats"
    stats.save_pretrained(repo / "snapshots" / "0123")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123")
    again = GAGAStats.from_pretrained("someone/stats", cache_dir=tmp_path, local_files_only=True)
    assert same_stats(stats, again)


@pytest.mark.parametrize("name", ["edm/polynomial_2", "ddpm/linear", "karras/edm", "flow/linear"])
def test_t_star_is_the_first_time_at_or_beyond(name):
    path = named_path(name)
    t = molecule_stats(log_snr_star=0.25).t_star(path)
    assert float(path.log_snr(t)) <= 0.25 + 1e-9
    before = t - 1 / path.n_steps if path.n_steps else t - 1e-9
    assert float(path.log_snr(before)) > 0.25


def test_implausible_log_snr():
    with pytest.raises(TruncationError, match="log_snr_star=nan"):
        molecule_stats(log_snr_star=float("nan"))


def test_embedded_qm9():
    stats = GAGAStats.from_pretrained("qm9")
    assert stats.moments.count == 130_831
    assert stats.layout == MoleculeLayout()
    assert stats.selection is not None


def test_a_folder_named_like_an_embedded_artefact_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qm9").mkdir()
    assert GAGAStats.from_pretrained("qm9").moments.count == 130_831
    molecule_stats().save_pretrained("qm9")
    assert GAGAStats.from_pretrained("qm9").moments.count == 600


def test_moments_of_other_channels_than_the_layout():
    moments = molecule_stats().moments
    for layout in (MoleculeLayout(("H", "C")), DenseLayout((5, 2))):
        with pytest.raises(StatsMismatchError, match="the moments are"):
            GAGAStats(layout, moments, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"layout": [1]},
        {"layout": {"kind": "molecule", "elements": ["H", "C"]}},
        {"layout": {"kind": "molecule", "onehot_scale": 0.0}},
        {"provenance": None},
        {"log_snr_star": None},
        {"moments": []},
        {"selection": []},
    ],
    ids=str,
)
def test_a_configuration_that_makes_no_sense_is_corrupt(change, tmp_path):
    molecule_stats().save_pretrained(tmp_path)
    file = tmp_path / CONFIG_NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ArtefactError, match="is corrupt"):
        GAGAStats.from_pretrained(tmp_path)


@pytest.mark.parametrize("place", ["between the files", "between header and numbers"])
def test_a_reader_between_two_writers_gets_one_of_their_artefacts(tmp_path, monkeypatch, place):
    """Another save is put where a file has been read and the next is not; or inside of a file.

    safetensors itself opens a file a second time, by its name, for the numbers.
    """
    written = [molecule_stats(seed, log_snr_star=seed / 10) for seed in range(12)]
    left = iter(written)
    next(left).save_pretrained(tmp_path)
    real_json, real_storage = json.loads, torch.UntypedStorage.from_file

    def with_a_save(call):
        def called(*args, **kwargs):
            monkeypatch.undo()
            next(left).save_pretrained(tmp_path)
            intercept()
            return call(*args, **kwargs)

        return called

    def intercept():
        if place == "between the files":
            monkeypatch.setattr(json, "loads", with_a_save(real_json))
        else:
            monkeypatch.setattr(torch.UntypedStorage, "from_file", with_a_save(real_storage))
            calls = []

            def second(*args, **kwargs):
                calls.append(1)
                load = with_a_save(real_json) if len(calls) == 2 else real_json
                return load(*args, **kwargs)

            monkeypatch.setattr(json, "loads", second)

    intercept()
    found = GAGAStats.from_pretrained(tmp_path)
    monkeypatch.undo()
    assert any(same_stats(found, one) for one in written)


def test_a_folder_that_is_being_copied_into_is_read_again(tmp_path, monkeypatch):
    stats = molecule_stats()
    stats.save_pretrained(tmp_path / "whole")
    stats.save_pretrained(tmp_path / "here")
    file = tmp_path / "here" / TENSORS_NAME
    content = file.read_bytes()
    file.write_bytes(content[:5000])
    real, reads = GAGAStats._read_once.__func__, []

    def read(cls, *args):
        reads.append(1)
        if len(reads) > 1:
            return real(cls, *args)
        try:
            return real(cls, *args)
        finally:
            file.write_bytes(content)  # the copy is complete meanwhile

    monkeypatch.setattr(GAGAStats, "_read_once", classmethod(read))
    assert same_stats(GAGAStats.from_pretrained(tmp_path / "here"), stats)
    assert len(reads) == 2


def test_what_else_may_be_there(tmp_path):
    with pytest.raises(ArtefactError, match=r"not found\. Did you mean qm9\?"):
        GAGAStats.from_pretrained("qm8")
    with pytest.raises(ArtefactError, match="the name of the statistics is empty"):
        GAGAStats.from_pretrained("")
    for name in (None, 3, molecule_stats()):
        with pytest.raises(ArtefactError, match=f"got {type(name).__name__}, not a name"):
            GAGAStats.from_pretrained(name)
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(ArtefactError, match="no fitted statistics in"):
            GAGAStats.from_pretrained(name)
    with pytest.raises(ArtefactError, match=r"no fitted statistics in .* not found"):
        GAGAStats.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ArtefactError, match="a pipeline of diffusers, without statistics"):
        GAGAStats.from_pretrained(tmp_path)
    molecule_stats().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ArtefactError, match=r"itself\. Pass .*scheduler\."):
        GAGAStats.from_pretrained(tmp_path)
    with pytest.raises(WriteError, match="is a file, and fitted statistics are a folder"):
        molecule_stats().save_pretrained(tmp_path / "model_index.json")
