"""`egmf-train`: train fusion and LoRA from the cache, score, and write the runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import (
    Advance,
    Json,
    Quiet,
    Version,
    note,
    print_json,
    progress,
    run_command,
)
from pipeline.commands.options import (
    DEFAULT_CACHE,
    DEFAULT_DATA_ROOT,
    CacheFolder,
    DataRoot,
    ManifestFile,
    Modalities,
    Preset,
    Presets,
    console_for,
    names_in,
)

if TYPE_CHECKING:
    import torch

    from pipeline.extraction_plan import Request as ExtractionRequest
    from pipeline.runs import RunFolder
    from pipeline.study import Study

SEEDS = (1111, 2222, 3333, 4444, 5555)


class Select(StrEnum):
    """Which epoch's weights are scored."""

    best = "best"
    last = "last"


class Fusions(StrEnum):
    """How the modalities are fused (`fuse.config.VARIANTS`)."""

    egmf = "egmf"
    concat = "concat"
    mse_adapter = "mse-adapter"
    mult = "mult"
    emo_caps = "emo-caps"


class Ablation(StrEnum):
    """Parts that can be left out (`pipeline.settings.ABLATIONS`)."""

    local = "local"
    semantic = "semantic"
    global_ = "global"
    gate = "gate"
    gate_modalities = "gate-modalities"
    gate_experts = "gate-experts"
    pseudo_tokens = "pseudo-tokens"
    lora = "lora"


def train(
    from_cache: Annotated[
        bool, typer.Option("--from-cache", help="Use what is in the cache; extract nothing.")
    ] = False,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Dataset; may be given several times. Default: demo; with --from-cache every "
            "cached dataset, the demo only where it is alone."
        ),
    ] = None,
    cache: CacheFolder = DEFAULT_CACHE,
    runs: Annotated[Path, typer.Option(help="Where the runs are written.")] = Path("runs"),
    manifest: ManifestFile = None,
    data_root: DataRoot = DEFAULT_DATA_ROOT,
    experiment: Annotated[
        str | None, typer.Option(help="Name of the runs. Default: after modalities and ablation.")
    ] = None,
    preset: Presets = None,
    llm: Annotated[
        str | None, typer.Option(help="Directory or hub id of a causal language model.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text features: spec or fingerprint.")] = None,
    audio: Annotated[str | None, typer.Option(help="Audio features: spec or fingerprint.")] = None,
    visual: Annotated[
        str | None, typer.Option(help="Visual features: spec or fingerprint.")
    ] = None,
    modalities: Modalities = None,
    context: Annotated[
        int | None, typer.Option(min=0, help="Turns before the utterance. Default: 0.")
    ] = None,
    context_after: Annotated[
        int | None, typer.Option(min=0, help="Turns after the utterance. Default: 0.")
    ] = None,
    fusion: Annotated[
        Fusions | None,
        typer.Option(help="EGMF's experts and gate, or a variant to compare with. Default: egmf."),
    ] = None,
    ablate: Annotated[
        list[Ablation] | None, typer.Option(help="Leave out a part; may be given several times.")
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            max=2**32 - 1,
            help="Seed; may be given several times. Default: 1111 ... 5555 (tiny, and a study: "
            "1111).",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the training split at most. Default: the preset's."),
    ] = None,
    select: Annotated[
        Select | None,
        typer.Option(
            help="Score the weights of the epoch that is best on validation, or train for all "
            "epochs and score the last. Default: best."
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            help="Leave one out: each value of this column (speaker, group, language) is the test "
            "split once."
        ),
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, such as en: train on these alone; the test split keeps all."
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Train only these tasks, comma-separated, such as classification. Default: all."
        ),
    ] = None,
    joint: Annotated[
        bool, typer.Option("--joint", help="Train one model on all of the datasets together.")
    ] = False,
    study: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with a grid, or a search by Optuna, over settings and flags; looks at "
            "validation alone, and writes the best ones as a file for --settings."
        ),
    ] = None,
    settings_file: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="YAML file of settings, fusion, modalities, context, ablate; options of the "
            "command line override it.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, as key=value; a wrong key lists them all."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with unfinished runs.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace runs that are there.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: best.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    version: Version = False,
) -> None:
    """Train EGMF on cached features and score it on validation and test."""
    from pipeline.choices import flags_in, read_choices, settings_in
    from pipeline.devices import choose_device
    from pipeline.distributed import leave, this_process
    from pipeline.errors import PipelineError
    from pipeline.experiment import Request, run_experiment
    from pipeline.extraction_plan import Request as ExtractionRequest
    from pipeline.followers import dismiss, follow
    from pipeline.joint import run_joint
    from pipeline.llm import language_model_of
    from pipeline.manifest import load_manifest
    from pipeline.settings import resolve_settings
    from pipeline.sources import MODALITY_ORDER, Source, cached_table
    from pipeline.study import run_study

    if resume and fresh:
        raise PipelineError("--resume and --fresh contradict each other; give one of them")
    if joint and study:
        raise PipelineError("--joint and --study are not supported together; give one of them")
    choices = read_choices(settings_file) if settings_file else {}
    given = flags_in(choices, str(settings_file))
    known = load_manifest(manifest)
    names = dataset or (_cached_datasets(cache) if from_cache else ["demo"])
    names = list(dict.fromkeys(names))  # one that is given twice is meant once
    for name in names:  # a slip is found before hours are spent on the dataset before it
        known.dataset(name)
        if from_cache:
            cached_table(cache, name)
    where = choose_device(device)
    if not this_process().main:
        follow(where)
        leave()
        return
    flags = {"epochs": epochs, "select": select and select.value}
    overrides = [*(set_ or []), *(f"{key}={each}" for key, each in flags.items() if each)]
    for key, each in flags.items():
        if each and any(other.partition("=")[0].strip() == key for other in set_ or []):
            raise PipelineError(f"--{key} {each}: --set {key} says it too; leave one of them out")
    # A joint model has one size, whatever its datasets' own.
    only_demo = set(names) == {"demo"}

    def request_of(name: str) -> Request:
        tiny = only_demo if joint else name == "demo"
        size = (preset or (Preset.tiny if tiny else Preset.base)).value
        chosen = names_in(modalities) or given.modalities or ()
        named = dict(zip(MODALITY_ORDER, (text, audio, visual), strict=True))
        features = {m: value for m, value in named.items() if value is not None}
        if not from_cache:
            wanted = ExtractionRequest(
                dataset=name,
                cache=cache,
                data_root=data_root,
                manifest=manifest,
                preset=size,
                specs=features,
                modalities=chosen,
            )
            _extract(wanted, where, quiet)
        return Request(
            source=Source(
                dataset=name,
                cache=cache,
                modalities=chosen,
                features=features,
                manifest=manifest,
            ),
            runs=runs,
            experiment=experiment,
            llm=language_model_of(size, llm, cache),
            settings=resolve_settings(size, overrides, settings_in(choices)),
            fusion=fusion.value if fusion else given.fusion or "egmf",
            ablate=tuple(part.value for part in ablate) if ablate else given.ablate or (),
            context=(
                (given.context or 0) if context is None else context,
                (given.context_after or 0) if context_after is None else context_after,
            ),
            seeds=tuple(seed or (SEEDS[:1] if size == "tiny" or study else SEEDS)),
            device=where,
            resume=resume,
            fresh=fresh,
            folds=folds,
            languages=names_in(languages),
            tasks=names_in(tasks),
        )

    def steps(title: str, total: int) -> AbstractContextManager[Advance]:
        return progress(title, total, "steps", quiet=quiet)

    def say(line: str) -> None:
        note(line, quiet=quiet)

    failures = []
    if study:
        studies = [run_study(request_of(name), study, steps, say) for name in names]
        _show_studies(studies, as_json=as_json)
        failures = [each.failure for each in studies if each.failure]
    elif joint:
        finished = run_joint([request_of(name) for name in names], steps, say)
        _show(finished, as_json=as_json)
    else:
        runs_of = (run_experiment(request_of(name), steps, say) for name in names)
        _show([folder for folders in runs_of for folder in folders], as_json=as_json)
    dismiss()
    leave()
    if failures:
        raise PipelineError("; ".join(failures))


