"""Export a dataset's cached features in MMSA's form."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from extract.exporters import Utterance, export_mmsa
from extract.table import read_table
from pipeline.items import utterances_of
from pipeline.manifest import load_manifest
from pipeline.sources import Source, choose_feature_sets


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    bytes: int
    utterances: int
    encoders: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "path": str(self.path)}


def export_features(
    source: Source,
    out: Path,
    say: Callable[[str], None],
    progress: Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]],
) -> Exported:
    """Write one feature set of each modality, with the table's labels, to a pickle.

    Raises:
        PipelineError: the dataset is unknown, or no or several feature sets fit.
        ExtractError: the table or a shard is damaged, or the disk is too small.
    """
    entry = load_manifest(source.manifest).dataset(source.dataset)
    table = read_table(source.cache / source.dataset / "utterances.parquet")
    sets = choose_feature_sets(source, say)
    utterances = [
        Utterance(each.id, each.split, each.group, each.text, each.label, each.score)
        for each in utterances_of(table)
    ]
    labels = [label.name for label in entry.labels]
    with progress(f"{entry.name}: writing", len(utterances) * len(sets), "rows") as advance:
        size = export_mmsa(out, utterances, sets, labels, advance)
    encoders = {name: each.encoder for name, each in sets.items()}
    return Exported(out, size, len(utterances), encoders)
