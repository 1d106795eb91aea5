"""Files of a hub repository: read through huggingface_hub's own cache, written as one commit.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean to huggingface_hub.
What goes wrong there ends in one sentence: what failed, why, and what to do.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gaga_adapter.errors import ArtefactError, DataError, WriteError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"


def check_license(license: str | None) -> None:
    """Refuse a licence that the header of a card cannot hold."""
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise DataError(
            f"license={license!r} is no identifier of the hub's. Pass one such as mit or cc0-1.0, "
            "or `other` and say more in the card."
        )


def check_repo_id(repo_id: str, owner: bool = True) -> None:
    """Refuse what cannot be the id of a repository, before the hub is asked for it.

    If no `owner` is required, a name alone is a repository of the token's holder.
    """
    one = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
    if re.fullmatch(rf"{one}/{one}" if owner else rf"(?:{one}/)?{one}", repo_id):
        return
    address = re.match(
        rf"(?:\w+://)?[\w.-]+\.\w+(?::\d+)?/(?:models/)?({one}/{one})(?:/|$)", repo_id
    )
    if address:
        raise ArtefactError(f"{repo_id} is an address. Pass the hub id in it: {address[1]}.")
    raise ArtefactError(
        f"{repo_id!r} is no hub id: user and name, of letters, digits and '-_.', with one slash "
        "between them. Pass one such as user/name."
    )


def looks_like_hub_id(name: str) -> bool:
    """Whether a name is like `user/name`, with nothing in it that only a path has."""
    owner, slash, rest = name.partition("/")
    return bool(owner and slash and rest) and "/" not in rest and not owner.startswith((".", "~"))


def download(
    repo_id: str,
    patterns: Sequence[str],
    instead: str,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> Path:
    """A local folder with the files of a repository that match the patterns.

    The error of a repository that cannot be read ends with `instead`: what else one may pass.
    """
    from huggingface_hub import snapshot_download

    try:
        with _without_bars():
            folder = snapshot_download(
                repo_id,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=list(patterns),
                endpoint=endpoint,
            )
        return Path(folder)
    except _failures() as error:
        reason = _reason(error, endpoint, token)
        raise ArtefactError(
            f"{repo_id} is neither a folder here nor readable on the hub: {reason} {instead}"
        ) from error


def publish(
    repo_id: str,
    write: Callable[[Path, str, str | None], None],
    message: str,
    private: bool | None = None,
    token: str | None = None,
    create_pr: bool = False,
    endpoint: str | None = None,
) -> str:
    """Make the repository where there is none, and commit files to it, all or none.

    The commit names the one that its card was read from; if somebody committed meanwhile the hub
    refuses it, and nobody's card is overwritten. `write` gets a folder to write to, the full id,
    and the repository's card or `None`; the other arguments are those of `GAGAStats.push_to_hub`.

    Returns:
        The address of the commit, or of the pull request.
    """
    from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi

    check_repo_id(repo_id, owner=False)
    if endpoint is not None and "_endpoint" not in CommitInfo.__dataclass_fields__:
        raise WriteError(  # it would commit, and fail to read the address of the commit
            f"this version of huggingface_hub cannot push to {endpoint} by name. Upgrade it, or "
            f"set the variable HF_ENDPOINT={endpoint} before Python starts."
        )
    if not message.strip():
        raise WriteError("the message of the commit is empty. Say what changed.")
    api = HfApi(token=token, endpoint=endpoint)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        head = api.repo_info(repo_id).sha
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), repo_id, _card(api, repo_id, head))
            # upload_folder may commit twice; one commit is all or nothing.
            files = sorted(file for file in Path(folder).iterdir() if file.is_file())
            info = api.create_commit(
                repo_id,
                [CommitOperationAdd(file.name, file) for file in files],
                commit_message=message,
                create_pr=create_pr,
                parent_commit=head,
            )
    except _failures() as error:
        if isinstance(error, (ArtefactError, WriteError)):
            raise
        reason = _reason(error, endpoint, token)
        raise WriteError(
            f"cannot push to {repo_id}: {reason} What the hub had is unchanged."
        ) from error
    return str(info.pr_url or info.commit_url)


def _card(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    """The card of a repository as it stands; `None` where there is none."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with tempfile.TemporaryDirectory() as folder:
        try:
            file = api.hf_hub_download(repo_id, CARD, revision=revision, local_dir=folder)
        except LocalEntryNotFoundError:
            raise  # the hub could not be asked
        except EntryNotFoundError:
            return None
        return Path(file).read_text(encoding="utf-8")


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the bars of huggingface_hub over two small files, unless its variable asks for them."""
    from huggingface_hub import utils
    from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS

    if HF_HUB_DISABLE_PROGRESS_BARS is not None or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _failures() -> tuple[type[Exception], ...]:
    """Errors that huggingface_hub raises: its own, the disk's, and those of its http client."""
    from huggingface_hub.errors import HfHubHTTPError

    client = HfHubHTTPError.__mro__[1]  # requests', httpx' or httpx2's, by version
    return (client, OSError, ValueError)


def _reason(error: Exception, endpoint: str | None, token: str | None) -> str:
    """The reason of a failure, and what to do, in a sentence or two."""
    from huggingface_hub import constants, errors, get_token

    if isinstance(error, errors.HFValidationError):
        return "it is no hub id, which has the form user/name."
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return "it is gated. Ask for access on its page, and pass a token."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private and the token does not open it."
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set. Unset it."
    if isinstance(error, errors.LocalEntryNotFoundError) or (
        status is None and type(error).__name__ in ("ConnectError", "ConnectionError")
    ):
        return f"{endpoint or constants.ENDPOINT} was not reached, and no copy is in the cache."
    if status == 401:
        why = "the token was refused" if token or get_token() else "there is no token"
        return f"{why}. Run `hf auth login`, or set HF_TOKEN."
    if status == 403:
        return "the token may not write there. Make one that may, or push to your own account."
    if status == 412:
        return "somebody else committed meanwhile. Push again."
    lines = str(error).strip().splitlines()
    return f"{(lines[0] if lines else repr(error)).rstrip('.')}."
