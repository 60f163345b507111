import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import numpy as np
import pytest

from extract import batches, decoding, engine, files, worker
from extract.engine import Cluster, find_device, find_there, run_jobs
from extract.errors import ExtractError
from extract.files import remove_stale
from extract.first_failures import FirstFailures
from extract.jobs import Job, ShardReport
from extract.shards import Shard, read_sidecar, shard_numbers, shard_path, sidecar_path
from extract.worker import encode_shard
from tests.helpers_extract import audio_folder, audio_jobs, list_corpus, make_model, write_corpus
from tests.helpers_media import tone, write_wav
from tests.poison import poison

COUNT = 42  # utterances: eleven shards


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    write_corpus(folder / "root", COUNT)
    make_model(folder)
    return folder


def jobs(place: Path, cache: Path) -> list[Job]:
    model = place / "whisper" / "whisper.pt"
    return audio_jobs(cache, model, place / "root", list_corpus(COUNT))


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("cpu", 2, None) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(place: Path, cluster: Cluster) -> tuple[Path, list[ShardReport], list[int]]:
    """Run the whole corpus once; return its folder, the reports and what progress said."""
    cache = place / "undisturbed"
    todo = jobs(place, cache)
    reports: list[ShardReport] = []
    progress: list[int] = []
    client = cluster.start(len(todo))
    assert run_jobs(client, todo, on_rows=progress.append, on_shard=reports.append) == []
    return audio_folder(cache, place / "whisper" / "whisper.pt")[0], reports, progress


def test_every_utterance_is_in_its_shard(undisturbed: tuple) -> None:
    folder, reports, progress = undisturbed
    assert shard_numbers(folder) == list(range(11))
    assert sum(progress) == COUNT
    assert sum(report.utterances for report in reports) == COUNT
    sidecar = read_sidecar(sidecar_path(folder, 0))
    assert sidecar.ids == ["u0", "u1", "u2", "u3"]
    # 0.3, 0.4 and 0.6 s at fifty rows a second; the third file is empty
    assert sidecar.rows == [15, 20, 0, 30]
    assert [(one.id, one.file, one.stage, one.reason) for one in sidecar.quarantined] == [
        ("u2", "002.wav", "open", "empty file")
    ]
    second = read_sidecar(sidecar_path(folder, 1))
    assert [(one.id, one.reason) for one in second.quarantined] == [("u4", "no such file")]
    with Shard(shard_path(folder, 0), sidecar.fingerprint) as shard:
        value = shard.read(3).value
    assert value.shape == (30, 32)
    assert value.dtype == np.float16


def test_reports_are_small_and_say_what_took_how_long(undisturbed: tuple) -> None:
    _, reports, _ = undisturbed
    assert {report.pid for report in reports}.isdisjoint({os.getpid()})
    for report in reports:
        assert {"decode", "preprocess", "encode", "write", "wait"} <= set(report.seconds)
        assert report.size > 0
        assert report.peak_memory > 50e6
    assert sum(report.features for report in reports) == COUNT - 2


