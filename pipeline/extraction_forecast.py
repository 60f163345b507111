"""What `egmf-extract --dry-run` says: what would be done, why, how large and how long.

Sizes and times come from encoding a few of the utterances on this machine; nothing is stored. The
plan is summed up and let go before an encoder is loaded, so that a table of a million rows and a
model are never in memory together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from extract.calibration import calibrate, draw_sample, estimate_seconds
from extract.encoders.base import EncoderInfo, Settings
from extract.engine import find_workers
from extract.plan import Row
from pipeline.extraction_plan import Console, DatasetPlan, ModalityPlan, Request, plan_dataset

_WHY = {
    "new": "new",
    "changed": "changed input",
    "retried": "quarantined rows to retry",
    "fresh": "to be encoded afresh",
}


@dataclass(frozen=True)
class ModalityForecast:
    """One modality of a dry run.

    Attributes:
        modality: Its name.
        encoder: The spec.
        features: Its feature set's folder.
        present: Utterances with something to encode.
        absent: Those without.
        reasons: Why, with how many of them.
        shards_to_write: How many.
        why: The same by reason: `new`, `changed`, `retried` or `fresh`.
        utterances_to_encode: Members of those shards.
        utterances_touched: Those of them that are the reason.
        shards_done: Shards that stay as they are.
        hours: Of media to be read; None for text.
        hours_from_files: How many files were opened to estimate that; 0 where the table gives it.
        frames: To be encoded; None but for pictures.
        megabytes: Expected size of what is written; None where there is nothing to measure.
        seconds: Expected time; None likewise.
        measured: Utterances that were encoded to learn size and time.
    """

    modality: str
    encoder: str
    features: str
    present: int
    absent: int
    reasons: dict[str, int]
    shards_to_write: int
    why: dict[str, int]
    utterances_to_encode: int
    utterances_touched: int
    shards_done: int
    hours: float | None
    hours_from_files: int
    frames: int | None
    megabytes: float | None
    seconds: float | None
    measured: int

    def lines(self) -> Iterator[str]:
        """Say it in words."""
        yield f"{self.modality}: {self.encoder}; {self.present:,} present, {self.absent:,} absent"
        for reason, count in self.reasons.items():
            yield f"  absent: {count:,} x {reason}"
        if not self.shards_to_write:
            yield f"  nothing to write; {_count(self.shards_done, 'shard')} done; {self.features}"
            return
        why = ", ".join(f"{count} {_WHY[name]}" for name, count in self.why.items())
        yield (
            f"  {_count(self.shards_to_write, 'shard')} with "
            f"{_count(self.utterances_to_encode, 'utterance')} to write ({why}; "
            f"because of {_count(self.utterances_touched, 'utterance')}), "
            f"{self.shards_done:,} done; {self.features}"
        )
        if self.hours is not None:
            source = f", estimated from {_count(self.hours_from_files, 'file')}"
            frames = "" if self.frames is None else f", {self.frames:,} frames"
            yield (
                f"  {self.hours:.2f} hours of media{frames}"
                f"{source if self.hours_from_files else ''}"
            )
        if self.megabytes is not None and self.seconds is not None:
            yield (
                f"  about {self.megabytes:,.1f} MB and {_duration(self.seconds)}, "
                f"from {_count(self.measured, 'utterance')} encoded now"
            )


@dataclass(frozen=True)
class Forecast:
    """A dry run of one dataset."""

    dataset: str
    utterances: int
    splits: dict[str, int]
    device: str
    workers: int
    modalities: list[ModalityForecast]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        fields = asdict(self)
        fields["modalities"] = {one.pop("modality"): one for one in fields["modalities"]}
        return {**fields, "megabytes": self._total("megabytes"), "seconds": self._total("seconds")}

    def lines(self) -> Iterator[str]:
        """Say it in words."""
        splits = ", ".join(f"{name} {count:,}" for name, count in self.splits.items())
        yield f"{self.dataset}: {_count(self.utterances, 'utterance')} ({splits})"
        for one in self.modalities:
            yield from (f"  {line}" for line in one.lines())
        if any(one.seconds is not None for one in self.modalities):
            yield (
                f"  in all about {self._total('megabytes'):,.1f} MB and "
                f"{_duration(self._total('seconds'))} with "
                f"{_count(self.workers, 'worker')} on {self.device}"
            )

    def _total(self, field: str) -> float:
        return sum(getattr(one, field) or 0.0 for one in self.modalities)


def forecast(
    request: Request, console: Console, device: str | None, workers: int | None
) -> Forecast:
    """Look ahead: read some files' lengths and encode a few utterances, but write nothing.

    Raises:
        PipelineError: the manifest, a flag or the corpus is wrong.
        ExtractError: an encoder does not load, or the device is not there.
    """
    kind, count, threads = find_workers(device, workers)
    found, surveys = _survey(request, console)
    modalities = [each.measure(kind, count, threads) for each in surveys]
    return replace(found, device=kind, workers=count, modalities=modalities)


@dataclass(frozen=True)
class _Survey:
    """A modality before it is measured: what its plan says, and a few rows to encode."""

    found: ModalityForecast
    info: EncoderInfo
    settings: Settings
    sample: list[Row]
    sizes: list[int]  # of the shards: utterances with something to encode

    def measure(self, device: str, workers: int, threads: int) -> ModalityForecast:
        cost = calibrate(self.info, self.settings, self.sample, device)
        if cost is None:
            return self.found
        return replace(
            self.found,
            megabytes=sum(self.sizes) * cost.bytes / 1e6,
            seconds=cost.seconds(self.sizes, device, workers, threads),
            measured=cost.utterances,
        )


def _survey(request: Request, console: Console) -> tuple[Forecast, list[_Survey]]:
    """Plan a dataset and keep only what is to be said of it."""
    planned = plan_dataset(request, console)
    found = Forecast(planned.entry.name, len(planned.utterances), planned.splits(), "", 0, [])
    return found, [_survey_modality(planned, one) for one in planned.modalities]


def _survey_modality(planned: DatasetPlan, one: ModalityPlan) -> _Survey:
    todo = one.plan.todo
    rows = [row for shard in todo for row in shard.rows]
    hours, files, frames = None, 0, None
    if one.info.medium != "text":
        seconds, files = estimate_seconds(rows, planned.settings.max_seconds)
        hours = seconds / 3600
        frames = round(seconds * planned.settings.fps) if one.info.medium == "frames" else None
    found = ModalityForecast(
        modality=one.identity.modality,
        encoder=one.info.spec,
        features=str(one.folder),
        present=one.present(),
        absent=len(one.rows) - one.present(),
        reasons=_reasons(one.rows),
        shards_to_write=len(todo),
        why=dict(Counter(shard.why for shard in todo)),
        utterances_to_encode=len(rows),
        utterances_touched=sum(shard.touched for shard in todo),
        shards_done=len(one.plan.done),
        hours=hours,
        hours_from_files=files,
        frames=frames,
        megabytes=None,
        seconds=None,
        measured=0,
    )
    sizes = [sum(row.absent is None for row in shard.rows) for shard in todo]
    return _Survey(found, one.info, planned.settings, draw_sample(one.info, rows), sizes)


def _reasons(rows: list[Row]) -> dict[str, int]:
    reasons = Counter(row.absent.reason for row in rows if row.absent is not None)
    return dict(reasons.most_common())


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
