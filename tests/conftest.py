"""What tests of several rooms need: the command line, the embedded artefact, other processes."""

import contextlib
import sys
from typing import NamedTuple

import pytest

# An old compiler of torch imports setuptools, which refuses to come after Python 3.10's distutils.
with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401


class Finished(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def gaga(monkeypatch, capsys):
    """Run `gaga ARGUMENTS` in this process: (exit code, stdout, stderr)."""
    from gaga_adapter.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gaga", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return Finished(stopped.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def qm9():
    """The statistics that are embedded in the package."""
    from gaga_adapter import GAGAStats

    return GAGAStats.from_pretrained("qm9")


@pytest.fixture
def as_process(monkeypatch):
    """Makes torch.distributed say that this is one of several processes."""
    from torch import distributed

    def pretend(rank, world):
        monkeypatch.setattr(distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(distributed, "get_rank", lambda *a: rank)
        monkeypatch.setattr(distributed, "get_world_size", lambda *a: world)

    return pretend
