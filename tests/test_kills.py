"""A run that is killed, wherever it is, goes on to the bytes of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from extract.files import remove_stale
from extract.shards import shard_numbers, shard_path
from extract.worker import encode_shard
from tests.helpers_extract import audio_folder, audio_jobs, list_corpus, make_model, write_corpus

COUNT = 60  # utterances: fifteen shards
SHORT, LONG = 3, 25


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a corpus and a model, and encode it undisturbed, in this process."""
    folder = tmp_path_factory.mktemp("kills")
    write_corpus(folder / "root", COUNT)
    model = make_model(folder)
    for job in audio_jobs(folder / "undisturbed", model, folder / "root", list_corpus(COUNT)):
        encode_shard(job)
    return folder


def model_of(place: Path) -> Path:
    return place / "whisper" / "whisper.pt"


def contents(place: Path, cache: Path) -> dict[str, bytes]:
    folder, _ = audio_folder(cache, model_of(place))
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


def finished(folder: Path) -> dict[int, int]:
    """Return when each finished shard was written."""
    return {
        number: shard_path(folder, number).stat().st_mtime_ns for number in shard_numbers(folder)
    }


def start(place: Path, cache: Path) -> subprocess.Popen[bytes]:
    arguments = [model_of(place), place / "root", cache, COUNT]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers_extract", *map(str, arguments)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    "kills", [SHORT, pytest.param(LONG, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
def test_random_kills_of_the_whole_tree(place: Path, tmp_path: Path, kills: int) -> None:
    cache = tmp_path / "cache"
    folder, _ = audio_folder(cache, model_of(place))
    generator = random.Random(kills)
    done: dict[int, int] = {}
    for _ in range(kills):
        run = start(place, cache)
        # Most of a run is the start of its processes, in which a kill shows little: half of the
        # kills wait for a shard more than there was.
        if generator.random() < 0.5 and len(done) < 14:
            while len(shard_numbers(folder)) <= len(done) and run.poll() is None:
                time.sleep(0.001)
            time.sleep(generator.uniform(0, 0.05))
        else:
            time.sleep(generator.uniform(0, 6))
        try:
            os.killpg(run.pid, signal.SIGKILL)
        except ProcessLookupError:
            assert run.poll() == 0  # it was done
        run.wait()
        now = finished(folder)
        assert done.items() <= now.items(), "a finished shard was lost or written twice"
        done = now
    assert start(place, cache).wait(timeout=500) == 0
    assert done.items() <= finished(folder).items()
    assert contents(place, cache) == contents(place, place / "undisturbed")
    assert sorted(finished(folder)) == list(range(15))
    remove_stale(folder)
    assert not list(folder.glob("*.tmp"))


DIE = """
import os, sys
from pathlib import Path
from tests.helpers_extract import audio_jobs, list_corpus
from extract.worker import encode_shard

point, model, root, cache = sys.argv[1], *map(Path, sys.argv[2:])
write_bytes, replace = Path.write_bytes, Path.replace

def write(self, content):
    if ".h5." in self.name and point == "before the write":
        os._exit(9)
    if ".h5." in self.name and point == "mid-write":
        write_bytes(self, content[: len(content) // 2])
        os._exit(9)
    if ".json." in self.name and point == "after the rename, before the sidecar":
        os._exit(9)
    return write_bytes(self, content)

def rename(self, target):
    if point == "after the write, before the rename" and ".h5." in self.name:
        os._exit(9)
    return replace(self, target)

first, second = audio_jobs(cache, model, root, list_corpus(8))
encode_shard(first)
Path.write_bytes, Path.replace = write, rename
encode_shard(second)
"""


@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("before the write", 1),
        ("mid-write", 1),
        ("after the write, before the rename", 1),
        ("after the rename, before the sidecar", 2),
    ],
)
def test_death_at_each_point_of_publishing(
    place: Path, tmp_path: Path, point: str, left: int
) -> None:
    cache, model, every = tmp_path / "cache", model_of(place), list_corpus(8)
    arguments = [point, *map(str, (model, place / "root", cache))]
    assert subprocess.run([sys.executable, "-c", DIE, *arguments]).returncode == 9
    folder, _ = audio_folder(cache, model)
    before = finished(folder)
    assert list(before) == [0]
    assert len(list(folder.glob("*.h5"))) == left
    remove_stale(folder)
    assert not list(folder.glob("*.tmp"))
    [again] = audio_jobs(cache, model, place / "root", every)
    assert again.shard.number == 1
    encode_shard(again)
    assert finished(folder).items() >= before.items()
    undisturbed = contents(place, place / "undisturbed")
    assert contents(place, cache) == {name: undisturbed[name] for name in ("00000.h5", "00001.h5")}
