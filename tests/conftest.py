"""What tests of several rooms need: the command line in this process, and the embedded artefact."""

import sys
from typing import NamedTuple

import pytest


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
