"""How the raw releases lie on disk: one module a release; `table` and `npz` for any corpus.

A new release is one module with a `BaseLayout` and one name in `Layout` below.
"""

from typing import Annotated

from pydantic import Field

from extract.layouts.base import (
    SPLIT_ALIASES,
    BaseLayout,
    LayoutRequest,
    LayoutRow,
    LayoutTable,
    ReleaseNotFoundError,
)
from extract.layouts.cherma import ChermaLayout
from extract.layouts.meld import MeldLayout
from extract.layouts.mosei import MoseiLayout
from extract.layouts.mosi import MosiLayout
from extract.layouts.npz import NpzLayout
from extract.layouts.sims import SimsLayout
from extract.layouts.simsv2 import SimsV2Layout
from extract.layouts.table import TableLayout

Layout = Annotated[
    TableLayout
    | MeldLayout
    | ChermaLayout
    | MoseiLayout
    | MosiLayout
    | SimsLayout
    | SimsV2Layout
    | NpzLayout,
    Field(discriminator="reader"),
]
"""Any layout; the manifest's `reader` field tells which."""

__all__ = [
    "SPLIT_ALIASES",
    "BaseLayout",
    "Layout",
    "LayoutRequest",
    "LayoutRow",
    "LayoutTable",
    "ReleaseNotFoundError",
]
