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
_LOCAL = "local-dir:"
_SCHEMES_OF_PATHS = ("hf", "whisper")


def encoder_specs(preset: str, modalities: Iterable[str], cache: Path) -> dict[str, str]:
    """Return a preset's encoder spec for each of the modalities it serves; paths are absolute.

    Raises:
        PipelineError: the preset is unknown.
    """
    if preset == "tiny":
        return {name: _TINY[name](cache.absolute() / "models" / "tiny") for name in modalities}
    if preset not in PUBLISHED:
        raise PipelineError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    return {name: PUBLISHED[preset][name] for name in modalities}


def absolute_spec(spec: str) -> str:
    """Return an encoder's spec with an absolute path in place of the one that it names.

    It then means the same from any folder. One that names a published model stays as it is.
    """
    scheme, mark, reference = spec.partition(":")
    local = _LOCAL if reference.startswith(_LOCAL) else ""
    if not local and scheme not in _SCHEMES_OF_PATHS:
        return spec
    name = reference.removeprefix(local)
    place = name
    while place and not Path(place).expanduser().exists():
        place = place.rpartition("@")[0]  # options follow
    if not place:
        return spec
    path = Path(place).expanduser().absolute()
    return f"{scheme}{mark}{local}{path}{name.removeprefix(place)}"


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
