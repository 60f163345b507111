"""`egmf-cache`: what a user types, and what a damaged cache is told from."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extract.features import list_feature_sets
from extract.files import sha256_of
from extract.sealed import publish_sealed, read_sealed
from pipeline.commands import cache as command
from tests.helpers_import import mmsa, write_corpus


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a corpus and `file.pkl`, in shards of three."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("extract.importers.store.ROWS_PER_SHARD", 3)
    monkeypatch.delenv("EGMF_CACHE", raising=False)
    monkeypatch.delenv("EGMF_DATA", raising=False)
    write_corpus(tmp_path)
    content = mmsa()
    content["test"]["id"][0] = "another$_$0"
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(content, 4))
    return tmp_path


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Run the command as a user would; return the exit code and what it printed."""
    monkeypatch.setattr(sys, "argv", ["egmf-cache", *arguments])
    with pytest.raises(SystemExit) as end:
        command.main()
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


class Typed:
    """Runs `egmf-cache` and checks the exit code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        found, out, err = run(self._monkeypatch, self._capsys, *arguments)
        assert found == code, err
        return out, err

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self(*arguments, "--json", code=code)[0])
        return value


@pytest.fixture
def egmf_cache(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Typed:
    return Typed(monkeypatch, capsys)


IMPORT = ("import", "file.pkl", "--dataset", "mine", "--manifest", "mine.yaml")


def test_import_makes_the_table_and_says_what_it_found(egmf_cache: Typed, place: Path) -> None:
    out, err = egmf_cache(*IMPORT)
    assert (place / "cache" / "mine" / "utterances.parquet").is_file()
    assert "audio: 9 of 10 utterances" in out
    assert "audio: absent: 1 x not in file.pkl, test" in err
    assert "1 utterances without a row in the table, ignored (first: another$_$0)" in err
    out, _ = egmf_cache(*IMPORT, "--quiet")
    assert "nothing to do" in out


def test_import_as_json(egmf_cache: Typed) -> None:
    found = egmf_cache.json(*IMPORT, "--modality", "audio", "--name", "mine-50")["feature_sets"]
    assert [(one["modality"], one["encoder"]) for one in found] == [("audio", "import:mine-50")]
    assert (found[0]["utterances"], found[0]["present"], found[0]["without_row"]) == (10, 9, 1)


def test_a_cached_table_is_used_without_the_corpus(egmf_cache: Typed, place: Path) -> None:
    egmf_cache(*IMPORT)
    (place / "data").rename(place / "elsewhere")
    egmf_cache(*IMPORT, "--name", "again")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list",), "no cache; give --cache or set EGMF_CACHE"),
        (("verify", "--cache", "nowhere"), "nowhere: no cache"),
        (("import", "x.pkl", "--dataset", "meld"), "utterances.parquet is not there yet"),
        (("import", "x.pkl", "--dataset", "mine"), "unknown dataset 'mine'"),
        ((*IMPORT, "--name", "../up"), "'../up' is no name"),
        (("export", "--dataset", "meld", "--out", "x.pkl"), "no such table"),
    ],
)
def test_errors_are_one_line(egmf_cache: Typed, arguments: tuple[str, ...], message: str) -> None:
    _, err = egmf_cache(*arguments, code=1)
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_hostile_pickle_is_refused(egmf_cache: Typed, place: Path) -> None:
    (place / "file.pkl").write_bytes(b"cos\nsystem\n(X\x09\x00\x00\x00touch rantR.")
    _, err = egmf_cache(*IMPORT, code=1)
    assert err == "error: file.pkl: asks for os.system; refused\n"
    assert not (place / "ran").exists()


def test_list_reads_sidecars_alone(egmf_cache: Typed, place: Path) -> None:
    egmf_cache(*IMPORT)
    for shard in place.glob("cache/*/*/*/*.h5"):
        shard.unlink()
    out, _ = egmf_cache("list")
    assert "import:file" in out
    found = egmf_cache.json("list")["feature_sets"]
    assert [one["modality"] for one in found] == ["audio", "text", "visual"]
    audio = found[0]
    assert (audio["dataset"], audio["utterances"], audio["of"]) == ("mine", 10, 10)
    assert (audio["present"], audio["set_aside"], audio["shards"]) == (9, 1, 4)
    assert (audio["dim"], audio["dtype"], audio["random_weights"]) == (3, "float32", False)
    assert audio["age_seconds"] < 600


def test_list_names_what_it_cannot_read(egmf_cache: Typed, place: Path) -> None:
    egmf_cache(*IMPORT)
    [audio] = (place / "cache" / "mine" / "audio").iterdir()
    (audio / "features.json").write_text("{")
    found = egmf_cache.json("list")
    assert len(found["feature_sets"]) == 2
    [line] = found["unreadable"]
    assert str(audio.name) in line


def test_a_whole_cache_is_sound(egmf_cache: Typed) -> None:
    egmf_cache(*IMPORT)
    verdict = egmf_cache.json("verify")
    assert verdict["damaged"] == verdict["notes"] == []
    assert (verdict["shards"], verdict["utterances"]) == (12, 30)
    out, _ = egmf_cache("verify")
    assert out.startswith("12 shards with 30 utterances are sound")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def flip_the_end(path: Path) -> None:
    """Flip a bit in Parquet's own description of the file, which its checksums do not cover."""
    content = bytearray(path.read_bytes())
    content[content.rindex(b"parquet-cpp-arrow")] ^= 0x20
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def change_field(path: Path, **fields: Any) -> None:
    """Change what the file says and seal it anew, as no damage but a wrong program would."""
    publish_sealed(path, {**read_sealed(path)[0], **fields})


