"""`egmf-train`: train fusion and LoRA from the cache, score, and write the runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import Json, Quiet, Version, note, print_json, progress, run_command
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
    from pipeline.extraction_plan import Request as ExtractionRequest
    from pipeline.runs import RunFolder


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
            help="Dataset; may be given several times. Default: demo, or with --from-cache "
            "what the cache holds."
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
    context: Annotated[int, typer.Option(min=0, help="Turns before the utterance.")] = 0,
    context_after: Annotated[int, typer.Option(min=0, help="Turns after the utterance.")] = 0,
    fusion: Annotated[
        Fusions, typer.Option(help="EGMF's experts and gate, or a variant to compare with.")
    ] = Fusions.egmf,
    ablate: Annotated[
        list[Ablation] | None, typer.Option(help="Leave out a part; may be given several times.")
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            max=2**32 - 1,
            help="Seed; may be given several times. Default: 1111 ... 5555 (tiny: 1111).",
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
    from pipeline.devices import choose_device
    from pipeline.errors import PipelineError
    from pipeline.experiment import Request, run_experiment
    from pipeline.extraction_plan import Request as ExtractionRequest
    from pipeline.llm import language_model_of
    from pipeline.manifest import load_manifest
    from pipeline.settings import resolve_settings
    from pipeline.sources import MODALITY_ORDER, Source, cached_table

    if resume and fresh:
        raise PipelineError("--resume and --fresh contradict each other; give one of them")
    known = load_manifest(manifest)
    names = dataset or (_cached_datasets(cache) if from_cache else ["demo"])
    for name in names:  # a slip is found before hours are spent on the dataset before it
        known.dataset(name)
        if from_cache:
            cached_table(cache, name)
    where = choose_device(device)
    finished = []
    for name in names:
        size = (preset or (Preset.tiny if name == "demo" else Preset.base)).value
        flags = {"epochs": epochs, "select": select and select.value}
        overrides = [*(set_ or []), *(f"{key}={each}" for key, each in flags.items() if each)]
        settings = resolve_settings(size, overrides)
        chosen = names_in(modalities)
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
            _extract(wanted, quiet)
        request = Request(
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
            settings=settings,
            fusion=fusion.value,
            ablate=tuple(part.value for part in ablate or ()),
            context=(context, context_after),
            seeds=tuple(seed or ((1111,) if size == "tiny" else (1111, 2222, 3333, 4444, 5555))),
            device=where,
            resume=resume,
            fresh=fresh,
            folds=folds,
            languages=names_in(languages),
        )
        finished += run_experiment(
            request,
            lambda title, total: progress(title, total, "steps", quiet=quiet),
            lambda line: note(line, quiet=quiet),
        )
    _show(finished, as_json=as_json)


def _cached_datasets(cache: Path) -> list[str]:
    """Return the datasets of the cache: every real one, and the demo when it is alone."""
    from pipeline.errors import PipelineError

    found = sorted(each.parent.name for each in cache.glob("*/utterances.parquet"))
    if not found:
        raise PipelineError(
            f"{cache}: no cache; run egmf-extract --dataset NAME first (demo needs no data)"
        )
    return [name for name in found if name != "demo"] or found


def _extract(request: ExtractionRequest, quiet: bool) -> None:
    """Extract what is missing; what is there already costs a look at the plan."""
    from extract.engine import Cluster
    from pipeline.errors import PipelineError
    from pipeline.extraction import extract

    with Cluster(None, None, None) as cluster:
        summary = extract(request, cluster, console_for(quiet=quiet))
    if summary.failures:
        raise PipelineError("; ".join(summary.failures) + "; run the same command again")


def _show(runs: list[RunFolder], *, as_json: bool) -> None:
    """Print the headline figures of finished runs."""
    results = [(str(run.path), run.read_result()) for run in runs]
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


def main() -> None:
    """Run the command."""
    run_command(train, to_go_on="run the same command with --resume")


if __name__ == "__main__":
    main()
