"""Nobody can run the workflows here, so everything that they name is looked up: it must exist.

Targets of make, commands of gaga, modules, scripts, files, extras, markers and tests; the versions
of python, torch and diffusers; the permissions of each job; and the inputs of each action.
"""

import re
import shlex
from importlib.util import find_spec

import blocks
import codebases
import pytest
import yaml
from folders import ROOT, TESTS

# Said by an old setuptools where pip is imported.
pytestmark = pytest.mark.filterwarnings("ignore:Setuptools is replacing distutils")

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.stem: path for path in sorted(FOLDER.glob("*.yml"))}
READ = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in WORKFLOWS.items()}
JOBS = [(name, job) for name, workflow in READ.items() for job in workflow["jobs"]]
#: What may write, and what it may write. Everything else reads the repository and no more.
PERMISSIONS = {
    ("docs", "deploy"): {"pages": "write", "id-token": "write"},
    ("release", "ci"): {"contents": "read"},
    ("release", "pypi"): {"id-token": "write"},
    ("release", "github"): {"contents": "write"},
    ("weekly", "new-schedulers"): {"contents": "read", "issues": "write"},
}
#: Inputs that each action has at the commit of its pin, as far as they are used here.
INPUTS = {
    "actions/checkout": {"persist-credentials"},
    "actions/setup-python": {"python-version", "cache", "cache-dependency-path"},
    "actions/upload-artifact": {"name", "path", "if-no-files-found"},
    "actions/download-artifact": {"name", "path"},
    "actions/upload-pages-artifact": {"path"},
    "actions/deploy-pages": set(),
    "pypa/gh-action-pypi-publish": set(),
}
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
#: Words of a shell that stand before a command or are one.
SHELL = {"cd", "echo", "[", "fi"}
#: Commands of programs that no test can ask; each was looked up by hand.
ELSEWHERE = {"git": {"clone", "checkout"}, "gh": {"release"}}


def steps(name):
    return [step for job in READ[name]["jobs"].values() for step in job.get("steps", ()) if step]


def runs():
    return [(name, step["run"]) for name in READ for step in steps(name) if "run" in step]


