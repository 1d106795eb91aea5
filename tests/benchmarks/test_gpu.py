"""The prepared run on a GPU, rehearsed on the CPU; and QM9 as one array file."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gpu_fit
import gpu_run
import numpy as np
import pytest
import qm9_array
import torch
from fakes.device import stand_in
from folders import ROOT
from systems import linux
from toys import chains, gaussian_molecules

from gaga_adapter import GAGAStats
from gaga_adapter.errors import DataError
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.molecules.pipeline import MoleculePipeline, edm_scheduler
from gaga_adapter.molecules.qm9.data import N_MOLECULES, load_qm9, split_indices, write_cache
from gaga_adapter.moments import ExchangeableMoments

pytestmark = linux  # a script of bash, and processes in /proc
SCRIPT = ROOT / "benchmarks" / "gpu.sh"


def call(*words, **environment):
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, **environment},
    )


# -- the run ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has its Muon from 2.9 on")
def test_the_rehearsal_measures_fits_and_trains(tmp_path):
    """Whatever the speed of this machine: half an hour is far more than it needs."""
    torch.manual_seed(0)
    net = MoleculeDenoiser(width=16, pair_width=8, n_layers=1, n_vectors=2, n_heads=2)
    model = tmp_path / "model"
    MoleculePipeline(net, edm_scheduler(), [0, 0, 1, 2, 3]).save_pretrained(model)
    words = ["--device", "cpu", "--minutes", 30, "--tiny", "--training-minutes", 0.02]
    done = call(tmp_path / "out", *words, "--model", model, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert found["machine"]["device"] is None
    assert {name: part["status"] for name, part in found["parts"].items()} == {
        "sampling": "done",
        "fit": "done",
        "training": "done",
    }
    sampling = found["parts"]["sampling"]["found"]
    assert set(sampling["network"]) == {"plain", "bf16"}
    for line in (*sampling["network"]["plain"], sampling["pipeline"]["plain"]):
        assert line["rate"] > 0
    assert sampling["pipeline"]["plain"]["calls"] == 20
    assert sampling["pipeline"]["plain"]["finite"] == 1
    fitted = found["parts"]["fit"]["found"]
    assert fitted["fit"]["apart"] == fitted["criteria"]["cumulant"]["apart"] == 0
    assert fitted["references"]["shape"]["transport_apart"] == 0
    assert found["parts"]["training"]["lines"] >= 1
    kept = {file.name for file in (tmp_path / "out" / "training").iterdir()}
    assert {"averaged.safetensors", "metrics.jsonl"} <= kept
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert len(files) <= 8
    assert max(file.stat().st_size for file in files) <= gpu_run.MOST_BYTES


@pytest.mark.filterwarnings("ignore:.* may lack the rare ones")  # so few are enough here
def test_the_device_is_compared_with_the_cpu():
    """On a stand-in for a GPU, whose numbers are the CPU's."""
    x, mask = gaussian_molecules([4, 5] * 60, n_features=5)
    moments = ExchangeableMoments(5)
    moments.update(x, mask)
    stats = GAGAStats(MoleculeLayout(), moments, 0.0)
    with stand_in() as device:
        fitted = gpu_fit.fits(x, mask, device, 100)
        judged = gpu_fit.curves("cumulant", stats, x, mask, device)
        laws = gpu_fit.references(stats, x, mask, device, 2)
    assert set(fitted["log_snr_star"]) == set(judged["values"]) == {"cpu", "cuda"}
    assert fitted["apart"] == judged["apart"] == 0
    assert all(law["transport_apart"] == law["log_prob_apart"] == 0 for law in laws.values())


@pytest.fixture
def run(tmp_path):
    return gpu_run.GPURun(gpu_run.arguments([str(tmp_path), "--device", "cpu"]))


def test_a_part_that_fails_leaves_the_others_alone(run, tmp_path):
    (tmp_path / "fails.py").write_text("print('halfway')\nraise SystemExit(3)")
    (tmp_path / "works.py").write_text("print('there')")
    for name in ("fails", "works"):
        run.part(name, [str(tmp_path / f"{name}.py")])
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["fails"]["status"] == "failed with code 3"
    assert parts["fails"]["end_of_log"][-1] == "halfway"
    assert parts["works"]["status"] == "done"


