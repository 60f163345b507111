"""What `benchmarks/extract.py` works on: a corpus of MP4 clips, and encoders of the base size.

Clips last as long as MELD's utterances and look like its files: 1280 x 720, 24 pictures a second,
H.264 with AAC beside it. Encoders have random weights: they take as long as trained ones.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from extract.encoders.base import RANDOM_MARKER
from extract.tiny import make_audio_encoder, make_text_encoder, make_visual_encoder

DATASET, MANY = "bench", "bench_many"  # `MANY` holds every clip several times
TIMES = 3
MAX_SECONDS = 30.0
WIDTH, HEIGHT, PICTURES_A_SECOND = 1280, 720, 24
SOUND_RATE = 48_000
# Seconds that 0, 5, ... 100 % of MELD's utterances do not exceed, by the times in its three tables;
# the last is the cut (one lasts 305 s by its times).
# fmt: off
MELD_QUANTILES = (
    0.01, 0.67, 1.0, 1.18, 1.38, 1.54, 1.71, 1.89, 2.08, 2.25, 2.46, 2.67, 2.92, 3.17, 3.54, 3.92,
    4.46, 5.25, 6.3, 7.88, MAX_SECONDS,
)
# fmt: on
_WORDS_A_SECOND = 2.5  # MELD's mean
_WORDS = ("oh", "you", "know", "I", "was", "just", "going", "to", "say", "that", "we", "should")

_ENTRY = f"""\
  {{name}}:
    title: Benchmark
    task: classification
    language: en
    labels:
      - {{{{name: calm, en: calm, zh: 平静}}}}
      - {{{{name: tense, en: tense, zh: 紧张}}}}
    layout: {{{{reader: table, folder: ., table: {{name}}.csv}}}}
    protocol: emotion
    max_seconds: {MAX_SECONDS:g}
"""


@dataclass(frozen=True)
class Spoken:
    """One utterance: how long it lasts, and what is said."""

    seconds: float
    text: str


def meld_utterances(folder: Path) -> list[Spoken]:
    """Read MELD's three tables; an utterance whose end is not after its start is left out."""
    found = []
    for split in ("train", "dev", "test"):
        with (folder / f"{split}_sent_emo.csv").open(encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                seconds = _seconds(row["EndTime"]) - _seconds(row["StartTime"])
                if seconds > 0:
                    found.append(Spoken(seconds, row["Utterance"]))
    return found


def utterances_like(everyone: Sequence[Spoken], count: int) -> list[Spoken]:
    """Return as many utterances, evenly spread over the lengths of all.

    Both halves of them last about as long, as shards of hundreds of utterances do: two shards of a
    few in random order would leave one worker idle for a share of the time that no real run knows.
    """
    ordered = sorted(everyone, key=lambda one: one.seconds)
    spread = [ordered[int((number + 0.5) / count * len(ordered))] for number in range(count)]
    shorter: list[Spoken] = []
    longer: list[Spoken] = []
    for at in range(count - 1, -1, -2):  # by pairs: the longer of two goes to the shorter half
        shorter, longer = sorted((shorter, longer), key=lambda half: sum(u.seconds for u in half))
        shorter.append(spread[at])
        longer += spread[at - 1 : at] if at else []
    return [*longer, *shorter]


def utterances_without_tables() -> list[Spoken]:
    """Return utterances that are distributed like MELD's."""
    points = np.linspace(0, 1, len(MELD_QUANTILES))
    lengths = np.interp(np.linspace(0, 1, 1000), points, MELD_QUANTILES)
    return [Spoken(float(each), _words(float(each))) for each in lengths]


def write_corpus(root: Path, spoken: Sequence[Spoken]) -> float:
    """Write the clips, their table and manifest; return the hours of media."""
    (root / "clips").mkdir(parents=True)
    for number, one in enumerate(spoken):
        write_clip(root / f"clips/{number:04d}.mp4", min(one.seconds, MAX_SECONDS), number)
    _write_table(root / f"{DATASET}.csv", spoken, 1)
    _write_table(root / f"{MANY}.csv", spoken, TIMES)
    entries = "".join(_ENTRY.format(name=name) for name in (DATASET, MANY))
    (root / "manifest.yaml").write_text(f"datasets:\n{entries}", encoding="utf-8")
    return sum(min(one.seconds, MAX_SECONDS) for one in spoken) / 3600


def _write_table(path: Path, spoken: Sequence[Spoken], times: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "split", "label", "text", "media"])
        for again in range(times):
            for number, one in enumerate(spoken):
                media = f"clips/{number:04d}.mp4"
                writer.writerow([f"u{number}-{again}", "train", "calm", one.text, media])


