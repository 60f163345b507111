"""The log in a dataset's folder of the cache: one line of JSON for each run that wrote to it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from extract.files import append_json_line

LOG_NAME = "extract-log.jsonl"


def log_run(dataset: Path, fields: Mapping[str, Any]) -> None:
    """Append what a run did.

    Args:
        dataset: The dataset's folder in the cache.
        fields: JSON values by name.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    append_json_line(dataset / LOG_NAME, {"finished": finished, **fields})
