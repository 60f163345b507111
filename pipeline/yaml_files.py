"""Reading of YAML that people wrote, and of what pydantic finds wrong with it, in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import PipelineError

# What pydantic calls things, and what somebody who writes YAML calls them.
_PLAIN_WORDS = (
    (r"^Input should (be )?", "expected "),
    (r"a valid (?=[aeiou])", "an "),
    (r"a valid ", "a "),
    (r"a dictionary( or .*)?", "a mapping"),
    (r"a tuple", "a list"),
    (r"expected (greater|less) than", r"expected a value \1 than"),
)


def read_yaml(path: Path) -> dict[Any, Any]:
    """Read a file whose top level is a mapping.

    Raises:
        PipelineError: it is missing, is no YAML, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist") from None
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PipelineError(f"{path} cannot be read: it is not UTF-8 text") from None
    try:
        document = yaml.load(text, _UniqueKeyLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise PipelineError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise PipelineError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise PipelineError(f"{path}: not valid YAML: it is nested too deeply") from None
    return as_mapping(document, path, "the file")


def as_mapping(value: Any, path: Path, where: str) -> dict[Any, Any]:
    """Return a mapping; nothing counts as an empty one.

    Raises:
        PipelineError: it is something else; the message names `path` and `where`.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PipelineError(f"{path}: {where}: expected a mapping, got {value!r:.80}")
    return value


def explain(error: ValidationError) -> str:
    """Put pydantic's first two findings into one line: field, what was expected, what came.

    Unknown fields come first: a misspelt name explains why another is missing.
    """
    findings = error.errors(include_url=False)
    findings.sort(key=lambda finding: finding["type"] != "extra_forbidden")
    more = f" (and {len(findings) - 2} more)" if len(findings) > 2 else ""
    return ("; ".join(map(_locate, findings[:2])) + more).replace("\n", " ")


def _locate(finding: ErrorDetails) -> str:
    location = [str(part) for part in finding["loc"] if part != "[key]"]
    if location[:1] == ["layout"] and len(location) > 1:
        del location[1]  # the reader's name, which pydantic puts in to tell the layouts apart
    return f"field {'.'.join(location)!r}: {_say(finding)}" if location else _say(finding)


def _say(finding: ErrorDetails) -> str:
    kind, message, got = finding["type"], finding["msg"], f"got {finding['input']!r:.80}"
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "unknown field"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "union_tag_not_found":
        return f"{finding['ctx']['discriminator']} is missing"
    if kind == "union_tag_invalid":
        context = finding["ctx"]
        return (
            f"{context['discriminator']} must be one of {context['expected_tags']}, "
            f"got '{context['tag']}'"
        )
    if kind.endswith("_parsing") or kind.startswith("int_"):
        message = message.split(",")[0]
    for pattern, plain in _PLAIN_WORDS:
        message = re.sub(pattern, plain, message)
    return f"{message}, {got}"


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML keeps the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # "<<", whose keys may be given again
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            keys.append(key)
        return super().construct_mapping(node, deep)
