"""Outputs: whole files, links, pipes and devices, other people's files, and what the killed leave.

A process of its own stands for each user, for what matters happens between processes.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from systems import posix

from gaga_adapter.errors import WriteError
from gaga_adapter.files.atomic import file_behind, is_stream, replacing


def write(path, text="new\n"):
    with replacing(path) as draft:
        draft.write_text(text)


@posix
def test_data_land_where_a_link_leads_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    real, link, second = tmp_path / "disk" / "a.txt", tmp_path / "link", tmp_path / "second"
    link.symlink_to("disk/a.txt")  # there is no such file yet
    second.symlink_to(link)
    for place in (link, second):
        write(place, f"{place.name}\n")
        assert place.is_symlink()
        assert real.read_text() == f"{place.name}\n"
        assert os.listdir(real.parent) == ["a.txt"]
    link.unlink()
    link.symlink_to("link")
    with pytest.raises(WriteError, match="link that leads back to itself"):
        write(link)
    (tmp_path / "folder").symlink_to("disk")
    write(tmp_path / "folder" / "b.txt")
    assert sorted(os.listdir(tmp_path / "disk")) == ["a.txt", "b.txt"]


@posix
def test_permissions_are_those_of_the_old_file_or_of_the_umask(tmp_path):
    file = tmp_path / "a.txt"
    before = os.umask(0o027)
    try:
        write(file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        file.chmod(0o604)
        write(file, "again\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o604
    other = tmp_path / "other"
    os.link(file, other)  # as the module says: this name keeps what it has
    write(file, "third\n")
    assert (other.read_text(), file.read_text()) == ("again\n", "third\n")


@posix
def test_a_file_that_is_write_protected_is_refused_before_the_work(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old\n")
    file.chmod(0o444)
    with pytest.raises(WriteError, match=r"a\.txt: it is write-protected. Make it writable"):
        write(file)
    assert (file.read_text(), os.listdir(tmp_path)) == ("old\n", ["a.txt"])
    with pytest.raises(WriteError, match=r"it is a folder\. Name a file in it"):
        write(tmp_path)


@posix
def test_a_file_of_somebody_else_in_a_folder_of_everybody_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    file.touch(mode=0o666)
    tmp_path.chmod(0o1777)
    assert file_behind(file) == file.resolve()
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    with pytest.raises(WriteError, match="belongs to somebody else"):
        file_behind(file)


@posix
def test_a_pipe_gets_the_data_and_stays_a_pipe(tmp_path):
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("pipe")
    for place in (pipe, tmp_path / "link"):
        reader = threading.Thread(target=lambda: heard.append(pipe.read_text()), daemon=True)
        reader.start()
        write(place, "x" * 100_000)
        reader.join(60)
        assert heard.pop() == "x" * 100_000
    assert pipe.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


_WRITE = """
import sys
from gaga_adapter.files.atomic import replacing
print("before", flush=False)
with replacing(sys.argv[1]) as draft:
    draft.write_text("data\\n")
print("after")
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="names of Linux")
def test_standard_output_is_written_in_its_turn_also_where_the_shell_appends(tmp_path, name):
    words = [sys.executable, "-c", _WRITE, name]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "before\ndata\nafter\n"
    file = tmp_path / "log"
    file.write_text("first\n")
    with file.open("a") as stream:
        subprocess.run(words, stdout=stream, check=True)
    assert file.read_text() == "first\nbefore\ndata\nafter\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_devices_are_written_and_not_replaced(tmp_path):
    write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(WriteError, match="cannot write /dev/full: No space left on device"):
        write("/dev/full")
    (tmp_path / "link").symlink_to("/dev/null")
    write(tmp_path / "link")
    assert not is_stream(tmp_path / "nothing")


@posix
def test_a_socket_is_refused_by_name(tmp_path, monkeypatch):
    import socket

    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        with pytest.raises(WriteError, match=r"cannot write socket: it is a socket\. Name a file"):
            write("socket")


def test_a_name_of_the_greatest_length(tmp_path):
    file = tmp_path / ("ä" * 127)
    write(file)
    assert file.read_text() == "new\n"


_KILLED = """
import os, signal, sys
from gaga_adapter.files.atomic import replacing
with replacing(sys.argv[1]) as draft:
    draft.write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old\n")
    (tmp_path / ".a.txt.backup.gaga-draft").write_text("of the user\n")
    words = [sys.executable, "-c", _KILLED, str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as killed, subprocess.Popen(words, **pipes) as alive:
        for process in (killed, alive):
            assert process.stdout.readline() == "writing\n"
        killed.communicate("\n")
        assert killed.returncode == -signal.SIGKILL
        assert len(os.listdir(tmp_path)) == 4
        write(file)
        left = sorted(os.listdir(tmp_path))
        assert len(left) == 3, "the draft of the living one, and the user's file"
        assert (tmp_path / ".a.txt.backup.gaga-draft").read_text() == "of the user\n"
        alive.communicate("\n")
    assert file.read_text() == "new\n"


def test_no_room_is_a_write_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    file = tmp_path / "a.txt"
    file.write_text("old\n")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WriteError, match="What was there before is intact; free some space"):
        write(file)
    assert (file.read_bytes(), os.listdir(tmp_path)) == (b"old\n", ["a.txt"])
    with pytest.raises(WriteError, match=r"File exists. .* is intact; choose another place\.$"):
        write(file / "below")
