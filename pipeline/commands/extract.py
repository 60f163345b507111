"""`egmf-extract`: encode a dataset's text, audio and video into the cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import (
    EXIT_SET_ASIDE,
    Json,
    Quiet,
    Version,
    print_json,
    run_command,
)
from pipeline.commands.options import (
    DEFAULT_CACHE,
    DEFAULT_DATA_ROOT,
    CacheFolder,
    DataRoot,
    ManifestFile,
    Modalities,
    Presets,
    console_for,
    names_in,
)

if TYPE_CHECKING:
    from extract.summary import Summary
    from pipeline.extraction_plan import Console, Request

_PLAIN_WIDTH = 120  # columns, where there is no terminal to ask


class Split(StrEnum):
    """Names of splits."""

    train = "train"
    valid = "valid"
    test = "test"
    unlabelled = "unlabelled"


class Device(StrEnum):
    """Where encoders run."""

    cpu = "cpu"
    cuda = "cuda"


class Dtype(StrEnum):
    """In which encoders compute."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def extract(
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Dataset of the manifest; may be given several times. Default: demo."),
    ] = None,
    data_root: DataRoot = DEFAULT_DATA_ROOT,
    cache: CacheFolder = DEFAULT_CACHE,
    manifest: ManifestFile = None,
    split: Annotated[
        list[Split] | None,
        typer.Option(help="Only shards that hold rows of this split; may be given several times."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first shards, until they hold this many utterances."),
    ] = None,
    preset: Presets = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Text encoder: hf:ID_OR_DIR of any encoder or causal model; with @N a hidden "
            "layer, with @last4 the mean of the last four.",
        ),
    ] = None,
    audio: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Audio encoder: whisper:NAME_OR_PT (whole windows of 30 s) or with @bucket "
            "(the shortest of 2, 5, 10, 15, 30 s that holds the utterance: faster, other "
            "features); hf:ID_OR_DIR[@N|@last4] of wav2vec2, HuBERT, WavLM; "
            "opensmile:eGeMAPSv02 (one row) or opensmile:eGeMAPSv02/lld.",
        ),
    ] = None,
    visual: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Visual encoder: open_clip:ARCH/TAG, open_clip:local-dir:DIR, "
            "open_clip:hf-hub:ID, or hf:ID_OR_DIR[@N|@last4] of ViT, DINO, CLIP, VideoMAE; with "
            "@face on the face (OpenCV's cascade) or @face:YUNET.onnx.",
        ),
    ] = None,
    modalities: Modalities = None,
    device: Annotated[Device | None, typer.Option(help="Default: cuda where there is one.")] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Floating-point type of the encoders; part of the fingerprint.")
    ] = Dtype.float32,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one a GPU, else one a core.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A running dask scheduler to use instead."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show what would be done and why, with its size and time, and stop.",
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove the chosen feature sets first.")
    ] = False,
    fetch_only: Annotated[
        bool,
        typer.Option(
            "--fetch-only",
            help="Fetch the models that the other options name, for nodes without a network.",
        ),
    ] = False,
    allow_count_mismatch: Annotated[
        bool, typer.Option("--allow-count-mismatch", help="Go on where split sizes differ.")
    ] = False,
    allow_symlinks: Annotated[
        bool, typer.Option("--allow-symlinks", help="Follow links out of the data root.")
    ] = False,
    hash_media: Annotated[
        bool,
        typer.Option(
            "--hash-media", help="Detect changed files by their contents, not by size and time."
        ),
    ] = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try again what was set aside.")
    ] = False,
    clip_seconds: Annotated[
        float,
        typer.Option(
            min=0.1, help="Time limit for decoding one clip; a slower one is quarantined."
        ),
    ] = 30.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 3 if anything was set aside.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    version: Version = False,
) -> None:
    """Encode a dataset's text, audio and video into the cache, each clip once."""
    from extract.engine import Cluster
    from pipeline.errors import PipelineError
    from pipeline.extraction import extract as extract_one
    from pipeline.extraction_plan import Request

    named = {"text": text, "audio": audio, "visual": visual}
    console = console_for(quiet=quiet)
    requests = [
        Request(
            dataset=name,
            cache=cache,
            data_root=data_root,
            manifest=manifest,
            preset=preset,
            specs={modality: spec for modality, spec in named.items() if spec is not None},
            modalities=names_in(modalities),
            splits=tuple(each.value for each in split or ()),
            limit=limit,
            dtype=dtype.value,
            fresh=fresh,
            allow_count_mismatch=allow_count_mismatch,
            allow_symlinks=allow_symlinks,
            hash_media=hash_media,
            retry_quarantined=retry_quarantined,
            clip_seconds=clip_seconds,
        )
        for name in dataset or ["demo"]
    ]
    if fetch_only:
        _fetch(requests, as_json=as_json)
        return
    wanted = device.value if device else None
    if dry_run:
        _look_ahead(requests, console, wanted, workers, as_json=as_json)
        return
    summaries = []
    with Cluster(wanted, workers, scheduler) as cluster:
        for request in requests:
            summary = extract_one(request, cluster, console)
            _show(summary, as_json=as_json, quiet=quiet)
            summaries.append(summary)
    if failures := [line for summary in summaries for line in summary.failures]:
        raise PipelineError("; ".join(failures) + "; everything else is in the cache")
    if strict and any(summary.set_aside() for summary in summaries):
        raise typer.Exit(EXIT_SET_ASIDE)


