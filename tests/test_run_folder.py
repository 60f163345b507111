"""One process a run folder, and what a crash or a power cut leaves of it."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from extract.files import machine_name
from extract.locks import lock_path
from pipeline.errors import PipelineError
from pipeline.runs import RunFolder, claimed, publishing_folder
from tests.test_selection import settings
from tests.test_study import study, write_study
from tests.test_training import Killed, request, run


def test_a_second_process_leaves_the_first_ones_files_alone(toy: Path, toy_llm: Path) -> None:
    wanted: dict[str, Any] = {"settings": settings(epochs=2), "modalities": ("text",)}
    with pytest.raises(Killed):
        run(request(toy, toy_llm, **wanted), stop_after=5)
    folder = RunFolder(toy / "runs" / "toy" / "egmf-text" / "seed-1")
    assert not lock_path(folder.path).exists()
    with claimed(folder, lambda line: None), publishing_folder(folder.checkpoint) as partial:
        for again in ("resume", "fresh"):
            said = rf"seed-1: process {os.getpid()} on .*, is writing this run; wait for it"
            with pytest.raises(PipelineError, match=said):
                run(request(toy, toy_llm, **{again: True}, **wanted))
        assert partial.is_dir()
        (partial / "progress.json").write_text((folder.checkpoint / "progress.json").read_text())
        (partial / "state.pt").write_bytes((folder.checkpoint / "state.pt").read_bytes())
    assert run(request(toy, toy_llm, resume=True, **wanted)).finished
    assert not lock_path(folder.path).exists()


def test_a_study_belongs_to_one_process_too(toy: Path, toy_llm: Path) -> None:
    file = write_study(toy, search="grid", space={"dim": [16]})
    place = toy / "runs" / "toy" / "study-small"
    with claimed(RunFolder(place), lambda line: None):
        with pytest.raises(PipelineError, match=rf"study-small: process {os.getpid()} on .*wait"):
            study(toy, toy_llm, file, fresh=True)
        assert not place.exists()


def test_what_a_killed_process_claimed_is_taken_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "seed-1")
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    name = {"host": machine_name(), "pid": dead.pid, "since": "2026-01-01T00:00:00+00:00"}
    lock_path(folder.path).write_text(json.dumps(name))
    said: list[str] = []
    with claimed(folder, said.append):
        assert lock_path(folder.path).exists()
    assert not lock_path(folder.path).exists()
    assert len(said) == 1
    assert f"took over the lock of a process that is gone (process {dead.pid} on" in said[0]


def test_a_published_folder_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, fsync = tmp_path / "checkpoint", os.fsync
    place.mkdir()
    synced: list[tuple[str, bool]] = []

    def watching(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((str(path.relative_to(tmp_path)), (place / "state.pt").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watching)
    with publishing_folder(place) as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "state.pt").write_bytes(b"1")
        (partial / "state.pt").write_bytes(b"2")
    name = partial.name
    inside = {f"{name}/inner", f"{name}/inner/state.pt", f"{name}/state.pt", name}
    assert {path for path, published in synced if not published} == inside
    assert synced[-1] == (".", True)
