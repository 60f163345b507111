import os
from dataclasses import replace
from pathlib import Path

import pytest

from extract.encoders.base import EncoderInfo, Settings
from extract.plan import MediaFiles, Plan, Row, make_plan, rows_in_a_shard, text_rows
from extract.shards import SetAside, Sidecar, shard_path, sidecar_path, write_sidecar
from extract.table import Utterance
from tests.helpers_media import tone, write_wav

FINGERPRINT = "ab" * 32


def rows(count: int, split: str = "train") -> list[Row]:
    return [Row(f"u{number}", split, f"digest {number}", text="x") for number in range(count)]


def finish(folder: Path, plan: Plan, *, without: tuple[int, ...] = ()) -> None:
    """Mark the planned shards as done, as a worker would."""
    folder.mkdir(exist_ok=True)
    for shard in plan.todo:
        if shard.number in without:
            continue
        shard_path(folder, shard.number).write_bytes(b"12345")
        sidecar = Sidecar(
            dataset="d",
            modality="text",
            fingerprint=FINGERPRINT,
            sha256="",
            size=5,
            ids=[row.id for row in shard.rows],
            digests=[row.digest for row in shard.rows],
            rows=[1 for _ in shard.rows],
            quarantined=[row.absent for row in shard.rows if row.absent is not None],
        )
        write_sidecar(sidecar_path(folder, shard.number), sidecar)


def plan(folder: Path, every: list[Row], **options) -> Plan:
    return make_plan(folder, FINGERPRINT, every, 4, **options)


def todo(planned: Plan) -> dict[int, list[str]]:
    return {shard.number: [row.id for row in shard.rows] for shard in planned.todo}


def test_rows_are_chunked_in_the_tables_order(tmp_path: Path) -> None:
    planned = plan(tmp_path / "f", rows(10))
    assert todo(planned) == {
        0: ["u0", "u1", "u2", "u3"],
        1: ["u4", "u5", "u6", "u7"],
        2: ["u8", "u9"],
    }
    assert (planned.rows_todo(), planned.rows_done()) == (10, 0)


def test_nothing_is_to_do_twice(tmp_path: Path) -> None:
    finish(tmp_path, plan(tmp_path, rows(10)))
    again = plan(tmp_path, rows(10))
    assert (todo(again), again.rows_done()) == ({}, 10)
    assert todo(plan(tmp_path, rows(10), fresh=True)) == todo(plan(tmp_path / "f", rows(10)))


def test_a_run_that_stopped_goes_on_with_the_same_shards(tmp_path: Path) -> None:
    whole = plan(tmp_path, rows(18))
    finish(tmp_path, whole, without=(1, 3))
    rest = plan(tmp_path, rows(18))
    assert todo(rest) == {number: todo(whole)[number] for number in (1, 3)}


def test_new_rows_go_into_new_shards(tmp_path: Path) -> None:
    old = rows(6)
    finish(tmp_path, plan(tmp_path, old))
    new = [Row(f"n{number}", "train", "d") for number in range(5)]
    mixed = [new[0], *old[:3], *new[1:4], *old[3:], new[4]]
    assert todo(plan(tmp_path, mixed)) == {2: ["n0", "n1", "n2", "n3"], 3: ["n4"]}


def test_a_changed_input_writes_its_own_shard_anew(tmp_path: Path) -> None:
    every = rows(10)
    finish(tmp_path, plan(tmp_path, every))
    every[5] = replace(every[5], digest="edited")
    again = plan(tmp_path, [*every, *rows(11)[10:]])
    assert todo(again) == {1: ["u4", "u5", "u6", "u7"], 3: ["u10"]}
    assert [(shard.why, shard.touched) for shard in again.todo] == [("changed", 1), ("new", 1)]
    afresh = plan(tmp_path, every, fresh=True)
    assert [(shard.why, shard.touched) for shard in afresh.todo] == [
        ("fresh", 4),
        ("fresh", 4),
        ("fresh", 2),
    ]


def test_moved_splits_and_a_new_order_change_nothing(tmp_path: Path) -> None:
    every = rows(10)
    finish(tmp_path, plan(tmp_path, every))
    moved = [replace(row, split="test") for row in reversed(every)]
    assert todo(plan(tmp_path, moved)) == {}


def test_rows_that_left_the_table_stay_out_of_a_shard_written_anew(tmp_path: Path) -> None:
    every = rows(10)
    finish(tmp_path, plan(tmp_path, every))
    del every[4]
    assert todo(plan(tmp_path, every)) == {}
    every[4] = replace(every[4], digest="edited")
    assert todo(plan(tmp_path, every)) == {1: ["u5", "u6", "u7"]}


def test_limit_takes_whole_shards_of_the_full_plan(tmp_path: Path) -> None:
    whole = todo(plan(tmp_path, rows(10)))
    assert todo(plan(tmp_path, rows(10), limit=5)) == {0: whole[0], 1: whole[1]}
    finish(tmp_path, plan(tmp_path, rows(10), limit=5))
    assert todo(plan(tmp_path, rows(10), limit=8)) == {}
    assert todo(plan(tmp_path, rows(10))) == {2: whole[2]}


