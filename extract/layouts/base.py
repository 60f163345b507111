"""What every layout gives: the rows of a corpus as its release lists them.

A layout is a pydantic model, so that its options are checked when the manifest is loaded, and has
one method, `read`. It turns the release's own files into rows of one form and judges nothing that
needs the manifest's knowledge (labels, ranges, counts): the caller does that once for all layouts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from extract.errors import ExtractError
from extract.paths import resolve_inside

SPLIT_ALIASES = {"dev": "valid", "val": "valid", "validation": "valid", "unlabeled": "unlabelled"}
"""Other names that releases use for a split."""


class ReleaseNotFoundError(ExtractError):
    """The files that make up a release are not in the folder looked into."""

    def __init__(self, needed: Iterable[str], folder: Path) -> None:
        self.needed = tuple(needed)
        super().__init__(f"{' or '.join(self.needed)} not found in {folder}")


@dataclass(frozen=True, slots=True)
class LayoutRow:
    """One utterance as the release has it.

    `score`, `order`, `start` and `end` may still be the file's text. `media`, `audio` and `video`
    are posix paths relative to the dataset's folder; `audio` and `video` override `media`.
    `start` and `end` are seconds within the file. `origin` says where the row was read.
    """

    origin: str
    id: str
    split: str
    label: str | None = None
    score: str | float | None = None
    text: str | None = None
    language: str | None = None
    group: str | None = None
    order: str | int | None = None
    speaker: str | None = None
    media: str | None = None
    audio: str | None = None
    video: str | None = None
    start: str | float | None = None
    end: str | float | None = None


@dataclass(frozen=True)
class LayoutTable:
    """The rows of a release, what is odd about it, and what was left aside (by kind, counted)."""

    rows: tuple[LayoutRow, ...]
    notes: tuple[str, ...] = ()
    ignored: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LayoutRequest:
    """Where to read from.

    Attributes:
        root: The dataset's folder.
        manifest_folder: Folder of the manifest that holds the entry.
        max_seconds: Longer spans are cut by the extraction, so a layout notes them.
        allow_symlinks: Whether links may lead out of the two folders.
    """

    root: Path
    manifest_folder: Path
    max_seconds: float = 30.0
    allow_symlinks: bool = False

    def file(self, relative: str) -> Path | None:
        """Return a file of the dataset's folder, None if it is not there.

        Raises:
            ExtractError: a link leads out of the folder, and that is not allowed.
        """
        path = resolve_inside(self.root, relative, allow_symlinks=self.allow_symlinks)
        return path if path.is_file() else None

    def files(self, folder: str, pattern: str) -> Iterator[Path]:
        """Yield the files of a folder that match a pattern, by name."""
        for path in sorted((self.root / folder).glob(pattern)):
            if found := self.file(path.relative_to(self.root).as_posix()):
                yield found


class BaseLayout(BaseModel, ABC):
    """Options that every layout has; `folder` is relative to the data root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = "."

    @abstractmethod
    def read(self, request: LayoutRequest) -> LayoutTable:
        """Read the release.

        Raises:
            ReleaseNotFoundError: the release's files are not in `request.root`.
            ExtractError: a file is damaged or lacks a column.
        """
