"""Write feature sets as a pickle in MMSA's form, for programs that read nothing else.

`{train, valid, test}`, each with `id` (`video$_$clip`), `raw_text`, `text`, `audio` and `vision`
(`[count, time, dim]`, zeros behind each utterance), `*_lengths`, `regression_labels`,
`classification_labels` and `annotations`. MMSA has no `text_lengths` (it counts BERT's mask); here
they are written, so that importing the file again gives back the same rows.

The pickle is written opcode by opcode: arrays pass through utterance by utterance, where `pickle`
would want them in memory twice, and they carry the names that every version of numpy reads.

Source: https://github.com/thuiar/MMSA (README, `data_loader.py`).
"""

from __future__ import annotations

import pickle
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from extract.errors import ExtractError
from extract.features import FeatureSet
from extract.files import publishing
from extract.shards import Shard, shard_path

MMSA_NAMES = {"visual": "vision"}
_SIGNS = ("Negative", "Neutral", "Positive")


@dataclass(frozen=True)
class Utterance:
    """What MMSA's form keeps of an utterance besides its features."""

    id: str
    split: str
    group: str | None
    text: str | None
    label: str | None
    score: float | None


def export_mmsa(
    path: Path,
    utterances: Sequence[Utterance],
    sets: Mapping[str, FeatureSet],
    labels: Sequence[str],
    advance: Callable[[int], None],
) -> int:
    """Write every utterance with its features; return the file's size in bytes.

    Args:
        path: The file to write, all or nothing.
        utterances: Every row of the table.
        sets: One feature set for each modality.
        labels: Class names in the field's order; empty for a corpus that has scores alone.
        advance: Counts utterances as done, once for each modality.

    Raises:
        ExtractError: a set lacks an utterance, a shard is damaged, or the disk is too small.
    """
    rows = {name: _RawRows(each) for name, each in sets.items()}
    size = sum(each.padded_bytes(len(utterances)) for each in rows.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise ExtractError(
            f"{path}: padding makes {size / 2**30:.1f} GiB of these features, "
            f"and the disk has {free / 2**30:.1f} GiB free"
        )
    splits: dict[str, list[Utterance]] = {"train": [], "valid": [], "test": []}
    for one in utterances:
        splits.setdefault(one.split, []).append(one)
    with publishing(path) as temporary, temporary.open("wb") as stream:
        writer = _Writer(stream)
        writer.begin_dict()
        for split, members in splits.items():
            writer.text(split)
            _write_split(writer, members, rows, labels, advance)
        writer.end_dict()
        writer.stop()
        return stream.tell()


def mmsa_id(one: Utterance) -> str:
    """Return `video$_$clip`, or the id itself where it does not begin with its group."""
    if one.group and one.id.startswith(f"{one.group}_"):
        return f"{one.group}$_${one.id[len(one.group) + 1 :]}"
    return one.id


def _write_split(
    writer: _Writer,
    members: Sequence[Utterance],
    rows: Mapping[str, _RawRows],
    labels: Sequence[str],
    advance: Callable[[int], None],
) -> None:
    writer.begin_dict()
    writer.text("id")
    writer.texts(mmsa_id(one) for one in members)
    writer.text("raw_text")
    writer.texts(one.text or "" for one in members)
    for modality, each in rows.items():
        name = MMSA_NAMES.get(modality, modality)
        shape = (len(members), each.longest, each.dim)
        writer.text(name)
        writer.array(each.dtype, shape, each.padded((one.id for one in members), advance))
        lengths = np.array([each.length(one.id) for one in members], np.int64)
        writer.text(f"{name}_lengths")
        writer.array(lengths.dtype, lengths.shape, [lengths])
    classes, annotations = _classes(members, labels)
    writer.text("classification_labels")
    writer.array(classes.dtype, classes.shape, [classes])
    writer.text("annotations")
    writer.texts(annotations)
    scores = np.array([np.nan if one.score is None else one.score for one in members], np.float32)
    if not np.isnan(scores).all():
        writer.text("regression_labels")
        writer.array(scores.dtype, scores.shape, [scores])
    writer.end_dict()


def _classes(
    members: Sequence[Utterance], labels: Sequence[str]
) -> tuple[NDArray[np.int64], list[str]]:
    """Return each utterance's class and its name; without labels, the sign of its score."""
    if labels:
        numbers = {name: number for number, name in enumerate(labels)}
        classes = [-1 if one.label is None else numbers[one.label] for one in members]
        return np.array(classes, np.int64), [one.label or "" for one in members]
    signs = [int(np.sign(one.score or 0.0)) + 1 for one in members]
    return np.array(signs, np.int64), [_SIGNS[sign] for sign in signs]


class _RawRows:
    """One feature set's rows in their stored type, one shard open at a time."""

    def __init__(self, features: FeatureSet) -> None:
        self._features = features
        self._index = features.index()
        self._lengths = features.lengths()
        self._shard: Shard | None = None
        self._number = -1
        self.dim = features.dim
        self.dtype = np.dtype(features.dtype)
        self.longest = max([1, *self._lengths.values()])

    def padded_bytes(self, count: int) -> int:
        return count * self.longest * self.dim * self.dtype.itemsize

    def length(self, name: str) -> int:
        if name not in self._lengths:
            raise ExtractError(
                f"{self._features.folder}: no features of {name}; extract or import them first"
            )
        return self._lengths[name]

    def padded(
        self, names: Iterable[str], advance: Callable[[int], None]
    ) -> Iterator[NDArray[Any]]:
        """Yield each utterance with zeros behind its rows, `[longest, dim]`."""
        for name in names:
            block = np.zeros((self.longest, self.dim), self.dtype)
            if count := self.length(name):
                block[:count] = self._read(name)
            yield block
            advance(1)

    def _read(self, name: str) -> NDArray[Any]:
        number, row = self._index[name]
        if self._shard is None or number != self._number:
            if self._shard is not None:
                self._shard.close()
            folder, fingerprint = self._features.folder, self._features.fingerprint
            self._shard, self._number = Shard(shard_path(folder, number), fingerprint), number
        return self._shard.read(row).value


class _Writer:
    """Writes a pickle of protocol 4: dicts, lists of text, and numpy arrays."""

    def __init__(self, stream: BinaryIO) -> None:
        self._put = stream.write
        self._put(pickle.PROTO + b"\x04")

    def stop(self) -> None:
        self._put(pickle.STOP)

    def begin_dict(self) -> None:
        self._put(pickle.EMPTY_DICT + pickle.MARK)

    def end_dict(self) -> None:
        self._put(pickle.SETITEMS)

    def text(self, value: str) -> None:
        encoded = value.encode()
        self._put(pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded)

    def texts(self, values: Iterable[str]) -> None:
        self._put(pickle.EMPTY_LIST + pickle.MARK)
        for value in values:
            self.text(value)
        self._put(pickle.APPENDS)

    def array(
        self, dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]
    ) -> None:
        """Write an array whose values come in blocks, first axis first."""
        self._put(
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
            + b"K\x00\x85C\x01b\x87R"  # called with (ndarray, (0,), b"b")
            + b"(K\x01("  # the state's version, and the shape
            + b"".join(pickle.BININT + struct.pack("<i", size) for size in shape)
            + b"tcnumpy\ndtype\n"
        )
        self.text(dtype.str[1:])
        self._put(pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3 + pickle.REDUCE + b"(K\x03")
        self.text(dtype.str[0])
        self._put(b"NNN" + 2 * (pickle.BININT + struct.pack("<i", -1)) + b"K\x00tb")
        length = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._put(pickle.NEWFALSE + pickle.BINBYTES8 + struct.pack("<Q", length))
        for block in blocks:
            self._put(block.tobytes())
        self._put(pickle.TUPLE + pickle.BUILD)
