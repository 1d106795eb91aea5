"""An artefact of two files in a folder: a readable configuration, and tensors that belong to it.

Both are written under another name and renamed. The configuration carries a digest of the tensors;
if a save is interrupted between the two renames, the configuration in the header of the tensors
decides, so a folder always holds one complete artefact, the old or the new one. A configuration
that belongs to the tensors and yet is not the one in their header was edited, or damaged: it is
used, and a warning names what differs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from gaga_adapter.errors import ArtefactError, GAGAError, WriteError, warn
from gaga_adapter.files.atomic import replacing
from gaga_adapter.files.checked import MOST_BYTES, from_json, printable, to_json

T = TypeVar("T")
_HEADER = "gaga_config"  # the configuration in the header of the tensors
#: Most times that an artefact is read while somebody else writes it.
_MOST_READS = 5
_MOST_NAMED = 8  # entries of a configuration in one warning


@dataclass(frozen=True)
class Pair:
    """The two files of one kind of artefact.

    Attributes:
        config: Name of the configuration.
        tensors: Name of the file of tensors.
        newest: Newest schema that this version reads.
        maker: Call or command that writes such an artefact, for messages.
    """

    config: str
    tensors: str
    newest: int
    maker: str

    def write(
        self,
        folder: Path,
        config: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        check: Callable[[Mapping[str, Any]], object],
    ) -> None:
        """Write both files; an older artefact there stays intact if writing fails.

        Args:
            folder: Folder, which is made where there is none.
            config: Configuration, with the `digest_of` the tensors in it.
            tensors: Tensors by name, contiguous.
            check: Function that reads the configuration again, before anything is written.

        Raises:
            WriteError: If the folder is a file, or cannot be written.
            ArtefactError: If the configuration is no valid JSON.
        """
        from safetensors.torch import save

        if folder.exists() and not folder.is_dir():
            raise WriteError(f"{folder} is a file, and fitted statistics are a folder. Name one.")
        text = to_json(config, indent=2) + "\n"
        blob = save(dict(tensors), metadata={_HEADER: to_json(config)})
        check(from_json(text, self.config))
        with replacing(folder / self.tensors) as temporary:
            temporary.write_bytes(blob)
        with replacing(folder / self.config) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def read(
        self,
        folder: Path,
        missing: Callable[[list[str]], str],
        make: Callable[[Mapping[str, Any], dict[str, Tensor]], T],
    ) -> T:
        """What a function makes of the configuration and the tensors that belong together.

        A `GAGAWarning` names the entries of a configuration that are not as they were written.

        Args:
            folder: Folder of the artefact.
            missing: Function that makes the message where files of these names are missing.
            make: Function that makes an object of both, and refuses what makes no sense.

        Raises:
            ArtefactError: If there is no artefact, it is corrupt, or has a newer schema.
            OSError: If a file cannot be read.
        """
        from gaga_adapter.files.tensors import read_tensors

        config_file, tensors_file = folder / self.config, folder / self.tensors
        absent = [f.name for f in (config_file, tensors_file) if not os.path.isfile(f)]
        if absent:
            raise ArtefactError(missing(absent))
        with config_file.open("rb") as stream:
            config = self._configuration(stream.read(MOST_BYTES + 1), config_file)
        try:
            tensors, texts = read_tensors(tensors_file)
        except ArtefactError as error:
            raise self._corrupt(folder, error) from error
        digest, own = digest_of(tensors), texts.get(_HEADER)
        written = config if own is None else self._configuration(own, tensors_file)
        if config.get("digest") != digest:  # a save was interrupted, or the file is damaged
            config = written
            if config.get("digest") != digest:
                raise self._corrupt(folder, "the tensors do not match their digest")
        try:
            made = make(config, tensors)
        except GAGAError as error:
            raise self._corrupt(folder, error) from error
        changed = [
            name[:60]
            for name in sorted(config.keys() | written.keys())
            if config.get(name) != written.get(name)
        ]
        if changed:
            left = len(changed) - _MOST_NAMED
            names = ", ".join(printable(changed[:_MOST_NAMED]))
            warn(
                f"{config_file} is not as it was written. These entries are not those of the copy "
                f"in {self.tensors}: {names}{f' and {left:,} more' if left > 0 else ''}. The file "
                f"is used as it is. If nobody edited it, write it again with {self.maker}."
            )
        return made

    def read_again(self, folder: Path, read_once: Callable[[], T]) -> T:
        """What a function reads in the folder; again if somebody else writes there meanwhile.

        Raises:
            ArtefactError: If it cannot be read.
        """
        for left in reversed(range(_MOST_READS)):
            before = self._stamps(folder)
            try:
                return read_once()
            except (ArtefactError, OSError) as error:
                if left and self._stamps(folder) != before:
                    continue
                if isinstance(error, ArtefactError):
                    raise
                raise ArtefactError(
                    f"cannot read the artefact in {folder} ({error.strerror or error}). Check who "
                    "may read its files."
                ) from error
        raise AssertionError("the last time it returns or raises")

    def _corrupt(self, folder: Path, fault: object) -> ArtefactError:
        """The error of an artefact that is damaged."""
        return ArtefactError(
            f"the artefact in {folder} is corrupt ({str(fault).rstrip('.')}). Write it again with "
            f"{self.maker}."
        )

    def _configuration(self, content: str | bytes, file: Path) -> Mapping[str, Any]:
        """The configuration in a file, of a schema that this version reads."""
        config = from_json(content, str(file))
        version = config.get("schema_version") if isinstance(config, dict) else None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ArtefactError(
                f"{file} has no schema_version from 1 to {self.newest}, which this version reads. "
                f"Write it again with {self.maker}."
            )
        if version > self.newest:
            raise ArtefactError(
                f"{file} has schema_version={version}, this gaga-adapter reads up to "
                f"{self.newest}. Upgrade: pip install -U gaga-adapter."
            )
        return dict(config)

    def _stamps(self, folder: Path) -> list[tuple[int, int, int]]:
        """What changes when somebody else writes one of the files."""
        stamps = []
        for name in (self.config, self.tensors):
            with suppress(OSError, ValueError):
                found = os.stat(folder / name)
                stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
        return stamps


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
