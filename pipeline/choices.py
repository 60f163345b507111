"""What a settings file may hold and a study may vary: any setting, and the flags that shape a run.

Both use one flat list of names, so that a study's best trial is a settings file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from extract.files import publish_text
from fuse.config import VARIANTS
from pipeline.errors import PipelineError
from pipeline.manifest import nearest
from pipeline.request import Request
from pipeline.settings import ABLATIONS, TrainSettings
from pipeline.yaml_files import explain, read_yaml


class Flags(BaseModel):
    """The flags of `egmf-train` that a settings file may give; None where it does not.

    Lists may be written as on the command line, with commas.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fusion: str | None = None
    modalities: tuple[str, ...] | None = None
    context: int | None = Field(default=None, ge=0)
    context_after: int | None = Field(default=None, ge=0)
    ablate: tuple[str, ...] | None = None

    @field_validator("modalities", "ablate", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name for each in value.split(",") if (name := each.strip()))
        return value

    @field_validator("fusion")
    @classmethod
    def _known_fusion(cls, value: str | None) -> str | None:
        return _one_of(value, VARIANTS) if value is not None else None

    @field_validator("ablate")
    @classmethod
    def _known_parts(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else tuple(_one_of(each, ABLATIONS) for each in value)


FLAGS = tuple(Flags.model_fields)


def _one_of(value: str, known: Iterable[str]) -> str:
    if value not in known:
        raise ValueError(f"no {value!r}{nearest(value, known)}; there are: {', '.join(known)}")
    return value


def check_names(names: Iterable[str], where: str) -> None:
    """Check that every name is a setting or a flag.

    Raises:
        PipelineError: one is not; the message offers the nearest.
    """
    known = (*FLAGS, *TrainSettings.model_fields)
    for name in names:
        if name not in known:
            raise PipelineError(
                f"{where}: {name!r} is no setting and no flag that may stand here"
                f"{nearest(str(name), known)}; known: {', '.join(known)}"
            )


def flags_in(choices: Mapping[str, Any], where: str) -> Flags:
    """Read the flags among some choices.

    Raises:
        PipelineError: one has a wrong value.
    """
    try:
        return Flags(**{name: value for name, value in choices.items() if name in FLAGS})
    except ValidationError as error:
        raise PipelineError(f"{where}: {explain(error)}") from None


def settings_in(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among some choices."""
    return {name: value for name, value in choices.items() if name not in FLAGS}


def choose(request: Request, choices: Mapping[str, Any], where: str) -> Request:
    """Return the request with some of its settings and flags chosen anew.

    Raises:
        PipelineError: a value is out of range.
    """
    flags = flags_in(choices, where)
    try:
        settings = TrainSettings(**{**request.settings.model_dump(), **settings_in(choices)})
    except ValidationError as error:
        raise PipelineError(f"{where}: {explain(error)}") from None
    before, after = request.context
    source = request.source
    if flags.modalities is not None:
        source = replace(source, modalities=flags.modalities)
    return replace(
        request,
        source=source,
        settings=settings,
        fusion=request.fusion if flags.fusion is None else flags.fusion,
        ablate=request.ablate if flags.ablate is None else flags.ablate,
        context=(
            before if flags.context is None else flags.context,
            after if flags.context_after is None else flags.context_after,
        ),
    )


def read_choices(path: Path) -> dict[str, Any]:
    """Read a settings file.

    Raises:
        PipelineError: it cannot be read, or names what is no setting.
    """
    found = read_yaml(path)
    check_names(found, str(path))
    return {str(name): value for name, value in found.items()}


def write_choices(path: Path, choices: Mapping[str, Any], comment: str) -> None:
    """Write a settings file, with a line of comment at its head."""
    body = yaml.safe_dump(dict(choices), allow_unicode=True, sort_keys=False)
    publish_text(path, f"# {comment}\n{body}")
