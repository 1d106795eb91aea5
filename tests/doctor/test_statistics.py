"""What the doctor says of statistics: every kind that was ever written, and what is none."""

import json
from dataclasses import replace

import pytest
from folders import ARTEFACTS, frozen_statistics
from safetensors.numpy import load_file
from toys import dense_stats

from gaga_adapter import GAGAStats
from gaga_adapter.doctor.statistics import statistics
from gaga_adapter.noise.paths import NAMED_PATHS, named_path

STATES = ARTEFACTS / "states"


def about(section):
    return dict(section.lines)


@pytest.mark.parametrize("folder", frozen_statistics(), ids=lambda folder: folder.name)
def test_an_artefact_of_data(folder):
    config = json.loads((folder / "gaga_config.json").read_text(encoding="utf-8"))
    found = statistics(str(folder))
    assert found.problems == ()
    assert found.facts["loads"]
    assert found.facts["kind"] == "data"
    for name in ("schema_version", "digest", "layout", "log_snr_star"):
        assert json.loads(json.dumps(found.facts[name])) == config[name], name
    assert found.facts["count"] == int(load_file(folder / "gaga_stats.safetensors")["count"].sum())
    if config["selection"] is None:
        assert found.notes[0].startswith("t* was given by hand")
        return
    curve = config["selection"]["curve"]
    assert found.facts["criterion"]["name"] == curve["criterion"]
    assert about(found)["criterion"].startswith(
        f"{curve['criterion']} on {curve['n_samples']:,} items, tolerance "
    )
    assert any("which is few" in note for note in found.notes)  # they are small


@pytest.mark.parametrize("name", ["0_1_p_values", "several_bounds", "tokens"])
def test_few_items_make_loose_only_what_is_a_bound(name):
    """A bound, an estimate and p-values, each in its own words."""
    told = " ".join(statistics(str(ARTEFACTS / name)).notes)
    assert ("its bound is loose" in told) == (name == "tokens")
    assert ("its values are uncertain" in told) == (name == "several_bounds")
    assert ("it tells little apart" in told) == (name == "0_1_p_values")


def test_the_embedded_one_and_its_steps(qm9):
    found = statistics("qm9")
    lines = about(found)
    assert lines["items"] == "130,831"
    assert lines["t* on edm/polynomial_2"] == "timestep 501, 50 % of the path"
    assert set(found.facts["t_star"]) == set(NAMED_PATHS)
    step = qm9.t_star(named_path("ddpm/linear")) * 999  # of a table from 0 to 999
    assert found.facts["t_star"]["ddpm/linear"] == round(step)
    assert found.notes == ()


def test_statistics_of_states():
    config = json.loads((STATES / "gaga_states.json").read_text(encoding="utf-8"))
    found = statistics(str(STATES))
    assert found.problems == ()
    assert found.facts["kind"] == "states"
    for name in ("schema_version", "digest", "layout", "level_star", "tolerance", "reference"):
        assert found.facts[name] == config[name], name
    assert about(found)["levels"] == "2, time rises towards data"


def test_statistics_of_complexes(tmp_path):
    stars = {"first": 0.5, "second": -0.25, "displacement": 1.0}
    for part, star in stars.items():
        dense_stats(star).save_pretrained(tmp_path / part)
    found = statistics(str(tmp_path))
    assert found.problems == ()
    assert (found.facts["kind"], found.facts["log_snr_star"]) == ("complexes", -0.25)
    assert {part: found.facts[part]["log_snr_star"] for part in stars} == stars
    assert about(found)["second"].startswith("50 items, channel start, dense 3x4x4")
    assert found.notes[0].startswith("Of the part first: t* was given by hand")


# -- what to know before they are used -------------------------------------------------------------


def notes(stats, folder):
    stats.save_pretrained(folder)
    return statistics(str(folder)).notes


def test_t_star_by_hand(tmp_path):
    (note,) = notes(dense_stats(), tmp_path)
    assert note.startswith("t* was given by hand")


