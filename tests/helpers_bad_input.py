"""A small corpus with everything wrong that media can be, and a way to run the commands on it."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from pipeline.commands.extract import main as extract_main
from pipeline.commands.train import main as train_main
from tests.helpers_media import grey, tone, write_clip, write_wav

MANIFEST = """
datasets:
  mine:
    title: Mine
    task: [classification, regression]
    language: en
    labels:
      - {name: sad, en: sad, zh: 悲伤}
      - {name: glad, en: glad, zh: 高兴}
    scores: {low: -1, high: 1, step: 0.5}
    layout: {reader: table, folder: ., table: table.csv}
    protocol: mosi
    max_seconds: 2
"""
SPECS = ("text", "hf:", "random-bert"), ("audio", "whisper:", "random-whisper/random-whisper.pt")
MINE = ["--dataset", "mine"]
COLUMNS = ["id", "split", "label", "score", "text", "media", "start", "end"]
ROWS = [
    ["good/0", "train", "sad", "-1", "so it goes", "0.mp4", "", ""],
    ["good/1", "train", "GLAD", "1", "how lovely", "1.mp4", "", ""],
    ["good/2", "valid", " Sad ", "-1", "why not?", "2.mp4", "", ""],
    ["good/3", "valid", "高兴", "1", "a word, " * 1250, "3.mp4", "", ""],
    ["good/4", "test", "glad", "1", "no", "4.mp4", "", ""],
    ["empty", "train", "sad", "-1", "nothing", "empty.mp4", "", ""],
    ["prose", "train", "glad", "1", "prose", "prose.mp4", "", ""],
    ["torn", "train", "sad", "-1", "half of it", "torn.mp4", "", ""],
    ["silent", "train", "glad", "1", "no sample", "silent.wav", "", ""],
    ["gone", "train", "sad", "-1", "gone", "gone.mp4", "", ""],
    ["pipe", "train", "sad", "-1", "waits", "pipe.mp4", "", ""],
    ["backwards", "train", "sad", "-1", "backwards", "4.mp4", "0.5", "0.1"],
]  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def complaint(self) -> str:
        """Return the one line that a mistake is answered with; anything else fails the test."""
        lines = self.err.splitlines()
        assert (self.code, self.out, len(lines)) == (1, "", 1), self
        assert lines[0].startswith("error: ")
        return lines[0]


def call(main: Callable[[], None], *arguments: object) -> Ended:
    """Run a console script's function with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["egmf", *map(str, arguments)]
    with redirect_stdout(out), redirect_stderr(err), patch("sys.argv", argv):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())


def write_rows(path: Path, rows: list[list[str]], encoding: str = "utf-8") -> None:
    """Write a table; the first row names the columns."""
    with path.open("w", encoding=encoding, newline="") as stream:
        csv.writer(stream).writerows(rows)


def write_place(place: Path) -> None:
    """Write the manifest, the table and the clips, five of them whole."""
    data = place / "data"
    data.mkdir()
    (place / "mine.yaml").write_text(MANIFEST, encoding="utf-8")
    write_rows(data / "table.csv", [COLUMNS, *ROWS])
    for number in range(5):
        pictures, sound = [grey(30 + 40 * number)] * 10, tone(1.0, 100 + 50 * number)
        write_clip(data / f"{number}.mp4", pictures=pictures, sound=sound)
    whole = (data / "0.mp4").read_bytes()
    (data / "empty.mp4").write_bytes(b"")
    (data / "prose.mp4").write_text("This is no video.\n" * 50)
    (data / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    write_wav(data / "silent.wav", tone(0.0))
    os.mkfifo(data / "pipe.mp4")


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a disk of this size on `folder`.

    Raises:
        PermissionError: this user may not.
    """
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        raise PermissionError("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def extract(place: Path, *options: object) -> Ended:
    """Extract quietly, so that whatever is said is an error."""
    given = ["--manifest", place / "mine.yaml", "--data-root", place / "data", "--cache"]
    given += [place / "cache", "--preset", "tiny", "--device", "cpu", "--quiet"]
    return call(extract_main, *given, *([] if "--dataset" in options else MINE), *options)


def train(place: Path, *options: object) -> Ended:
    """Train as quietly."""
    given = ["--from-cache", "--manifest", place / "mine.yaml", "--cache", place / "cache"]
    given += ["--runs", place / "runs", "--preset", "tiny", "--epochs", 1, "--quiet"]
    given += [] if "--device" in options else ["--device", "cpu"]
    return call(train_main, *given, *([] if "--dataset" in options else MINE), *options)


def specs(place: Path) -> list[str]:
    models = place / "cache" / "models" / "tiny"
    return [part for name, kind, path in SPECS for part in (f"--{name}", f"{kind}{models / path}")]
