"""Features on their way to the model: pooling, scaling and its memory, bounds, reading ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from extract.features import FeatureSet, list_feature_sets, open_feature_set
from extract.shards import Features as Stored
from extract.shards import Shard
from pipeline.ahead import ahead
from pipeline.features import Features, RowStore
from pipeline.pooling import pool_rows
from pipeline.scaling import (
    MEMORY_NAME,
    Scaling,
    fit_scaling,
    moments_of,
    read_scaling,
    remember_sums,
    write_scaling,
)
from pipeline.settings import TrainSettings
from tests.helpers_toy import DIMS, toy_table, write_feature_set, write_toy_cache

IDS = tuple(f"u{number}" for number in range(6))
COUNTS = (3, 1, 0, 5, 2, 4)


def values(seed: int = 0) -> dict[str, NDArray[np.float16]]:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=(count, 8)) * 3 + 1).astype(np.float16)
        for name, count in zip(IDS, COUNTS, strict=True)
    }


def write(cache: Path, rows: dict[str, NDArray[np.float16]]) -> FeatureSet:
    """Write two shards, of three utterances each."""
    stored = [Stored(each, np.arange(len(each), dtype=np.float32)) for each in rows.values()]
    return open_feature_set(write_feature_set(cache, "audio", list(rows), stored))


def by_hand(rows: list[NDArray[np.float16]], pool: int) -> Scaling:
    pooled = [
        each[start : start + pool].astype(np.float64).mean(axis=0)
        for each in rows
        for start in range(0, len(each), pool)
    ]
    table = np.stack(pooled)
    return Scaling(table.mean(axis=0).astype(np.float32), table.std(axis=0).astype(np.float32))


@given(st.integers(0, 40), st.integers(1, 12), st.sampled_from([np.float16, np.float32]))
def test_pooling_averages_successive_rows(rows: int, count: int, dtype: type) -> None:
    value = np.random.default_rng(rows).normal(size=(rows, 3)).astype(dtype)
    pooled = pool_rows(value, count)
    assert pooled.dtype == np.float32
    assert len(pooled) == -(-rows // count)
    for place, row in enumerate(pooled):
        part = value[place * count : (place + 1) * count].astype(np.float64)
        np.testing.assert_allclose(row, part.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_half_precision_is_converted_exactly() -> None:
    """All 65,536 patterns that are numbers, subnormal ones included."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 64)
    np.testing.assert_array_equal(pool_rows(finite, 1), finite.astype(np.float32))


@pytest.mark.parametrize("pool", [1, 2, 4])
def test_scaling_is_the_mean_and_deviation_of_the_pooled_rows(tmp_path: Path, pool: int) -> None:
    rows = values()
    train = ["u0", "u3", "u4"]
    for _ in range(2):  # the second time from what was remembered
        found = fit_scaling({"audio": write(tmp_path, rows)}, {"audio": pool}, train)["audio"]
        expected = by_hand([rows[name] for name in train], pool)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6)
        np.testing.assert_allclose(found.deviation, expected.deviation, rtol=1e-6)


