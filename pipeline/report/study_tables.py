"""Tables that set experiments beside each other, beside a ceiling, or beside a broken input."""

from collections.abc import Iterable, Mapping, Sequence

from pipeline.metrics import PairedDifference
from pipeline.report.ceilings import AgainstCeiling
from pipeline.report.experiments import Experiment
from pipeline.report.load import Task
from pipeline.report.protocols import HEADLINES, Metric
from pipeline.report.resampling import Resampler
from pipeline.report.significance import Verdict
from pipeline.report.tables import (
    Cell,
    Column,
    Row,
    Table,
    interval_cell,
    p_cell,
    show_p,
    text_cell,
)

_NAME = Column("experiment", "Experiment", numeric=False)
_MODALITIES = Column("modalities", "Modalities", numeric=False)


def ceiling_table(dataset: str, rows: Sequence[AgainstCeiling], method: str) -> Table | None:
    """Make the table of one metric against the ceiling of each experiment's modalities."""
    if not rows:
        return None
    metric = rows[0].metric
    columns = [
        _NAME,
        _MODALITIES,
        Column("score", metric.title),
        Column("interval", "95 % interval"),
    ]
    if metric.higher_is_better:
        title = f"{metric.title} and its ceiling"
        columns += [
            Column("ceiling", "Ceiling"),
            Column("share", "Share of ceiling"),
            Column("share_interval", "95 % interval"),
        ]
        note = "Ceiling: the best expected score of any model that has these modalities alone."
    else:
        title = f"{metric.title} and the best possible one"
        columns += [Column("ceiling", "Best possible"), Column("gap", "Above it")]
        note = (
            f"Best possible {metric.title}: the expected error of the posterior median under the "
            "corpus's generator, the least that a model with these modalities can expect. An "
            "error has no share of a ceiling; the table gives the distance."
        )
    return Table(
        f"{dataset}-ceiling-{metric.key}",
        title,
        tuple(columns),
        tuple(_ceiling_row(row) for row in rows),
        notes=(note, method),
        folded=metric not in HEADLINES,
    )


def comparison_tables(
    dataset: str,
    lead: Experiment,
    others: Sequence[Experiment],
    verdicts: Mapping[Task, Mapping[str, Verdict]],
) -> list[Table]:
    """Make the tables of differences from the lead: its ablations and variants, then the rest.

    `verdicts` holds, by task, the comparisons with the lead in the task's headline metric.
    """

    def varies(experiment: Experiment) -> bool:
        one, two = experiment.result, lead.result
        changed = one.ablate != two.ablate or one.fusion != two.fusion
        return changed and (one.modalities, one.context, one.context_after) == (
            two.modalities, two.context, two.context_after
        )  # fmt: skip

    variants = [each for each in others if varies(each)]
    rest = [each for each in others if not varies(each)]
    tables = [
        _comparison_table(f"{dataset}-{name}", title, lead, members, verdicts)
        for name, title, members in (
            ("ablations", f"Ablations and variants: difference from {lead.name}", variants),
            ("comparison", f"Difference from {lead.name}", rest),
        )
    ]
    return [table for table in tables if table.rows]


def _comparison_table(
    name: str,
    title: str,
    lead: Experiment,
    others: Sequence[Experiment],
    verdicts: Mapping[Task, Mapping[str, Verdict]],
) -> Table:
    """Make the table of each experiment's difference from the lead, in the headlines."""
    metrics = [(task, lead.headline(task)) for task in lead.result.task]
    rows = []
    for experiment in others:
        cells = [text_cell(experiment.name)]
        for task, metric in metrics:
            verdict = verdicts[task].get(experiment.name)
            cells += difference_cells(verdict.paired if verdict else None, metric)
            cells.append(p_cell(verdict.p_value) if verdict else Cell("–"))
        setup = experiment.setup_among([lead, *others])
        rows.append(Row((*cells, text_cell(experiment.result.fusion), text_cell(setup))))
    columns = [_NAME]
    for _, metric in metrics:
        columns += [
            Column(f"{metric.key}_difference", metric.title),
            Column(f"{metric.key}_interval", "95 % interval"),
            Column(f"{metric.key}_p_value", "p"),
            Column(f"{metric.key}_p_holm", "p, Holm"),
        ]
    columns += [Column("fusion", "Fusion", numeric=False), Column("setup", "Setup", numeric=False)]
    tests = max(len(each) for each in verdicts.values())
    return Table(
        name,
        title,
        tuple(columns),
        tuple(rows),
        notes=(
            "Differences on the scale of the main table. p: two-sided paired bootstrap on the same "
            "draws of utterances, and of seeds where there are several; of one seed a side it "
            f"judges these training runs, not the methods. Holm: corrected for all {tests} "
            f"comparisons with {lead.name}. –: not the same test utterances.",
        ),
    )


def difference_cells(found: PairedDifference | None, metric: Metric) -> tuple[Cell, Cell, Cell]:
    """Return the cells of a difference, its interval and its p-value."""
    if found is None:
        return Cell("–"), Cell("–"), Cell("–")
    return (
        Cell(metric.show_difference(found.difference), found.difference),
        interval_cell((found.low, found.high), metric.show_difference),
        p_cell(found.p_value),
    )


