"""`egmf-cache`: see, check, mend and fill the cache; each verb is one function."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import (
    EXIT_USER_ERROR,
    Json,
    Quiet,
    note,
    print_json,
    progress,
    run_verbs,
)
from pipeline.commands.options import (
    DEFAULT_CACHE,
    DEFAULT_DATA_ROOT,
    CacheFolder,
    DataRoot,
    ManifestFile,
    console_for,
    names_in,
)

if TYPE_CHECKING:
    from extract.importers.files import Imported
    from pipeline.cache_care import Listed

Datasets = Annotated[
    list[str] | None,
    typer.Option("--dataset", help="Only this one; may be given several times. Default: all."),
]
CountMismatch = Annotated[
    bool, typer.Option("--allow-count-mismatch", help="Go on where split sizes differ.")
]
Symlinks = Annotated[
    bool, typer.Option("--allow-symlinks", help="Follow links out of the data root.")
]

_WIDTH = 160  # of a table in a file or pipe


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


def list_sets(
    cache: CacheFolder = DEFAULT_CACHE,
    dataset: Datasets = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show what is in the cache."""
    from pipeline.cache_care import list_cache

    listed, unreadable = list_cache(cache, dataset)
    for line in unreadable:
        note(line, quiet=quiet)
    if as_json:
        print_json({"feature_sets": [each.to_json() for each in listed], "unreadable": unreadable})
    elif listed:
        _show_list(listed)
    else:
        typer.echo(f"{cache}: no features")


def verify(
    cache: CacheFolder = DEFAULT_CACHE,
    dataset: Datasets = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check every file of the cache; exit with code 1 if one is damaged."""
    from pipeline.cache_care import verify_cache

    verdict = verify_cache(
        cache, dataset, lambda title, total, unit: progress(title, total, unit, quiet=quiet)
    )
    if as_json:
        print_json(verdict.to_json())
    else:
        for line in verdict.notes:
            note(line, quiet=quiet)
        for damage in verdict.damaged:
            typer.echo(f"damaged: {damage.file}: {damage.problem}")
        typer.echo(
            f"{verdict.shards:,} shards with {verdict.utterances:,} utterances are sound "
            f"({verdict.bytes / 1e6:,.1f} MB); {len(verdict.damaged):,} files are damaged"
        )
    if verdict.damaged:
        raise typer.Exit(EXIT_USER_ERROR)


def repair(
    cache: CacheFolder = DEFAULT_CACHE,
    dataset: Datasets = None,
    data_root: DataRoot = DEFAULT_DATA_ROOT,
    manifest: ManifestFile = None,
    device: Annotated[Device | None, typer.Option(help="Default: cuda where there is one.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one a GPU, else one a core.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A running dask scheduler to use instead."),
    ] = None,
    allow_count_mismatch: CountMismatch = False,
    allow_symlinks: Symlinks = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write again what is damaged or missing; exit with code 1 if something is left to do."""
    from extract.engine import Cluster
    from pipeline.cache_repair import Wanted, repair_cache

    wanted = Wanted(
        cache=cache,
        datasets=tuple(dataset or ()),
        data_root=data_root,
        manifest=manifest,
        allow_count_mismatch=allow_count_mismatch,
        allow_symlinks=allow_symlinks,
    )
    console = console_for(quiet=quiet)
    with Cluster(device.value if device else None, workers, scheduler) as cluster:
        repaired = repair_cache(wanted, cluster, console)
    if as_json:
        print_json(repaired.to_json())
    else:
        for path in repaired.mended:
            typer.echo(f"mended: {path}")
        for line in repaired.left:
            typer.echo(f"left: {line}")
        typer.echo(f"{len(repaired.damaged):,} files were damaged; {len(repaired.mended):,} mended")
    if repaired.left:
        raise typer.Exit(EXIT_USER_ERROR)


def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="What makes up one feature set: .pkl (MMSA, MSE-Adapter), .npz, .h5, .csv, "
            ".parquet; one file, or one for each split.",
        ),
    ],
    dataset: Annotated[str, typer.Option(help="Dataset of the manifest.")],
    modality: Annotated[
        list[str] | None,
        typer.Option(
            help="Import only this modality; needed where the file does not name it. May be given "
            "several times."
        ),
    ] = None,
    split: Annotated[
        Split | None, typer.Option(help="Which split the file is, if its name does not say.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the feature set. Default: after the files.")
    ] = None,
    cache: CacheFolder = DEFAULT_CACHE,
    data_root: DataRoot = DEFAULT_DATA_ROOT,
    manifest: ManifestFile = None,
    allow_count_mismatch: CountMismatch = False,
    allow_symlinks: Symlinks = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Import features that were computed elsewhere."""
    from extract.importers.files import Request as Files
    from pipeline.importing import Request, as_json_values, import_features

    request = Request(
        files=Files(
            paths=tuple(files),
            dataset=dataset,
            cache=cache,
            name=name,
            split=split.value if split else None,
            modalities=tuple(modality or ()),
        ),
        data_root=data_root,
        manifest=manifest,
        allow_count_mismatch=allow_count_mismatch,
        allow_symlinks=allow_symlinks,
    )
    imported = import_features(
        request,
        lambda line: note(line, quiet=quiet),
        lambda title, total, unit: progress(title, total, unit, quiet=quiet),
    )
    if as_json:
        print_json({"feature_sets": [as_json_values(one) for one in imported]})
        return
    for one in imported:
        _show_imported(one)


def export(
    dataset: Annotated[str, typer.Option(help="Dataset of the cache.")],
    out: Annotated[Path, typer.Option(help="File to write, such as unaligned.pkl.")],
    modalities: Annotated[
        str | None, typer.Option(help="Comma-separated, such as text,audio. Default: all.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text features: spec or fingerprint.")] = None,
    audio: Annotated[str | None, typer.Option(help="Audio features: spec or fingerprint.")] = None,
    visual: Annotated[
        str | None, typer.Option(help="Visual features: spec or fingerprint.")
    ] = None,
    cache: CacheFolder = DEFAULT_CACHE,
    manifest: ManifestFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write features and labels as a pickle in MMSA's form."""
    from pipeline.exporting import export_features
    from pipeline.sources import Source

    named = {"text": text, "audio": audio, "visual": visual}
    source = Source(
        dataset=dataset,
        cache=cache,
        modalities=names_in(modalities),
        features={name: value for name, value in named.items() if value is not None},
        manifest=manifest,
    )
    exported = export_features(
        source,
        out,
        lambda line: note(line, quiet=quiet),
        lambda title, total, unit: progress(title, total, unit, quiet=quiet),
    )
    if as_json:
        print_json(exported.to_json())
        return
    typer.echo(
        f"{exported.path}: {exported.utterances:,} utterances, {exported.bytes / 1e6:,.1f} MB; "
        + ", ".join(f"{name} {encoder}" for name, encoder in exported.encoders.items())
    )


