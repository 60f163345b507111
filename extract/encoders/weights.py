"""Find an encoder's files and say which weights they are.

Weights are told apart by contents, never by path or by a name that a hub may reuse. Hashing large
files takes seconds, so digests are remembered by path, size and modification time. A hub is asked
only when its cache lacks the model, and every failure to reach it is one plain sentence.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from extract.encoders.base import RANDOM_MARKER
from extract.errors import ExtractError
from extract.files import publish_json, sha256_of

FETCH_ELSEWHERE = (
    "run the same command with --fetch-only where there is a network and copy ~/.cache from there"
)
"""How models come to a machine without a network, to end messages with."""

_HUB_SECONDS = 10  # a hub that has not answered by then counts as unreachable


class Memo:
    """What was once learnt about weight files, kept in the cache as `.digests.json`.

    The file only saves work: when it is missing or damaged everything is computed again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            self._digests: dict[str, Any] = dict(known["digests"])
            self._facts: dict[str, Any] = dict(known["facts"])
        except (OSError, ValueError, KeyError, TypeError):
            self._digests, self._facts = {}, {}

    def digest(self, path: Path) -> str:
        """Return the hex SHA-256 of a file."""
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns]
        known = self._digests.get(str(path))
        if known is None or known[:2] != state:
            known = [*state, sha256_of(path)]
            self._digests[str(path)] = known
            self._save()
        return str(known[2])

    def fact(self, key: str, find: Callable[[], Any]) -> Any:
        """Return what is known under `key`, finding it out the first time."""
        if key not in self._facts:
            self._facts[key] = find()
            self._save()
        return self._facts[key]

    def forget(self, key: str) -> None:
        """Drop what is known under `key`."""
        self._facts.pop(key, None)

    def _save(self) -> None:
        publish_json(self._path, {"digests": self._digests, "facts": self._facts})


def digest_of_files(files: Iterable[Path], memo: Memo) -> str:
    """Return one digest of several files' names and contents."""
    lines = sorted(f"{path.name} {memo.digest(path)}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def has_random_weights(folder: Path) -> bool:
    """Tell whether the weights in `folder` are marked as random."""
    return (folder / RANDOM_MARKER).is_file()


def slug_of(name: str) -> str:
    """Return `name` as it may stand in a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "encoder"


def find_model_folder(
    reference: str, what: str, patterns: list[str], needed: str, *, also: Sequence[str] = ()
) -> Path:
    """Return the directory that `reference` names: a local one, or a model of the hub.

    Args:
        reference: A directory or a hub id.
        what: What it is for, to begin messages with.
        patterns: Which of the model's files to fetch.
        needed: A file without which the directory is no such model.
        also: Files without which what the hub's cache holds of it is not all.

    Raises:
        ExtractError: there is no such directory or model, or the hub cannot be reached.
    """
    folder = Path(reference).expanduser()
    if not folder.exists():
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", reference) or reference.startswith("."):
            raise ExtractError(f"{what}: no directory {reference}; check the path")
        files = (needed, *also)
        folder = fetch(
            reference, what, patterns, lambda there: all((there / f).is_file() for f in files)
        )
    if not (folder / needed).is_file():
        raise ExtractError(f"{what}: {folder} is not a model directory: it holds no {needed}")
    return folder.resolve()


def read_config(path: Path, spec: str) -> dict[str, Any]:
    """Read a model's JSON configuration.

    Raises:
        ExtractError: it is not a JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExtractError(f"encoder {spec}: {path} is not readable as JSON: {error}") from error
    if not isinstance(config, dict):
        raise ExtractError(f"encoder {spec}: {path} is not a model's configuration")
    return config


def fetch(name: str, what: str, patterns: list[str], complete: Callable[[Path], bool]) -> Path:
    """Return the folder of the hub's cache that holds a model, fetching it unless it is there.

    Args:
        name: The model's hub id.
        what: What it is for, to begin messages with.
        patterns: Which of its files to fetch.
        complete: Tells whether what the cache holds is all of them.

    Raises:
        ExtractError: there is no such model, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
        if weights and complete(folder):
            return folder
    except LocalEntryNotFoundError:
        pass  # not in the hub's cache: fetch it
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, etag_timeout=_HUB_SECONDS))
    except Exception as error:  # the hub's client raises its own and its HTTP library's errors
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExtractError(
            f"{what}: {name} is neither a directory here nor could it be fetched from the hub "
            f"({cause}); give a local directory, or {FETCH_ELSEWHERE}"
        ) from error