def test_split_takes_the_shards_that_hold_it(tmp_path: Path) -> None:
    every = [*rows(6), *(replace(row, id=f"t{row.id}", split="test") for row in rows(3))]
    assert list(todo(plan(tmp_path, every, splits=("test",)))) == [1, 2]
    assert list(todo(plan(tmp_path, every, splits=("train",)))) == [0, 1]


def test_a_damaged_or_foreign_shard_is_not_done(tmp_path: Path) -> None:
    finish(tmp_path, plan(tmp_path, rows(10)))
    shard_path(tmp_path, 1).write_bytes(b"short")
    assert list(todo(plan(tmp_path, rows(10)))) == []  # same size: a reader's checksums see it
    shard_path(tmp_path, 1).write_bytes(b"longer than it was")
    sidecar_path(tmp_path, 2).write_text("{")
    assert list(todo(plan(tmp_path, rows(10)))) == [1, 2]
    assert len(make_plan(tmp_path, "cd" * 32, rows(10), 4).todo) == 3


def test_quarantined_rows_are_tried_again_only_if_their_file_is_there(tmp_path: Path) -> None:
    every = rows(8)
    finish(tmp_path, plan(tmp_path, every))
    damaged = SetAside("u1", "u1.mp4", "decode", "damaged")
    gone = SetAside("u5", "u5.mp4", "open", "no such file")
    every[5] = replace(every[5], absent=gone)
    for number, one in ((0, damaged), (1, gone)):
        path = sidecar_path(tmp_path, number)
        ids = [f"u{number * 4 + row}" for row in range(4)]
        digests = [f"digest {number * 4 + row}" for row in range(4)]
        sidecar = Sidecar("d", "text", FINGERPRINT, "", 5, ids, digests, [1] * 4, [one])
        write_sidecar(path, sidecar)
    assert todo(plan(tmp_path, every)) == {}
    retried = plan(tmp_path, every, retry_quarantined=True)
    assert list(todo(retried)) == [0]
    assert [(shard.why, shard.touched) for shard in retried.todo] == [("retried", 1)]


def test_text_without_words_is_absent() -> None:
    found = text_rows(
        [Utterance("a", "train", "hi"), Utterance("b", "train"), Utterance("c", "train", "  ")]
    )
    assert [row.absent and row.absent.reason for row in found] == [
        None,
        "no transcript",
        "empty transcript",
    ]
    assert found[0].digest != text_rows([Utterance("a", "train", "ho")])[0].digest


def test_media_are_told_apart_by_size_time_and_span(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(0.2))
    os.utime(path, ns=(0, 10**18))

    def digest(start: float | None = None, *, hash_media: bool = False) -> str:
        utterance = Utterance("a", "train", audio="a.wav", start=start)
        return MediaFiles(tmp_path, hash_media=hash_media).rows([utterance], "audio")[0].digest

    first, hashed = digest(), digest(hash_media=True)
    assert digest() == first
    assert digest(start=0.1) != first
    os.utime(path, ns=(0, 10**18 + 10**10))
    assert digest() != first
    assert digest(hash_media=True) == hashed
    write_wav(path, tone(0.2, 500))
    os.utime(path, ns=(0, 10**18 + 10**10))
    assert digest(hash_media=True) != hashed


def test_files_that_are_not_there_or_not_inside_are_absent(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_wav(tmp_path / "outside.wav", tone(0.2))
    (root / "link.wav").symlink_to(tmp_path / "outside.wav")

    def reason(file: str | None, *, allow_symlinks: bool = False) -> str | None:
        files = MediaFiles(root, allow_symlinks=allow_symlinks)
        absent = files.rows([Utterance("a", "train", audio=file)], "audio")[0].absent
        return absent and absent.reason

    assert reason("none.wav") == "no such file"
    assert reason(None) == "no file in the table"
    assert "climbs" in str(reason("../outside.wav"))
    assert "absolute" in str(reason(str(tmp_path / "outside.wav")))
    assert "symbolic link" in str(reason("link.wav"))
    assert reason("link.wav", allow_symlinks=True) is None


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(None, None)], 87),  # 30 s x 50 rows x 1,024 x 2 bytes = 3.1 MB; 87 of them are 256 MiB
        ([(0.0, 3.0), (1.0, 2.0)], 512),
        ([(0.0, 300.0), (1.0, 2.0)], 87),
    ],
)
def test_shards_stay_below_their_size(
    spans: list[tuple[float | None, float | None]], expected: int
) -> None:
    info = EncoderInfo("s", "k", "audio", "s", "l", "d", 1024, 50.0, False, {}, "float32")
    every = [Row("a", "train", "d", start=start, end=end) for start, end in spans]
    assert rows_in_a_shard(512, info, Settings(), every) == expected