def main() -> None:
    """Run the command."""
    run_command(extract)


def _fetch(requests: list[Request], *, as_json: bool) -> None:
    from pipeline.extraction_plan import fetch_models

    found = {request.dataset: fetch_models(request) for request in requests}
    if as_json:
        print_json(found)
        return
    for name, models in found.items():
        for use, location in models.items():
            typer.echo(f"{name}: {use}: {location}")


def _look_ahead(
    requests: list[Request],
    console: Console,
    device: str | None,
    workers: int | None,
    *,
    as_json: bool,
) -> None:
    from pipeline.extraction_forecast import forecast
    from pipeline.released import count_released, is_released

    found = [
        count_released(request, console)
        if is_released(request)
        else forecast(request, console, device, workers)
        for request in requests
    ]
    if as_json:
        print_json([one.to_json() for one in found])
        return
    for one in found:
        for line in one.lines():
            typer.echo(line)


def _show(summary: Summary, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(summary.to_json())
        return
    if not summary.encoded():
        if not quiet:
            typer.echo(
                f"{summary.dataset}: nothing to do: all of its {summary.utterances:,} utterances "
                "that were asked for are in the cache"
            )
            for line in _reasons(summary):
                typer.echo(line)
        return
    from rich.console import Console as Terminal
    from rich.table import Table

    table = Table(title=f"{summary.dataset}: {summary.utterances:,} utterances")
    for title in ("modality", "encoder", "encoded now", "present", "absent", "rows", "MB"):
        left = title in {"modality", "encoder"}
        table.add_column(title, justify="left" if left else "right", overflow="fold")
    for one in summary.modalities:
        absent = one.utterances - one.present
        cells = (one.utterances_encoded, one.present, absent, one.rows)
        table.add_row(
            one.modality,
            Path(one.features).name,
            *(f"{cell:,}" for cell in cells),
            f"{one.megabytes:.1f}",
        )
    terminal = Terminal(soft_wrap=True, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    terminal.print(table)
    lines = [*_reasons(summary), *_effort(summary)]
    terminal.print("\n".join(lines), markup=False, highlight=False)


def _reasons(summary: Summary) -> Iterator[str]:
    """Say what was set aside and flagged, and why."""
    for one in summary.modalities:
        for reason, count in one.reasons.items():
            yield f"{one.modality}: absent: {count:,} x {reason}"
        for flag, count in one.flags.items():
            yield f"{one.modality}: flagged: {count:,} x {flag}"
        if one.shards_halved:
            yield (
                f"{one.modality}: {one.shards_halved} shards with batches halved for lack of "
                "memory; their rows equal those of whole batches but for rounding"
            )
        if frames := one.counts.get("frames"):
            share = one.counts["frames_with_face"] / frames
            yield f"{one.modality}: a face in {share:.1%} of {frames:,} frames"


def _effort(summary: Summary) -> Iterator[str]:
    """Say how long a run took, and what for."""
    rate, alone = summary.rate() or 0.0, summary.rate_without_loading() or 0.0
    phases = summary.seconds_by_phase  # none where features were released, not encoded
    without = f" ({alone:.1f} without starting workers and loading models)" if phases else ""
    yield (
        f"{summary.encoded():,} items (utterance x modality) in {summary.seconds:.1f} s: "
        f"{rate:.1f} a second{without}"
    )
    if phases:
        spent = ", ".join(f"{name} {value:.1f}" for name, value in phases.items())
        yield f"seconds by phase, over all workers: {spent}"
        yield f"written: {summary.bytes_written / 1e6:,.1f} MB"
    yield f"peak memory, all processes: {summary.peak_memory / 2**30:.2f} GiB"