def subset_table(
    dataset: str, lead: Experiment, experiments: Sequence[Experiment], resampler: Resampler
) -> Table | None:
    """Make the table of models that differ from the lead in their modalities alone, if any do."""
    alike = [each for each in experiments if _but_for_modalities(each) == _but_for_modalities(lead)]
    if len({each.result.modalities for each in alike}) < 2:
        return None
    alike.sort(key=lambda each: -len(each.result.modalities))
    metrics = [(task, lead.headline(task)) for task in lead.result.task]
    rows = []
    for each in alike:
        used = (
            text_cell("●" if m in each.result.modalities else "") for m in lead.result.modalities
        )
        cells: list[Cell] = []
        for task, metric in metrics:
            mean, spread = each.mean(metric.key), each.spread(metric.key)
            bounds = resampler.interval(each, task, metric.key)
            cells.append(Cell(metric.show(mean, spread), mean, spread))
            cells.append(interval_cell(bounds, metric.show))
        rows.append(Row((text_cell(each.name), *used, *cells)))
    columns = [_NAME, *(Column(m, m, numeric=False) for m in lead.result.modalities)]
    for _, metric in metrics:
        columns.append(Column(metric.key, metric.title, spread=True))
        columns.append(Column(f"{metric.key}_interval", "95 % interval"))
    return Table(
        f"{dataset}-modalities",
        "The same model on fewer modalities",
        tuple(columns),
        tuple(rows),
        notes=(resampler.method,),
    )


def missing_table(
    dataset: str, lead: Experiment, experiments: Sequence[Experiment]
) -> Table | None:
    """Make the table of the lead with modalities taken away, beside models trained without them."""
    tasks = lead.result.task
    metrics = [lead.headline(task) for task in tasks]
    whole = [text_cell(" + ".join(lead.result.modalities))]
    for metric in metrics:
        whole += [Cell(metric.show(lead.mean(metric.key)), lead.mean(metric.key)), Cell("–")]
    rows = []
    for kept in lead.result.without:
        seeds = [run.result.without.get(kept, {}) for run in lead.runs]
        trained = _trained_on(kept.split("+"), lead, experiments)
        cells = [text_cell(" + ".join(kept.split("+")))]
        for metric in metrics:
            taken = _mean(one.get(metric.key) for one in seeds)
            own = trained.mean(metric.key) if trained else None
            cells += [Cell(metric.show(taken), taken), Cell(metric.show(own), own)]
        rows.append(Row((*cells, text_cell(trained.name if trained else "–"))))
    if not rows:
        return None
    columns = [Column("kept", "Present at test time", numeric=False)]
    for metric in metrics:
        columns += [
            Column(f"{metric.key}_taken_away", f"{metric.title}, taken away"),
            Column(f"{metric.key}_never_had", f"{metric.title}, never had"),
        ]
    return Table(
        f"{dataset}-missing-modalities",
        f"{lead.name} without some of its modalities",
        (*columns, Column("trained", "Model that never had them", numeric=False)),
        (Row((*whole, text_cell("–"))), *rows),
        notes=(
            f"Means over seeds. Taken away: {lead.name} as it was trained, tested without the "
            "modalities that are not named; their answers are not kept, so there are no intervals. "
            "Never had: a model trained without them, everything else alike.",
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
                        Cell(f"{100 * drop:.1f} %".replace("-", "−"), drop),
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
        notes=(
            "Means over seeds. p: one-sided paired Wilcoxon test over utterances that the weight "
            "falls, the largest of all seeds.",
        ),
        folded=len(rows) > len(experiments[0].result.modalities),
    )


def _ceiling_row(row: AgainstCeiling) -> Row:
    metric = row.metric
    cells = [
        text_cell(row.experiment.name),
        text_cell(" + ".join(row.experiment.result.modalities)),
        Cell(metric.show(row.score), row.score),
        interval_cell(row.interval, metric.show),
        Cell(metric.show(row.ceiling), row.ceiling),
    ]
    if row.share is None:
        gap = row.score - row.ceiling
        return Row((*cells, Cell(metric.show_difference(gap), gap)))
    share = Cell(f"{100 * row.share:.1f} %", row.share)
    bounds = interval_cell(row.share_interval, lambda value: f"{100 * value:.1f}")
    return Row((*cells, share, bounds))


def _trained_on(
    modalities: Sequence[str], lead: Experiment, experiments: Sequence[Experiment]
) -> Experiment | None:
    """Return the experiment that is the lead but for its modalities; the same features first."""

    def same_features(experiment: Experiment) -> int:
        pairs = (
            (experiment.result.features.get(m), lead.result.features.get(m)) for m in modalities
        )
        return sum(one == two for one, two in pairs)

    fitting = [
        each
        for each in experiments
        if set(each.result.modalities) == set(modalities)
        and _but_for_modalities(each) == _but_for_modalities(lead)
    ]
    return max(fitting, key=same_features, default=None)


def _but_for_modalities(experiment: Experiment) -> tuple[object, ...]:
    result = experiment.result
    context = result.context, result.context_after
    return result.fusion, result.ablate, context, result.llm, result.train_languages, result.select


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
