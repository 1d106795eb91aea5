"""The commands under `torchrun` and `accelerate launch`, against those in one process."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from systems import posix

from gaga_adapter import GAGAStats

pytestmark = posix  # several processes are tried on POSIX systems only
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
#: `--multi_gpu` is how accelerate names several processes on a machine; it needs no GPU.
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ACCELERATE += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


#: What is left of the group in each of two processes, after it ended well or badly.
THREADS = """
import os, sys
from contextlib import suppress
from pathlib import Path
from gaga_adapter.distributed import Processes, started
with suppress(KeyError), started():
    import torch.distributed.nn.functional
    Processes.of_the_run().everyones("here")
    if sys.argv[1] == "badly":
        raise KeyError
names = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
os.write(1, (" ".join(name.strip() for name in names if "gloo" in name) or "nothing ").encode())
"""


def launched(launcher, *arguments, cwd, module=("-m", "gaga_adapter")):
    """A command in two processes: (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *module, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def one_thread():
    """As many threads as the launched processes have: sums of other lengths round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lines_of_gaga(err):
    """What the commands print, without the lines of the launcher."""
    return [line for line in err.splitlines() if "gaga: " in line]


def chains(file, n_molecules=4200, bad=None):
    """Chains of carbon and hydrogen in EDM's layout: three batches."""
    rng = np.random.default_rng(0)
    n_atoms = rng.integers(3, 6, n_molecules)
    real = np.arange(5) < n_atoms[:, None]
    steps = rng.normal(size=(n_molecules, 5, 3)) * 0.3 + [1.2, 0, 0]
    positions = np.cumsum(steps, 1) * real[..., None]
    if bad is not None:
        positions[bad, 0, 0] = np.nan
    charges = rng.choice([1, 6], real.shape) * real
    np.savez(file, num_atoms=n_atoms, charges=charges, positions=positions)


def test_fit_under_torchrun(gaga, tmp_path, one_thread):
    chains(tmp_path / "chains.npz")
    options = ["--criterion", "cumulant", "--tolerance", 2, "--items", 1000]
    code, out, err = launched(TORCHRUN, "fit", "chains.npz", "--out", "two", *options, cwd=tmp_path)
    assert code == 0, err
    assert out.count("log-SNR* =") == 1  # the first process alone speaks
    assert gaga("fit", tmp_path / "chains.npz", "--out", tmp_path / "one", *options).code == 0
    one, two = (GAGAStats.from_pretrained(tmp_path / name) for name in ("one", "two"))
    assert two.log_snr_star == pytest.approx(one.log_snr_star, rel=1e-9)
    assert two.selection.curve.value == pytest.approx(one.selection.curve.value, rel=1e-8)
    expected = one.moments.state_dict()
    for name, values in two.moments.state_dict().items():
        torch.testing.assert_close(values, expected[name], rtol=1e-12, atol=1e-11)


def free_port():
    """A port by number: accelerate 0.30 takes 0, for one of its choice, at its word and waits."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_sample_under_accelerate(gaga, tmp_path, one_thread):
    options = ["-n", 7, "--batch-size", 1, "--steps", 3, "--stats", "qm9", "--seed", 4]
    launcher = [*ACCELERATE, "--main_process_port", str(free_port())]
    code, _, err = launched(launcher, "sample", "--out", "two.sdf", *options, cwd=tmp_path)
    assert code == 0, err
    assert err.count("wrote 7 molecules") == 1
    assert gaga("sample", "--out", tmp_path / "one.sdf", *options).code == 0
    assert (tmp_path / "two.sdf").read_text() == (tmp_path / "one.sdf").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.sdf", "two.sdf"]


@pytest.mark.parametrize("ending", ["well", "badly"])
def test_the_threads_of_a_group_end_with_it(tmp_path, ending):
    """One that outlives the group may abort the process when the interpreter ends.

    Diffusers imports `torch.distributed.nn`, whose functions hold the group that they find.
    """
    script = tmp_path / "script.py"
    script.write_text(THREADS)
    code, out, err = launched(TORCHRUN, script, ending, cwd=tmp_path, module=())
    assert code == 0, err
    assert out.split() == ["nothing"] * 2


def test_one_process_that_fails_ends_the_run(tmp_path):
    """Molecule 2100 is in the second batch, which the second process reads."""
    chains(tmp_path / "chains.npz", bad=2100)
    code, out, err = launched(TORCHRUN, "fit", "chains.npz", "--out", "stats", cwd=tmp_path)
    assert code != 0
    assert out == ""
    assert len(lines_of_gaga(err)) == 1  # the first process says what the second one told it
    assert "molecule 2100" in err
    assert [file.name for file in tmp_path.iterdir()] == ["chains.npz"]


OWN = """
import os, sys
from datetime import timedelta
from gaga_adapter import distributed
from gaga_adapter.cli import failures, fit, main
from gaga_adapter.errors import DataError
def open_data(reading, *args):
    if reading.data == ["shared.npy"]:
        raise DataError("no disk")
    if os.environ["RANK"] == "1":
        raise DataError("no disk on 1")
    distributed.Processes.of_the_run().everyones("waiting")
failures._PATIENCE = 60
distributed._PATIENCE = timedelta(seconds=1 if "own.npy" in sys.argv else 60)
fit.options.open_data = open_data
main()
"""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["shared.npy", "--out", "stats"], "gaga: DataError: no disk"),
        (["own.npy", "--out", "stats"], "gaga: DataError: no disk on 1"),
        (["shared.npy"], "gaga: missing option '--out'. See gaga fit --help"),
    ],
    ids=["shared", "own", "command line"],
)
def test_a_mistake_of_all_processes_is_one_line(tmp_path, words, line):
    script = tmp_path / "script.py"
    script.write_text(OWN)
    code, out, err = launched(TORCHRUN, script, "fit", *words, cwd=tmp_path, module=())
    assert code != 0
    assert out == ""
    lines = [one for one in lines_of_gaga(err) if "lost contact" not in one]
    assert lines == [line]
