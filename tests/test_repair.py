"""`egmf-cache repair`: the bytes as they were, and nothing else touched."""

import json
import os
import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extract.engine import Cluster
from extract.errors import ExtractError
from extract.locks import writing
from extract.sealed import publish_sealed, read_sealed
from pipeline import extraction_plan
from pipeline.cache_repair import Repaired, Wanted, repair_cache
from pipeline.commands.cache import main as cache_main
from pipeline.extraction import extract_dataset
from pipeline.extraction_log import LOG_NAME
from pipeline.extraction_plan import Console, Request, plan_dataset
from tests.helpers_bad_input import call
from tests.helpers_import import mmsa
from tests.helpers_import import write_corpus as write_import_corpus
from tests.helpers_media import grey, tone, write_clip
from tests.test_change_without_waste import MANIFEST
from tests.test_damage import delete, flip, no_progress, truncate

COUNT = 10


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Cluster]]:
    """Extract ten clips, one of them missing, in shards of four; a row came in the middle later."""
    folder = tmp_path_factory.mktemp("repair")
    (folder / "mine.yaml").write_text(MANIFEST)
    for number in range(COUNT):
        if number != 6:
            pictures = [grey(20 + 10 * number)] * 6
            write_clip(folder / f"{number}.mp4", pictures=pictures, sound=tone(0.5, 200 + number))
    ids = [0, 1, 2, 3, 4, 6, 7, 8, 9]
    with pytest.MonkeyPatch.context() as patch, Cluster("cpu", 1, None) as cluster:
        patch.setattr(extraction_plan, "ROWS_PER_SHARD", 4)
        for each in (ids, [*ids[:2], 5, *ids[2:]]):
            rows = [f"u{n},{'train' if n < 7 else 'test'},sad,text {n},{n}.mp4" for n in each]
            (folder / "table.csv").write_text("\n".join(["id,split,label,text,media", *rows]))
            request = Request("mine", folder / "cache", folder, folder / "mine.yaml", "tiny")
            extract_dataset(plan_dataset(request, CONSOLE), cluster, CONSOLE)
        yield folder, cluster


CONSOLE = Console(note=lambda line: None, progress=no_progress)


@pytest.fixture
def cache(place: tuple[Path, Cluster], tmp_path: Path) -> Path:
    copy = tmp_path / "cache"
    shutil.copytree(place[0] / "cache", copy)
    return copy


def repair(place: tuple[Path, Cluster], cache: Path) -> Repaired:
    wanted = Wanted(cache, (), place[0], place[0] / "mine.yaml")
    return repair_cache(wanted, place[1], CONSOLE)


def state(cache: Path) -> dict[Path, tuple[bytes, int]]:
    """Return what every file of the dataset holds, and when it was written."""
    return {
        path.relative_to(cache): (stable(path), path.stat().st_mtime_ns)
        for path in sorted((cache / "mine").rglob("*"))
        if path.is_file() and path.name != LOG_NAME
    }


def log_of(cache: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cache / "mine" / LOG_NAME).read_text().splitlines()]


def stable(path: Path) -> bytes:
    """Return what a file holds but for times, and the place of a model that the copy now has."""
    if path.suffix != ".json":
        return path.read_bytes()
    fields = read_sealed(path)[0]
    return json.dumps({**fields, "seconds": None, "created": None, "encoder": None}).encode()


def test_a_sound_cache_is_left_alone(place: tuple[Path, Cluster], cache: Path) -> None:
    before, log = state(cache), log_of(cache)
    assert repair(place, cache) == Repaired()
    assert (state(cache), log_of(cache)) == (before, log)