def test_the_dashboard_has_an_address(
    undisturbed: tuple, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Cluster("cpu", 1, None).dashboard() is None
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    assert cluster.dashboard() is None
    monkeypatch.setattr(engine, "find_spec", lambda name: name)
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*/status", cluster.dashboard() or "")


def test_the_dashboard_answers(undisturbed: tuple, cluster: Cluster) -> None:
    pytest.importorskip("bokeh")
    address = cluster.dashboard()
    assert address is not None
    with build_opener(ProxyHandler({})).open(address, timeout=30) as page:
        assert page.status == 200
        assert b"Dask" in page.read()


def test_one_process_writes_the_same_bytes_as_two(undisturbed: tuple, place: Path) -> None:
    cache = place / "one-process"
    for job in jobs(place, cache)[:3]:
        encode_shard(job)
    folder, _ = audio_folder(cache, place / "whisper" / "whisper.pt")
    expected = shard_bytes(undisturbed[0])
    assert shard_bytes(folder) == {name: expected[name] for name in list(expected)[:3]}


def test_a_worker_that_is_killed_costs_nothing(
    undisturbed: tuple, place: Path, cluster: Cluster
) -> None:
    cache = place / "died-once"
    todo = jobs(place, cache)
    client = cluster.start(len(todo))
    killed: list[int] = []

    def kill_the_first(report: ShardReport) -> None:
        if not killed:
            killed.append(report.pid)
            os.kill(report.pid, signal.SIGKILL)

    assert run_jobs(client, todo, on_rows=lambda _: None, on_shard=kill_the_first) == []
    assert len(killed) == 1
    folder, _ = audio_folder(cache, place / "whisper" / "whisper.pt")
    assert shard_bytes(folder) == shard_bytes(undisturbed[0])


def register(client: object, setup: Callable[[], None]) -> None:
    """Run `setup` in every worker, also in those that are started later."""
    from distributed import WorkerPlugin

    class Poison(WorkerPlugin):
        name = "poison"

        def setup(self, worker: object) -> None:
            setup()

    client.register_plugin(Poison())  # type: ignore[attr-defined]


def poison_decoders() -> None:
    poison()
    decoding._CHILD = "tests.poison"


def kill_where_media_are_prepared() -> None:
    def die(*_: object) -> None:
        os._exit(11)

    batches.Batches.finish = die  # type: ignore[method-assign]


def test_clips_that_kill_or_hold_up_their_decoder_are_set_aside(
    undisturbed: tuple, place: Path, tmp_path: Path
) -> None:
    model = place / "whisper" / "whisper.pt"
    todo = [replace(job, clip_seconds=2.0) for job in jobs(place, tmp_path / "cache")[:5]]
    with Cluster("cpu", 2, None) as cluster:
        client = cluster.start(len(todo))
        register(client, poison_decoders)
        assert run_jobs(client, todo, on_rows=lambda _: None, on_shard=lambda _: None) == []
    folder, _ = audio_folder(tmp_path / "cache", model)
    set_aside = [
        (one.id, one.stage, one.reason)
        for number in shard_numbers(folder)
        for one in read_sidecar(sidecar_path(folder, number)).quarantined
    ]
    assert set_aside == [
        ("u2", "open", "empty file"),
        ("u4", "open", "no such file"),
        ("u9", "decode", "its decoder crashed (SIGSEGV)"),
        ("u14", "decode", "its decoder was not done after 2 s"),
    ]
    found, expected = shard_bytes(folder), shard_bytes(undisturbed[0])
    assert [name for name in found if found[name] != expected[name]] == ["00002.h5", "00003.h5"]
    for number, row in ((2, 0), (3, 1)):  # the poisoned clips' neighbours are as they were
        fingerprint = read_sidecar(sidecar_path(folder, number)).fingerprint
        with (
            Shard(shard_path(folder, number), fingerprint) as ours,
            Shard(shard_path(undisturbed[0], number), fingerprint) as theirs,
        ):
            np.testing.assert_array_equal(ours.read(row).value, theirs.read(row).value)
            assert len(ours.read(row).value) > 0


def fail_as_a_gpu_does(marker: Path) -> None:
    """Fail for good in this process, unless another one has before."""
    if marker.exists():
        return

    def encode(*_: object) -> None:
        import torch

        marker.touch()
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    engine.encode_shard = encode  # type: ignore[assignment]


def test_a_gpu_that_has_failed_costs_its_process(
    undisturbed: tuple, place: Path, tmp_path: Path
) -> None:
    todo = jobs(place, tmp_path / "cache")[:4]
    reports: list[ShardReport] = []
    with Cluster("cpu", 1, None) as cluster:
        client = cluster.start(len(todo))
        register(client, partial(fail_as_a_gpu_does, tmp_path / "failed"))
        assert run_jobs(client, todo, on_rows=lambda _: None, on_shard=reports.append) == []
    assert (tmp_path / "failed").exists()
    assert len({report.pid for report in reports}) == 1
    folder, _ = audio_folder(tmp_path / "cache", place / "whisper" / "whisper.pt")
    expected = shard_bytes(undisturbed[0])
    assert shard_bytes(folder) == {name: expected[name] for name in list(expected)[:4]}


def test_a_shard_that_kills_its_worker_twice_is_named(place: Path, tmp_path: Path) -> None:
    todo = jobs(place, tmp_path / "cache")[2:3]
    with Cluster("cpu", 1, None) as cluster:
        client = cluster.start(len(todo))
        register(client, kill_where_media_are_prepared)
        [failure] = run_jobs(client, todo, on_rows=lambda _: None, on_shard=lambda _: None)
    assert "audio shard 00002 could not be written" in failure
    assert "held utterances u8 to u11" in failure


def start(place: Path, cache: Path) -> subprocess.Popen[bytes]:
    arguments = [place / "whisper" / "whisper.pt", place / "root", cache, COUNT]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers_extract", *map(str, arguments)],
        start_new_session=True,
        stderr=subprocess.PIPE,
    )


