"""`gaga adapter`: the first draft of an adapter for another codebase."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from gaga_adapter.cli.console import Json, out, print_json, say, table
from gaga_adapter.cli.options import writable_folder
from gaga_adapter.errors import DataError, GAGAError, UnsupportedModelError, WriteError

ACTIONS = ("new",)


def run(
    action: Annotated[str, typer.Argument(help="new.", autocompletion=lambda: list(ACTIONS))],
    name: Annotated[str, typer.Argument(help="Name of the codebase, such as mycode.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Function that makes a model, as module:function. It is looked for here first.",
            show_default=False,
        ),
    ] = None,
    out_folder: Annotated[
        Path,
        typer.Option("--out", help="Folder for the two files.", callback=writable_folder),
    ] = Path("."),
    force: Annotated[
        bool, typer.Option("--force", help="Draft one for a model that has an adapter already.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the first draft of an adapter, and a test that checks it.

    With --model the draft takes its names from a model: the number of steps,
    the schedule, the methods that predict, draw noise and sample. The checks
    of the contract are run on it at once, and say what is left to do. Without
    it the draft has EDM's names. No file is replaced.

      gaga adapter new mycode --model mycode.models:make_model
    """
    from gaga_adapter.testing.skeleton import Structure, structure_of, text_of_adapter, text_of_test

    _check(action, name)
    with _importable(Path(), out_folder):
        make = _function(model) if model is not None else None
        found = Structure("EnVariationalDiffusion")
        if make is not None:
            made = _made(make, model)
            _check_model(made, force)
            found = structure_of(made)
        texts = {
            out_folder / f"{name}_adapter.py": text_of_adapter(name, found, make is None),
            out_folder / f"test_{name}_adapter.py": text_of_test(name, model),
        }
        _write(texts)
        draft = next(iter(texts))
        report = _report(draft, make) if make is not None and not found.missing else None
    for sentence in found.doubts:
        say(sentence)
    if as_json:
        names = {key: value for key, value in vars(found).items() if key != "kind"}
        names["parent"] = found.parent.__name__
        checks = report.to_dict() if report else None
        files = [str(file) for file in texts]
        print_json({"files": files, "names": names, "missing": found.missing, "checks": checks})
        return
    if make is not None:
        _print_structure(found)
    if report is not None:
        out.print(str(report), soft_wrap=True)
    for file in texts:
        say(f"wrote {file}")


def _check(action: str, name: str) -> None:
    if action not in ACTIONS:
        raise typer.BadParameter(f"{action!r} is unknown. Known: {', '.join(ACTIONS)}.")
    if not name.isidentifier() or not name.islower():
        raise typer.BadParameter(
            f"{name!r} cannot name a file of Python. Use small letters, digits and _.",
            param_hint="NAME",
        )
    from gaga_adapter.integrations.protocol import adapters

    taken = sorted([*adapters(), "gaga"])  # gaga_adapter.py would hide this package
    if name in taken:
        raise typer.BadParameter(
            f"{name!r} is taken. Choose another name than {', '.join(taken)}.", param_hint="NAME"
        )


@contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    """Let modules of these folders be imported for the length of a block."""
    before = list(sys.path)
    sys.path[:0] = [str(folder.resolve()) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before


def _function(place: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    path, _, name = place.partition(":")
    module = path.removesuffix(".py").removeprefix("./").replace("/", ".")
    if not name.isidentifier() or not all(part.isidentifier() for part in path.split(".")):
        meant = module if all(part.isidentifier() for part in module.split(".")) else "module"
        function = name if name.isidentifier() else "function"
        raise DataError(
            f"--model {place} is not of the form module:function. {_form(meant, function)}"
        )
    if path.endswith(".py") and Path(path).is_file():
        raise DataError(f"--model {place} names a file. {_form(module, name)}")
    try:
        found = getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"--model {place} cannot be imported: {_cause(error)}") from error
    except (Exception, SystemExit) as error:  # whatever a module of the user raises
        kind = type(error).__name__
        raise DataError(f"--model {place} cannot be imported: {kind}: {_cause(error)}") from error
    if not callable(found):
        raise DataError(
            f"--model {place} is a {type(found).__name__}, not a function. It must be a function "
            "make_model(n_steps) that makes a model."
        )
    maker: Callable[..., Any] = found
    return maker


def _form(module: str, function: str) -> str:
    return f"Write it as Python imports it, from this folder: --model {module}:{function}."


def _cause(error: BaseException) -> str:
    """What an error says, and the line of the user's file that raised it."""
    said = " ".join(str(error).split()).rstrip(".") or "without a message"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    frame = frames[-1]
    if frame.filename == __file__:
        return f"{said}."
    return f"{said}. That is in {frame.filename}, line {frame.lineno}: {frame.line}"


def _made(make: Callable[..., Any], place: str | None) -> Any:  # noqa: ANN401 - a model
    """A model, made as the checks will make it."""
    from gaga_adapter.testing.adapter.case import seeded

    try:
        return seeded(make)(20)
    except GAGAError as error:
        raise DataError(f"--model {place}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a function of the user raises
        kind = type(error).__name__
        raise DataError(f"--model {place} raised {kind}: {_cause(error)}") from error


def _check_model(model: Any, force: bool) -> None:  # noqa: ANN401 - a model
    """Refuse a model for which there is an adapter, unless it is forced."""
    from gaga_adapter.integrations.protocol import adapter_for

    try:
        adapter = adapter_for(model)
    except UnsupportedModelError:
        return
    if not force:
        raise UnsupportedModelError(
            f"the adapter {adapter.name} recognises {type(model).__name__}: apply_patch(model, "
            "stats) works as it is. If the class does other things than its names say, pass "
            "--force."
        )


def _write(texts: dict[Path, str]) -> None:
    from gaga_adapter.files.atomic import replacing

    for file in texts:
        if file.exists():
            raise WriteError(f"{file} is there already. Move it away, or choose another --out.")
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            draft.write_text(text, encoding="utf-8")


def _report(draft: Path, make: Callable[..., Any]) -> Any:  # noqa: ANN401 - a report
    """The verdicts on the draft as it was written, and on no other file of its name."""
    from gaga_adapter.integrations import protocol
    from gaga_adapter.testing import check_adapter

    before = dict(protocol._ADAPTERS)
    try:
        spec: Any = importlib.util.spec_from_file_location(draft.stem, draft)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        registered = next(iter(protocol.adapters().values()))
        return check_adapter(registered, make)
    finally:
        protocol._ADAPTERS.clear()
        protocol._ADAPTERS.update(before)


def _print_structure(found: Any) -> None:  # noqa: ANN401 - a structure
    rows = table(f"what {found.kind} calls its parts", "part", "name")
    for part in ("steps", "schedule", "network", "noise", "starts", "loss", "prior_term"):
        value = getattr(found, part)
        rows.add_row(part, ", ".join(value) if isinstance(value, tuple) else value or "not found")
    marks = found.methods or found.attributes or (f"the class name {found.kind}",)
    rows.add_row("mark", ", ".join(marks))
    out.print(rows)
    for sentence in found.missing:
        out.print(f"missing: {sentence}")
