"""The weekly search for scheduler classes that no table names, and the one issue that it keeps."""

import itertools
import json
import sys
from types import SimpleNamespace

import diffusers.schedulers
import pytest
from folders import ROOT
from workflow_scripts import script

from gaga_adapter.noise.conventions import exported_schedulers, unknown_schedulers

watch = script("scheduler_watch")


def exporting(*names):
    """A package that exports these names, as diffusers.schedulers lists them."""
    return SimpleNamespace(_import_structure={"one": list(names[::2]), "two": list(names[1::2])})


def test_the_installed_diffusers_has_none():
    assert len(exported_schedulers(diffusers.schedulers)) > 30
    assert unknown_schedulers(diffusers.schedulers) == ()


def test_a_new_class_is_found_among_known_and_refused_ones_and_outputs():
    package = exporting(
        *("DDIMScheduler", "ZetaScheduler", "VQDiffusionScheduler", "DiscreteDDIMSchedulerOutput"),
        *("AlphaScheduler", "SchedulerMixin", "AysSchedules", "ZetaSchedulerOutput"),
    )
    assert unknown_schedulers(package) == ("AlphaScheduler", "ZetaScheduler")


class GitHub:
    """What `gh` does to the issues of a repository."""

    def __init__(self, *issues):
        self.issues = {number: "open" for number in issues}
        self.bodies, self.labels = {}, set()

    def __call__(self, *words):
        kind, verb, *rest = words
        options = dict(itertools.pairwise(rest))
        if (kind, verb) == ("label", "create"):
            assert "--force" in rest  # else it fails if there is one
            self.labels.add(rest[0])
        elif verb == "list":
            assert options["--label"] in self.labels
            found = [n for n, state in self.issues.items() if state == options["--state"]]
            return json.dumps([{"number": number} for number in reversed(found)])
        elif verb == "create":
            number = max(self.issues, default=0) + 1
            assert options["--label"] in self.labels
            self.issues[number], self.bodies[number] = "open", options["--body"]
        elif verb == "edit":
            self.bodies[int(rest[0])] = options["--body"]
        elif verb == "close":
            self.issues[int(rest[0])] = "closed"
        else:
            raise AssertionError(words)
        return ""


def test_one_issue_is_opened_rewritten_and_closed():
    github = GitHub()
    watch.keep_one_issue([], "1.0", github)
    assert github.issues == {}
    watch.keep_one_issue(["AlphaScheduler"], "1.1.dev0", github)
    assert github.issues == {1: "open"}
    assert "- [ ] `AlphaScheduler`" in github.bodies[1]
    assert "diffusers 1.1.dev0" in github.bodies[1]
    watch.keep_one_issue(["AlphaScheduler", "ZetaScheduler"], "1.2.dev0", github)
    assert github.issues == {1: "open"}
    assert "`ZetaScheduler`" in github.bodies[1]
    watch.keep_one_issue([], "1.3.dev0", github)
    assert github.issues == {1: "closed"}
    watch.keep_one_issue(["BetaScheduler"], "1.4.dev0", github)
    assert github.issues == {1: "closed", 2: "open"}


def test_of_two_open_issues_the_older_is_rewritten_and_both_are_closed():
    github = GitHub(3, 7)
    watch.keep_one_issue(["AlphaScheduler"], "1.0", github)
    assert (github.issues, list(github.bodies)) == ({3: "open", 7: "open"}, [3])
    watch.keep_one_issue([], "1.0", github)
    assert set(github.issues.values()) == {"closed"}


@pytest.mark.parametrize("words", [[], ["--issue"]])
def test_github_is_asked_only_if_that_is_wanted(words, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(watch, "keep_one_issue", lambda *told: asked.append(told))
    monkeypatch.setattr(sys, "argv", ["scheduler_watch.py", *words])
    monkeypatch.setattr(watch, "unknown_schedulers", lambda: ("AlphaScheduler",))
    watch.main()
    version = diffusers.__version__
    assert asked == [(["AlphaScheduler"], version)] * len(words)
    out = capsys.readouterr().out
    assert out == f"diffusers {version}: 1 unknown scheduler classes\nAlphaScheduler\n"


def test_files_that_the_issue_names_exist():
    text = watch.report(["AlphaScheduler"], "1.0")
    for file in (word for word in text.split("`") if word.endswith((".py", ".md"))):
        assert (ROOT / file).is_file(), file
