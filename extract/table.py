"""The utterance table: one row an utterance, the one place where splits and labels live.

Stage one reads where each utterance's words, voice and face are; stage two reads ids, splits,
labels and dialogue order. The features know only ids, so a corrected label touches no shard.
Parquet keeps the types; the schema is fixed here, so that every reader of a corpus hands over the
same columns. Its pages carry checksums, which every reader checks; those do not reach into the
file's own description, so that a record beside the table (`utterances.json`) holds its digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from extract.errors import ExtractError
from extract.files import publishing, sha256_of
from extract.sealed import publish_sealed, read_sealed

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
SPLITS = ("train", "valid", "test", "unlabelled")

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string()),  # canonical class name
        pa.field("score", pa.float64()),  # regression target
        pa.field("text", pa.string()),
        pa.field("language", pa.string(), nullable=False),  # "en", "zh", ...
        pa.field("group", pa.string()),  # dialogue or video
        pa.field("order", pa.int64()),  # place of the utterance in its group
        pa.field("speaker", pa.string()),
        pa.field("media", pa.string()),  # POSIX paths relative to the corpus's root
        pa.field("audio", pa.string()),  # overrides `media` for the audio stream
        pa.field("video", pa.string()),  # overrides `media` for the video stream
        pa.field("start", pa.float64()),  # seconds in the file
        pa.field("end", pa.float64()),
    ],
    metadata={"egmf_table_format": str(FORMAT_VERSION)},
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """What stage one needs to know of one row."""

    id: str
    split: str
    text: str | None = None
    audio: str | None = None
    video: str | None = None
    start: float | None = None
    end: float | None = None


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write `frame` to `path` as Parquet, all or nothing; leave a file alone that holds the same.

    Columns of `SCHEMA` that the frame lacks are written as nulls.

    Raises:
        ExtractError: a column is unknown, or holds values of another type.
    """
    import pyarrow.parquet as pq

    unknown = [str(column) for column in frame.columns if column not in SCHEMA.names]
    if unknown:
        raise ExtractError(f"{path}: the table has unknown columns: {', '.join(unknown)}")
    complete = frame.reindex(columns=SCHEMA.names)
    try:
        table = pa.Table.from_pandas(complete, schema=SCHEMA, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise ExtractError(f"{path}: the table does not fit its columns' types: {error}") from error
    table = table.replace_schema_metadata(SCHEMA.metadata)
    if table_problem(path) is None:
        try:
            if pq.read_table(path).equals(table, check_metadata=True):
                return
        except (OSError, pa.ArrowException):
            pass  # what is there is no table
    with publishing(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
    publish_sealed(record_path(path), {"format_version": FORMAT_VERSION, "sha256": sha256_of(path)})


def record_path(path: Path) -> Path:
    """Return the place of the record that holds a table's digest."""
    return path.with_suffix(".json")


def table_problem(path: Path) -> tuple[Path, str] | None:
    """Hold a table against its record; return the file that is at fault, and why."""
    record = record_path(path)
    try:
        fields, problem = read_sealed(record)
    except FileNotFoundError:
        problem, fields = "missing", {}
    except (OSError, ValueError) as error:
        problem, fields = f"not readable ({error})", {}
    if problem is not None:
        return record, f"{problem}; run egmf-extract again to write it anew"
    try:
        same = sha256_of(path) == fields.get("sha256")
    except OSError as error:
        return path, f"cannot be read: {error.strerror}; run egmf-extract again to write it anew"
    if same:
        return None
    return path, "not the bytes that its record describes; run egmf-extract again to write it anew"


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table that `write_table` wrote, or some of its columns.

    Returns:
        The frame, with `None` for missing text, NaN for missing numbers and pandas' `Int64` for
        `order`.

    Raises:
        ExtractError: the file is missing, is not such a table, or has another format version.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(
            path, columns=columns and list(columns), page_checksum_verification=True
        )
    except FileNotFoundError as error:
        raise ExtractError(f"{path}: no such table; run egmf-extract first") from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ExtractError(
            f"{path}: not a readable Parquet file ({reason}); run egmf-extract again to write it "
            "anew"
        ) from error
    found = (table.schema.metadata or {}).get(b"egmf_table_format", b"none").decode()
    if found != str(FORMAT_VERSION):
        raise ExtractError(
            f"{path}: table format {found}, but this version reads format {FORMAT_VERSION}; "
            "run egmf-extract again to write it anew"
        )
    frame = table.to_pandas(types_mapper={pa.int64(): _nullable_integer()}.get)
    for field in table.schema:
        if pa.types.is_string(field.type):
            values = frame[field.name].astype(object)
            frame[field.name] = values.where(values.notna(), None)
    del table
    pa.default_memory_pool().release_unused()  # else a large table's memory stays taken
    return frame


def utterances(frame: pd.DataFrame) -> list[Utterance]:
    """Return the rows of a table as `Utterance`s, with one file named for each stream."""
    texts = [_texts(frame, name) for name in ("id", "split", "text", "media", "audio", "video")]
    spans = [_numbers(frame, name) for name in ("start", "end")]
    return [
        Utterance(name, split, words, sound or file, pictures or file, start, end)
        for name, split, words, file, sound, pictures, start, end in zip(
            *texts, *spans, strict=True
        )
    ]


def _texts(frame: pd.DataFrame, name: str) -> list[Any]:
    """Return a column of texts, None where there is none."""
    if name not in frame:
        return [None] * len(frame)
    return [value if isinstance(value, str) else None for value in frame[name].tolist()]


def _numbers(frame: pd.DataFrame, name: str) -> list[float | None]:
    """Return a column of numbers, None where there is none."""
    if name not in frame:
        return [None] * len(frame)
    values = frame[name].astype("float64").tolist()
    return [None if value != value else value for value in values]  # NaN differs from itself


def _nullable_integer() -> Any:
    import pandas as pd

    return pd.Int64Dtype()
