"""Files of a hub repository, in huggingface_hub's own cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gaga_adapter.errors import ArtefactError


def download(
    repo_id: str,
    patterns: Sequence[str],
    instead: str,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """A local folder with the files of a repository that match.

    Args:
        repo_id: such as `user/name`.
        patterns: which files are wanted.
        instead: what the user may pass instead, for the message.
        revision: branch, tag or commit.
        token: hub token.
        cache_dir: where downloads are kept.
        local_files_only: do not ask the hub.

    Raises:
        ArtefactError: the repository cannot be read.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=list(patterns),
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ArtefactError(
            f"{repo_id} is neither a folder here nor readable on the hub ({reason}). {instead}"
        ) from error