def test_a_constant_dimension_is_left_as_it_is(tmp_path: Path) -> None:
    rows = {name: np.full((2, 8), 7, np.float16) for name in IDS}
    scaling = fit_scaling({"audio": write(tmp_path, rows)}, {}, IDS)["audio"]
    np.testing.assert_array_equal(scaling.mean, np.full(8, 7.0))
    np.testing.assert_array_equal(scaling.deviation, np.ones(8))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that are opened, in order."""
    names: list[str] = []
    original = Shard.__init__

    def spy(self: Shard, path: Path, *rest: Any) -> None:
        names.append(path.name)
        original(self, path, *rest)

    monkeypatch.setattr(Shard, "__init__", spy)
    return names


def test_only_what_changed_is_summed_again(tmp_path: Path, opened: list[str]) -> None:
    rows = values()
    features = write(tmp_path, rows)
    opened.clear()
    first = moments_of(features, IDS)
    assert opened == ["00000.h5", "00001.h5"]
    opened.clear()
    again = moments_of(features, IDS)
    assert opened == []
    np.testing.assert_array_equal(first.total, again.total)
    np.testing.assert_array_equal(first.squares, again.squares)
    # Another split touches the shard whose rows it moves, and other pooling every one.
    moved = moments_of(features, IDS[:-1])
    assert opened == ["00001.h5"]
    assert moved.rows == sum(COUNTS[:-1])
    opened.clear()
    assert moments_of(features, IDS, 2).rows == sum(-(-count // 2) for count in COUNTS)
    assert opened == ["00000.h5", "00001.h5"]
    opened.clear()
    moments_of(features, IDS)
    assert opened == []
    # An edited shard is summed again, and no other.
    changed = write(tmp_path, {**rows, "u5": rows["u5"] + np.float16(1)})
    opened.clear()
    after = moments_of(changed, IDS)
    assert opened == ["00001.h5"]
    np.testing.assert_allclose(after.total, first.total + COUNTS[5], atol=1e-2)


def test_extraction_leaves_nothing_for_training_to_read(tmp_path: Path, opened: list[str]) -> None:
    write_toy_cache(tmp_path)
    opened.clear()
    remember_sums(tmp_path, "toy")
    assert len(opened) == 2 * len(DIMS)
    opened.clear()
    sets = {each.modality: each for each in list_feature_sets(tmp_path, "toy")}
    table = toy_table()
    fit_scaling(sets, TrainSettings().pool, table.loc[table["split"] == "train", "id"].tolist())
    assert opened == []


@pytest.mark.parametrize("damage", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_damaged_memory_is_no_memory(tmp_path: Path, damage: bytes) -> None:
    features = write(tmp_path, values())
    expected = moments_of(features, IDS)
    (features.folder / MEMORY_NAME).write_bytes(damage)
    found = moments_of(features, IDS)
    np.testing.assert_array_equal(found.total, expected.total)


def test_memory_of_another_width_is_no_memory(tmp_path: Path) -> None:
    features = write(tmp_path, values())
    np.savez(
        features.folder / MEMORY_NAME,
        keys=np.array(["a"]),
        rows=np.array([1]),
        total=np.zeros((1, 3)),
        squares=np.zeros((1, 3)),
    )
    assert moments_of(features, IDS).total.shape == (8,)


def test_a_cache_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    features = write(tmp_path, values())
    (features.folder / MEMORY_NAME).mkdir()  # nothing can be published there
    assert moments_of(features, IDS).rows == sum(COUNTS)


def test_scaling_comes_back(tmp_path: Path) -> None:
    scaling = Scaling(np.array([0.1, 2.0], np.float32), np.array([1.0, 1 / 3], np.float32))
    write_scaling({"audio": scaling}, tmp_path / "scaling.json")
    found = read_scaling(tmp_path / "scaling.json")["audio"]
    np.testing.assert_array_equal(found.mean, scaling.mean)
    np.testing.assert_array_equal(found.deviation, scaling.deviation)


def test_the_store_keeps_what_fits() -> None:
    store = RowStore(4 * 10)
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    store.put(("audio", "a"), rows)
    store.put(("audio", "b"), rows)  # no room for a second one
    store.put(("audio", "none"), np.zeros((0, 2), np.float32))
    store.put(("audio", "c"), rows[:2] + 1)
    kept = store.get(("audio", "a"), 2)
    assert kept is not None
    np.testing.assert_array_equal(kept, rows)
    assert store.get(("audio", "b"), 2) is None
    none = store.get(("audio", "none"), 2)
    assert none is not None
    assert none.shape == (0, 2)
    last = store.get(("audio", "c"), 2)
    assert last is not None
    np.testing.assert_array_equal(last, rows[:2] + 1)


@pytest.mark.parametrize("limit", [0, 200, 1 << 20])
def test_batches_are_the_same_whatever_is_kept(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.features.MEMORY_BYTES", limit)
    monkeypatch.setattr("pipeline.features.MEANS_BYTES", limit)
    rows = values()
    sets = {"audio": write(tmp_path, rows)}
    scaling = fit_scaling(sets, {"audio": 2}, IDS)
    features = Features(sets, {"audio": 2}, scaling)
    for _ in range(2):
        stream = features.batch(IDS)["audio"]
        assert stream.value.shape == (6, 3, 8)
        assert stream.mask.sum(dim=1).tolist() == [-(-count // 2) for count in COUNTS]
        mean, deviation = scaling["audio"].mean, scaling["audio"].deviation
        for place, name in enumerate(IDS):
            pooled = pool_rows(rows[name], 2)
            found = stream.value[place].numpy()
            np.testing.assert_array_equal(found[: len(pooled)], (pooled - mean) / deviation)
            assert not found[len(pooled) :].any()
            own = features.mean("audio", name)
            if len(pooled):
                np.testing.assert_array_equal(own, (pooled.mean(axis=0) - mean) / deviation)
            else:
                assert own is None
            assert features.has("audio", name) == bool(len(pooled))


def test_work_is_done_ahead_in_order_and_in_bounds() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    results = ahead(work, range(20), depth=3)
    assert next(results) == (0, 0)
    time.sleep(0.05)
    assert len(begun) <= 4
    assert list(results) == [(item, item * item) for item in range(1, 20)]
    assert begun == list(range(20))


def test_an_error_comes_when_its_item_is_due() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("item two")
        return item

    results = ahead(work, range(5))
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="item two"):
        next(results)


def test_leaving_early_leaves_no_thread() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    before = set(threading.enumerate())
    results = ahead(lambda item: item, endless())
    next(results)
    results.close()
    assert not set(threading.enumerate()) - before
