"""`gaga push`: upload an artefact and its card to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gaga_adapter.cli.console import Json, out, print_json, say
from gaga_adapter.cli.options import writable_folder
from gaga_adapter.files import visible
from gaga_adapter.files.hub import CARD, check_license, check_repo_id
from gaga_adapter.stats import GAGAStats


def run(
    stats: Annotated[str, typer.Argument(help="Artefact folder, hub id, or qm9.")],
    repo: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="Repository; it is made if there is none.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Upload GAGA statistics",
    license: Annotated[
        str | None, typer.Option(help="Licence of the statistics, such as mit or cc0-1.0.")
    ] = None,
    licence: Annotated[  # the spelling of version 0.1
        str | None, typer.Option("--licence", hidden=True)
    ] = None,
    pull_request: Annotated[
        bool, typer.Option("--pull-request", help="Open a pull request instead of committing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; print the card of a new repository.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="With --dry-run: write the card and all files here instead.",
            callback=writable_folder,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Push statistics and their card to the Hugging Face hub.

    The token is that of hf auth login, or HF_TOKEN. Others then write USER/NAME
    wherever statistics are asked for. If the repository has a card already, only
    the part between its two gaga lines is replaced.

      gaga push stats/ me/my-stats --dry-run
      gaga push stats/ me/my-stats --private
    """
    if folder is not None and not dry_run:
        raise typer.BadParameter("it goes with --dry-run.", param_hint="--out")
    license = license or licence
    check_repo_id(repo)  # before the hub is asked
    check_license(license)
    fitted = GAGAStats.from_pretrained(stats)
    if not dry_run:
        address = fitted.push_to_hub(
            repo,
            private=private or None,
            commit_message=message,
            create_pr=pull_request,
            license=license,
        )
        if as_json:
            print_json({"repo": repo, "address": address})
        else:
            out.print(address, soft_wrap=True)
        return
    from gaga_adapter.report.card import card_section, merge_card, write_card

    if folder is None:
        card = merge_card(card_section(fitted, repo, has_picture=False), repo, license=license)
        if as_json:
            print_json({"repo": repo, "card": card})
        else:
            print(visible(card), end="")
        return
    there = folder / CARD  # as on the hub, all but the generated part is its owner's
    existing = there.read_text(encoding="utf-8") if there.exists() else None
    write_card(fitted, folder, repo, existing, license)
    fitted.save_pretrained(folder)
    if as_json:
        print_json({"repo": repo, "folder": str(folder)})
    say(f"wrote {folder}: what gaga push would send. Nothing was sent.")
