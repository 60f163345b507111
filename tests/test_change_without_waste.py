"""What a change to a corpus costs: the shards it touches, and no other."""

import csv
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from extract.engine import Cluster
from extract.features import list_feature_sets, open_feature_set
from extract.table import read_table
from pipeline import extraction_plan
from pipeline.extraction import describe_planned, extract_dataset
from pipeline.extraction_plan import Console, ModalityPlan, Request, plan_dataset
from tests.helpers_cache import pretend
from tests.helpers_extract import make_model
from tests.helpers_media import grey, tone, write_clip

MANIFEST = """
datasets:
  mine:
    title: Mine
    task: classification
    language: en
    labels:
      - {name: sad, en: sad, zh: 悲伤}
      - {name: glad, en: glad, zh: 高兴}
    layout: {reader: table, folder: ., table: table.csv}
    protocol: emotion
"""
COUNT, IN_A_SHARD = 10, 4
Rows = list[dict[str, str]]


@dataclass
class Place:
    """A corpus, its cache and the rows of its table."""

    folder: Path
    cache: Path
    rows: Rows
    cluster: Cluster

    def clip(self, number: int, hertz: float) -> None:
        path = self.folder / f"{number}.mp4"
        pictures = [grey(20 + round(hertz) % 200)] * 6
        write_clip(path, pictures=pictures, sound=tone(0.6, hertz))

    def run(self) -> dict[str, tuple[int, int, int]]:
        """Extract; return, by modality, rows touched, shards and utterances encoded."""
        with (self.folder / "table.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        request = Request(
            dataset="mine",
            cache=self.cache,
            data_root=self.folder,
            manifest=self.folder / "mine.yaml",
            preset="tiny",
        )
        planned = plan_dataset(request, CONSOLE)
        touched = {
            one.identity.modality: sum(shard.touched for shard in one.plan.todo)
            for one in planned.modalities
        }
        summary = extract_dataset(planned, self.cluster, CONSOLE)
        assert summary.failures == []
        return {
            one.modality: (touched[one.modality], one.shards_written, one.utterances_encoded)
            for one in summary.modalities
        }

    def values(self) -> dict[str, dict[str, np.ndarray]]:
        """Return every feature in the cache, by modality and id."""
        found = {}
        for one in list_feature_sets(self.cache, "mine"):
            reader = one.reader()
            found[one.modality] = {name: reader.read(name)[0] for name in one.index()}
        return found


