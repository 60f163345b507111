import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from extract import locks
from extract.errors import ExtractError
from extract.files import is_alive, machine_name
from extract.locks import lock_path, writing


def hold(folder: Path, ready: Connection) -> None:
    with writing(folder) as taken_over:
        ready.send(taken_over)
        signal.pause()


def holder_of(folder: Path) -> multiprocessing.Process:
    """Start a process that holds the lock."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=hold, args=(folder, theirs), daemon=True)
    child.start()
    assert ours.poll(60)
    assert ours.recv() is None
    return child


def test_a_lock_comes_and_goes(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "audio" / "set-01"
    with writing(folder) as taken_over:
        assert taken_over is None
        assert json.loads(lock_path(folder).read_text())["pid"] == os.getpid()
        assert not folder.exists()  # whoever holds it makes or removes the folder
    assert not lock_path(folder).exists()


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    folder = tmp_path / "set-01"
    child = holder_of(folder)
    said = rf"set-01: process {child.pid} on {machine_name()}, since 20\d\d-.*; wait for it$"
    with pytest.raises(ExtractError, match=said), writing(folder):
        pass
    assert lock_path(folder).exists()
    child.kill()
    child.join(60)
    with writing(folder) as taken_over:
        assert taken_over is not None
        assert f"gone (process {child.pid} on" in taken_over
    with writing(folder) as taken_over:
        assert taken_over is None


def test_a_lock_of_another_machine_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "set-01"
    name = {"host": "elsewhere", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}
    lock_path(folder).write_text(json.dumps(name))
    with pytest.raises(ExtractError, match=r"process 1 on elsewhere.*or remove .*lock if it is"):
        writing(folder).__enter__()
    assert json.loads(lock_path(folder).read_text()) == name


@pytest.mark.parametrize("alive", [True, False])
def test_without_flock_the_process_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    def unsupported(descriptor: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    folder = tmp_path / "set-01"
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    pid = os.getppid() if alive else dead.pid
    name = {"host": machine_name(), "pid": pid, "since": "2026-01-01T00:00:00+00:00"}
    lock_path(folder).write_text(json.dumps(name))
    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    if alive:
        with pytest.raises(ExtractError, match=f"process {pid} on"):
            writing(folder).__enter__()
    else:
        with writing(folder) as taken_over:
            assert taken_over is not None


def test_a_lock_removed_while_it_was_waited_for_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls = tmp_path / "set-01", [0]
    flock = fcntl.flock

    def remove_first(descriptor: int, how: int) -> None:
        calls[0] += 1
        if calls[0] == 1:
            lock_path(folder).unlink()  # as its last holder does when it is done
        flock(descriptor, how)

    monkeypatch.setattr(locks.fcntl, "flock", remove_first)
    with writing(folder):
        assert calls == [2]
        assert lock_path(folder).exists()


def test_a_process_that_nobody_has_waited_for_does_not_run() -> None:
    child = subprocess.Popen(["sleep", "600"])
    assert is_alive(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays
    assert not is_alive(child.pid)
    child.wait()
    assert not is_alive(child.pid)
