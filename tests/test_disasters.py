"""What goes wrong around a run: one plain message each, and a cache that goes on as it was."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from extract.files import append_json_line, machine_name
from extract.locks import Holder, lock_path
from extract.plan import MediaFiles
from extract.shards import read_sidecar, sidecar_path
from extract.table import Utterance
from pipeline.commands.cache import main as cache_main
from pipeline.commands.extract import main as extract_main
from tests.helpers_bad_input import call, small_disk
from tests.helpers_extract import audio_folder, list_corpus, make_model, write_corpus
from tests.helpers_import import mmsa
from tests.helpers_import import write_corpus as write_import_corpus
from tests.helpers_media import grey, tone, write_clip, write_wav
from tests.test_change_without_waste import MANIFEST

IMPORT = ("import", "file.pkl", "--dataset", "mine", "--manifest", "mine.yaml")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Import a file into `cache`."""
    monkeypatch.chdir(tmp_path)
    write_import_corpus(tmp_path)
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(mmsa(), 4))
    assert call(cache_main, *IMPORT, "--quiet").code == 0
    return tmp_path


def digests(cache: Path) -> dict[Path, str]:
    """Return the digest of every shard and table."""
    return {
        path.relative_to(cache): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("*.h5", "*.parquet")
        for path in sorted(cache.rglob(pattern))
    }


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a folder over itself, for reading alone."""
    mounts = (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)])
    for arguments in mounts:
        if subprocess.run(["mount", *arguments], capture_output=True).returncode:
            pytest.skip("only root may mount a folder")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_cache_can_be_read(place: Path) -> None:
    before = digests(place / "cache")
    with read_only(place / "cache"):
        assert call(cache_main, "list").code == 0
        assert call(cache_main, "verify").code == 0
        complaint = call(cache_main, *IMPORT, "--quiet").complaint()
        assert "read-only file system; check the path and its permissions" in complaint
        assert "cache/mine/" in complaint
        arguments = ("--dataset", "mine", "--manifest", "mine.yaml", "--data-root", "data")
        complaint = call(extract_main, *arguments, "--preset", "tiny", "--quiet").complaint()
        assert "read-only file system" in complaint
        assert ".tmp" not in complaint
    assert "nothing to do" in call(cache_main, *IMPORT).out
    assert digests(place / "cache") == before


def test_a_clock_that_jumps_changes_nothing(place: Path) -> None:
    before = digests(place / "cache")
    for year in (40 * 365 * 86400, 150 * 365 * 86400):  # in 2010, and in 2120
        for path in (place / "cache").rglob("*"):
            os.utime(path, (year, year))
        [folder] = (place / "cache" / "mine" / "audio").iterdir()
        left = Holder(machine_name(), dead_process(), "2999-01-01T00:00:00+00:00")
        lock_path(folder).write_text(json.dumps(asdict(left)))
        ended = call(cache_main, *IMPORT)
        assert (ended.code, "took over the lock of a process that is gone" in ended.err) == (
            0,
            True,
        )
        assert "nothing to do" in ended.out
        assert call(cache_main, "verify").code == 0
        listed = json.loads(call(cache_main, "list", "--json").out)["feature_sets"]
        assert all(one["age_seconds"] >= 0 for one in listed)
    assert digests(place / "cache") == before


def dead_process() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


@pytest.mark.parametrize("seconds", [-(10**9), 0, 4 * 10**9])
def test_a_clip_from_another_time_is_told_by_it(tmp_path: Path, seconds: int) -> None:
    path = write_wav(tmp_path / "a.wav", tone(0.2))
    os.utime(path, (seconds, seconds))
    if path.stat().st_mtime != seconds:
        pytest.skip("this file system knows no such time")
    one = Utterance("a", "train", audio="a.wav")
    [row] = MediaFiles(tmp_path).rows([one], "audio")
    assert row.digest == f"{path.stat().st_size} {seconds * 10**9} None None"


def test_a_line_of_the_log_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_json_line(path, {"a": 1})
    path.write_bytes(path.read_bytes() + b'{"torn": ')
    append_json_line(path, {"a": 2})
    assert path.read_text().splitlines() == ['{"a": 1}', '{"torn": ', '{"a": 2}']
    try:
        with small_disk(tmp_path / "disk", 64) as disk:
            path = disk / "log.jsonl"
            append_json_line(path, {"a": 1})
            with pytest.raises(OSError, match="No space left") as full:
                append_json_line(path, {"a": "x" * 200_000})
            assert full.value.filename == str(path)
            assert path.read_text() == '{"a": 1}\n'
    except PermissionError as error:
        pytest.skip(str(error))


WITHOUT_LEAVE = """
import sys
from pathlib import Path
from extract.errors import ExtractError
from extract.worker import encode_shard
from tests.helpers_extract import audio_folder, audio_jobs, list_corpus