def _cached_datasets(cache: Path) -> list[str]:
    """Return the datasets of the cache: every real one, and the demo when it is alone."""
    from pipeline.errors import PipelineError

    found = sorted(each.parent.name for each in cache.glob("*/utterances.parquet"))
    if not found:
        raise PipelineError(
            f"{cache}: no cache; run egmf-extract --dataset NAME first (demo needs no data)"
        )
    return [name for name in found if name != "demo"] or found


def _extract(request: ExtractionRequest, device: torch.device, quiet: bool) -> None:
    """Extract what is missing; what is there already costs a look at the plan."""
    from extract.engine import Cluster
    from pipeline.errors import PipelineError
    from pipeline.extraction import extract

    with Cluster("cuda" if device.type == "cuda" else "cpu", None, None) as cluster:
        summary = extract(request, cluster, console_for(quiet=quiet))
    if summary.failures:
        raise PipelineError("; ".join(summary.failures) + "; run the same command again")


def _show(runs: list[RunFolder], *, as_json: bool) -> None:
    """Print the headline figures of finished runs, and their alarms, which nothing silences."""
    results = [(str(run.path), run.read_result()) for run in runs]
    for folder, result in results:
        for alarm in result.get("alarms", ()):
            note(f"ALARM: {folder}: {alarm}")
    if as_json:
        print_json([{"folder": folder, **result} for folder, result in results])
        return
    names = ("accuracy", "weighted_f1", "macro_f1", "mae", "corr")
    for folder, result in results:
        test = result.get("test") or result["valid"]
        shown = ", ".join(
            f"{name.replace('_', ' ')} {test[name]:.3f}"
            for name in names
            if isinstance(test.get(name), int | float)
        )
        typer.echo(f"{folder}: {'test' if 'test' in result else 'validation'} {shown}")


def _show_studies(studies: list[Study], *, as_json: bool) -> None:
    """Print what each study came to; as text, of those that came to something."""
    if as_json:
        print_json(
            [
                {
                    "folder": str(study.folder),
                    "best": study.best and study.best.number,
                    "trials": [{"status": each.status, **vars(each)} for each in study.trials],
                }
                for study in studies
            ]
        )
        return
    for study in studies:
        if study.best is not None:
            typer.echo(
                f"{study.folder}: trial {study.best.number} of {len(study.trials)} is best, "
                f"validation {study.best.value:.4f}; egmf-train --settings {study.best_file}"
            )


def main() -> None:
    """Run the command."""
    run_command(
        train,
        to_go_on="run the same command with --resume",
        in_less_memory="go on with --resume and --set max_batch_tokens=4096 (or half of what it "
        "is), gradient_checkpointing=true or eval_batch_size=16; or use a smaller --llm",
    )


if __name__ == "__main__":
    main()
