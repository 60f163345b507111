"""A small audio corpus and its jobs, run from tests and, to be killed, as a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from extract.encoders.base import Settings
from extract.encoders.registry import resolve_encoder
from extract.encoders.weights import Memo
from extract.features import feature_set_folder, fingerprint_of
from extract.jobs import Job
from extract.plan import MediaFiles, make_plan
from extract.shards import Identity
from extract.table import Utterance
from extract.tiny import make_audio_encoder
from tests.helpers_media import tone, write_wav

ROWS_PER_SHARD = 4


def write_corpus(root: Path, count: int) -> None:
    """Write wavs of 0.3 to 1.2 s; the third is empty, the fifth missing."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        if number != 4:
            write_wav(root / f"{number:03d}.wav", tone(0.3 + number % 10 / 10, 100 + 10 * number))
    (root / "002.wav").write_bytes(b"")


def list_corpus(count: int) -> list[Utterance]:
    """Return the corpus's utterances."""
    return [Utterance(f"u{number}", "train", audio=f"{number:03d}.wav") for number in range(count)]


def audio_folder(cache: Path, model: Path) -> tuple[Path, str]:
    """Return the feature set's folder and fingerprint."""
    info = resolve_encoder("audio", f"whisper:{model}", Settings(), Memo(cache / "memo.json"))
    fingerprint = fingerprint_of(info.ingredients())
    return feature_set_folder(cache, "corpus", "audio", info.slug, fingerprint), fingerprint


def audio_jobs(
    cache: Path,
    model: Path,
    root: Path,
    everyone: list[Utterance],
    rows_per_shard: int = ROWS_PER_SHARD,
) -> list[Job]:
    """Return the jobs that are still to be done."""
    settings = Settings()
    info = resolve_encoder("audio", f"whisper:{model}", settings, Memo(cache / "memo.json"))
    folder, fingerprint = audio_folder(cache, model)
    rows = MediaFiles(root).rows(everyone, "audio")
    planned = make_plan(folder, fingerprint, rows, rows_per_shard)
    identity = Identity("corpus", "audio", fingerprint)
    return [Job(identity, folder, shard, info, settings, "cpu", 2) for shard in planned.todo]


def make_model(folder: Path) -> Path:
    """Make the smallest of Whisper checkpoints."""
    return make_audio_encoder(folder / "whisper", dim=32, window_seconds=1.5)


def main() -> None:
    """Extract what is to be done: arguments are model, root, cache and the number of utterances."""
    from extract.engine import Cluster, run_jobs

    model, root, cache = (Path(argument) for argument in sys.argv[1:4])
    everyone = list_corpus(int(sys.argv[4]))
    jobs = audio_jobs(cache, model, root, everyone)
    with Cluster("cpu", 2, None) as cluster:
        client = cluster.start(len(jobs))
        failures = run_jobs(client, jobs, on_rows=lambda _: None, on_shard=lambda _: None)
    assert not failures, failures


if __name__ == "__main__":
    main()
