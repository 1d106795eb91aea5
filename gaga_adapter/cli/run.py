"""`gaga run`: run a script of EDM, GeoLDM or a fork as it is, with its models started at t*."""

from __future__ import annotations

from typing import Annotated

import typer

from gaga_adapter.cli import options
from gaga_adapter.cli.console import progress_bar, say


def run(
    codebase: Annotated[
        str,
        typer.Argument(
            help="edm, geoldm; or a fork: paper, unigem, edpo, symdiff, chemguide.",
            autocompletion=options.completion(
                options.names_in("gaga_adapter.integrations.launcher.checkouts", "CODEBASES")
            ),
        ),
    ],
    command: Annotated[
        list[str], typer.Argument(help="After --: a script of the checkout and its arguments.")
    ],
    stats: Annotated[
        str,
        typer.Option(
            help="auto: those beside the model, fitted from the script's own loader where there "
            "are none; a folder, hub id or qm9; none: start at --t-star from N(0, I).",
            autocompletion=options.completion(lambda: ["auto", "none", *options.STATISTICS()]),
        ),
    ] = "auto",
    t_star: Annotated[
        int | None, typer.Option(help="Start at this one of the model's own steps instead.")
    ] = None,
    reference: Annotated[
        str,
        options.one_of(
            options.MOLECULE_REFERENCES, "Start: auto, shape, size, channel, paper or unit."
        ),
    ] = "auto",
    criterion: Annotated[
        str,
        options.one_of(
            options.named_criteria(None, None),
            "Criterion that chooses a fitted t*: two_sample, cumulant or ks_mi.",
        ),
    ] = "two_sample",
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="What may remain at a fitted t*: nats per molecule (0.5 if not given); for ks_mi "
            "the rate of false alarms (0.05 if not given).",
            show_default=False,
        ),
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit even if there are statistics beside the model.")
    ] = False,
    fix_last_class: Annotated[
        bool,
        typer.Option(
            "--fix-last-class",
            help="Let models without charges generate their last element, which upstream drops.",
        ),
    ] = False,
) -> None:
    """Run a script of EDM, GeoLDM or a fork, unedited, in its checkout.

    Its models sample, and train, from t*. What the script prints is its own;
    --quiet silences only the lines of gaga. The exit code is the script's.

      gaga run edm -- eval_analyze.py --model_path outputs/edm_qm9
    """
    from gaga_adapter.integrations.launcher.options import Options
    from gaga_adapter.integrations.launcher.run import run_script

    code = run_script(
        codebase,
        command,
        Options(stats, t_star, reference, fix_last_class, criterion, tolerance, refit),
        say=lambda line: say(f"gaga: {line}"),
        progress=progress_bar,
    )
    raise typer.Exit(code)