def test_another_t_star_few_items_and_p_values(qm9, tmp_path):
    (note,) = notes(replace(qm9, log_snr_star=1.0), tmp_path)
    assert note.startswith("t* is at log-SNR 1, and the criterion chose 0.25: another t*")
    by_size = replace(qm9.selection, by_size={19: 0.5})
    assert notes(replace(qm9, log_snr_star=0.5, selection=by_size), tmp_path) == ()
    few = replace(qm9.selection, curve=replace(qm9.selection.curve, n_samples=999))
    (note,) = notes(replace(qm9, selection=few), tmp_path)
    assert note.startswith("The criterion saw 999 items, which is few")
    enough = replace(qm9.selection, curve=replace(qm9.selection.curve, n_samples=1000))
    assert notes(replace(qm9, selection=enough), tmp_path) == ()
    curve = replace(qm9.selection.curve, unit="p-value", criterion="ks_mi", value=(0.5,) * 15)
    p_values = replace(qm9.selection, curve=curve, tolerance=0.05)
    (note,) = notes(replace(qm9, selection=p_values), tmp_path)
    assert note.startswith("t* was chosen by p-values")


def test_the_first_level_and_a_reference_of_the_users_own(qm9, tmp_path):
    first = replace(qm9.selection, log_snr_star=2.5)
    (note,) = notes(replace(qm9, log_snr_star=2.5, selection=first), tmp_path)
    assert note.startswith("t* is the first level of its curve")
    own = replace(qm9.selection, curve=replace(qm9.selection.curve, reference="mine"))
    (note,) = notes(replace(qm9, selection=own), tmp_path)
    assert "chosen for the 'mine' reference, which cannot be made" in note
    assert "the start is the 'shape' one" in note


@pytest.mark.parametrize("version", ["99.0", "0.0.1", "odd", None])
def test_made_with_a_newer_version(qm9, tmp_path, version):
    told = notes(replace(qm9, provenance={"versions": {"gaga-adapter": version}}), tmp_path)
    if version == "99.0":
        assert told[0].startswith("They were made with gaga-adapter 99.0, which is newer than")
    else:
        assert told == ()


# -- what is none ----------------------------------------------------------------------------------


def test_folders_and_files_that_are_none(tmp_path):
    (tmp_path / "molecules.sdf").touch()
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    for name, told in (
        (tmp_path / "nowhere", "no fitted statistics in"),
        (tmp_path / "molecules.sdf", "is a file, and fitted statistics are a folder"),
        (tmp_path / "pipeline", "it holds a pipeline of diffusers, without statistics"),
    ):
        found = statistics(str(name))
        assert found.facts["loads"] is False
        (problem,) = found.problems
        assert problem.startswith(f"Statistics {name}: ")
        assert told in problem


def test_a_damaged_one_and_one_of_a_newer_schema(tmp_path):
    dense_stats().save_pretrained(tmp_path)
    file = tmp_path / "gaga_config.json"
    text = file.read_text(encoding="utf-8")
    config = json.loads(text)
    file.write_text(json.dumps({**config, "schema_version": 99}), encoding="utf-8")
    assert "schema_version=99" in statistics(str(tmp_path)).problems[0]
    file.write_text(text, encoding="utf-8")
    (tmp_path / "gaga_stats.safetensors").write_bytes(b"nothing")
    assert "corrupt" in statistics(str(tmp_path)).problems[0]


def test_from_the_hub(monkeypatch, tmp_path):
    """Loaded once, and looked up in the cache for the schema in the file."""
    folder = tmp_path / "snapshots" / "abc"
    GAGAStats.from_pretrained("qm9").save_pretrained(folder)
    asked = []

    def snapshot(repo_id, local_files_only=False, **_):
        asked.append((repo_id, local_files_only))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    found = statistics("me/my-stats")
    assert found.facts["loads"]
    assert (
        found.facts["schema_version"]
        == json.loads((folder / "gaga_config.json").read_text(encoding="utf-8"))["schema_version"]
    )
    assert asked == [("me/my-stats", False), ("me/my-stats", True)]