def kill_half_way(place: Path, cache: Path) -> Path:
    """Kill a run after its second shard; return the folder of its shards."""
    folder, _ = audio_folder(cache, place / "whisper" / "whisper.pt")
    run = start(place, cache)
    while len(shard_numbers(folder)) < 2:
        assert run.poll() is None, run.stderr and run.stderr.read().decode()
        time.sleep(0.002)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return folder


def test_a_run_killed_half_way_goes_on_to_the_same_bytes(
    undisturbed: tuple, place: Path, tmp_path: Path
) -> None:
    for attempt in range(5):  # a run may be through before this process gets round to the kill
        cache = tmp_path / str(attempt)
        folder = kill_half_way(place, cache)
        finished = shard_numbers(folder)
        if len(finished) < 11:
            break
    assert 2 <= len(finished) < 11
    written = {number: shard_path(folder, number).stat().st_mtime_ns for number in finished}

    again = start(place, cache)
    assert again.wait(timeout=500) == 0, again.stderr and again.stderr.read().decode()
    assert shard_bytes(folder) == shard_bytes(undisturbed[0])
    for number in finished:
        assert shard_path(folder, number).stat().st_mtime_ns == written[number]
    remove_stale(folder)
    assert list(folder.glob("*.tmp")) == []


def die_at_rename(job: Job, after: int) -> None:
    """Encode a shard, and die at the given rename: 0 is the shard's, 1 its sidecar's."""
    renames = [0]
    replace = Path.replace

    def replace_or_die(self: Path, target: Path) -> Path:
        if renames[0] == after:
            os._exit(9)
        renames[0] += 1
        return replace(self, target)

    Path.replace = replace_or_die  # type: ignore[method-assign]
    encode_shard(job)


@pytest.mark.parametrize(("after", "left"), [(0, []), (1, ["00000.h5"])])
def test_death_while_a_shard_is_published_leaves_it_undone(
    place: Path, tmp_path: Path, after: int, left: list[str]
) -> None:
    every = list_corpus(4)
    model = place / "whisper" / "whisper.pt"
    # No file is there, so that no encoder is loaded and a fork is safe.
    todo = audio_jobs(tmp_path / "cache", model, tmp_path / "no-root", every)
    child = multiprocessing.get_context("fork").Process(target=die_at_rename, args=(todo[0], after))
    child.start()
    child.join(60)
    assert child.exitcode == 9
    folder, _ = audio_folder(tmp_path / "cache", model)
    assert [path.name for path in folder.glob("*.h5")] == left
    assert shard_numbers(folder) == []
    assert remove_stale(folder) == 1

    assert len(audio_jobs(tmp_path / "cache", model, tmp_path / "no-root", every)) == 1
    encode_shard(todo[0])
    assert audio_jobs(tmp_path / "cache", model, tmp_path / "no-root", every) == []
    assert read_sidecar(sidecar_path(folder, 0)).rows == [0, 0, 0, 0]


