"""Stage one for one dataset: run what is planned, and leave the cache in good order.

When nothing is to be done, neither workers nor torch start.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata

from extract.decoding import CLIP_SECONDS
from extract.encoders.base import Settings
from extract.engine import Cluster, run_jobs
from extract.features import (
    Description,
    Quarantined,
    describe_feature_set,
    gather_quarantine,
    write_quarantine,
)
from extract.files import remove_stale
from extract.jobs import Job, ShardReport
from extract.locks import writing
from extract.shards import Sidecar, find_done, shard_numbers
from extract.summary import ModalitySummary, Summary, add_reports, sum_up_shards
from extract.table import write_table
from extract.worker import peak_memory
from pipeline.errors import PipelineError
from pipeline.extraction_log import log_run
from pipeline.extraction_plan import Console, DatasetPlan, ModalityPlan, Request, plan_dataset
from pipeline.released import is_released, take_released
from pipeline.scaling import remember_sums

_LIBRARIES = ("torch", "transformers", "openai-whisper", "open_clip_torch", "av", "h5py", "numpy")


def extract(request: Request, cluster: Cluster, console: Console) -> Summary:
    """Extract a dataset, or take its features where it is released as such; then sum them up.

    Raises:
        PipelineError: the manifest, a flag or the corpus is wrong.
        ExtractError: an encoder or a file is, or the workers do not start.
    """
    if is_released(request):
        summary = take_released(request, console)
    else:
        summary = extract_dataset(plan_dataset(request, console), cluster, console)
    remember_sums(request.cache, request.dataset)
    return summary


def extract_dataset(planned: DatasetPlan, cluster: Cluster, console: Console) -> Summary:
    """Write the table, encode what is planned, and sum up what the cache then holds.

    Raises:
        PipelineError: no row has anything to encode.
        ExtractError: another process writes these features, the workers do not start, or an error
            that every shard would meet.
    """
    _check_something_is_there(planned)
    with ExitStack() as locks:
        for one in planned.modalities:
            if (taken_over := locks.enter_context(writing(one.folder))) is not None:
                console.note(taken_over)
        return _extract_locked(planned, cluster, console)


def _check_something_is_there(planned: DatasetPlan) -> None:
    """Refuse a corpus of which nothing is where it is looked for.

    One that lacks a modality, such as MELD's transcripts without the clips, goes on.

    Raises:
        PipelineError: no row has anything to encode.
    """
    if planned.utterances and not any(one.present() for one in planned.modalities):
        names = ", ".join(one.identity.modality for one in planned.modalities)
        first = next((row.file for one in planned.modalities for row in one.rows if row.file), "")
        raise PipelineError(
            f"{planned.entry.name}: nothing to encode: none of the {len(planned.utterances):,} "
            f"rows has any {names} under {planned.request.data_root}"
            f"{f' (first: {first})' if first else ''}; check --data-root"
        )


def _extract_locked(planned: DatasetPlan, cluster: Cluster, console: Console) -> Summary:
    began = time.monotonic()
    request, name = planned.request, planned.entry.name
    write_table(planned.corpus.table, request.cache / name / "utterances.parquet")
    for one in planned.modalities:
        if request.fresh and one.folder.exists():
            shutil.rmtree(one.folder)
        describe_planned(one)
        remove_stale(one.folder)
    effort = encode_planned(
        name, planned.modalities, planned.settings, cluster, console, request.clip_seconds
    )
    splits = {each.id: each.split for each in planned.utterances}
    summary = Summary(
        dataset=name,
        utterances=len(planned.utterances),
        modalities=[_finish(one, splits) for one in planned.modalities],
        notes=list(planned.corpus.notes),
        count_mismatch=planned.corpus.count_mismatch,
        failures=effort.failures,
        seconds=time.monotonic() - began,
        seconds_starting=effort.seconds_starting,
        peak_memory=peak_memory(),
    )
    add_reports(summary, effort.reports)
    log_run(request.cache / name, summary.to_json())
    return summary


@dataclass
class Effort:
    """What encoding shards came to.

    Attributes:
        reports: One for each shard that was written.
        failures: A sentence for each that could not be.
        seconds_starting: Until the workers were up.
    """

    reports: list[ShardReport] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds_starting: float = 0.0


def encode_planned(
    title: str,
    modalities: Sequence[ModalityPlan],
    settings: Settings,
    cluster: Cluster,
    console: Console,
    clip_seconds: float = CLIP_SECONDS,
) -> Effort:
    """Encode the shards that are planned; no worker starts where there are none.

    Raises:
        ExtractError: the workers do not start, or an error that every shard would meet.
    """
    effort = Effort()
    began = time.monotonic()
    total = sum(one.plan.rows_todo() for one in modalities)
    if not total:
        return effort
    client = cluster.start(sum(len(one.plan.todo) for one in modalities))
    effort.seconds_starting = time.monotonic() - began
    if address := cluster.dashboard():
        console.note(f"{title}: dashboard at {address}")
    jobs = [job for one in modalities for job in _jobs(one, settings, cluster, clip_seconds)]
    with console.progress(f"{title}: extracting", total, "items") as advance:
        effort.failures = run_jobs(client, jobs, on_rows=advance, on_shard=effort.reports.append)
    return effort


def _jobs(
    one: ModalityPlan, settings: Settings, cluster: Cluster, clip_seconds: float
) -> list[Job]:
    folder = one.folder.absolute()  # a worker of a remote scheduler runs in a folder of its own
    return [
        Job(
            identity=one.identity,
            folder=folder,
            shard=shard,
            info=one.info,
            settings=settings,
            device=cluster.device,
            threads=cluster.threads,
            clip_seconds=clip_seconds,
        )
        for shard in one.plan.todo
    ]


def describe_planned(one: ModalityPlan) -> None:
    """Write the feature set's `features.json`."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    describe_feature_set(
        one.folder,
        Description(
            dataset=one.identity.dataset,
            modality=one.identity.modality,
            encoder=one.info.spec,
            slug=one.folder.name.removesuffix(f"-{one.identity.fingerprint[:8]}"),
            fingerprint=one.identity.fingerprint,
            fingerprinted=one.info.ingredients(),
            weights_digest=one.info.digest,
            dim=one.info.dim,
            dtype=one.info.stored,
            rows_per_second=one.info.rows_per_second,
            random_weights=one.info.random_weights,
            preset=one.preset,
            versions=versions,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def _finish(one: ModalityPlan, splits: Mapping[str, str]) -> ModalitySummary:
    """Gather the quarantine of every finished shard, and sum them up.

    Args:
        one: The modality.
        splits: Each utterance's split.
    """
    quarantined: list[Quarantined] = []

    def finished() -> Iterator[Sidecar]:
        for number in shard_numbers(one.folder):  # one in memory at a time
            sidecar = find_done(one.folder, number, one.identity.fingerprint)
            if sidecar is not None:
                quarantined.extend(gather_quarantine([sidecar], splits))
                yield sidecar

    summary = sum_up_shards(
        one.identity.modality, one.info.spec, str(one.folder), finished(), splits.keys()
    )
    write_quarantine(one.folder, quarantined)
    summary.shards_kept = len(one.plan.done)
    return summary
