"""What both stages cost, and what identifies the data behind a dataset's tables."""

from collections.abc import Sequence

from pipeline.report.corpus import Corpus, Extraction
from pipeline.report.experiments import Experiment, short_model
from pipeline.report.tables import Cell, Column, Row, Table, text_cell

_NAME = Column("experiment", "Experiment", numeric=False)
_EXTRACTIONS = 5
"""So many of the last runs of the extraction are listed."""


def cost_table(dataset: str, experiments: Sequence[Experiment]) -> Table:
    """Make the table of parameters, time, throughput and memory, mean over seeds."""
    rows = []
    for experiment in experiments:
        results = [run.result for run in experiment.runs]
        trainable = results[0].parameters.get("trainable")
        total = results[0].parameters.get("total")
        epochs = sum(result.epochs for result in results) / len(results)
        seconds = sum(sum(result.seconds.values()) for result in results) / len(results)
        rates = [one.utterances_per_second for one in results if one.utterances_per_second]
        rate = sum(rates) / len(rates) if rates else None
        memory = max((one.peak_memory_bytes or 0 for one in results), default=0) or None
        rows.append(
            Row(
                (
                    text_cell(experiment.name),
                    Cell(_count(trainable), trainable),
                    Cell(_count(total), total),
                    Cell(f"{epochs:.1f}", epochs),
                    Cell(_duration(seconds), seconds),
                    Cell(_rate(rate), rate),
                    Cell(_memory(memory), memory),
                )
            )
        )
    columns = (
        _NAME,
        Column("trainable_parameters", "Trainable"),
        Column("parameters", "Parameters"),
        Column("epochs", "Epochs"),
        Column("seconds", "Time per run"),
        Column("utterances_per_second", "Utterances/s"),
        Column("peak_memory_bytes", "Peak memory"),
    )
    return Table(
        f"{dataset}-cost",
        "Training and evaluation",
        columns,
        tuple(rows),
        notes=(
            "Mean over runs, the largest for memory. Time: loading, training and evaluation. "
            "Utterances/s: in training steps. Peak memory: of the GPU while training where there "
            "was one, else of the whole process since its start.",
        ),
    )


def extraction_table(dataset: str, extractions: Sequence[Extraction]) -> Table | None:
    """Make the table of what extraction cost, one row a run of it, the newest last."""
    if not extractions:
        return None
    rows = []
    for one in extractions[-_EXTRACTIONS:]:
        encoded = [each.modality for each in one.modalities if each.utterances_encoded]
        size = sum(each.megabytes for each in one.modalities)
        rows.append(
            Row(
                (
                    text_cell(one.finished[:16].replace("T", " ")),
                    text_cell(", ".join(encoded) or "–"),
                    Cell(f"{one.utterances_encoded:,}", one.utterances_encoded),
                    Cell(_duration(one.seconds), one.seconds),
                    Cell(_rate(one.utterances_per_second), one.utterances_per_second),
                    Cell(_memory(one.peak_memory), one.peak_memory),
                    Cell(f"{size:,.1f}", size),
                )
            )
        )
    columns = (
        Column("finished", "Finished, UTC", numeric=False),
        Column("modalities", "Encoded", numeric=False),
        Column("items", "Items"),
        Column("seconds", "Time"),
        Column("items_per_second", "Items/s"),
        Column("peak_memory_bytes", "Peak memory"),
        Column("megabytes", "MB on disk"),
    )
    return Table(
        f"{dataset}-extraction",
        "Extraction",
        columns,
        tuple(rows),
        notes=(
            "An item is one modality of one utterance. Peak memory: of all worker processes "
            "together.",
        ),
    )


