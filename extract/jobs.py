"""What goes to a worker and what comes back: small, and nothing of an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extract.encoders.base import EncoderInfo, Settings
from extract.plan import ShardPlan
from extract.shards import Identity


@dataclass(frozen=True)
class Job:
    """Everything a worker needs for one shard.

    Attributes:
        identity: What the shard belongs to.
        folder: Of its feature set.
        shard: Its rows.
        info: The encoder.
        settings: Of the extraction.
        device: Where the encoder runs.
        threads: How many read ahead.
        clip_seconds: How long decoding a clip may take before it costs this process its life;
            None is for ever, for a process that is more than a worker.
        isolated: Decode in a child process, so that a clip that kills its decoder is found.
    """

    identity: Identity
    folder: Path
    shard: ShardPlan
    info: EncoderInfo
    settings: Settings
    device: str
    threads: int
    clip_seconds: float | None = None
    isolated: bool = False

    def name(self) -> str:
        """Return how messages call this shard."""
        return f"{self.identity.modality} shard {self.shard.number:05d}"


@dataclass
class ShardReport:
    """What a worker tells of a finished shard."""

    modality: str
    number: int
    utterances: int
    features: int  # utterances with at least one row
    rows: int
    size: int  # bytes
    reasons: dict[str, int]
    seconds: dict[str, float]
    pid: int
    peak_memory: int  # bytes, of the whole worker so far
    halvings: int = 0  # how often a batch was halved for lack of memory
