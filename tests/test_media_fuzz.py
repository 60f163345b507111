"""Damaged media through the real extraction: each is decoded or set aside with a reason."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from extract.decoding import CLIP_SECONDS, ChildDecoder, Clip, decode
from extract.engine import Cluster
from extract.features import list_feature_sets
from extract.media import MediaError
from pipeline.demo.corpus import draw_sentence, render_clip
from pipeline.demo.dialogues import draw_utterances, random_stream
from pipeline.demo.rhythm import draw_rhythm
from pipeline.demo.spec import DemoSpec
from pipeline.demo.voice import SAMPLE_RATE, draw_speaker, render_voice
from pipeline.extraction import extract_dataset
from pipeline.extraction_plan import Console, Request, plan_dataset
from tests.helpers_media import tone, write_wav
from tests.test_change_without_waste import MANIFEST
from tests.test_damage import no_progress

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SHORT, LONG, EXTRACTED = 30, 1000, 200
REAL = 6  # files of each kind that are there


def sources(folder: Path, *, real: bool) -> list[Path]:
    """Return sound files: the demo's clips and voices, and real ones where they are there."""
    spec = DemoSpec()
    found = []
    whole = [one for one in draw_utterances(spec) if one.defect is None][:3]
    for number, one in enumerate(whole):
        clip = folder / f"demo{number}.mp4"
        clip.write_bytes(render_clip(spec, one) or b"")
        rhythm = draw_rhythm(
            draw_sentence(spec, one).syllables, random_stream(spec.seed, one.id, "rhythm")
        )
        speaker = draw_speaker(random_stream(spec.seed, one.speaker, "voice"))
        voice = render_voice(
            one.cues["audio"], speaker, rhythm, random_stream(spec.seed, one.id, "voice")
        )
        found += [clip, write_wav(folder / f"demo{number}.wav", voice, SAMPLE_RATE)]
    if real:
        found += sorted(SHARED.glob("emodb/wav/*.wav"))[:REAL]
        clips = sorted(SHARED.glob("free_clips/**/*.mp4"), key=lambda path: path.stat().st_size)
        found += clips[:REAL]
    return found


def mutate(content: bytes, other: bytes, generator: random.Random) -> tuple[str, bytes]:
    """Damage a file in one of many ways; return which and what is left."""
    kind = generator.choice(
        ("flipped", "flipped in the head", "truncated", "beheaded", "another's head", "zeroed",
         "concatenated", "inserted", "shuffled", "flipped in the index")
    )  # fmt: skip
    damaged = bytearray(content)
    size = len(damaged)
    block = generator.randrange(1, max(2, size // 4))
    at = generator.randrange(max(1, size - block))
    head = min(size, generator.choice((12, 64, 512, 4096)))
    if kind == "flipped":
        for _ in range(generator.choice((1, 8, 64, size // 50 + 1))):
            damaged[generator.randrange(size)] ^= generator.randrange(1, 256)
    elif kind == "flipped in the head":
        for _ in range(generator.randrange(1, 32)):
            damaged[generator.randrange(head)] ^= generator.randrange(1, 256)
    elif kind == "flipped in the index":
        index = max(0, damaged.rfind(b"moov"))
        for _ in range(generator.randrange(1, 32)):
            damaged[generator.randrange(index, size)] ^= generator.randrange(1, 256)
    elif kind == "truncated":
        del damaged[generator.randrange(size) :]
    elif kind == "beheaded":
        del damaged[:head]
    elif kind == "another's head":
        damaged[:head] = other[:head]
    elif kind == "zeroed":
        damaged[at : at + block] = bytes(block)
    elif kind == "concatenated":
        damaged += other
    elif kind == "inserted":
        damaged[at:at] = generator.randbytes(block)
    else:
        damaged[at : at + block] = damaged[at : at + block][::-1]
    return kind, bytes(damaged)


def write_damaged(folder: Path, count: int, *, real: bool) -> list[tuple[str, Path]]:
    """Write damaged files; return what was done to each."""
    (folder / "sound").mkdir()
    found = sources(folder / "sound", real=real)
    contents = [path.read_bytes() for path in found]
    generator = random.Random(count)
    damaged = []
    for number in range(count):
        pick = generator.randrange(len(found))
        kind, content = mutate(contents[pick], generator.choice(contents), generator)
        path = folder / f"{number:04d}{found[pick].suffix}"
        path.write_bytes(content)
        damaged.append((kind, path))
    return damaged


def extract_all(folder: Path, paths: list[Path], workers: int) -> Counter[str]:
    """Extract files' voices and faces; return how many were encoded, and set aside by reason."""
    rows = [f"{path.stem},train,sad,{path.name}" for path in paths]
    (folder / "table.csv").write_text("\n".join(["id,split,label,media", *rows]))
    (folder / "mine.yaml").write_text(MANIFEST)
    request = Request(
        "mine", folder / "cache", folder, folder / "mine.yaml", "tiny",
        modalities=("audio", "visual"),
    )  # fmt: skip
    console = Console(note=lambda line: None, progress=no_progress)
    with Cluster("cpu", workers, None) as cluster:
        summary = extract_dataset(plan_dataset(request, console), cluster, console)
    assert summary.failures == []
    ended: Counter[str] = Counter()
    for features in list_feature_sets(folder / "cache", "mine"):
        lengths = features.lengths()
        reasons = {row.id: row.reason for row in features.quarantine()}
        assert lengths.keys() == {path.stem for path in paths}
        for name, length in lengths.items():
            assert bool(length) == (name not in reasons)
            assert length or reasons[name].strip()
            ended["encoded" if length else reasons[name]] += 1
    return ended


def test_damaged_media_are_encoded_or_set_aside(tmp_path: Path) -> None:
    damaged = write_damaged(tmp_path, SHORT, real=False)
    ended = extract_all(tmp_path, [path for _, path in damaged], workers=1)
    assert ended.total() == 2 * SHORT
    assert 0 < ended["encoded"] < 2 * SHORT


def test_a_codec_that_is_not_known(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(0.5))
    content = bytearray(path.read_bytes())
    content[20:22] = b"\x77\x77"  # the format's tag
    path.write_bytes(content)
    with pytest.raises(MediaError, match="audio of a codec that is not known"):
        decode(Clip("audio", path, None, None, max_seconds=30.0, fps=4.0))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_damaged_media(tmp_path: Path) -> None:
    damaged = write_damaged(tmp_path, LONG, real=True)
    decoder = ChildDecoder(CLIP_SECONDS)
    ended: Counter[str] = Counter()
    slowest = (0.0, "")
    for kind, path in damaged:
        for medium in ("audio", "frames"):
            began = time.monotonic()
            try:
                decoder.decode(Clip(medium, path, None, None, max_seconds=30.0, fps=4.0))
            except MediaError as error:
                ended[error.reason.strip() or "no reason"] += 1
            else:
                ended["decoded"] += 1
            took = time.monotonic() - began
            slowest = max(slowest, (took, f"{path.name} ({kind}, {medium})"))
    decoder.close()
    print(f"{LONG} files, each read for sound and for pictures; slowest {slowest}")
    for reason, count in ended.most_common():
        print(f"  {count:5d} {reason}")
    assert "no reason" not in ended
    assert not any("Error: " in reason for reason in ended)  # a plain word for each
    assert slowest[0] < CLIP_SECONDS
    found = extract_all(tmp_path, [path for _, path in damaged][:EXTRACTED], workers=2)
    print(f"extracted by two workers: {found.most_common()}")
