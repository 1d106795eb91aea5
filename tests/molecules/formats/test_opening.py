"""Where the bytes come from: compressions, pipes, standard input, encodings, names."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from systems import posix

from gaga_adapter.errors import DataError, MissingExtraError
from gaga_adapter.molecules.formats import read_molecules, stream_molecules

XYZ = "".join(f"2\nframe {k}\nC 0 0 0\nO 0 0 1.{k}\n" for k in range(5))
COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def check(molecules, n=5):
    assert len(molecules) == n
    np.testing.assert_allclose(
        molecules.positions[:, 1, 2], [1 + k % 5 / 10 for k in range(n)], rtol=1e-6
    )


@contextmanager
def standard_input(monkeypatch, data):
    """Standard input is a pipe that holds these bytes."""
    read, write = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(write, data), os.close(write)))
    with open(read, "rb") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        writer.start()
        yield
        writer.join()


@contextmanager
def fifo(path, data):
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(data))
    writer.start()
    yield path
    writer.join()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_whatever_their_names_say(tmp_path, suffix):
    data = COMPRESS[suffix](XYZ.encode())
    for name in (f"a.xyz{suffix}", f"A.XYZ{suffix.upper()}", "plain.xyz", "other.xyz.gz"):
        (tmp_path / name).write_bytes(data)
        check(read_molecules(tmp_path / name))
    (tmp_path / "twice.xyz").write_bytes(data * 2)  # what `cat a.gz b.gz` gives
    check(read_molecules(tmp_path / "twice.xyz"), 10)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_that_is_cut_off_or_damaged(tmp_path, suffix):
    data = COMPRESS[suffix](np.random.default_rng(0).bytes(50) + XYZ.encode() * 50)
    (tmp_path / "a.xyz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.xyz"):
        read_molecules(tmp_path / "a.xyz")
    (tmp_path / "a.xyz").write_bytes(data[:20] + bytes(20) + data[40:])
    with pytest.raises(DataError, match=r"a\.xyz"):
        read_molecules(tmp_path / "a.xyz")


def test_zstd_is_an_extra(tmp_path, monkeypatch):
    (tmp_path / "a.xyz.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match=r'needs zstandard: .*"gaga-adapter\[zstd\]"'):
        read_molecules(tmp_path / "a.xyz.zst")


def test_zstd_frames_one_after_the_other(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    data = zstandard.compress(XYZ.encode() * 2000)
    (tmp_path / "a.xyz.zst").write_bytes(data * 2)
    check(read_molecules(tmp_path / "a.xyz.zst"), 20_000)
    (tmp_path / "a.xyz.zst").write_bytes(data[:-5])
    with pytest.raises(DataError, match=r"a.xyz.zst behind .* ends within a zstd frame"):
        read_molecules(tmp_path / "a.xyz.zst")
    (tmp_path / "a.xyz.zst").write_bytes(data[:8] + b"x" * 40 + data[48:])
    with pytest.raises(DataError, match=r"damaged zstd data"):
        read_molecules(tmp_path / "a.xyz.zst")


def test_a_pipe_is_read_once_or_kept(tmp_path):
    with fifo(tmp_path / "a.xyz", XYZ.encode()) as path:
        stream = stream_molecules(path, batch_size=2)
        assert [len(batch) for batch in stream] == [2, 2, 1]
    with pytest.raises(DataError, match=r"a.xyz is a pipe, which can be read once, and it has be"):
        list(stream)
    with fifo(tmp_path / "b.xyz", gzip.compress(XYZ.encode())) as path:
        kept = stream_molecules(path, batch_size=2)
        assert kept.found_elements() == ("C", "O")
    for _ in range(2):
        assert [len(batch) for batch in kept.only(("C", "O"))] == [2, 2, 1]
    with pytest.raises(DataError, match=r"the element O. Allowed: C"):
        list(kept.only(("C",)))


def test_what_is_kept_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with fifo(tmp_path / "a.xyz", XYZ.encode()) as path:
        stream = stream_molecules(path)
        stream.keep()
        assert len(list(stream)) == 1
    assert len(list(tmp_path.glob("gaga-*"))) == 1
    del stream
    assert not list(tmp_path.glob("gaga-*"))


def test_standard_input(monkeypatch):
    with standard_input(monkeypatch, bz2.compress(XYZ.encode())):
        check(read_molecules("-", format="xyz"))
    with standard_input(monkeypatch, b"\n"):
        with pytest.raises(DataError, match=r"^standard input: no molecules"):
            read_molecules("-", format="xyz")
    with standard_input(monkeypatch, b""):
        with pytest.raises(DataError, match=r"cannot tell what standard input is. .*--format"):
            read_molecules("-")
        for kind in ("npz", "db"):
            with pytest.raises(DataError, match=rf"standard input is a pipe, and \.{kind} files"):
                read_molecules("-", format=kind)


def test_standard_input_that_is_none(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="there is no standard input"):
        read_molecules("-", format="xyz")
    controller, terminal = os.openpty()
    with open(controller, "rb", buffering=0), open(terminal, "rb", buffering=0) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(DataError, match="standard input is the terminal"):
            read_molecules("-", format="xyz")


def test_processes_do_not_share_a_pipe(monkeypatch):
    monkeypatch.setattr("gaga_adapter.molecules.formats.opening.n_processes", lambda: 2)
    with standard_input(monkeypatch, XYZ.encode()):
        with pytest.raises(DataError, match="is a pipe, which several processes cannot share"):
            read_molecules("-", format="xyz")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_encodings_and_line_ends(tmp_path, encoding, ending):
    text = XYZ.replace("frame", "Café").replace("\n", ending)
    (tmp_path / "a.xyz").write_bytes(text.encode(encoding))
    check(read_molecules(tmp_path / "a.xyz"))
    (tmp_path / "a.xyz").write_bytes(text.encode("latin-1"))
    check(read_molecules(tmp_path / "a.xyz"))


def test_a_format_that_the_name_does_not_tell(tmp_path):
    for name in ("frames", "frames.txt", "frames.sdf", "-"):
        (tmp_path / name).write_text(XYZ)
        check(read_molecules(tmp_path / name, format="xyz"))
    with pytest.raises(DataError, match=r"cannot tell what .*frames.txt is.*--format .*sdf, sd, m"):
        read_molecules(tmp_path / "frames.txt")
    with pytest.raises(DataError, match=r"format='pdb'. Allowed: sdf, sd, mol, xyz"):
        read_molecules(tmp_path / "frames", format="pdb")
    (tmp_path / "b.xyz").write_text(XYZ)
    check(read_molecules(tmp_path, format="extxyz"))  # of a folder, the files of that format


def test_a_file_that_is_called_like_standard_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_text(XYZ)
    check(read_molecules("./-", format="xyz"))


@posix
def test_advice_that_can_be_followed(tmp_path):
    (tmp_path / "a.pdb.zst").write_text("x")
    (tmp_path / "a").write_text("x")
    for name in ("a.pdb.zst", "a"):
        with pytest.raises(DataError, match=r"cannot tell what ") as refused:
            read_molecules(tmp_path / name)
        assert "obabel" not in str(refused.value)
    (tmp_path / "link.sdf").symlink_to("gone.sdf")
    with pytest.raises(DataError, match=r"link.sdf is a link to gone.sdf, which does not exist"):
        read_molecules(tmp_path / "link.sdf")
    with pytest.raises(DataError, match=r"File name too long"):
        read_molecules("a" * 300 + ".sdf")


def test_a_text_without_lines_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("gaga_adapter.molecules.formats.record.MOST_CHARACTERS", 1000)
    monkeypatch.setattr("gaga_adapter.molecules.formats.sdf._MOST", 20_000)
    for kind in ("xyz", "smi", "csv"):
        (tmp_path / f"a.{kind}").write_text("C" * 5000)
        with pytest.raises(DataError, match=r"line 1 has 1,000 characters or more"):
            read_molecules(tmp_path / f"a.{kind}", embed=True)
    (tmp_path / "a.sdf").write_text("C" * 50_000)
    with pytest.raises(DataError, match=r"no `\$\$\$\$` in 20,000 characters"):
        read_molecules(tmp_path / "a.sdf")


def test_a_fit_of_a_pipe(tmp_path):
    """In a process of its own, as `zcat frames.xyz.gz | gaga fit -` is."""
    words = ["fit", "-", "--format", "xyz", "--elements", "auto", "--out", tmp_path / "stats"]
    words += ["--criterion", "cumulant", "--reference", "channel", "--tolerance", "99", "--json"]
    noise = np.random.default_rng(0).normal(size=(400, 3))
    text = "".join(f"3\n\nC 0 0 0\nO 0 0 1.2\nN {a} {b} {c}\n" for a, b, c in noise)
    done = subprocess.run(
        [sys.executable, "-m", "gaga_adapter", *words], input=gzip.compress(text.encode()),
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stats" / "gaga_config.json").is_file()