def write_broken(root: Path, count: int) -> None:
    root.mkdir()
    for number in range(count):
        (root / f"{number:03d}.wav").write_text(f"version https://git-lfs.github.com/spec {number}")


def test_first_files_that_all_fail_for_one_cause_stop_the_run(place: Path, tmp_path: Path) -> None:
    write_broken(tmp_path / "root", 20)
    model = place / "whisper" / "whisper.pt"
    every = list_corpus(20)
    [job] = audio_jobs(tmp_path / "cache", model, tmp_path / "root", every, rows_per_shard=20)
    worker._worked.clear()
    said = r"audio shard 00000: the first 16 files all failed for one cause.*cannot be opened as me"
    with pytest.raises(ExtractError, match=said):
        encode_shard(job)
    assert shard_numbers(job.folder) == []

    write_wav(tmp_path / "root" / "005.wav", tone(0.5, 300))  # one that works says it is the files
    [job] = audio_jobs(tmp_path / "cache", model, tmp_path / "root", every, rows_per_shard=20)
    assert encode_shard(job).features == 1

    many_rows_of_one_file = [replace(one, audio="000.wav") for one in every]
    cache = tmp_path / "other"
    [job] = audio_jobs(cache, model, tmp_path / "root", many_rows_of_one_file, rows_per_shard=20)
    worker._worked.clear()
    assert encode_shard(job).features == 0


def test_a_modality_that_no_file_has_is_no_fault() -> None:
    first = FirstFailures("visual shard 00000", False)
    for number in range(40):
        first.failure(f"{number}.wav", "no video stream")


def test_a_library_that_is_missing_stops_the_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'av'")

    monkeypatch.setattr(decoding, "read_audio", missing)
    with pytest.raises(ExtractError, match="a library is missing: No module named 'av'"):
        encode_shard(jobs(place, tmp_path / "cache")[0])


def test_a_disk_that_is_full_is_a_plain_error(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    model = place / "whisper" / "whisper.pt"
    todo = audio_jobs(tmp_path / "cache", model, tmp_path / "no-root", list_corpus(4))
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ExtractError, match=r"00000\.h5: cannot be written: no space is left"):
        encode_shard(todo[0])
    monkeypatch.undo()
    folder, _ = audio_folder(tmp_path / "cache", model)
    assert list(folder.iterdir()) == []


def test_a_device_that_is_not_there_is_named() -> None:
    import torch

    assert find_device("cpu") == ("cpu", 1)
    if not torch.cuda.is_available():
        with pytest.raises(ExtractError, match="no such device; use --device cpu"):
            find_device("cuda")


class Elsewhere:
    """A client of two workers on one machine of eight cores, with these devices."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"workers": {f"tcp://h:{port}": {"host": "h"} for port in range(len(self.kinds))}}

    def run(self, look: object, wanted: str | None) -> dict[str, tuple[str, int]]:
        return {f"tcp://h:{port}": (kind, 8) for port, kind in enumerate(self.kinds)}


def test_the_workers_machines_have_the_devices_not_this_one() -> None:
    client: Any = Elsewhere("cuda", "cuda")
    assert find_there(client, None) == ("cuda:0", 4)
    client = Elsewhere("cpu", "cpu")
    assert find_there(client, None) == ("cpu", 1)
    client = Elsewhere("cuda", "cpu")
    with pytest.raises(ExtractError, match="some workers of this scheduler have a GPU and others"):
        find_there(client, None)


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_ANSWER_SECONDS", 1)
    with (
        Cluster("cpu", None, "tcp://127.0.0.1:1") as nowhere,
        pytest.raises(ExtractError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:1"),
    ):
        nowhere.start(1)
