"""No byte of a cache changes, and no file of it goes, without `verify` naming it."""

import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from extract.importers.files import Request as Files
from pipeline.cache_care import verify_cache
from pipeline.importing import Request, import_features
from tests.helpers_import import mmsa, write_corpus

SHORT, LONG = 24, 200


@contextmanager
def no_progress(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a cache of three feature sets of four shards, one utterance set aside in each."""
    place = tmp_path_factory.mktemp("damage")
    write_corpus(place)
    content = mmsa()
    content["test"]["id"][0] = "another$_$0"
    (place / "file.pkl").write_bytes(pickle.dumps(content, 4))
    files = Files((place / "file.pkl",), "mine", place / "cache", None, None, ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.importers.store.ROWS_PER_SHARD", 3)
        request = Request(files, place / "data", place / "mine.yaml")
        import_features(request, lambda line: None, no_progress)
    return place / "cache"


def named(cache: Path) -> set[Path]:
    return {one.file for one in verify_cache(cache, None, no_progress).damaged}


def flip(path: Path, generator: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= generator.randrange(1, 256)
    path.write_bytes(content)


def truncate(path: Path, generator: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: generator.randrange(len(content))])


def delete(path: Path, generator: random.Random) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "count", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_every_damage_is_named(cache: Path, tmp_path: Path, count: int) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    # Remembered sums are no part of the cache: where they are damaged they are summed up again.
    files = sorted(p for p in copy.rglob("*") if p.is_file() and p.suffix != ".npz")
    assert {path.suffix for path in files} == {".h5", ".json", ".csv", ".parquet"}
    assert named(copy) == set()
    generator = random.Random(count)
    for turn in range(count):
        # A shard is larger than all else together: files are drawn, not bytes.
        path = generator.choice(files)
        damage = (flip, truncate, delete)[turn % 3]
        sound = path.read_bytes()
        damage(path, generator)
        assert named(copy) == {path}, f"{damage.__name__} {path}"
        path.write_bytes(sound)
    assert named(copy) == set()