def change_field_alone(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}, indent=1))


DAMAGE = [
    ("00001.h5", flip, "00001.h5"),
    ("00001.h5", truncate, "00001.h5"),
    ("00001.h5", Path.unlink, "00001.h5"),
    ("00001.json", truncate, "00001.json"),
    ("00001.json", Path.unlink, "00001.json"),
    ("00001.json", lambda path: change_field(path, ids=["a", "b", "c"]), "00001.json"),
    ("00001.json", lambda path: change_field(path, rows=[1, 1, 1]), "00001.json"),
    ("00001.json", lambda path: change_field(path, digests=[]), "00001.json"),
    ("00001.json", lambda path: change_field(path, fingerprint="0" * 64), "00001.json"),
    ("00001.json", lambda path: change_field(path, sha256="0" * 64), "00001.h5"),
    ("00001.json", lambda path: change_field_alone(path, seconds={"encode": 1}), "00001.json"),
    ("features.json", lambda path: change_field_alone(path, created="long ago"), "features.json"),
    ("features.json", truncate, "features.json"),
    ("features.json", Path.unlink, "features.json"),
    ("features.json", lambda path: change_field(path, fingerprint="0" * 64), "features.json"),
    ("features.json", lambda path: change_field(path, fingerprinted={}), "features.json"),
    ("features.json", lambda path: change_field(path, modality="text"), "features.json"),
    ("quarantine.csv", truncate, "quarantine.csv"),
    ("quarantine.csv", flip, "quarantine.csv"),
    ("quarantine.csv", Path.unlink, "quarantine.csv"),
    ("../../utterances.json", truncate, "utterances.json"),
    ("../../utterances.json", Path.unlink, "utterances.json"),
    ("../../utterances.parquet", flip_the_end, "utterances.parquet"),
    ("../../utterances.parquet", truncate, "utterances.parquet"),
    ("../../utterances.parquet", Path.unlink, "utterances.parquet"),
]


@pytest.mark.parametrize(("file", "damage", "named"), DAMAGE)
def test_every_damaged_file_is_named(
    egmf_cache: Typed, place: Path, file: str, damage: Any, named: str
) -> None:
    egmf_cache(*IMPORT, "--modality", "audio")
    [audio] = (place / "cache" / "mine" / "audio").iterdir()
    damage(audio / file)
    found = egmf_cache.json("verify", code=1)["damaged"]
    assert [Path(one["file"]).name for one in found] == [named]
    out, _ = egmf_cache("verify", code=1)
    assert f"{named}: " in out


