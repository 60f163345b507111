"""Which settings a study tries next: all of a grid, or what Optuna's sampler suggests.

Either way the next trial is a function of the study's file and of the trials before it, so that a
study that was killed goes on with the very trials that it would have tried. Optuna's sampler is
seeded anew for every parameter of every trial, for that reason; its storage is SQLite, which a
killed process cannot leave half written.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.choices import check_names
from pipeline.errors import PipelineError
from pipeline.sampler import derive_seed
from pipeline.yaml_files import explain, read_yaml

if TYPE_CHECKING:
    import optuna


OF_ALL_TRIALS = ("dtype", "load_in_4bit", "shard_llm")
"""Settings that say how the language model is loaded, which is done once for all trials."""


class Span(BaseModel):
    """Numbers from `low` to `high`; whole ones where both are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and (self.step is not None or self.low <= 0):
            raise ValueError("log needs low above 0 and no step")
        if self.step is not None and self.step <= 0:
            raise ValueError("step must be above 0")
        return self


class StudyFile(BaseModel):
    """What a study's file says.

    Attributes:
        search: Every combination ("grid"), or Optuna's TPE or random sampler.
        space: Values to choose from, or a span of numbers, by setting or flag.
        trials: How many; a grid tries all by default.
        seed: Of the sampler.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: Literal["grid", "tpe", "random"]
    space: dict[str, Span | Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)
    trials: Annotated[int, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        spans = [name for name, each in self.space.items() if isinstance(each, Span)]
        if self.search == "grid" and spans:
            raise ValueError(f"{spans[0]!r} is a span; a grid needs lists of values")
        if self.search != "grid" and self.trials is None:
            raise ValueError(f"search {self.search} needs 'trials', how many to try")
        return self

    @property
    def count(self) -> int:
        """How many trials there are to be."""
        if self.search != "grid":
            return self.trials or 0
        whole = 1
        for each in self.space.values():
            whole *= len(each) if isinstance(each, list) else 0
        return whole if self.trials is None else min(self.trials, whole)


def read_study(path: Path) -> StudyFile:
    """Read a study's file.

    Raises:
        PipelineError: it cannot be read or does not say what is needed.
    """
    try:
        study = StudyFile.model_validate(read_yaml(path))
    except ValidationError as error:
        raise PipelineError(f"{path}: {explain(error)}") from None
    check_names(study.space, f"{path}, space")
    for name in OF_ALL_TRIALS:
        if name in study.space:
            raise PipelineError(
                f"{path}, space: {name!r} says how the language model is loaded, once for all "
                f"trials; leave it out, and give one value to all of them with --set {name}=..."
            )
    return study


class Search(Protocol):
    """Says what to try, trial after trial."""

    def choices(self, number: int) -> dict[str, Any]:
        """Return what the trial `number`, from 0, tries; all before it have been told."""

    def tell(self, number: int, value: float | None) -> None:
        """Report a trial's validation score, None where it failed; again is no harm."""


def open_search(study: StudyFile, folder: Path) -> Search:
    """Return the search of a study, going on with what `folder` holds of it."""
    return Grid(study) if study.search == "grid" else Optuna(study, folder / "study.sqlite")


class Grid:
    """Every combination, the last name varying fastest."""

    def __init__(self, study: StudyFile) -> None:
        self._names = list(study.space)
        values = (each for each in study.space.values() if isinstance(each, list))
        self._combinations = list(itertools.product(*values))

    def choices(self, number: int) -> dict[str, Any]:
        """Return a combination."""
        return dict(zip(self._names, self._combinations[number], strict=True))

    def tell(self, number: int, value: float | None) -> None:
        """Do nothing: what comes next does not depend on it."""


class Optuna:
    """What Optuna's sampler suggests."""

    def __init__(self, study: StudyFile, storage: Path) -> None:
        try:
            import optuna
        except ImportError:
            raise PipelineError(
                f"search {study.search} needs Optuna; install it with: pip install 'egmf[study]'"
            ) from None
        logging.getLogger("optuna").setLevel(logging.WARNING)
        self._file = study
        self._study = optuna.create_study(
            storage=f"sqlite:///{storage.resolve()}",
            study_name="study",
            direction="maximize",
            load_if_exists=True,
        )

    def choices(self, number: int) -> dict[str, Any]:
        """Return what a trial that was begun tries, or begin the next."""
        import optuna

        begun = self._study.get_trials(deepcopy=False)
        if number < len(begun):
            trial = optuna.trial.Trial(self._study, begun[number]._trial_id)
        else:
            trial = self._study.ask()
        found = {}
        for place, (name, values) in enumerate(self._file.space.items()):
            self._study.sampler = self._sampler(number, place)
            found[name] = _suggest(trial, name, values)
        return found

    def tell(self, number: int, value: float | None) -> None:
        """Report a score to the storage, once."""
        from optuna.trial import TrialState

        if self._study.get_trials(deepcopy=False)[number].state.is_finished():
            return
        if value is None:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, value)

    def _sampler(self, number: int, place: int) -> optuna.samplers.BaseSampler:
        from optuna.samplers import RandomSampler, TPESampler

        seed = derive_seed(self._file.seed, number * 1000 + place) % 2**32
        if self._file.search == "random":
            return RandomSampler(seed=seed)
        startup = max(1, min(10, (self._file.trials or 0) // 3))
        return TPESampler(seed=seed, n_startup_trials=startup, multivariate=False)


def _suggest(trial: optuna.Trial, name: str, values: Span | Sequence[Any]) -> Any:
    """Ask for one value; lists may hold anything that YAML can, which Optuna sees as text."""
    if not isinstance(values, Span):
        texts = [json.dumps(each, ensure_ascii=False) for each in values]
        return json.loads(trial.suggest_categorical(name, texts))
    if isinstance(values.low, int) and isinstance(values.high, int):
        step = 1 if values.step is None else int(values.step)
        return trial.suggest_int(name, values.low, values.high, step=step, log=values.log)
    return trial.suggest_float(
        name,
        float(values.low),
        float(values.high),
        step=None if values.step is None else float(values.step),
        log=values.log,
    )


def same_study(one: StudyFile, other: StudyFile) -> bool:
    """Tell whether two files ask for the same trials, as far as both go."""
    return one.model_copy(update={"trials": None}) == other.model_copy(update={"trials": None})


def shown(choices: Mapping[str, Any]) -> Iterator[str]:
    """Yield each choice as `name=value`."""
    for name, value in choices.items():
        yield f"{name}={value if isinstance(value, str) else json.dumps(value)}"
