"""What a run of stage one did, added up for people and for programs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from extract.jobs import ShardReport
from extract.shards import Sidecar

PHASES = ("load", "decode", "preprocess", "wait", "encode", "write")


@dataclass
class ModalitySummary:
    """One modality: what its shards hold now, and what this run added."""

    modality: str
    encoder: str
    features: str  # the feature set's folder
    utterances: int
    present: int  # utterances with at least one row
    rows: int
    megabytes: float
    reasons: dict[str, int]  # why utterances are absent
    flags: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)  # such as frames with a face
    devices: list[str] = field(default_factory=list)  # that the encoder ran on
    shards_halved: int = 0  # of which a batch was halved: equal to others' rows but for rounding
    shards_written: int = 0
    shards_kept: int = 0
    utterances_encoded: int = 0


@dataclass
class Summary:
    """One dataset: its modalities, and how long this run took."""

    dataset: str
    utterances: int
    modalities: list[ModalitySummary]
    notes: list[str] = field(default_factory=list)
    count_mismatch: str | None = None
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    seconds_starting: float = 0.0  # until the workers were up
    seconds_loading: float = 0.0  # until the slowest worker had its encoders
    seconds_by_phase: dict[str, float] = field(default_factory=dict)  # added up over threads
    bytes_written: int = 0
    peak_memory: int = 0  # bytes, all processes of this run together

    def encoded(self) -> int:
        """Return how many utterances were encoded, counted once for each modality."""
        return sum(one.utterances_encoded for one in self.modalities)

    def rate(self) -> float | None:
        """Return utterances (of one modality) a second, model loading included."""
        return self.encoded() / self.seconds if self.encoded() and self.seconds else None

    def rate_without_loading(self) -> float | None:
        """Return the same without the time that workers and models took to start."""
        working = self.seconds - self.seconds_starting - self.seconds_loading
        return self.encoded() / working if self.encoded() and working > 0 else None

    def set_aside(self) -> int:
        """Return how many utterances lack a modality, counted once for each."""
        return sum(sum(one.reasons.values()) for one in self.modalities)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            **asdict(self),
            "utterances_encoded": self.encoded(),
            "utterances_per_second": self.rate(),
            "utterances_per_second_without_loading": self.rate_without_loading(),
        }


def sum_up_shards(
    modality: str, encoder: str, folder: str, shards: Iterable[Sidecar], ids: Collection[str]
) -> ModalitySummary:
    """Add up finished shards, as far as their utterances are still in the table."""
    summary = ModalitySummary(modality, encoder, folder, 0, 0, 0, 0.0, {}, {})
    reasons: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    devices: set[str] = set()
    for shard in shards:
        held = [rows for name, rows in zip(shard.ids, shard.rows, strict=True) if name in ids]
        summary.utterances += len(held)
        summary.present += sum(1 for rows in held if rows)
        summary.rows += sum(held)
        summary.megabytes += shard.size / 1e6
        summary.shards_halved += shard.halvings > 0
        devices.add(shard.device)
        reasons.update(one.reason for one in shard.quarantined if one.id in ids)
        flags.update(flag for name, flag in shard.flags if name in ids)
        for name, counted in shard.counts.items():
            counts.update(counted if name in ids else {})
    summary.reasons, summary.flags = dict(reasons.most_common()), dict(flags.most_common())
    summary.counts = dict(counts)
    summary.devices = sorted(devices - {""})
    return summary


def add_reports(summary: Summary, reports: Iterable[ShardReport]) -> None:
    """Add what the workers reported of this run's shards."""
    by_modality = {one.modality: one for one in summary.modalities}
    phases: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    loading: dict[int, float] = defaultdict(float)
    peak: dict[int, int] = defaultdict(int)
    for report in reports:
        one = by_modality[report.modality]
        one.shards_written += 1
        summary.bytes_written += report.size
        one.utterances_encoded += report.utterances
        for phase, seconds in report.seconds.items():
            phases[phase] += seconds
        loading[report.pid] += report.seconds.get("load", 0.0)
        peak[report.pid] = max(peak[report.pid], report.peak_memory)
    summary.seconds_by_phase = phases
    summary.seconds_loading = max(loading.values(), default=0.0)
    summary.peak_memory += sum(peak.values())