def provenance(experiments: Sequence[Experiment]) -> str:
    """Return in one line the fingerprints of all that the figures of a table rest on."""
    results = [run.result for each in experiments for run in each.runs]
    labels = ", ".join(sorted({result.table_sha256[:8] for result in results}))
    features: dict[str, set[str]] = {}
    for result in sorted(results, key=lambda each: -len(each.modalities)):
        for modality, item in result.features.items():
            features.setdefault(modality, set()).add(item.fingerprint[:8])
    shown = ", ".join(f"{name} {' / '.join(sorted(each))}" for name, each in features.items())
    models = ", ".join(sorted({short_model(result.llm) for result in results}))
    random = "; random weights" if any(result.random_weights for result in results) else ""
    return f"Labels {labels}; features {shown}; language model {models}{random}."


def footnotes(experiments: Sequence[Experiment], corpus: Corpus) -> list[str]:
    """Return what identifies the data behind a dataset's tables, and what was left out of it."""
    results = [run.result for each in experiments for run in each.runs]
    tables = sorted({result.table_sha256[:8] for result in results})
    notes = [f"Labels and splits: {', '.join(tables)} (first digits of the table's SHA-256)."]
    features = sorted(
        {
            f"{modality} {item.encoder}, {item.dim} dimensions, {item.fingerprint[:8]}"
            + (" (random weights)" if item.random_weights else "")
            for result in results
            for modality, item in result.features.items()
        }
    )
    notes.append(f"Features: {'; '.join(features)}.")
    notes.append(f"Language model: {', '.join(sorted({result.llm for result in results}))}.")
    notes.extend(
        f"Counts differ from the dataset's: {mismatch}."
        for mismatch in sorted({one.count_mismatch for one in results if one.count_mismatch})
    )
    quarantined = sorted(
        {
            f"{modality}, {reason}: {count:,}"
            for result in results
            for modality, reasons in result.quarantined.items()
            for reason, count in reasons.items()
        }
    )
    notes.append(
        "Set aside while features were extracted (masked, every labelled row stays): "
        + ("; ".join(quarantined) if quarantined else "nothing")
        + "."
    )
    if cut := _cut(corpus.extractions):
        notes.append(f"Cut or incomplete when they were extracted, and used as they are: {cut}.")
    notes.append(f"Answers that could not be read: {_unreadable(experiments)}.")
    shortened = max((result.shortened_prompts for result in results), default=0)
    if shortened:
        notes.append(
            f"Prompts cut to the longest that the settings allow: up to {shortened:,} a run."
        )
    return notes


def environment_notes(lead: Experiment, experiments: Sequence[Experiment]) -> list[str]:
    """Return the lead's library versions and every machine that ran something."""
    own = lead.result.environment
    versions = ", ".join(f"{name} {one}" for name, one in own.items())
    others = sorted(
        {
            f"{each.name} with {name} {one}"
            for each in experiments
            for run in each.runs
            for name, one in run.result.environment.items()
            if own.get(name, one) != one
        }
    )
    machines = sorted({run.machine for each in experiments for run in each.runs if run.machine})
    return [
        *([f"{lead.name}: {versions}."] if versions else []),
        *([f"Other versions: {'; '.join(others)}."] if others else []),
        *(f"Ran on {one}." for one in machines),
    ]


def _cut(extractions: Sequence[Extraction]) -> str:
    """Say how many clips were cut to the longest span or broke off, by the newest extraction."""
    if not extractions:
        return ""
    return "; ".join(
        f"{each.modality}, {flag.replace('_', ' ')}: {count:,}"
        for each in extractions[-1].modalities
        for flag, count in each.flags.items()
    )


def _unreadable(experiments: Sequence[Experiment]) -> str:
    found = []
    for experiment in experiments:
        for task in experiment.result.task:
            count = sum(experiment.values(f"unreadable_{task}"))
            total = sum(experiment.values(f"n_{task}"))
            if count:
                found.append(f"{experiment.name}, {task}: {count:,.0f} of {total:,.0f}")
    return "; ".join(found) if found else "none"


def _count(number: int | None) -> str:
    if number is None:
        return "–"
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:,.0f}"


def _memory(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**30:.2f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
