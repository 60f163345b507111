"""Options that several commands take, declared once so that they read and behave alike."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import note, progress

if TYPE_CHECKING:
    from pipeline.extraction_plan import Console


class Preset(StrEnum):
    """Sizes of encoders and language model."""

    tiny = "tiny"
    base = "base"
    large = "large"


CacheFolder = Annotated[
    Path, typer.Option(envvar="EGMF_CACHE", help="Folder of the feature cache.")
]
ManifestFile = Annotated[
    Path | None, typer.Option(help="Your own manifest, for a corpus of yours.")
]
DataRoot = Annotated[
    Path, typer.Option(envvar="EGMF_DATA", help="Folder that holds the datasets' files.")
]
Presets = Annotated[Preset | None, typer.Option(help="Default: tiny for the demo, else base.")]
Modalities = Annotated[
    str | None, typer.Option(help="Comma-separated, such as text,audio. Default: all.")
]

DEFAULT_CACHE = Path("cache")
DEFAULT_DATA_ROOT = Path("data")


def names_in(text: str | None) -> tuple[str, ...]:
    """Return the names of a comma-separated list; none for None."""
    return tuple(name for each in (text or "").split(",") if (name := each.strip()))


def console_for(*, quiet: bool) -> Console:
    """Return what extraction tells people with."""
    from pipeline.extraction_plan import Console

    return Console(
        note=lambda line: note(line, quiet=quiet),
        progress=lambda title, total, unit: progress(title, total, unit, quiet=quiet),
    )
