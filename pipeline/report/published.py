"""Published results: data, never code, each with its source and what must be known to compare."""

from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter


class PublishedRow(BaseModel):
    """One printed result; metrics are fractions under the same names as a run's own.

    A binary figure whose convention the source does not state has a name ending in `_unstated`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: str
    backbone: str | None = None
    modalities: str | None = None
    metrics: dict[str, float]
    sd: dict[str, float] = {}
    seeds: int | None = None
    source: str
    status: Literal["verified", "aggregator", "unverified"]
    protocol: str


@cache
def published_rows() -> dict[str, tuple[PublishedRow, ...]]:
    """Return the published rows of each dataset, in the order of the data file."""
    text = (files("pipeline") / "published.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, tuple[PublishedRow, ...]]).validate_python(yaml.safe_load(text))
