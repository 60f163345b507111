"""Which encoders a preset stands for; the tiny ones are made in the cache on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.errors import PipelineError

PUBLISHED: dict[str, dict[str, str]] = {
    "base": {
        "text": "hf:FacebookAI/xlm-roberta-base",
        "audio": "whisper:base",
        "visual": "open_clip:ViT-B-32/laion2b_s34b_b79k",
    },
    "large": {
        "text": "hf:FacebookAI/xlm-roberta-large",
        "audio": "whisper:large-v3",
        "visual": "open_clip:ViT-L-14/datacomp_xl_s13b_b90k",
    },
}
PRESETS = ("tiny", *PUBLISHED)


def encoder_specs(preset: str, modalities: Iterable[str], cache: Path) -> dict[str, str]:
    """Return a preset's encoder spec for each of the modalities it serves.

    Raises:
        PipelineError: the preset is unknown.
    """
    if preset == "tiny":
        return {name: _TINY[name](cache / "models" / "tiny") for name in modalities}
    if preset not in PUBLISHED:
        raise PipelineError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    return {name: PUBLISHED[preset][name] for name in modalities}


def _tiny_text(folder: Path) -> str:
    from extract.tiny import make_text_encoder
    from pipeline.demo.words import all_texts

    return f"hf:{make_text_encoder(folder / 'random-bert', all_texts())}"


def _tiny_audio(folder: Path) -> str:
    from extract.tiny import make_audio_encoder

    return f"whisper:{make_audio_encoder(folder / 'random-whisper')}"


def _tiny_visual(folder: Path) -> str:
    from extract.tiny import make_visual_encoder

    return f"open_clip:local-dir:{make_visual_encoder(folder / 'random-clip')}"


_TINY: dict[str, Callable[[Path], str]] = {
    "text": _tiny_text,
    "audio": _tiny_audio,
    "visual": _tiny_visual,
}
