"""Keep two writers of one folder, a feature set's or a run's, apart; say who the first one is.

The lock is a file beside the folder that names its holder, held by `flock`: the kernel lets
go of it however the holder dies, so what a dead process of this machine left is told from a living
one's without guessing, and taken over. On a shared file system `flock` reaches other machines
where the mount passes it on (NFS since Linux 2.6.12, Lustre and GPFS with their `flock` option);
where it does not, a lock of another machine is known by the name in it alone, and a person has to
say that its holder is gone. Losing that race is harmless to the features: whoever writes a shard
writes the same bytes and moves them into place in one step.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from extract.errors import ExtractError
from extract.files import is_alive, machine_name

_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Holder:
    """Who writes a folder, and since when (UTC)."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def lock_path(folder: Path) -> Path:
    """Return the place of a folder's lock: beside it, since it may be removed."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def writing(folder: Path, what: str = "these features") -> Iterator[str | None]:
    """Hold the lock of `folder`, which holds `what`, while the block lasts.

    Yields:
        A sentence about the dead process whose lock was taken over; None where there was none.

    Raises:
        ExtractError: another process holds it.
        OSError: the lock cannot be written.
    """
    path = lock_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, before = _take(path, folder, what)
    try:
        me = Holder(machine_name(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(me)).encode() + b"\n", 0)
        os.fsync(descriptor)
        yield (
            None
            if before is None
            else (f"{folder}: took over the lock of a process that is gone ({before})")
        )
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path, folder: Path, what: str) -> tuple[int, Holder | None]:
    """Return the locked file's descriptor, and the dead holder that it names."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            free = _flock(descriptor)
            holder = _read(descriptor)
            if free is False or (holder is not None and not _is_gone(holder, free)):
                raise _held(path, folder, what, holder)
            if _is_at(path, descriptor):
                return descriptor, holder
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder removed it meanwhile: this one locks nothing


def _flock(descriptor: int) -> bool | None:
    """Lock an open file; False where another holds it, None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _is_gone(holder: Holder, free: bool | None) -> bool:
    if holder.host != machine_name():
        return False
    return free is True or not is_alive(holder.pid)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None  # empty: just made, or its holder died before it wrote its name


def _held(path: Path, folder: Path, what: str, holder: Holder | None) -> ExtractError:
    who = "another process" if holder is None else str(holder)
    elsewhere = holder is not None and holder.host != machine_name()
    remedy = f"wait for it, or remove {path} if it is gone" if elsewhere else "wait for it"
    return ExtractError(f"{folder}: {who}, is writing {what}; {remedy}")
