"""The `gaga` command: its page of the manual, the table of commands, and the way in and out.

A command is the function `run` of the file of its name, and a line in `_COMMANDS`. `options` has
the options that commands share, `console` what all of them do on screen, and `failures` what the
user reads when one fails. This file needs no torch, so that `gaga doctor` runs where it cannot be
imported.
"""

from __future__ import annotations

import inspect
import io
import shlex
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, TextIO

import typer
import typer.core
import typer.main

from gaga_adapter.cli.console import Quiet, UsageError, err
from gaga_adapter.errors import GAGAWarning
from gaga_adapter.files import visible

_DATA, _SAMPLES, _OTHERS = "Fit and inspect", "Sample and judge", "Existing codebases"
_HELPS = "When you are stuck"
#: Name, panel of `gaga --help`, and the first line of the command's own help.
_COMMANDS = (
    ("fit", _DATA, "Fit the statistics of a data set and choose t*."),
    ("criteria", _DATA, "Ask every criterion how Gaussian data are, and where t* lies."),
    ("show", _DATA, "Show fitted statistics: the curve, t* under named schedules."),
    ("explain", _DATA, "Explain fitted statistics in plain words, and what to type next."),
    ("levels", _DATA, "Choose the levels of a few network calls for a model."),
    ("push", _DATA, "Push statistics and their card to the Hugging Face hub."),
    ("sample", _SAMPLES, "Sample molecules into an SDF file."),
    ("evaluate", _SAMPLES, "Judge molecules: stability, validity, shape, distances."),
    ("report", _SAMPLES, "Write one html page: curve, t*, savings, data, molecules."),
    ("demo", _SAMPLES, "Sample QM9 in full and from t*: what it saves and costs."),
    ("run", _OTHERS, "Run a script of EDM, GeoLDM or a fork, unedited, in its checkout."),
    ("prepare", _OTHERS, "Write the data files that EDM and GeoLDM would download."),
    ("adapter", _OTHERS, "Write the first draft of an adapter, and a test that checks it."),
    ("doctor", _HELPS, "Examine installation, devices, statistics and schedulers."),
)
_HELP = """Start diffusion and flow sampling where the data are already Gaussian.

Noised data become Gaussian long before the noising path ends. gaga finds the
step from which on they are, t*, and keeps it with a closed-form Gaussian as
the statistics of the data set. Sampling that starts there needs fewer network
calls; below t* it is what it was.
"""
_EPILOG = """A session:

  gaga fit molecules.sdf --out stats/    # one pass; prints the curve and t*
  gaga show stats/                       # again, later
  gaga sample -n 64 --stats stats/ --model my-pipeline/ --out samples.sdf
  gaga evaluate samples.sdf --against held-out.sdf

Results go to stdout, progress and prose to stderr. --json prints the results
as one json document; --quiet leaves out progress and prose. Exit codes: 0 done;
2 a mistake, which one line explains; 130 after Ctrl-C, with no file
half-written; 1 a bug. QM9 is cached in $GAGA_CACHE or ~/.cache/gaga-adapter.

gaga COMMAND --help tells the rest. Tutorial, how-to pages and the theory:
https://github.com/gaga-adapter/gaga-adapter/tree/main/docs
"""

app = typer.Typer(
    name="gaga",
    help=_HELP,
    epilog=_EPILOG,
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _LazyCommand(typer.core.TyperCommand):
    """Stands for `run` of the file of its name beside this one, until it is called.

    `gaga --help`, `gaga --version` and the completion of a command's name know the names and
    summaries alone; torch loads with the file of the command that is meant.
    """

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: Any = None,  # noqa: ANN401 - a context, whose class typer keeps to itself
        **extra: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """A context of the real command."""
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(self.name)(flatten(import_module(f"gaga_adapter.cli.{self.name}").run))
        own = args[: args.index("--")] if "--" in args else args  # behind it are those of a script
        if not extra.get("resilient_parsing") and any(_is_empty(word) for word in own):
            raise typer.BadParameter(
                "a word of the command line is empty. Name what is meant; is a variable of the "
                "shell not set?",
                ctx=parent,
            )
        try:
            return typer.main.get_command(alone).make_context(info_name, [*args], parent, **extra)
        except UsageError as error:
            if self.name == "run" and "--" not in args and hasattr(error, "option_name"):
                error.message += f". If it is an option of the script, {_with_dashes(args)}"
            raise


def _with_dashes(words: list[str]) -> str:
    """How to pass the options of a script on, for a command line of `gaga run` that has no `--`."""
    script = next((place for place, word in enumerate(words) if word.endswith(".py")), None)
    if script is None:
        return "put -- before the script"
    line = shlex.join(["gaga", "run", *words[:script], "--", *words[script:]])
    return f"put -- before the script: {line}"


def _is_empty(word: str) -> bool:
    """Whether it names nothing, which as a path would be the folder that the user is in."""
    return not word.strip() or (word.startswith("--") and word.endswith("="))


def flatten(run: Callable[..., Any]) -> Callable[..., Any]:
    """A command with its groups of options spread out for typer, and with `--quiet` at the end."""
    signature = inspect.signature(run, eval_str=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and is_dataclass(kind):
            groups[parameter.name] = kind
            parameters += inspect.signature(kind, eval_str=True).parameters.values()
        else:
            parameters.append(parameter)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters.append(inspect.Parameter("quiet", keyword, default=False, annotation=Quiet))

    def command(**values: Any) -> Any:  # noqa: ANN401
        del values["quiet"]  # its callback has obeyed it
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        return run(**values)

    command.__doc__ = run.__doc__
    command.__annotations__ = {}  # all that typer needs is in the signature
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[one.replace(kind=keyword) for one in parameters]
    )
    return command


for _name, _panel, _summary in _COMMANDS:
    app.command(_name, cls=_LazyCommand, help=_summary, rich_help_panel=_panel)(lambda: None)


def _print_version(value: bool) -> None:
    if value:
        print(f"gaga-adapter {version('gaga-adapter')}")
        raise typer.Exit()


@app.callback()
def _gaga(
    context: typer.Context,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        context.get_help()  # prints it
        raise typer.Exit(2)


def main() -> None:
    """Entry point of the `gaga` console script."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter ends no run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    err.quiet = False
    try:
        code = app(standalone_mode=False, prog_name="gaga") or 0
        if code == 130:  # typer has taken the KeyboardInterrupt
            raise KeyboardInterrupt
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        from gaga_adapter.cli.failures import explain

        code = explain(error)
    sys.exit(code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings in one line; those of others as Python shows them."""
    if issubclass(category, GAGAWarning):
        text = f"gaga: warning: {visible(message)}\n"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)
