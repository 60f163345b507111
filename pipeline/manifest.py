"""The data manifest: what each dataset is, where its files lie, and how its answers are asked for.

`data_manifest.yaml` holds the built-in entries; a user's own corpus is one more entry in a file of
theirs. Everything is checked when the file is loaded, so that a slip costs a second and one line
that names the file, the entry, the field and what was expected, rather than a long extraction.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from extract.layouts import Layout
from pipeline.demo.spec import DemoSpec
from pipeline.errors import PipelineError
from pipeline.yaml_files import as_mapping, explain, read_yaml

Task = Literal["classification", "regression"]
SplitName = Literal["train", "valid", "test", "unlabelled"]

FALLBACK_LANGUAGE = "en"
"""Language of the prompts and label words for a language that has none of its own."""

LANGUAGE_PER_ROW = "row"
"""Value of an entry's `language` when the table has a language column."""

_PROMPT_FIELDS: dict[Task, set[str]] = {
    "classification": {"signals", "text", "history", "labels"},
    "regression": {"signals", "text", "history", "low", "high"},
}


class _Strict(BaseModel):
    """Refuse unknown fields and later changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Label(_Strict):
    """One class: its canonical name, the words the model writes, and other spellings in files.

    `same_as` names labels of other datasets that mean the same.
    """

    name: str
    en: str
    zh: str
    aliases: tuple[str, ...] = ()
    same_as: tuple[str, ...] = ()

    def counterpart(self, others: Iterable[Label]) -> Label | None:
        """Return the label of another dataset that means the same; the very name goes first."""
        same = [
            other
            for other in others
            if self.name == other.name or self.name in other.same_as or other.name in self.same_as
        ]
        return min(same, key=lambda other: other.name != self.name, default=None)

    def word(self, language: str) -> str:
        """Return the word that stands for this class in a prompt of `language`."""
        return self.zh if language == "zh" else self.en

    def spellings(self) -> set[str]:
        """Return every spelling that a label file may use, case-folded."""
        return {word.casefold() for word in (self.name, self.en, self.zh, *self.aliases)}


class Range(_Strict):
    """Scores run from `low` to `high`; answers are written in multiples of `step`.

    Scores of two datasets that name the same in `measures` differ in their range alone.
    """

    low: float
    high: float
    step: float = Field(gt=0)
    measures: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self


class Context(_Strict):
    """What the table's `group` and `order` columns mean here."""

    group: str
    order: str


class KnownBad(_Strict):
    """One item of a release that is known to be damaged; its row stays."""

    id: str
    problem: str


def _check_line(line: str) -> str:
    try:
        fields = [field for field in string.Formatter().parse(line) if field[1] is not None]
    except ValueError as error:
        raise ValueError(f"{line!r} is no template: {error}") from None
    for _, name, spec, conversion in fields:
        if spec or conversion or name not in set().union(*_PROMPT_FIELDS.values()):
            raise ValueError(f"{line!r} holds {{{name}}}, which is no field of a prompt")
    return line


PromptLine = Annotated[str, AfterValidator(_check_line)]