def commands(script):
    """The simple commands of a shell script, each as its words without assignments before it."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words = []
        for token in [*lexer, ";"]:
            if set(token) <= set(";|&"):
                yield from _simple(words)
                words = []
            else:
                words.append(token)


def _simple(words):
    while words and (re.match(r"\w+=", words[0]) or words[0] in ("if", "then", "xargs")):
        words = words[1:]
    if ">" in words or ">>" in words:
        words = words[: min(words.index(mark) for mark in (">", ">>") if mark in words)]
    if words:
        yield words


def check(words):
    """That a command exists, as far as this repository can tell.

    Raises:
        RuntimeError: If it does not.
    """
    program, rest = words[0].rsplit("/", 1)[-1], words[1:]
    if program == "make":
        blocks.check_command(["make", *rest])
    elif program == "gaga":
        check_gaga(rest)
    elif program == "python":
        check_python(rest)
    elif program in ELSEWHERE:
        plain = [word for word in rest if not word.startswith(("-", "$"))]
        if not ELSEWHERE[program] & set(plain):
            raise RuntimeError(f"nobody has looked up {shlex.join(words)}")
    elif program not in SHELL:
        raise RuntimeError(f"nobody knows {program}")


def check_all(script):
    """Check every command of a script; the number of them."""
    found = list(commands(script))
    for words in found:
        check(words)
    return len(found)


def check_gaga(words):
    if words != ["--version"]:
        blocks.check_command(["gaga", *words])


def check_python(words):
    if words[0] != "-m":
        if not (ROOT / words[0]).is_file():
            raise RuntimeError(f"there is no {words[0]}")
        return
    module, rest = words[1], words[2:]
    if find_spec(module) is None:
        raise RuntimeError(f"there is no module {module}")
    if module == "gaga_adapter":
        check_gaga(rest)
    elif module == "pip":
        check_pip(rest)
    elif module == "pytest":
        check_pytest(rest)


def check_pip(words):
    if words[0] != "install":
        raise RuntimeError(f"pip {words[0]} is not looked up")
    words, wanted = iter(words[1:]), []
    for word in words:
        if word == "--constraint":
            file = next(words)
            if not (ROOT / file).is_file():
                raise RuntimeError(f"there is no {file}")
        elif word not in ("--upgrade", "--editable"):
            wanted.append(word)
    for word in wanted:
        if extra := re.fullmatch(r"\.\[(\w+)\]", word):
            blocks.check_command(["pip", "install", f"gaga-adapter[{extra[1]}]"])
        elif not word.startswith("dist/"):
            name = re.split(r"[ @=<>]", word)[0]
            if not re.search(rf'["\n]{name}[>="\n]', PYPROJECT + constraints("constraints.txt")):
                raise RuntimeError(f"{name} is no dependency")


def check_pytest(words):
    words = iter(words)
    for word in words:
        if word in ("--numprocesses", "--maxprocesses", "--dist"):
            next(words)
        elif word == "-m":
            for marker in set(re.findall(r"\w+", next(words))) - {"not", "and", "or"}:
                if f'"{marker}: ' not in PYPROJECT:
                    raise RuntimeError(f"there is no marker {marker}")
        elif word == "-k":
            for test in set(re.findall(r"\w+", next(words))) - {"not", "and", "or"}:
                files = TESTS.rglob("test_*.py")
                if not any(f"def {test}(" in f.read_text(encoding="utf-8") for f in files):
                    raise RuntimeError(f"there is no test {test}")
        elif word.startswith("-") or not (ROOT / word).exists():
            raise RuntimeError(f"pytest {word} is not looked up")


def constraints(name):
    return "\n" + (ROOT / name).read_text(encoding="utf-8")


def pinned(package, name):
    return re.search(rf"\n{package}==([\d.]+)", constraints(name))[1]


def lower_bound(package):
    return re.search(rf'"{package}>=([\d.]+)"', PYPROJECT)[1]


def numbers(version):
    return [int(number) for number in version.split(".")]


# -- the commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "script"), runs())
def test_every_command_exists(name, script):
    assert check_all(script) > 0


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("make tests", "no target 'tests'"),
        ("cd x && make tests", "no target 'tests'"),
        ("OMP_NUM_THREADS=1 python -m no_such_module", "no module no_such_module"),
        ("python .github/gone.py > notes.md", "there is no .github/gone.py"),
        ("if true; then ./deploy; fi", "nobody knows true"),
        ("python -m pip install --constraint gone.txt build", "there is no gone.txt"),
        ('python -m pip install --editable ".[tests]"', "no extra 'tests'"),
        ("echo x | xargs python -m pip install requestz", "requestz is no dependency"),
        ("python -m pytest test/scheduler", "pytest test/scheduler"),
        ("python -m pytest -m upstreams", "no marker upstreams"),
        ("python -m pytest -k 'not test_of_nothing'", "no test test_of_nothing"),
        ("gaga fits a.sdf", "no command `gaga fits`"),
        ("gh repo delete", "nobody has looked up"),
    ],
)
def test_the_search_finds_what_it_is_for(script, message):
    with pytest.raises(RuntimeError, match=re.escape(message)):
        check_all(script)


def test_nothing_from_outside_becomes_part_of_a_command():
    """A title of a pull request may be a command; expressions go through the environment."""
    assert not [script for _, script in runs() if "${{" in script]


def test_working_files_of_the_steps_exist():
    for name in READ:
        for step in steps(name):
            for file in step.get("with", {}).get("cache-dependency-path", "").split():
                assert (ROOT / file).is_file(), file


# -- the actions and the jobs ----------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_pinned_to_a_commit_and_says_its_version(name):
    pins = {}
    for line in WORKFLOWS[name].read_text(encoding="utf-8").splitlines():
        if not (used := re.search(r"uses: (.+)$", line)):
            continue
        if local := re.fullmatch(r"\./\.github/workflows/(\w+)\.yml", used[1]):
            assert "workflow_call" in READ[local[1]][True]  # yaml takes the key `on` for a truth
            continue
        pin = re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", used[1])
        assert pin, line
        assert pins.setdefault(pin[1], pin[2]) == pin[2], f"{pin[1]} has two pins"
    for step in steps(name):
        if "uses" in step:
            action = step["uses"].split("@")[0]
            assert set(step.get("with", {})) <= INPUTS[action], action
            if action == "actions/checkout":
                assert step["with"]["persist-credentials"] is False


def test_one_action_has_one_pin_in_all_workflows():
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS.values())
    pins = set(re.findall(r"uses: ([\w.-]+/[\w.-]+)@(\w+)", text))
    assert len(pins) == len({action for action, _ in pins}) > 5


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_reads_and_does_not_run_twice(name):
    assert READ[name]["permissions"] == {"contents": "read"}
    assert READ[name]["concurrency"]["group"]


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_a_job_ends_and_may_do_what_it_must(name, job):
    found = READ[name]["jobs"][job]
    assert found.get("permissions") == PERMISSIONS.get((name, job))
    assert "uses" in found or 5 <= found["timeout-minutes"] <= 180
    needs = found.get("needs", [])
    assert set([needs] if isinstance(needs, str) else needs) <= READ[name]["jobs"].keys()


def test_no_secret_is_stored():
    assert not [path for path in WORKFLOWS.values() if "secrets." in path.read_text("utf-8")]


# -- the versions ----------------------------------------------------------------------------------


def pythons(job):
    """The versions of python that a job of CI runs."""
    found = READ["ci"]["jobs"][job]
    if "strategy" in found and "include" in found["strategy"]["matrix"]:
        return [row["python"] for row in found["strategy"]["matrix"]["include"]]
    setup = [step["with"] for step in found["steps"] if "setup-python" in step.get("uses", "")]
    return [setup[0]["python-version"]]


def test_the_oldest_python_is_the_oldest_that_can_be_installed():
    oldest = re.search(r'^requires-python = ">=([\d.]+)"', PYPROJECT, re.MULTILINE)[1]
    assert pythons("oldest") == [oldest]
    command = next(step["run"] for step in READ["ci"]["jobs"]["oldest"]["steps"] if "run" in step)
    assert command.endswith(f"PYTHON_OLDEST=python{oldest}")
    newer = [version for job in ("newest", "windows") for version in pythons(job)]
    assert all(numbers(version) > numbers(oldest) for version in newer)
    assert max(newer, key=numbers) in pythons("newest")
    assert pythons("lint") == re.findall(r'^python_version = "(.+)"', PYPROJECT, re.MULTILINE)


def test_linux_macos_and_windows_run_the_newest_python():
    rows = READ["ci"]["jobs"]["newest"]["strategy"]["matrix"]["include"]
    newest = max(pythons("newest"), key=numbers)
    systems = {row["os"] for row in rows if row["python"] == newest}
    assert systems == {"ubuntu-latest", "macos-latest"}
    assert pythons("windows") == [newest]
    assert READ["ci"]["jobs"]["windows"]["runs-on"] == "windows-latest"


@pytest.mark.parametrize("package", ["torch", "diffusers"])
def test_oldest_and_newest_versions_are_the_bounds_and_the_pins(package):
    bound = lower_bound(package)
    oldest = pinned(package, "constraints-oldest.txt")
    assert numbers(oldest)[: len(numbers(bound))] == numbers(bound)
    assert numbers(pinned(package, "constraints.txt")) > numbers(oldest)


def test_the_comment_on_torch_names_the_pin():
    text = WORKFLOWS["ci"].read_text(encoding="utf-8")
    version = pinned("torch", "constraints.txt")
    assert f"`torch=={version}`" in text
    assert f"{version}+cpu" in text
    assert READ["ci"]["env"]["PIP_EXTRA_INDEX_URL"].endswith("/whl/cpu")


def test_the_weekly_codebases_are_those_of_the_table_at_its_commits():
    rows = READ["weekly"]["jobs"]["upstream"]["strategy"]["matrix"]["include"]
    found = {row["codebase"]: (row["repository"], row["variable"]) for row in rows}
    on_github = [codebase for codebase in codebases.CODEBASES if "/" in codebase.source]
    assert found == {one.name: (one.source, one.variable) for one in on_github}
    page = (ROOT / "integrations" / "README.md").read_text(encoding="utf-8")
    for row in rows:
        assert re.fullmatch(r"[0-9a-f]{40}", row["commit"])
        line = next(
            line for line in page.splitlines() if f"github.com/{row['repository']})" in line
        )
        assert f"`{row['commit'][:7]}`" in line
