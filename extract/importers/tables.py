"""CSV and Parquet: one row an utterance, its numeric columns the feature vector.

Columns that a table of utterances uses for something else (`label`, `score`, `start`, ...) stay
out: a label among the features would make any model look brilliant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from extract.errors import ExtractError
from extract.importers.base import SPLIT_WORDS, Part, padded_part, split_of_file
from extract.table import SCHEMA

if TYPE_CHECKING:
    import pandas as pd

ID_COLUMNS = ("id", "filename", "file", "name")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MISSING = ["", "nan", "NaN", "NA", "N/A", "null", "None"]
_NO_FEATURES = {
    *SCHEMA.names, *ID_COLUMNS,
    "class", "emo", "emotion", "mode", "sentiment", "target", "val", "y",
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Which columns of a table became features, and which did not."""

    features: tuple[str, ...]
    left_out: tuple[str, ...]


def table_parts(path: Path, split: str | None, modality: str | None) -> tuple[list[Part], Columns]:
    """Return the parts of a table, one for each split that it speaks of, and its columns.

    Args:
        path: A CSV, TSV or Parquet file.
        split: Which split it is, where it has no `split` column.
        modality: Which modality it is; a table never says so.

    Raises:
        ExtractError: the file is damaged, or has no column of ids or of numbers.
    """
    if modality is None:
        raise ExtractError(f"{path} does not say its modality; give --modality")
    frame = _read(path)
    names = _lower_names(frame.columns)
    id_column = next((names[name] for name in ID_COLUMNS if name in names), None)
    if id_column is None:
        raise ExtractError(
            f"{path} has no column of ids ({', '.join(ID_COLUMNS)}); "
            f"its columns are {', '.join(frame.columns[:12])}"
        )
    columns = _choose_columns(path, frame, id_column)
    known = split or split_of_file(path)
    if "split" not in names:
        return [_part(path, modality, known, frame, id_column, columns)], columns
    words = frame[names["split"]].astype(str).str.strip().str.lower()
    if unknown := sorted(set(words) - SPLIT_WORDS.keys()):
        raise ExtractError(f"{path}: split {unknown[0]!r:.40} is unknown")
    return [
        _part(path, modality, str(part), rows, id_column, columns)
        for part, rows in frame.groupby(words.map(SPLIT_WORDS), sort=False)
    ], columns


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            table = pq.read_table(path)
            table.validate(full=True)  # what text is no UTF-8 would otherwise fail later
            frame = table.to_pandas(ignore_metadata=True)
        else:
            delimiter = _DELIMITERS[path.suffix.lower()]
            columns = pd.read_csv(path, sep=delimiter, nrows=0, encoding="utf-8-sig").columns
            # Ids stay text: 0012 keeps its zeros, and an utterance may be called NA.
            texts = [name for name in columns if name.lower() in (*ID_COLUMNS, "split")]
            frame = pd.read_csv(
                path,
                sep=delimiter,
                dtype=dict.fromkeys(texts, str),
                keep_default_na=False,
                na_values={name: _MISSING for name in columns if name not in texts},
                encoding="utf-8-sig",
            )
    except FileNotFoundError:
        raise ExtractError(f"{path}: no such file") from None
    except (OSError, ValueError, pa.ArrowException) as error:  # pandas raises ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise ExtractError(f"{path} is no readable table: {reason}") from None
    if frame.empty:
        raise ExtractError(f"{path} has no rows")
    return frame.rename(columns=str)


def _choose_columns(path: Path, frame: pd.DataFrame, id_column: str) -> Columns:
    """Tell the feature columns from the others.

    Raises:
        ExtractError: there is none, or one holds numbers and something else.
    """
    import pandas as pd

    features, left_out = [], []
    for name in frame.columns:
        cells = frame[name]
        if name == id_column:
            continue
        if name.lower() in _NO_FEATURES or name.startswith("__"):  # pandas' own index
            left_out.append(name)
        elif pd.api.types.is_numeric_dtype(cells.dtype):
            features.append(name)
        else:
            numbers = pd.to_numeric(cells, errors="coerce")
            wrong = np.flatnonzero(numbers.isna() & cells.notna())
            if len(wrong) <= len(cells) / 2:
                raise ExtractError(
                    f"{path}: column {name!r} holds {cells.iloc[wrong[0]]!r:.40} "
                    f"in row {wrong[0] + 1}, expected a number"
                )
            left_out.append(name)
    if not features:
        raise ExtractError(f"{path} has no numeric columns that could be features")
    return Columns(tuple(features), tuple(left_out))


def _part(
    path: Path,
    modality: str,
    split: str | None,
    rows: pd.DataFrame,
    id_column: str,
    columns: Columns,
) -> Part:
    values = rows[list(columns.features)]
    kinds = [dtype if isinstance(dtype, np.dtype) else np.float64 for dtype in values.dtypes]
    array = values.to_numpy(np.result_type(*kinds), na_value=np.nan)
    names = rows[id_column].astype(str).str.strip().tolist()
    return padded_part(path.name, modality, split, array, names=names)


def _lower_names(columns: pd.Index[str]) -> dict[str, str]:
    return {name.lower(): name for name in reversed(columns)}
