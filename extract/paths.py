"""Paths that must stay inside a folder.

A table names media files, and tables come from anywhere. A path is accepted only when it is
relative, has no `..`, and leads into the folder after links have been followed.
"""

from pathlib import Path, PurePosixPath, PureWindowsPath

from extract.errors import ExtractError


def resolve_inside(root: Path, relative: str, *, allow_symlinks: bool = False) -> Path:
    """Return the file that `relative` names inside `root`; it need not exist.

    Args:
        root: The folder that must not be left.
        relative: A posix path.
        allow_symlinks: Accept links that lead out of `root`.

    Raises:
        ExtractError: the path is empty or absolute, climbs, or leaves the folder by a link.
    """
    if not relative.strip() or "\0" in relative:
        raise ExtractError(f"path {relative!r} names no file: give one relative to {root}")
    if PurePosixPath(relative).is_absolute() or PureWindowsPath(relative).drive:
        raise ExtractError(f"path {relative!r} is absolute: give it relative to {root}")
    if ".." in PurePosixPath(relative).parts or ".." in PureWindowsPath(relative).parts:
        raise ExtractError(f"path {relative!r} climbs with '..': it must stay inside {root}")
    path = root / relative
    if not allow_symlinks:
        try:
            inside = path.resolve().is_relative_to(root.resolve())
        except (OSError, RuntimeError) as error:  # a loop of links, a name too long
            raise ExtractError(f"path {relative!r} cannot be followed: {error}") from error
        if not inside:
            raise ExtractError(
                f"path {relative!r} leaves {root} by a symbolic link: "
                "use --allow-symlinks if that is meant"
            )
    return path
