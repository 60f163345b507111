"""JSON files that carry a digest of themselves, so that no flipped byte goes unseen.

The first field, `digest`, is the hex SHA-256 of every byte that follows its line. A digest of the
bytes rather than of the values also sees damage that a JSON parser reads over, and checking it
costs less than parsing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from extract.files import publishing

_HEAD = re.compile(rb'\{\n "digest": "([0-9a-f]{64})",\n')


def publish_sealed(path: Path, fields: Mapping[str, Any]) -> None:
    """Write `fields` to `path` as indented JSON under a digest, all or nothing."""
    rest = json.dumps(fields, ensure_ascii=False, indent=1).removeprefix("{\n").encode() + b"\n"
    head = f'{{\n "digest": "{hashlib.sha256(rest).hexdigest()}",\n'.encode()
    with publishing(path) as temporary:
        temporary.write_bytes(head + rest)


def read_sealed(path: Path) -> tuple[dict[str, Any], str | None]:
    """Return what `publish_sealed` wrote, and what is wrong with its digest, if anything is.

    Whoever reads looks at the format version first: another version may seal in another way.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON object.
    """
    content = path.read_bytes()
    fields = json.loads(content)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    head = _HEAD.match(content)
    if head is None:
        return fields, "it carries no digest of itself"
    del fields["digest"]
    if hashlib.sha256(content[head.end() :]).hexdigest().encode() != head[1]:
        return fields, "its digest is not that of its contents"
    return fields, None