def change_shard(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a shard and its sidecar's digest, as no damage but a wrong program would."""
    with h5py.File(path, "r+") as file:
        change(file)
    sidecar = path.with_suffix(".json")
    change_field(sidecar, sha256=sha256_of(path), size=path.stat().st_size)


def not_a_number(file: h5py.File) -> None:
    file["value"][1, 1] = np.nan


def a_row_less(file: h5py.File) -> None:
    for name in ("value", "time"):
        file[name].resize(len(file[name]) - 1, axis=0)


def a_time_less(file: h5py.File) -> None:
    file["time"].resize(len(file["time"]) - 1, axis=0)


@pytest.mark.parametrize("change", [not_a_number, a_row_less, a_time_less])
def test_values_and_row_counts_are_looked_at(
    egmf_cache: Typed, place: Path, change: Callable[[h5py.File], None]
) -> None:
    egmf_cache(*IMPORT, "--modality", "audio")
    [audio] = (place / "cache" / "mine" / "audio").iterdir()
    change_shard(audio / "00001.h5", change)
    [found] = egmf_cache.json("verify", code=1)["damaged"]
    assert Path(found["file"]).name == "00001.h5"
    assert ("not finite" in found["problem"]) == (change is not_a_number)


def test_a_shard_of_another_dim_or_type_is_damage(egmf_cache: Typed, place: Path) -> None:
    egmf_cache(*IMPORT, "--modality", "audio")
    [features] = list_feature_sets(place / "cache", "mine")
    change_field(features.folder / "features.json", dtype="float64")
    found = egmf_cache.json("verify", code=1)["damaged"]
    assert {Path(one["file"]).name for one in found} == {f"{n:05d}.h5" for n in range(4)}
    assert found[0]["problem"] == "holds float32, not float64"


def test_what_is_not_there_yet_and_what_is_no_longer_needed_is_no_damage(
    egmf_cache: Typed, place: Path
) -> None:
    egmf_cache(*IMPORT, "--modality", "audio")
    [audio] = (place / "cache" / "mine" / "audio").iterdir()
    for name in ("00003.h5", "00003.json"):
        (audio / name).unlink()
    [line] = egmf_cache.json("verify")["notes"]
    assert "1 of 10 utterances are not there yet" in line


def test_models_in_the_cache_are_no_datasets(egmf_cache: Typed, place: Path) -> None:
    egmf_cache(*IMPORT)
    folder = place / "cache" / "models" / "tiny" / "random-bert"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert egmf_cache.json("verify")["damaged"] == []
    egmf_cache("verify", "--dataset", "models", code=1)
    assert len(egmf_cache.json("list", "--dataset", "mine")["feature_sets"]) == 3


def test_export_and_back(egmf_cache: Typed, place: Path) -> None:
    egmf_cache(*IMPORT)
    out, _ = egmf_cache(
        "export", "--dataset", "mine", "--manifest", "mine.yaml", "--out", "out.pkl"
    )
    assert "10 utterances" in out
    egmf_cache(
        "import", "out.pkl", "--dataset", "mine", "--manifest", "mine.yaml", "--cache", "again"
    )
    found = egmf_cache.json(
        "export", "--dataset", "mine", "--manifest", "mine.yaml", "--cache", "again",
        "--out", "again.pkl",
    )  # fmt: skip
    assert found["encoders"]["visual"] == "import:out"
    assert (place / "again.pkl").read_bytes() == (place / "out.pkl").read_bytes()


def test_memory_stays_well_below_the_files_size(place: Path) -> None:
    """A file of 120 MB, most of it one array; what the interpreter takes itself is taken off."""
    content = mmsa()
    rng = np.random.default_rng(0)
    for fields in content.values():
        fields["audio"] = rng.normal(size=(len(fields["id"]), 50_000, 30))
        fields["audio_lengths"] = [200] * len(fields["id"])
    (place / "file.pkl").write_bytes(pickle.dumps(content, 4))
    largest = content["train"]["audio"].nbytes
    script = (
        "import re\n"
        "import h5py, pandas, pyarrow.parquet, extract.importers.files, pipeline.importing\n"
        "def peak():\n"  # not that of `getrusage`, which begins with the parent's
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "from pipeline.commands.cache import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(1024 * (peak() - before))\n"
    )
    arguments = [*IMPORT, "--modality", "audio", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert 0 < int(done.stdout.splitlines()[-1]) < 2 * largest
    [features] = list_feature_sets(place / "cache", "mine")
    assert sum(features.lengths().values()) == 10 * 200