class TaskPrompts(_Strict):
    """The lines of each task's prompt; `{signals}` marks where the pseudo tokens go."""

    classification: tuple[PromptLine, ...] | None = None
    regression: tuple[PromptLine, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for task, allowed in _PROMPT_FIELDS.items():
            lines = getattr(self, task)
            if lines is None:
                continue
            names = [name for _, name, _, _ in string.Formatter().parse("\n".join(lines)) if name]
            if names.count("signals") != 1:
                raise ValueError(f"the {task} prompt must hold {{signals}} exactly once")
            if wrong := sorted(set(names) - allowed):
                raise ValueError(
                    f"the {task} prompt holds {{{wrong[0]}}}, which has no value there"
                )
        return self


class DatasetEntry(_Strict):
    """Everything that is known about one dataset.

    Attributes:
        name: Key of the entry; names folders in the cache and among the runs.
        manifest: The file that holds the entry; tables may lie beside it.
        title: The name as papers write it.
        task: What is predicted; both for a corpus with labels and scores.
        language: A language code, or "row" where the table says it for each row.
        labels: The classes in the field's order.
        scores: The range of the scores.
        splits: Expected rows per split; empty means not checked.
        layout: How the files lie.
        context: What groups and orders utterances.
        protocol: The family of metrics; for a corpus with both tasks, that of its scores.
        known_bad: Items known to be damaged.
        max_seconds: Longer spans are cut.
        prompts: Prompts by language and task (the manifest's own fill what is missing).
        licence: Terms of use.
        source: Where to get it.
        generator: For a corpus that is made on first use, from what.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
    manifest: Path = Field(exclude=True, repr=False)
    title: str
    task: tuple[Task, ...] = Field(min_length=1)
    language: str
    labels: tuple[Label, ...] = ()
    scores: Range | None = None
    splits: dict[SplitName, Annotated[int, Field(ge=0)]] = {}
    layout: Layout
    context: Context | None = None
    protocol: Literal["emotion", "mosi", "sims"]
    known_bad: tuple[KnownBad, ...] = ()
    max_seconds: float = Field(default=30.0, gt=0)
    prompts: dict[str, TaskPrompts] = {}
    licence: str = ""
    source: str = ""
    generator: DemoSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _list_tasks(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(value.get("task"), str):
            return {**value, "task": [value["task"]]}
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "classification" in self.task and len(self.labels) < 2:
            raise ValueError("task classification needs at least two labels")
        if "regression" in self.task and self.scores is None:
            raise ValueError("task regression needs scores (low, high, step)")
        if ("regression" in self.task) != (self.protocol != "emotion"):
            raise ValueError("protocol must be mosi or sims for regression, emotion otherwise")
        owner: dict[str, str] = {}
        for label in self.labels:
            for spelling in label.spellings():
                if owner.setdefault(spelling, label.name) != label.name:
                    raise ValueError(
                        f"labels {owner[spelling]!r} and {label.name!r} share the word {spelling!r}"
                    )
        return self

    def prompt(self, language: str, task: Task) -> tuple[str, ...]:
        """Return the prompt's lines, in English for a language that has no prompts."""
        for name in (language, FALLBACK_LANGUAGE):
            lines = getattr(self.prompts.get(name), task, None)
            if lines is not None:
                return tuple(lines)
        raise PipelineError(
            f"{self.manifest.name}: dataset {self.name!r} has no {task} prompt "
            f"in {language!r} or {FALLBACK_LANGUAGE!r}: add it under prompts"
        )


@dataclass(frozen=True)
class Manifest:
    """The entries of the built-in file and of a user's file, by name."""

    datasets: dict[str, DatasetEntry]

    def dataset(self, name: str) -> DatasetEntry:
        """Return the entry called `name`.

        Raises:
            PipelineError: there is none; the message offers the nearest name.
        """
        if name in self.datasets:
            return self.datasets[name]
        raise PipelineError(
            f"unknown dataset {name!r}{nearest(name, self.datasets)}; "
            f"known are {', '.join(sorted(self.datasets))}; "
            "a corpus of your own is described by --manifest FILE"
        )


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a question that offers the known word closest to `word`, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def builtin_manifest() -> Path:
    """Return the built-in file: beside this module in a wheel, else at the checkout's root."""
    here = Path(__file__).resolve().parent
    installed = here / "data_manifest.yaml"
    return installed if installed.is_file() else here.parent / "data_manifest.yaml"


def load_manifest(extra: Path | None = None) -> Manifest:
    """Load the built-in entries and those of a user's file.

    Raises:
        PipelineError: a file is missing, is no YAML, or holds a wrong field.
    """
    builtin = builtin_manifest()
    documents = [(builtin, read_yaml(builtin))]
    if extra is not None:
        documents.append((extra, read_yaml(extra)))
    shared: dict[str, Any] = {}
    entries: dict[str, DatasetEntry] = {}
    for path, document in documents:
        if unknown := sorted(document.keys() - {"prompts", "datasets"}, key=str):
            raise PipelineError(
                f"{path}: unknown field {unknown[0]!r}; a manifest holds 'datasets' and 'prompts'"
            )
        shared = _overlay(shared, as_mapping(document.get("prompts", {}), path, "prompts"))
        for name, raw in as_mapping(document.get("datasets", {}), path, "datasets").items():
            if name in entries:
                raise PipelineError(
                    f"{path}: dataset {name!r} is already in {entries[name].manifest}: "
                    "give yours another name"
                )
            entries[name] = _entry(path, name, raw, shared)
    return Manifest(entries)


def _entry(path: Path, name: Any, raw: Any, shared: dict[str, Any]) -> DatasetEntry:
    """Validate one entry, its prompts laid over the shared ones."""
    where = f"dataset {name!r}"
    fields = as_mapping(raw, path, where)
    if reserved := {"name", "manifest"} & fields.keys():
        raise PipelineError(f"{path}: {where}, field {min(reserved)!r}: unknown field")
    prompts = fields.get("prompts", {})
    if isinstance(prompts, Mapping):
        prompts = _overlay(shared, prompts)
    try:
        return DatasetEntry.model_validate(
            {**fields, "name": name, "manifest": path, "prompts": prompts}
        )
    except ValidationError as error:
        raise PipelineError(f"{path}: {where}, {explain(error)}") from None


def _overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay prompts by language and task over others."""
    merged = dict(base)
    for language, tasks in over.items():
        below = merged.get(language, {})
        both = isinstance(below, Mapping) and isinstance(tasks, Mapping)
        merged[language] = {**below, **tasks} if both else tasks
    return merged