@contextmanager
def no_progress(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


CONSOLE = Console(note=lambda line: None, progress=no_progress)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("change")
    (folder / "mine.yaml").write_text(MANIFEST)
    rows = [
        {
            "id": f"u{number}",
            "split": "train" if number < 7 else "test",
            "label": "sad",
            "text": f"text {number}",
            "media": f"{number}.mp4",
        }
        for number in range(COUNT)
    ]
    with pytest.MonkeyPatch.context() as patch, Cluster("cpu", 1, None) as cluster:
        patch.setattr(extraction_plan, "ROWS_PER_SHARD", IN_A_SHARD)
        found = Place(folder, folder / "cache", rows, cluster)
        for number in range(COUNT):
            found.clip(number, 150 + 20 * number)
        assert found.run() == dict.fromkeys(("text", "audio", "visual"), (10, 3, 10))
        yield found


def edit_a_transcript(place: Place) -> None:
    place.rows[5]["text"] = "something else"


def replace_a_clip(place: Place) -> None:
    place.clip(2, 777)


def replace_two_clips_of_a_shard_and_one_of_another(place: Place) -> None:
    for number in (0, 1, 9):
        place.clip(number, 900 + number)


def add_a_row(place: Place) -> None:
    place.clip(10, 555)
    place.rows.insert(3, {**place.rows[0], "id": "u10", "text": "new", "media": "10.mp4"})


def remove_a_row(place: Place) -> None:
    del place.rows[-1]


def move_a_row_to_another_split(place: Place) -> None:
    place.rows[0]["split"] = "valid"


def correct_a_label(place: Place) -> None:
    place.rows[1]["label"] = "glad"


def sort_the_table_otherwise(place: Place) -> None:
    place.rows.reverse()


def move_the_cache(place: Place) -> None:
    place.cache = place.cache.rename(place.folder / "elsewhere")


def copy_the_cache(place: Place) -> None:
    place.cache = Path(shutil.copytree(place.cache, place.folder / "copied"))


def name_a_file_in_another_way(place: Place) -> None:
    (place.folder / "sub").mkdir()
    (place.folder / "4.mp4").rename(place.folder / "sub" / "4.mp4")
    next(row for row in place.rows if row["id"] == "u4")["media"] = "sub/4.mp4"


NONE = (0, 0, 0)


@pytest.mark.parametrize(
    ("change", "ids", "text", "media"),
    [
        # for text, and for audio and visual each: rows touched, shards encoded, rows in those
        (edit_a_transcript, {"u5"}, (1, 1, 4), NONE),
        (replace_a_clip, {"u2"}, NONE, (1, 1, 4)),
        (replace_two_clips_of_a_shard_and_one_of_another, {"u0", "u1", "u9"}, NONE, (3, 2, 6)),
        (add_a_row, {"u10"}, (1, 1, 1), (1, 1, 1)),
        (remove_a_row, set(), NONE, NONE),
        (move_a_row_to_another_split, set(), NONE, NONE),
        (correct_a_label, set(), NONE, NONE),
        (sort_the_table_otherwise, set(), NONE, NONE),
        (name_a_file_in_another_way, set(), NONE, NONE),
        (move_the_cache, set(), NONE, NONE),
        (copy_the_cache, set(), NONE, NONE),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_change_encodes_its_own_shards_only(
    place: Place,
    change: Callable[[Place], None],
    ids: set[str],
    text: tuple[int, int, int],
    media: tuple[int, int, int],
) -> None:
    before = place.values()
    change(place)
    assert place.run() == {"text": text, "audio": media, "visual": media}
    assert place.run() == dict.fromkeys(("text", "audio", "visual"), NONE)

    after = place.values()
    for modality, values in after.items():
        for name, value in values.items():
            old = before[modality].get(name)
            expected = name not in ids or (text if modality == "text" else media) == NONE
            same = old is not None and np.array_equal(old, value)
            assert same == expected, (modality, name)
    table = read_table(place.cache / "mine" / "utterances.parquet").set_index("id")
    for row in place.rows:
        assert table.loc[row["id"], ["split", "label", "text"]].tolist() == [
            row["split"],
            row["label"],
            row["text"],
        ]


def test_a_model_by_another_name_finds_its_features(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    write_clip(tmp_path / "0.mp4", sound=tone(0.6))
    (tmp_path / "mine.yaml").write_text(MANIFEST)
    (tmp_path / "table.csv").write_text("id,split,label,media\nu0,train,sad,0.mp4\n")
    said: list[str] = []

    def plan(model: Path) -> ModalityPlan:
        request = Request(
            "mine", tmp_path / "cache", tmp_path, tmp_path / "mine.yaml",
            specs={"audio": f"whisper:{model}"}, modalities=("audio",),
        )  # fmt: skip
        return plan_dataset(request, Console(said.append, no_progress)).modalities[0]

    first = plan(model)
    pretend(first)
    renamed = plan(model.rename(model.with_name("other.pt")))
    assert renamed.info.slug == "other"
    assert renamed.folder == first.folder
    assert (renamed.plan.todo, renamed.plan.rows_done()) == ((), 1)
    assert said == [f"mine: audio: features of this very encoder are in {first.folder}"]
    shutil.rmtree(first.folder)  # as --fresh does
    describe_planned(renamed)
    described = open_feature_set(first.folder)
    assert f"{described.slug}-{described.fingerprint[:8]}" == first.folder.name
    shutil.rmtree(first.folder)
    assert plan(model.with_name("other.pt")).folder.name.startswith("other-")