def write_clip(path: Path, seconds: float, seed: int) -> None:
    """Write a camera that pans over a textured room, with noise on both streams."""
    generator = np.random.default_rng(seed)
    room = _texture(generator, HEIGHT + 64, WIDTH + 256)
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "crf": "23"}
        video: Any = container.add_stream("libx264", rate=PICTURES_A_SECOND, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio: Any = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        for number in range(max(1, round(seconds * PICTURES_A_SECOND))):
            left, top = (3 * number) % 256, 32 + round(20 * np.sin(number / 9))
            picture = np.ascontiguousarray(room[top : top + HEIGHT, left : left + WIDTH])
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, PICTURES_A_SECOND)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        times = np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE
        voice = 0.3 * np.sin(2 * np.pi * (120 + 10 * (seed % 20)) * times)
        samples = (voice + 0.02 * generator.normal(size=len(times))).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def make_base_encoders(folder: Path, texts: Sequence[str]) -> dict[str, str]:
    """Make Whisper base, ViT-B-32 and a text model of 12 layers; return their specs."""
    text = make_text_encoder(folder / "text", texts, dim=768, layers=12, heads=12, vocabulary=8000)
    audio = make_audio_encoder(
        folder / "whisper", dim=512, layers=6, heads=8, window_seconds=MAX_SECONDS
    )
    visual = _make_vit_b_32(folder / "vit-b-32")
    return {
        "text": f"hf:{text}",
        "audio": f"whisper:{audio}",
        "visual": f"open_clip:local-dir:{visual}",
    }


def make_tiny_encoders(folder: Path, texts: Sequence[str]) -> dict[str, str]:
    """Make encoders of the size of the `tiny` preset; return their specs."""
    text = make_text_encoder(folder / "tiny-text", texts)
    audio = make_audio_encoder(folder / "tiny-whisper")
    visual = make_visual_encoder(folder / "tiny-clip")
    return {
        "text": f"hf:{text}",
        "audio": f"whisper:{audio}",
        "visual": f"open_clip:local-dir:{visual}",
    }


def _make_vit_b_32(folder: Path) -> Path:
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = open_clip.get_model_config("ViT-B-32")
        model = open_clip.model.CLIP(**config)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    preprocessing = {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    described = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    (folder / RANDOM_MARKER).write_text("Random weights: for measuring time.\n")
    return folder


def _texture(generator: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Return a picture with detail on every scale, as a film has."""
    picture = np.full((height, width, 3), 128.0, np.float32)
    for step in (160, 40, 8, 2):
        coarse = generator.normal(size=(height // step + 2, width // step + 2, 3)) * step**0.5 * 3
        fine = coarse.astype(np.float32).repeat(step, axis=0).repeat(step, axis=1)
        picture += fine[:height, :width]
    return picture.clip(0, 255).astype(np.uint8)


def _words(seconds: float) -> str:
    count = max(1, round(seconds * _WORDS_A_SECOND))
    return " ".join(_WORDS[number % len(_WORDS)] for number in range(count))


def _seconds(written: str) -> float:
    hours, minutes, rest = written.split(":")
    seconds, milliseconds = rest.split(",")
    return timedelta(
        hours=int(hours),
        minutes=int(minutes),
        seconds=int(seconds),
        milliseconds=int(milliseconds),
    ).total_seconds()
