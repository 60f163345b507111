"""Publish files so that a reader never sees half of one.

A file is written under a temporary name in its final folder, fsynced, renamed over its place, and
the folder is fsynced: after a crash or a power cut either the old file is there or the whole new
one. Temporary names carry the writer's machine and process id, so that a later run can clear away
what a dead writer left and touch nothing that a living one still writes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_SUFFIX = ".tmp"
_HASH_BLOCK = 1 << 20


@contextmanager
def publishing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place when the block ends well.

    The block writes and closes the temporary file. On any exception it is removed and `path`
    stays as it was; an `OSError` names `path`, which people know, and not the temporary file.
    Without `durable` nothing is fsynced, which is for files that are quickly made again: on a busy
    disk a hundred of them would wait for minutes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{machine_name()}.{os.getpid()}.{secrets.token_hex(4)}"
    temporary = path.with_name(f"{path.name}.{writer}{_SUFFIX}")
    try:
        yield temporary
        if durable:
            fsync(temporary)
        temporary.replace(path)
        if durable:
            fsync(path.parent)
    except BaseException as error:
        with suppress(OSError):  # where nothing could be written, nothing can be removed
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


def publish_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write `text` to `path` as UTF-8, all or nothing."""
    with publishing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def publish_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, all or nothing."""
    publish_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def append_json_line(path: Path, value: Any) -> None:
    """Append `value` to `path` as one line of JSON, whole or not at all.

    A line that a dead writer left half-written is ended first, so that it costs itself alone.

    Raises:
        OSError: the disk is full, or the file cannot be written; it is as it was.
    """
    line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
    try:
        with path.open("a+b", buffering=0) as stream:
            size = stream.seek(0, os.SEEK_END)
            if size:
                stream.seek(size - 1)
                line = line if stream.read(1) == b"\n" else b"\n" + line
            try:
                if stream.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                stream.truncate(size)
                raise
    except OSError as error:
        error.filename = str(path)
        raise


def remove_stale(folder: Path) -> int:
    """Remove temporary files whose writer, of this machine, is no longer alive; return how many."""
    removed = 0
    for temporary in folder.glob(f"*.{machine_name()}.*{_SUFFIX}"):
        pid = temporary.name.removesuffix(_SUFFIX).split(".")[-2]
        if pid.isdigit() and not is_alive(int(pid)):
            temporary.unlink(missing_ok=True)
            removed += 1
    return removed


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's contents."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def machine_name() -> str:
    """Return this machine's name without dots; the folder may be shared with other machines."""
    return re.sub(r"[^A-Za-z0-9-]", "-", platform.node()) or "here"


def sync_folder(folder: Path) -> None:
    """Bring a folder and all that it holds to the disk."""
    for each in (*folder.rglob("*"), folder):
        fsync(each)


def fsync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_alive(pid: int) -> bool:
    """Tell whether a process of this machine runs; one that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:  # no such file system, or gone meanwhile
        return True
    return not status.rpartition(")")[2].lstrip().startswith("Z")
