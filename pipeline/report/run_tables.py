"""Tables beside the scores: ceilings, the noise probe, what a run cost and what it read."""

from collections.abc import Callable, Sequence

from pipeline.report.ceilings import AgainstCeiling
from pipeline.report.experiments import Experiment
from pipeline.report.tables import Cell, Column, Row, Table, text_cell

_NAME = Column("experiment", "Experiment", numeric=False)


def ceiling_table(dataset: str, rows: Sequence[AgainstCeiling]) -> Table | None:
    """Make the table of one metric against the ceiling of each experiment's modalities."""
    if not rows:
        return None
    metric, lead = rows[0].metric, rows[0].lead
    return Table(
        f"{dataset}-ceiling-{metric.key}",
        f"{metric.title} against the ceiling",
        (
            _NAME,
            Column("score", f"{metric.title}"),
            Column("interval", "95 % interval"),
            Column("ceiling", "Ceiling"),
            Column("share", "Share of ceiling"),
            Column("share_interval", "95 % interval"),
            Column("difference", f"Against {lead.name}"),
            Column("p_value", "p"),
            Column("modalities", "Modalities", numeric=False),
        ),
        tuple(_ceiling_row(row) for row in rows),
        notes=(
            "Intervals: percentile bootstrap over test utterances, 2,000 resamples, of the mean "
            f"over seeds. p: two-sided paired bootstrap against {lead.name} on the same draws.",
        ),
    )


def probe_table(dataset: str, experiments: Sequence[Experiment]) -> Table | None:
    """Make the table of gate weights with one modality's input replaced by noise."""
    rows = []
    for experiment in experiments:
        probes = [run.result.noise_probe for run in experiment.runs if run.result.noise_probe]
        for modality in experiment.result.modalities:
            found = [probe[modality] for probe in probes if modality in probe]
            if not found:
                continue
            before, after, drop = (
                sum(getattr(one, key) for one in found) / len(found)
                for key in ("before", "after", "drop")
            )
            p_value, utterances = max(one.p_value for one in found), found[0].n
            rows.append(
                Row(
                    (
                        text_cell(experiment.name),
                        text_cell(modality),
                        Cell(f"{before:.3f}", before),
                        Cell(f"{after:.3f}", after),
                        Cell(f"{100 * drop:.1f} %", drop),
                        Cell(show_p(p_value), p_value),
                        Cell(f"{utterances:,}", utterances),
                    )
                )
            )
    if not rows:
        return None
    columns = (
        _NAME,
        Column("modality", "Noise in place of", numeric=False),
        Column("before", "Weight before"),
        Column("after", "Weight after"),
        Column("drop", "Drop"),
        Column("p_value", "p"),
        Column("n", "Utterances"),
    )
    return Table(
        f"{dataset}-noise-probe",
        "Gate weight on a modality whose input is replaced by noise",
        columns,
        tuple(rows),
        notes=("Means over seeds; p: paired test over utterances, the largest of all seeds.",),
    )


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
                    Cell("–" if rate is None else f"{rate:,.0f}", rate),
                    Cell("–" if memory is None else f"{memory / 2**30:.2f} GiB", memory),
                )
            )
        )
    columns = (
        _NAME,
        Column("trainable_parameters", "Trainable"),
        Column("parameters", "Parameters"),
        Column("epochs", "Epochs"),
        Column("seconds", "Time a seed"),
        Column("utterances_per_second", "Utterances/s"),
        Column("peak_memory_bytes", "Peak memory"),
    )
    return Table(f"{dataset}-cost", "Cost of stage two", columns, tuple(rows))


def footnotes(experiments: Sequence[Experiment]) -> list[str]:
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
    notes.append(f"Answers that could not be read: {_unreadable(experiments)}.")
    return notes


def show_p(p_value: float) -> str:
    """Return a p-value as it is printed: three decimals, and a bound below that."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _ceiling_row(row: AgainstCeiling) -> Row:
    metric, difference, share = row.metric, row.difference, row.share_interval
    shown_difference, shown_p = "–", "–"
    if difference is not None:
        scale = 100 if metric.percent else 1
        digits = 2 if metric.percent else 3
        shown_difference = f"{scale * difference.difference:+.{digits}f}".replace("-", "−")
        shown_p = show_p(difference.p_value)
    return Row(
        (
            text_cell(row.experiment.name),
            Cell(metric.show(row.score), row.score),
            _interval_cell(row.interval, metric.show),
            Cell(metric.show(row.ceiling), row.ceiling),
            Cell(f"{100 * row.share:.1f} %", row.share),
            _interval_cell(share, lambda value: f"{100 * value:.1f}"),
            Cell(shown_difference, difference.difference if difference else None),
            Cell(shown_p, difference.p_value if difference else None),
            text_cell(" + ".join(row.experiment.result.modalities)),
        )
    )


def _interval_cell(interval: tuple[float, float] | None, show: Callable[[float], str]) -> Cell:
    if interval is None:
        return Cell("–")
    low, high = interval
    return Cell(f"{show(low)} to {show(high)}", f"{low:.6g} to {high:.6g}")


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


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
