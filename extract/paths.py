"""Paths that must stay inside a folder.

A table names media files, and tables come from anywhere. A path is accepted only when it is
relative, has no `..`, and leads into the folder after links have been followed.
"""

import os
import re
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from extract.errors import ExtractError

_ODD = re.compile(r"[\0:\\]")  # no file name of a sound table; drives and Windows' separators


class Folder:
    """A folder that must not be left by any of very many paths.

    Says the same as `resolve_inside`, but follows each folder on the way once, so that a path
    costs one system call.

    Args:
        root: The folder.
        allow_symlinks: Accept links that lead out of `root`.
    """

    def __init__(self, root: Path, *, allow_symlinks: bool = False) -> None:
        self.root, self._allow_symlinks = root, allow_symlinks
        self._prefix = f"{root}/"
        self._inside: dict[str, bool] = {}

    def status(self, relative: str) -> os.stat_result | None:
        """Return the status of the file that `relative` names, None if it is not there.

        Raises:
            ExtractError: as from `resolve_inside`.
            OSError: the file cannot be looked at.
        """
        try:
            if self._is_plain(relative):
                status = os.lstat(self._prefix + relative)
                if not stat.S_ISLNK(status.st_mode):
                    return status
            path = resolve_inside(self.root, relative, allow_symlinks=self._allow_symlinks)
            return path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _is_plain(self, relative: str) -> bool:
        """Tell whether nothing but a link as its last part could lead a path out."""
        parent, _, name = relative.rpartition("/")
        if relative[:1] == "/" or not name.strip() or name == ".." or _ODD.search(name):
            return False
        if parent not in self._inside:
            try:
                resolve_inside(self.root, parent or ".", allow_symlinks=self._allow_symlinks)
            except ExtractError:
                self._inside[parent] = False  # a complaint is about the whole path
            else:
                self._inside[parent] = True
        return self._inside[parent]


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