def test_a_part_is_stopped_with_what_it_started_when_its_time_is_over(run, tmp_path, monkeypatch):
    """Else the child of a part would go on beside the parts that follow."""
    pid = tmp_path / "pid"
    (tmp_path / "hangs.py").write_text(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pid)!r} + '.new', 'w').write(str(child.pid))\n"
        f"os.replace({str(pid)!r} + '.new', {str(pid)!r})\n"
        "time.sleep(600)\n"
    )

    class Waiting(subprocess.Popen):
        def wait(self, timeout=None):
            """Time is over once the child is there, however slow the machine is."""
            while not pid.exists() and self.poll() is None:
                time.sleep(0.05)
            return super().wait(min(timeout, 0.1) if timeout == 5 else timeout)

    monkeypatch.setattr(gpu_run.subprocess, "Popen", Waiting)
    run.part("hangs", [str(tmp_path / "hangs.py")], seconds=5)
    found = run.result["parts"]["hangs"]
    assert found["status"] == "stopped when its time was over"
    child = int(pid.read_text())
    until = time.monotonic() + 60
    while is_running(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(child)


def test_without_a_compiler_it_trains_all_the_same(run, monkeypatch):
    commands = []

    def part(name, command, seconds=None):
        commands.append(list(command))
        status = "failed with code 1" if "--compile" in command else "done"
        run.result["parts"][name] = {"status": status, "command": " ".join(command)}

    monkeypatch.setattr(run, "part", part)
    run.train()
    assert ["--compile" in command for command in commands] == [True, False]
    assert run.result["parts"]["training"]["status"] == "done"
    assert run.result["parts"]["training, compiled"]["status"] == "failed with code 1"


def test_weights_to_begin_with_bring_their_sizes(tmp_path, monkeypatch):
    for words, has_sizes in ((["--from", "qm9"], False), ([], True)):
        args = gpu_run.arguments([str(tmp_path), "--device", "cpu", *words])
        (run := gpu_run.GPURun(args)).args.parts = ["training"]
        commands = []

        def part(name, command, seconds=None, run=run, commands=commands):
            commands.append(command)
            run.result["parts"][name] = {"status": "done"}

        monkeypatch.setattr(run, "part", part)
        run.train()
        assert ("--width" in commands[0]) == has_sizes


def test_paths_are_those_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qm9.npz").touch()
    (tmp_path / "model").mkdir()
    args = gpu_run.arguments(["out", "--data", "qm9.npz", "--model", "model", "--from", "qm9"])
    assert args.data == tmp_path / "qm9.npz"
    assert (args.model, args.initial) == (str(tmp_path / "model"), "qm9")


def is_running(process):
    """Not gone, and not about to be collected either."""
    try:
        return (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            not in "ZX"
        )
    except OSError:
        return False


def test_no_part_begins_without_time(run, tmp_path, monkeypatch):
    run.began -= 3600
    run.part("late", [str(tmp_path / "never.py")])
    assert run.result["parts"]["late"]["status"] == "no time was left"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "benchmarks/gpu.sh --pack FOLDER"),
        (("--device", "cpu"), "folder for the results comes first"),
        (("out", "--packed", "nowhere"), "nowhere is no folder that --pack wrote"),
        (("out", "--packed"), "--packed needs the folder that --pack wrote"),
        (("--pack",), "--pack needs one folder"),
    ],
)
def test_wrong_words_are_refused(words, said):
    done = call(*words)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "0"], "is no time"),
        (["--device", "gpu"], "no device of PyTorch"),
        (["--data", "qm9.npz"], "there is no file qm9.npz"),
    ],
)
def test_wrong_options_are_refused(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        gpu_run.arguments(["out", *words])
    assert said in capsys.readouterr().err


# -- the file --------------------------------------------------------------------------------------


def test_an_array_file_keeps_positions_to_an_eighth_of_a_milliangstrom(tmp_path):
    molecules = chains(50)
    qm9_array.pack(tmp_path / "some.npz", molecules)
    again = qm9_array.load(tmp_path / "some.npz")
    assert np.array_equal(again.atomic_numbers, molecules.atomic_numbers)
    centre = molecules.positions.sum(1) / molecules.n_atoms[:, None]
    expected = (molecules.positions - centre[:, None]) * molecules.mask[..., None]
    np.testing.assert_allclose(again.positions, expected, atol=1.25e-4 + 1e-6, rtol=0)
    assert again.smiles is None


def test_what_does_not_fit_into_an_array_file_is_refused(tmp_path):
    long = MoleculeSet.from_list([([[0, 0, 0], [17.0, 0, 0]], [1, 1])], "long")
    with pytest.raises(DataError, match=r"long: an atom lies 8\.50 Å from the centre"):
        qm9_array.pack(tmp_path / "long.npz", long)
    assert not list(tmp_path.iterdir())


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "empty.npz").touch()
    qm9_array.pack(tmp_path / "half.npz", chains(5))
    (tmp_path / "half.npz").write_bytes((tmp_path / "half.npz").read_bytes()[:300])
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("missing", "text", "empty", "half", "other"):
        with pytest.raises(DataError, match=f"{name}.npz is no array file of molecules"):
            qm9_array.load(tmp_path / f"{name}.npz")
    qm9_array.pack(tmp_path / "few.npz", chains(5))
    with pytest.raises(DataError, match="holds 5 molecules, not all of QM9"):
        qm9_array.load_split(tmp_path / "few.npz", "train")
    with pytest.raises(DataError, match="5 molecules without SMILES are not all of QM9"):
        write_cache(chains(5), tmp_path)


def test_splits_are_those_of_qm9_and_the_cache_is_read_like_it(tmp_path):
    """On as many single atoms as QM9 has molecules: of which element tells which one it is."""
    numbers = np.random.default_rng(0).choice([1, 6, 7, 8, 9], size=(N_MOLECULES, 1))
    smiles = tuple("HCNOF"[i % 5] for i in range(N_MOLECULES))
    atoms = MoleculeSet(np.zeros((N_MOLECULES, 1, 3), np.float32), numbers, "qm9", smiles)
    file = tmp_path / "qm9.npz"
    qm9_array.pack(file, atoms)
    subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "qm9_array.py", file, "--cache", tmp_path],
        check=True,
    )
    for split in ("valid", "test"):
        expected = numbers[split_indices(split)]
        assert np.array_equal(qm9_array.load_split(file, split).atomic_numbers, expected)
        cached = load_qm9(split, tmp_path)
        assert np.array_equal(cached.atomic_numbers, expected)
        assert cached.smiles == tuple(smiles[i] for i in split_indices(split))