def main() -> None:
    """Run the command."""
    run_verbs(
        "See, check, mend, fill and export the cache of features.",
        {
            "list": list_sets,
            "verify": verify,
            "repair": repair,
            "import": import_files,
            "export": export,
        },
    )


def _show_list(listed: list[Listed]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    left = ("dataset", "modality", "encoder", "fingerprint")
    right = ("utterances", "set aside", "rows", "dim", "dtype", "MB", "age")
    for title in (*left, *right):
        table.add_column(title, justify="left" if title in left else "right", overflow="fold")
    for each in listed:
        of = "" if each.of in (None, each.utterances) else f" of {each.of:,}"
        table.add_row(
            each.dataset,
            each.modality,
            each.encoder + (" (random weights)" if each.random_weights else ""),
            each.fingerprint[:8],
            f"{each.utterances:,}{of}",
            f"{each.set_aside:,}",
            f"{each.rows:,}",
            str(each.dim),
            each.dtype,
            f"{each.bytes / 1e6:,.1f}",
            _age(each.age_seconds),
        )
    Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False).print(table)


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _show_imported(one: Imported) -> None:
    stored = one.stored
    done = (
        f"{stored.shards_written} shards written"
        if stored.shards_written
        else "nothing to do, all of it is in the cache"
    )
    typer.echo(
        f"{stored.modality}: {stored.present:,} of {stored.utterances:,} utterances, "
        f"{stored.rows:,} rows of {stored.dim} {stored.dtype} values, "
        f"{stored.bytes / 1e6:,.1f} MB; {done}; {stored.folder}"
    )