model, root, cache = map(Path, sys.argv[1:])
folder, _ = audio_folder(cache, model)
folder.mkdir(parents=True)
first, second = audio_jobs(cache, model, root, list_corpus(8))
encode_shard(first)
folder.chmod(0o555)
try:
    encode_shard(second)
except ExtractError as error:
    print(error)
folder.chmod(0o755)
encode_shard(second)
"""


def test_without_permission(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    write_corpus(tmp_path / "root", 8)
    (tmp_path / "root" / "001.wav").chmod(0)
    command = [sys.executable, "-c", WITHOUT_LEAVE, model, tmp_path / "root", tmp_path / "cache"]
    if os.geteuid() == 0:  # who may do all: without the leave to overrule permissions
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv, or another user than root")
        never = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={never}", f"--inh-caps={never}", *command]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert ended.returncode == 0, ended.stderr
    folder, _ = audio_folder(tmp_path / "cache", model)
    assert ended.stdout == (
        f"{folder}/00001.h5: cannot be written: permission denied; see to it and run the same "
        "command again, which goes on after the shards that are done\n"
    )
    quarantined = [
        (one.id, one.reason)
        for number in range(2)
        for one in read_sidecar(sidecar_path(folder, number)).quarantined
    ]
    assert quarantined == [
        ("u1", "cannot be opened as media: Permission denied"),
        ("u2", "empty file"),
        ("u4", "no such file"),
    ]
    assert [one.id for one in list_corpus(8)] == [
        name for number in range(2) for name in read_sidecar(sidecar_path(folder, number)).ids
    ]


def start_run(place: Path, cache: Path, modality: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from pipeline.commands.extract import main; main()"]
    command += ["--dataset", "mine", "--manifest", str(place / "mine.yaml"), "--preset", "tiny"]
    command += ["--data-root", str(place), "--cache", str(cache), "--modalities", modality]
    return subprocess.Popen(
        [*command, "--device", "cpu", "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_runs_at_once(tmp_path: Path) -> None:
    rows = [f"u{number},train,sad,{number}.mp4" for number in range(40)]
    (tmp_path / "table.csv").write_text("\n".join(["id,split,label,media", *rows]))
    (tmp_path / "mine.yaml").write_text(MANIFEST)
    for number in range(40):
        pictures = [grey(20 + 5 * number)] * 6
        write_clip(tmp_path / f"{number}.mp4", pictures=pictures, sound=tone(0.5, 200 + number))

    def wait(run: subprocess.Popen[str]) -> tuple[int, str]:
        _, err = run.communicate(timeout=400)
        return run.returncode, err

    for modality in ("audio", "visual"):  # one after the other, undisturbed
        assert wait(start_run(tmp_path, tmp_path / "alone", modality))[0] == 0
    alone = digests(tmp_path / "alone" / "mine")

    both = tmp_path / "both"
    shutil.copytree(tmp_path / "alone" / "models", both / "models")
    runs = [start_run(tmp_path, both, modality) for modality in ("audio", "visual")]
    assert [wait(run)[0] for run in runs] == [0, 0]
    assert digests(both / "mine") == alone

    same = tmp_path / "same"
    shutil.copytree(tmp_path / "alone" / "models", same / "models")
    first = start_run(tmp_path, same, "audio")
    wait_until(lambda: any(same.glob("mine/audio/.*.lock")), first)
    code, err = wait(start_run(tmp_path, same, "audio"))
    assert code == 1
    assert f"process {first.pid} on" in err.splitlines()[-1]
    assert "is writing these features; wait for it" in err.splitlines()[-1]
    assert wait(first)[0] == 0
    assert wait(start_run(tmp_path, same, "visual"))[0] == 0
    assert digests(same / "mine") == alone


def wait_until(there: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    while not there():
        assert run.poll() is None
        time.sleep(0.01)
