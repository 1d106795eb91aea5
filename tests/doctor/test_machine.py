"""Devices, folders and the hub as the doctor sees them, on machines that are not this one."""

import shutil
from pathlib import PureWindowsPath
from types import SimpleNamespace

import pytest
import torch

from gaga_adapter.doctor import machine, section
from gaga_adapter.doctor.section import presentable


def texts(section):
    return "\n".join(f"{name}: {text}" for name, text in section.lines)


def test_the_cpu_multiplies_and_other_devices_say_why_not():
    assert machine.product_error("cpu") is None
    assert "meta" in machine.product_error("meta")
    assert machine.product_error("no_device").startswith("RuntimeError: ")


def test_a_wrong_result_is_a_fault(monkeypatch):
    """Of the numbers with a point alone: the whole ones are what they are compared with."""

    def product(one, other):
        return one.mm(other) + one.is_floating_point()

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    assert machine.product_error("cpu") == "its result is wrong"


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, of which the second does not work."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    about = SimpleNamespace(name="Fake GPU", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda k: about)
    fault = "RuntimeError: no kernel image is available"
    monkeypatch.setattr(machine, "product_error", lambda name: fault if name == "cuda:1" else None)


def test_every_gpu_is_tried_and_a_broken_one_is_named(gpus):
    found = machine.devices()
    assert "cuda:0: Fake GPU, 80 GiB; a matrix product is right" in texts(found)
    assert "cuda:1: Fake GPU, 80 GiB; a matrix product fails" in texts(found)
    (problem,) = found.problems
    assert "on cuda:1 fails (RuntimeError: no kernel image is available)" in problem
    assert "take another device, such as cpu" in problem
    assert found.facts["devices"]["cuda:0"]["error"] is None


@pytest.mark.parametrize("built", ["12.8", None])
def test_a_gpu_that_torch_does_not_see(monkeypatch, built):
    """Of a torch that could see it this is a fault, else good to know."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    found = machine.devices()
    if built:
        assert "finds no GPU, though nvidia-smi is here" in found.problems[0]
        assert not found.notes
    else:
        assert "built without CUDA" in found.notes[0]
        assert not found.problems


@pytest.mark.parametrize(
    ("load", "n_cores", "n_usable", "n_threads", "n_free"),
    [
        (0.0, 2, 2, 2, None),
        (0.4, 2, 2, 2, None),  # what the doctor itself and a desktop take
        (0.6, 2, 2, 2, 1),
        (6.4, 2, 2, 2, 1),  # one thread is always left
        (6.4, 2, 2, 1, None),
        (30.0, 64, 64, 32, None),
        (40.0, 64, 64, 32, 24),
        (30.0, 64, 2, 2, None),  # others may be busy elsewhere
        (0.0, 64, 2, 64, 2),  # more threads than the system gives it cores
    ],
)
def test_threads_that_would_share_a_core_are_noted(load, n_cores, n_usable, n_threads, n_free):
    advice = machine.advice_on_threads(load, n_cores, n_usable, n_threads)
    if n_free is None:
        assert advice is None
    else:
        assert advice.startswith(f"torch uses {n_threads} threads, which is more than there are fr")
        assert advice.endswith(f"set OMP_NUM_THREADS={n_free}.")


def test_the_load_of_the_machine_is_shown_where_there_is_one(monkeypatch):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (7.26, 3.0, 1.0), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    found = machine.devices()
    assert "cpu: 8 cores, 2 for this process, 2 threads; a" in texts(found)
    assert "load: 7.3 processes ran or waited, on average over a minute" in texts(found)
    assert found.facts["usable_cores"] == 2
    assert found.facts["load"] == 7.26
    assert any("OMP_NUM_THREADS=1." in note for note in found.notes)
    monkeypatch.delattr(machine.os, "getloadavg")  # as on Windows
    monkeypatch.delattr(machine.os, "sched_getaffinity")
    found = machine.devices()
    assert "cpu: 8 cores, 2 of them used by torch; a" in texts(found)
    assert "load" not in texts(found)
    assert found.facts["load"] is None
    assert not any("OMP_NUM_THREADS" in note for note in found.notes)


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("GAGA_CACHE", str(tmp_path / "new" / "folder"))
    found = machine.places()
    assert found.facts["cache_is_writable"]
    assert not found.problems
    assert list(tmp_path.iterdir()) == []  # nothing is left behind
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAGA_CACHE", str(tmp_path / "file"))
    (problem,) = machine.places().problems
    assert "is a file" in problem
    assert problem.endswith("Set GAGA_CACHE to a folder of yours.")


@pytest.mark.parametrize("token", ["hf_very_secret", None])
def test_a_token_is_there_or_not_and_never_shown(monkeypatch, token):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    found = machine.places()
    assert found.facts["hub_token"] is (token is not None)
    assert "secret" not in f"{texts(found)} {found.facts}"


def test_names_of_home_folders_and_tokens_are_hidden(monkeypatch, tmp_path):
    home = tmp_path / "jane"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    for text, shown in (
        (f"{home}", "~"),
        (f"no file {home}/a.npy, or {home}.", "no file ~/a.npy, or ~."),
        (f"file://{home}/x", "file://~/x"),
        (f"{home}ts/x and {home}.old", f"{home}ts/x and {home}.old"),
        (f"/data{home}/x", f"/data{home}/x"),
        ("the token hf_AbCdEf123 is", "the token hf_... is"),
        ("proxy http://jane:word@host:80/x?", "proxy http://...@host:80/x?"),
        ("see https://host/jane@work", "see https://host/jane@work"),
    ):
        assert presentable(text) == shown
    value = {"a": [f"{home}/b", 1, None], "b": (True, 2.5)}
    assert presentable(value) == {"a": ["~/b", 1, None], "b": [True, 2.5]}


def test_the_home_of_the_system_is_hidden_where_the_environment_names_another(monkeypatch):
    pwd = pytest.importorskip("pwd")
    user = pwd.struct_passwd(("jane", "x", 1, 1, "", "/home/jane", "/bin/sh"))
    monkeypatch.setattr(section, "_entry_of", lambda number: user)
    monkeypatch.setenv("HOME", "/scratch/job")
    assert presentable("/home/jane/env and /scratch/job/a") == "~/env and ~/a"

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr(section, "_entry_of", unknown)
    assert presentable("/home/jane/env and /scratch/job/a") == "/home/jane/env and ~/a"


def test_a_home_of_windows_is_hidden_in_every_spelling(monkeypatch):
    monkeypatch.setattr(section, "Path", PureWindowsPath)
    monkeypatch.setattr(section, "_entry_of", None)
    monkeypatch.setattr(section.os.path, "expanduser", lambda name: "C:\\Users\\jane")
    monkeypatch.setattr(section.os.path, "realpath", lambda name: name)
    path = r"C:\Users\jane\stats"
    shown = presentable(f"{path}, {path!r} and C:/Users/jane/stats")
    assert shown == r"~\stats, '~\\stats' and ~/stats"


def test_no_home_hides_nothing(monkeypatch):
    monkeypatch.setattr(section, "_entry_of", None)
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setenv("USERPROFILE", "/")
    assert presentable("/data/a") == "/data/a"
