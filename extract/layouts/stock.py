"""What of a release's media is there: absent files are named, files of no row counted."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path


def take_stock(
    root: Path, folder: str, wanted: Collection[str], what: str = "clips"
) -> tuple[list[str], dict[str, int]]:
    """Compare the media files that rows name with those that lie in a folder.

    Args:
        root: The dataset's folder.
        folder: Where the release keeps these media, relative to `root`.
        wanted: Paths relative to `root` that rows name.
        what: What to call the files.

    Returns:
        Notes on absent files, and the number of `.mp4` files that no row names, by kind.
    """
    if not (root / folder).is_dir():
        return [f"no folder {folder}: all {len(wanted)} {what} are absent"], {}
    absent = sorted(path for path in wanted if not (root / path).is_file())
    notes = []
    if absent:
        notes.append(f"{len(absent)} of {len(wanted)} {what} are absent ({some(absent)})")
    found = {path.relative_to(root).as_posix() for path in (root / folder).rglob("*.mp4")}
    extra = len(found.difference(wanted))
    return notes, {f"{what} without a row": extra} if extra else {}


def some(names: Iterable[str]) -> str:
    """Return the first three names in order, for a message."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (", …" if len(ordered) > 3 else "")
