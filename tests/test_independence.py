"""The same bytes, however many workers there are and whoever schedules them."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from extract.engine import Cluster, run_jobs
from extract.errors import ExtractError
from extract.worker import encode_shard
from tests.helpers_extract import audio_folder, audio_jobs, list_corpus, make_model, write_corpus

COUNT = 16  # utterances: four shards


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("independence")
    write_corpus(folder / "root", COUNT)
    make_model(folder)
    return folder


def digests(place: Path, name: str, cluster: Cluster | None) -> dict[str, str]:
    """Extract into a cache of its own, in this process if there is no cluster."""
    model = place / "whisper" / "whisper.pt"
    jobs = audio_jobs(place / name, model, place / "root", list_corpus(COUNT))
    assert len(jobs) == 4
    if cluster is None:
        for job in jobs:
            encode_shard(job)
    else:
        client = cluster.start(len(jobs))
        assert run_jobs(client, jobs, on_rows=lambda _: None, on_shard=lambda _: None) == []
    folder, _ = audio_folder(place / name, model)
    found = {path.name: hashlib.sha256(path.read_bytes()) for path in folder.glob("*.h5")}
    assert len(found) == 4
    return {name: digest.hexdigest() for name, digest in found.items()}


@pytest.fixture(scope="module")
def reference(place: Path) -> dict[str, str]:
    return digests(place, "reference", None)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers(place: Path, reference: dict[str, str], workers: int) -> None:
    with Cluster("cpu", workers, None) as cluster:
        assert digests(place, f"{workers} workers", cluster) == reference


def dask(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Start a scheduler and two workers as processes of their own."""
    from distributed import Client

    file = tmp_path / "scheduler.json"
    began = [dask("scheduler", "--port", 0, "--no-dashboard", "--scheduler-file", file)]
    try:
        deadline = time.monotonic() + 300
        while not file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        options = ["--nworkers", 2, "--nthreads", 1, "--memory-limit", 0, "--no-dashboard"]
        began.append(dask("worker", "--scheduler-file", file, *options))
        with Client(scheduler_file=str(file), timeout=300) as client:
            client.wait_for_workers(2, timeout=300)
            found = client.scheduler.address
        yield found
    finally:
        for process in reversed(began):
            process.terminate()
            process.wait(300)


def test_a_scheduler_elsewhere(place: Path, reference: dict[str, str], address: str) -> None:
    with Cluster("cpu", None, address) as cluster:
        assert digests(place, "elsewhere", cluster) == reference


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_a_gpu_that_workers_elsewhere_lack_is_named(address: str) -> None:
    with (
        Cluster("cuda", None, address) as cluster,
        pytest.raises(ExtractError, match="a worker of this scheduler: device 'cuda': this mach"),
    ):
        cluster.start(1)
