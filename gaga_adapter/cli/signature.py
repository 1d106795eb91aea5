"""The signature of a command as typer reads it: groups of options spread out, and `--quiet` added.

It needs no torch, so that `gaga doctor` runs where torch cannot be imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from gaga_adapter.cli.console import Quiet


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
