"""A table of a million rows: looking ahead, finding nothing to do, listing stay quick and small.

The corpus is simulated: one clip, linked under as many names as there are rows, so that every file
is looked at. The finished cache is too: sidecars hold each row as the engine writes them, through
its own code, and the shards beside them, which none of these commands opens, hold five bytes.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from extract.table import write_table
from pipeline.extraction_plan import Console, Request, plan_dataset
from tests.helpers_cache import pretend
from tests.helpers_media import grey, tone, write_clip
from tests.test_change_without_waste import MANIFEST
from tests.test_damage import no_progress

SHORT, LONG = 20_000, 1_000_000
IN_A_FOLDER = 1000
SECONDS, BYTES = 60, 2 << 30

# What wait4() says of a child's memory counts that of the process it was forked from.
CHILD = """
import atexit, re
from pathlib import Path
from pipeline.commands.{script} import main

def write_peak():
    status = Path("/proc/self/status").read_text()
    Path("{peak}").write_text(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

atexit.register(write_peak)
main()
"""


def write_corpus(root: Path, count: int) -> None:
    """Write a table and its clips; of every thousand the last transcript and clip are missing."""
    write_clip(root / "clip.mp4", pictures=[grey(90)] * 4, sound=tone(0.4))
    clip = (root / "clip.mp4").read_bytes()
    columns = ["id", "split", "label", "text", "media", "speaker", "group", "order"]
    with (root / "table.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for number in range(count):
            folder = root / "clips" / f"{number // IN_A_FOLDER:04d}"
            first, path = folder / "first.mp4", folder / f"{number:07d}.mp4"
            if number % IN_A_FOLDER == 0:  # a file has no more than some 65,000 names
                folder.mkdir(parents=True)
                first.write_bytes(clip)
            missing = number % IN_A_FOLDER == IN_A_FOLDER - 1
            if not missing:
                os.link(first, path)
            split = "train" if number % 10 < 8 else "valid" if number % 10 == 8 else "test"
            text = "" if missing else f"well, this is utterance number {number} of very many"
            media = path.relative_to(root).as_posix()
            label = ("sad", "glad")[number % 2]
            turn = [f"s{number % 50}", f"g{number // 20}", number % 20]
            writer.writerow([f"u{number:07d}", split, label, text, media, *turn])
    (root / "mine.yaml").write_text(MANIFEST)


@dataclass
class Place:
    """A corpus and its finished cache."""

    root: Path
    rows: int

    def run(self, script: str, *arguments: str, cache: str = "cache") -> Any:
        """Run a command as a process of its own, and hold it to the limits; return its JSON."""
        code = CHILD.format(script=script, peak=self.root / "peak")
        command = [sys.executable, "-c", code, *arguments, "--cache", str(self.root / cache)]
        if script == "extract":
            command += ["--dataset", "mine", "--data-root", str(self.root), "--preset", "tiny"]
            command += ["--manifest", str(self.root / "mine.yaml"), "--device", "cpu"]
        out = self.root / "out.json"
        with out.open("wb") as stream:
            child = subprocess.Popen([*command, "--json", "--quiet"], stdout=stream)
            _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        seconds = usage.ru_utime + usage.ru_stime
        peak = int((self.root / "peak").read_text()) * 1024
        print(f"{script} {' '.join(arguments)}: {seconds:.1f} s, {peak / 2**30:.2f} GiB")
        assert seconds < SECONDS  # of the processor: a machine that is busy waits longer
        assert peak < BYTES
        return json.loads(out.read_text())


@pytest.fixture(
    scope="module",
    params=[SHORT, pytest.param(LONG, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
    ids=["short", "long"],
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("scale")
    write_corpus(root, request.param)
    console = Console(note=lambda line: None, progress=no_progress)
    wanted = Request("mine", root / "cache", root, root / "mine.yaml", "tiny")
    planned = plan_dataset(wanted, console)
    write_table(planned.corpus.table, root / "cache" / "mine" / "utterances.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.files.fsync", lambda path: None)  # what is written may be lost
        for one in planned.modalities:
            pretend(one)
    return Place(root, request.param)


def test_nothing_to_do_is_found_quickly(place: Place) -> None:
    found = place.run("extract")
    assert (found["utterances"], found["utterances_encoded"]) == (place.rows, 0)
    for one in found["modalities"]:
        assert one["utterances"] == place.rows
        assert one["present"] == place.rows - place.rows // IN_A_FOLDER
        assert one["shards_kept"] == -(-place.rows // 512)
    [ahead] = place.run("extract", "--dry-run")
    assert all(not one["shards_to_write"] for one in ahead["modalities"].values())


def test_everything_to_do_is_planned_quickly(place: Place) -> None:
    # A preset's tiny models are there, as those of other presets are: making them loads torch.
    shutil.copytree(place.root / "cache" / "models", place.root / "empty" / "models")
    # An encoder is loaded to measure it: in the short form that of one modality, for the time.
    only = ["--modalities", "visual"] if place.rows == SHORT else []
    [ahead] = place.run("extract", "--dry-run", *only, cache="empty")
    for one in ahead["modalities"].values():
        assert one["utterances_to_encode"] == place.rows
        assert one["absent"] == place.rows // IN_A_FOLDER
        assert one["measured"] > 0


def test_a_large_cache_is_listed_quickly(place: Place) -> None:
    found = place.run("cache", "list")["feature_sets"]
    assert [one["modality"] for one in found] == ["audio", "text", "visual"]
    assert all(one["utterances"] == one["of"] == place.rows for one in found)
