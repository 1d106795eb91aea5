"""`gaga adapter`: the first draft of an adapter for another codebase."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from gaga_adapter.cli.console import Json, out, print_json, say, table
from gaga_adapter.cli.options import writable_folder
from gaga_adapter.errors import DataError, UnsupportedModelError, WriteError

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
            made = make()
            _check_model(made, force)
            found = structure_of(made)
        texts = {
            out_folder / f"{name}_adapter.py": text_of_adapter(name, found),
            out_folder / f"test_{name}_adapter.py": text_of_test(name, model),
        }
        _write(texts)
        report = _report(name, make) if make is not None and not found.missing else None
    if as_json:
        names = {key: value for key, value in vars(found).items() if key != "kind"}
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
    module, _, name = place.partition(":")
    if not module or not name.isidentifier():
        raise DataError(f"--model {place} is not of the form module:function.")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"--model {place} cannot be imported: {error}.") from error
    if not callable(found):
        raise DataError(f"--model {place} is a {type(found).__name__}, not a function.")
    maker: Callable[..., Any] = found
    return maker


def _check_model(model: Any, force: bool) -> None:  # noqa: ANN401 - whatever the function made
    """Refuse what is no model, and one for which there is an adapter, unless it is forced."""
    from torch import nn

    from gaga_adapter.integrations.protocol import adapters

    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"the function made a {kind}. It must make a torch nn.Module.")
    for adapter in adapters().values():
        if not force and not adapter.reasons(model):
            raise UnsupportedModelError(
                f"the adapter {adapter.name} recognises {kind}: apply_patch(model, stats) works as "
                "it is. If the class does other things than its names say, pass --force."
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


def _report(name: str, make: Callable[..., Any]) -> Any:  # noqa: ANN401 - a report
    """The verdicts on the draft as it was written."""
    from gaga_adapter.integrations import protocol
    from gaga_adapter.testing import check_adapter
    from gaga_adapter.testing.skeleton import class_name

    before = dict(protocol._ADAPTERS)
    try:
        module = importlib.import_module(f"{name}_adapter")
        return check_adapter(getattr(module, class_name(name))(), make)
    finally:
        protocol._ADAPTERS.clear()
        protocol._ADAPTERS.update(before)


def _print_structure(found: Any) -> None:  # noqa: ANN401 - a structure
    rows = table(f"what {found.kind} calls its parts", "part", "name")
    for part in ("steps", "schedule", "network", "noise", "starts", "loss", "prior_term"):
        value = getattr(found, part)
        rows.add_row(part, ", ".join(value) if isinstance(value, tuple) else value or "not found")
    out.print(rows)
    for sentence in found.missing:
        out.print(f"missing: {sentence}")
