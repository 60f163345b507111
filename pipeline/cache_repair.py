"""Mend a cache: encode again what is damaged or missing, and touch nothing else.

A damaged file is removed with a word; the plan then writes its shard again with the same members,
which either of a shard's two files still names, so that it gets the bytes it had. What was
imported cannot be encoded again: its damaged shards are removed, and the files to import again
are named; that import writes what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from extract.engine import Cluster
from extract.errors import ExtractError
from extract.features import (
    DESCRIPTION_NAME,
    QUARANTINE_NAME,
    gather_quarantine,
    open_feature_set,
    write_quarantine,
)
from extract.locks import writing
from extract.plan import Plan, begun_numbers
from extract.shards import find_done, read_sidecar, shard_path, sidecar_path
from extract.table import read_table, record_path, write_table
from pipeline.cache_care import (
    TABLE_NAME,
    dataset_folders,
    set_folders,
    verify_cache,
    verify_feature_set,
)
from pipeline.corpus import build_table
from pipeline.errors import PipelineError
from pipeline.extraction import describe_planned, encode_planned
from pipeline.extraction_log import log_run
from pipeline.extraction_plan import Console, Request, plan_dataset
from pipeline.manifest import load_manifest
from pipeline.presets import PRESETS

_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Wanted:
    """Which cache to mend, and where what it was made from lies.

    Attributes:
        cache: The cache.
        datasets: Only these; empty is all.
        data_root: Where the datasets' files are looked for.
        manifest: A user's own manifest.
        allow_count_mismatch: Go on where split sizes differ from the manifest's.
        allow_symlinks: Follow links out of the data root.
    """

    cache: Path
    datasets: tuple[str, ...]
    data_root: Path
    manifest: Path | None = None
    allow_count_mismatch: bool = False
    allow_symlinks: bool = False


@dataclass
class Repaired:
    """What repairing came to.

    Attributes:
        damaged: Files that were damaged or missing.
        mended: Files that were written again.
        left: What is still to be done, and by what command, one line each.
    """

    damaged: list[Path] = field(default_factory=list)
    mended: list[Path] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def add(self, other: Repaired) -> None:
        """Add what repairing another dataset came to."""
        self.damaged += other.damaged
        self.mended += other.mended
        self.left += other.left

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {name: [str(each) for each in value] for name, value in asdict(self).items()}


def repair_cache(wanted: Wanted, cluster: Cluster, console: Console) -> Repaired:
    """Find what is damaged or missing, and write it again.

    Raises:
        PipelineError: there is no cache, or no such dataset in it.
        ExtractError: the workers do not start, or an error that every shard would meet.
    """
    every = Repaired()
    for dataset in dataset_folders(wanted.cache, list(wanted.datasets)):
        began = time.monotonic()
        repaired = Repaired()
        _repair_dataset(dataset, wanted, cluster, console, repaired)
        if repaired != Repaired():
            seconds = time.monotonic() - began
            log_run(dataset, {"repair": repaired.to_json(), "seconds": seconds})
        every.add(repaired)
    return every


def _repair_dataset(
    dataset: Path, wanted: Wanted, cluster: Cluster, console: Console, repaired: Repaired
) -> None:
    damaged = verify_cache(wanted.cache, [dataset.name], console.progress).damaged
    if not damaged and not any(_shards_to_write(each, set()) for each in set_folders(dataset)):
        return
    table = dataset / TABLE_NAME
    at_fault = [each.file for each in damaged if each.file in (table, record_path(table))]
    if at_fault:
        repaired.damaged += at_fault
        _mend(repaired, at_fault, table, partial(_write_table, dataset.name, table, wanted))
    suspects = {each.file.parent for each in damaged}
    for folder in set_folders(dataset):
        if at_fault or folder in suspects or _shards_to_write(folder, set()):
            try:
                with writing(folder) as taken_over:
                    if taken_over is not None:
                        console.note(taken_over)
                    _repair_set(folder, wanted, cluster, console, repaired)
            except ExtractError as error:  # another process writes it
                repaired.left.append(str(error))


def _repair_set(
    folder: Path, wanted: Wanted, cluster: Cluster, console: Console, repaired: Repaired
) -> None:
    """Mend one feature set, its lock being held."""
    bad = _bad(folder)
    description = folder / DESCRIPTION_NAME
    if description in bad:
        repaired.damaged.append(description)
        _mend(repaired, [description], folder, partial(_describe, folder, wanted, console))
        if description not in repaired.mended:
            return
        bad = _bad(folder)  # what a damaged description hid comes to light now
    if shards := _shards_to_write(folder, bad):
        files = {
            each
            for number in shards
            for each in (shard_path(folder, number), sidecar_path(folder, number))
            if each in bad or not each.exists()
        }
        repaired.damaged += sorted(files)
        write = partial(_write_shards, folder, shards, bad, wanted, cluster, console)
        _mend(repaired, sorted(files), folder, write)
        bad = _bad(folder)
    if (quarantine := folder / QUARANTINE_NAME) in bad:
        repaired.damaged.append(quarantine)
        _mend(repaired, [quarantine], folder, partial(_write_quarantine, folder))


def _bad(folder: Path) -> set[Path]:
    """Return what is damaged in a feature set."""
    return {each.file for each in verify_feature_set(folder).damaged}


def _mend(
    repaired: Repaired, files: Iterable[Path], where: Path, write: Callable[[], None]
) -> None:
    """Write files anew, or note why they could not be."""
    try:
        write()
    except (PipelineError, ExtractError) as error:
        text = str(error)
        repaired.left.append(text if text.startswith(str(where)) else f"{where}: {text}")
    else:
        repaired.mended += files


def _write_table(dataset: str, path: Path, wanted: Wanted) -> None:
    corpus = build_table(
        load_manifest(wanted.manifest).dataset(dataset),
        wanted.data_root,
        allow_count_mismatch=wanted.allow_count_mismatch,
        allow_symlinks=wanted.allow_symlinks,
    )
    write_table(corpus.table, path)


def _describe(folder: Path, wanted: Wanted, console: Console) -> None:
    """Write a damaged `features.json` anew, if a preset's encoder turns out to be this set's.

    Raises:
        PipelineError: it is none of theirs.
    """
    (folder / DESCRIPTION_NAME).unlink(missing_ok=True)
    console.note(f"{folder / DESCRIPTION_NAME}: damaged, removed")
    dataset, modality = folder.parts[-3:-1]
    entry = load_manifest(wanted.manifest).dataset(dataset)
    default = _request(wanted, dataset, modality).preset_for(entry)
    for preset in dict.fromkeys((*_presets_beside(folder), default)):
        request = _request(wanted, dataset, modality, preset=preset)
        try:
            [one] = plan_dataset(request, console).modalities
        except ExtractError:
            continue  # a model that is not on this machine; the next may be it
        if one.folder == folder:
            describe_planned(one)
            return
    raise PipelineError(
        f"{folder}: what made these features cannot be told; run the egmf-extract or egmf-cache "
        f"import again that did, which writes {DESCRIPTION_NAME} anew and keeps sound shards"
    )


def _presets_beside(folder: Path) -> list[str]:
    """Return the presets that other feature sets of the dataset were made with."""
    found = set()
    for other in set_folders(folder.parents[1]):
        try:
            found.add(open_feature_set(other).preset)
        except ExtractError:
            continue
    return [preset for preset in PRESETS if preset in found]


def _shards_to_write(folder: Path, bad: set[Path]) -> list[int]:
    """Return the numbers of shards that are damaged, or gone from between others."""
    begun = begun_numbers(folder)
    gone = set(range(max(begun, default=0))).difference(begun)
    return sorted(gone | {int(path.stem) for path in bad if path.stem.isdigit()})


def _write_shards(
    folder: Path,
    numbers: list[int],
    bad: set[Path],
    wanted: Wanted,
    cluster: Cluster,
    console: Console,
) -> None:
    """Remove what is damaged of these shards and encode them again.

    Raises:
        PipelineError: they were imported, or would not come out as they were.
        ExtractError: an encoder is not to be had, or an error that every shard would meet.
    """
    features = open_feature_set(folder)
    about = features.description()
    lost = sorted(path for path in bad if path.stem.isdigit() and path.exists())
    if not about["weights_digest"]:  # no model of ours made them
        _remove(lost, console)
        raise PipelineError(_import_again(folder, about, len(numbers)))
    dtype = about["fingerprinted"].get("dtype")
    request = replace(
        _request(
            wanted,
            features.dataset,
            features.modality,
            preset=features.preset,
            spec=None if features.preset else features.encoder,
        ),
        dtype=dtype if dtype in _DTYPES else "float32",
        hash_media=_hashes_media(folder),
    )
    if plan_dataset(request, console).modalities[0].folder != folder:
        raise PipelineError(
            f"{folder}: {len(numbers)} shards are damaged or missing, and its encoder or its "
            "settings are others today, so that they would not come out as they were; run "
            "egmf-extract for new features, and remove this folder"
        )
    _remove(lost, console)
    planned = plan_dataset(request, replace(console, note=lambda line: None))
    [one] = planned.modalities
    todo = tuple(shard for shard in one.plan.todo if shard.number in numbers)
    one = replace(one, plan=Plan(todo, one.plan.done))
    title = f"{features.dataset} {features.modality}"
    if failures := encode_planned(title, [one], planned.settings, cluster, console).failures:
        raise PipelineError("; ".join(failures))


def _remove(paths: Iterable[Path], console: Console) -> None:
    for path in paths:
        path.unlink()
        console.note(f"{path}: damaged, removed")


def _import_again(folder: Path, about: dict[str, Any], count: int) -> str:
    files = ", ".join(
        f"{name} (SHA-256 {digest})" for name, digest in about["imported_from"].items()
    )
    name = about["encoder"].removeprefix("import:")
    how = (
        f"egmf-cache import FILE --dataset {about['dataset']} --name {name}"
        if name != about["encoder"]
        else f"egmf-extract --dataset {about['dataset']}"
    )
    return (
        f"{folder}: {count} damaged or missing shards are to be imported again from "
        f"{files or 'the release'}; run {how}"
    )


def _hashes_media(folder: Path) -> bool:
    """Tell whether the set was made with media told apart by contents."""
    for number in begun_numbers(folder):
        try:
            digests = read_sidecar(sidecar_path(folder, number)).digests
        except ExtractError:
            continue
        for digest in digests:
            if " " in digest:
                return len(digest.split(" ")[0]) == 64
    return False


def _request(
    wanted: Wanted,
    dataset: str,
    modality: str,
    *,
    preset: str | None = None,
    spec: str | None = None,
) -> Request:
    return Request(
        dataset=dataset,
        cache=wanted.cache,
        data_root=wanted.data_root,
        manifest=wanted.manifest,
        preset=preset,
        specs={} if spec is None else {modality: spec},
        modalities=(modality,),
        allow_count_mismatch=wanted.allow_count_mismatch,
        allow_symlinks=wanted.allow_symlinks,
    )


def _write_quarantine(folder: Path) -> None:
    """Gather what the sidecars set aside.

    Raises:
        ExtractError: the table cannot be read.
    """
    table = read_table(folder.parents[1] / TABLE_NAME)
    splits = dict(zip(table["id"].tolist(), table["split"].tolist(), strict=True))
    fingerprint = open_feature_set(folder).fingerprint
    found = (find_done(folder, number, fingerprint) for number in begun_numbers(folder))
    sidecars = (each for each in found if each is not None)
    write_quarantine(folder, gather_quarantine(sidecars, splits))