@pytest.mark.parametrize(
    "count",
    [None, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])],
    ids=["each", "long"],
)
def test_what_is_damaged_is_written_as_it_was(
    place: tuple[Path, Cluster], cache: Path, count: int | None
) -> None:
    before = state(cache)
    assert len(before) == 2 + 3 * (2 + 2 * 4)  # table, sets of four shards
    generator = random.Random(0)
    files = list(before)
    for turn, path in enumerate(generator.choices(files, k=count) if count else files):
        (flip, truncate, delete)[turn % 3](cache / path, generator)
        repaired = repair(place, cache)
        assert repaired.left == []
        assert cache / path in repaired.mended
        assert log_of(cache)[-1]["repair"] == repaired.to_json()
        after = state(cache)
        assert {name: content for name, (content, _) in after.items()} == {
            name: content for name, (content, _) in before.items()
        }
        touched = {name for name in after if after[name][1] != before[name][1]}
        beside = {path, path.with_suffix(".h5"), path.with_suffix(".json")}
        if path.name.startswith("utterances"):
            beside.add(path.with_suffix(".parquet"))
        assert path in touched
        assert touched <= beside
        before = after


def test_every_file_of_a_set_at_once(place: tuple[Path, Cluster], cache: Path) -> None:
    before = state(cache)
    [audio] = (cache / "mine" / "audio").iterdir()
    generator = random.Random(1)
    flip(audio / "features.json", generator)
    flip(audio / "quarantine.csv", generator)
    flip(audio / "00000.h5", generator)
    flip(audio / "00001.json", generator)
    (audio / "00002.h5").unlink()
    (audio / "00002.json").unlink()
    flip(cache / "mine" / "utterances.parquet", generator)
    assert repair(place, cache).left == []
    assert {name: content for name, (content, _) in state(cache).items()} == {
        name: content for name, (content, _) in before.items()
    }
    assert repair(place, cache) == Repaired()


def test_two_writers_are_kept_apart(place: tuple[Path, Cluster], cache: Path) -> None:
    [audio] = (cache / "mine" / "audio").iterdir()
    flip(audio / "00001.h5", random.Random(0))
    request = Request("mine", cache, place[0], place[0] / "mine.yaml", "tiny")
    with writing(audio):
        [line] = repair(place, cache).left
        assert f"{audio}: process {os.getpid()} on " in line
        with pytest.raises(ExtractError, match="is writing these features; wait for it"):
            extract_dataset(plan_dataset(request, CONSOLE), place[1], CONSOLE)
    assert repair(place, cache).mended == [audio / "00001.h5"]


def test_features_of_another_model_are_not_mixed_in(
    place: tuple[Path, Cluster], cache: Path
) -> None:
    [audio] = (cache / "mine" / "audio").iterdir()
    fields = read_sealed(audio / "features.json")[0]
    [visual] = (cache / "mine" / "visual").iterdir()
    other = audio.with_name("other-00000000")
    audio.rename(other)
    publish_sealed(other / "features.json", {**fields, "slug": "other"})
    (other / "00000.h5").unlink()
    [line] = repair(place, cache).left
    assert f"{other}: " in line
    assert visual.is_dir()


def test_an_import_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("extract.importers.store.ROWS_PER_SHARD", 3)
    write_import_corpus(tmp_path)
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(mmsa(), 4))
    again = ["import", "file.pkl", "--dataset", "mine", "--manifest", "mine.yaml", "--quiet"]
    assert call(cache_main, *again).code == 0
    sound = {path: path.read_bytes() for path in Path("cache").rglob("*.h5")}
    [audio] = Path("cache/mine/audio").iterdir()
    flip(audio / "00001.h5", random.Random(0))
    (audio / "quarantine.csv").unlink()
    ended = call(cache_main, "repair", "--manifest", "mine.yaml")
    assert ended.code == 1
    assert f"{audio}/00001.h5: damaged, removed" in ended.err
    assert "1 damaged or missing shards are to be imported again from file.pkl" in ended.out
    assert "run egmf-cache import FILE --dataset mine --name file" in ended.out
    assert call(cache_main, *again).code == 0
    assert {path: path.read_bytes() for path in Path("cache").rglob("*.h5")} == sound
    assert call(cache_main, "verify").code == 0
