import shutil
from pathlib import Path

import pytest
import yaml

from extract.layouts import MeldLayout, TableLayout
from pipeline import manifest as manifest_module
from pipeline.errors import PipelineError
from pipeline.manifest import builtin_manifest, load_manifest, nearest

ENTRY = """
    title: My corpus
    task: classification
    language: en
    labels: [{name: calm, en: calm, zh: 平静}, {name: tense, en: tense, zh: 紧张}]
    layout: {reader: table, table: table.csv}
    protocol: emotion
"""


def write(folder: Path, changed: str = "", datasets: str | None = None, prompts: str = "") -> Path:
    """Write a manifest with one entry; `changed` replaces or adds fields of it."""
    fields = yaml.safe_load(ENTRY) | (yaml.safe_load(changed) or {})
    path = folder / "my.yaml"
    text = prompts + (datasets or yaml.safe_dump({"datasets": {"mine": fields}}))
    path.write_text(text, encoding="utf-8")
    return path


def failure(path: Path) -> str:
    with pytest.raises(PipelineError) as caught:
        load_manifest(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "my.yaml" in message
    return message


@pytest.fixture(scope="module")
def builtin() -> manifest_module.Manifest:
    return load_manifest()


def test_builtin_datasets_have_the_fields_sizes(builtin):
    sizes = {name: tuple(entry.splits.values()) for name, entry in builtin.datasets.items()}
    assert sizes == {
        "demo": (1400, 240, 640),
        "meld": (9989, 1109, 2610),
        "cherma": (17230, 5743, 5744),
        "mosei": (16326, 1871, 4659),
        "mosi": (1284, 229, 686),
        "sims": (1368, 456, 457),
        "simsv2": (2722, 647, 1034),
    }
    for entry in builtin.datasets.values():
        assert list(entry.splits) == ["train", "valid", "test"]


def test_builtin_labels_are_in_the_fields_order(builtin):
    meld, cherma = (builtin.dataset(name).labels for name in ("meld", "cherma"))
    assert [label.name for label in meld] == [
        "neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger",
    ]  # fmt: skip
    assert [label.zh for label in cherma] == [
        "愤怒",
        "厌恶",
        "恐惧",
        "高兴",
        "平静",
        "悲伤",
        "惊奇",
    ]


def test_builtin_tasks_ranges_and_protocols(builtin):
    for name, low, high, protocol in [
        ("mosei", -3, 3, "mosi"),
        ("mosi", -3, 3, "mosi"),
        ("sims", -1, 1, "sims"),
        ("simsv2", -1, 1, "sims"),
    ]:
        entry = builtin.dataset(name)
        assert (entry.task, entry.protocol) == (("regression",), protocol)
        assert (entry.scores.low, entry.scores.high, entry.scores.step) == (low, high, 0.1)
    assert builtin.dataset("meld").task == ("classification",)
    assert builtin.dataset("demo").task == ("classification", "regression")
    assert builtin.dataset("demo").language == "row"


def test_builtin_prompts_have_every_line_for_both_languages(builtin):
    for name, entry in builtin.datasets.items():
        for language in ("en", "zh"):
            for task in entry.task:
                whole = "\n".join(entry.prompt(language, task))
                fields = ["{signals}", "{text}", "{history}"]
                fields += ["{labels}"] if task == "classification" else ["{low}", "{high}"]
                assert all(whole.count(field) == 1 for field in fields), (name, language, task)
                # One line a field that may be absent: the line goes, the rest stays.
                lines = entry.prompt(language, task)
                assert not any("{text}" in line and "{history}" in line for line in lines)
                assert not any(
                    "{signals}" in line and ("{text}" in line or "{history}" in line)
                    for line in lines
                )


def test_layouts_are_of_the_readers_own_type(builtin):
    assert isinstance(builtin.dataset("meld").layout, MeldLayout)
    assert isinstance(builtin.dataset("demo").layout, TableLayout)


def test_words_and_prompts_of_a_language_without_any_are_english(builtin):
    meld = builtin.dataset("meld")
    assert meld.prompt("de", "classification") == meld.prompt("en", "classification")
    assert [label.word("de") for label in meld.labels[:2]] == ["neutral", "surprise"]
    assert [label.word("zh") for label in meld.labels[:2]] == ["中性", "惊讶"]


def test_unknown_dataset_offers_the_nearest_name(builtin):
    with pytest.raises(PipelineError, match=r"unknown dataset 'mled' \(did you mean 'meld'\?\)"):
        builtin.dataset("mled")
    assert nearest("zzz", ["meld"]) == ""


def test_a_wheel_finds_its_own_copy(tmp_path, monkeypatch):
    package = tmp_path / "pipeline"
    package.mkdir()
    shutil.copy(builtin_manifest(), package / "data_manifest.yaml")
    monkeypatch.setattr(manifest_module, "__file__", str(package / "manifest.py"))
    assert builtin_manifest() == package / "data_manifest.yaml"
    assert "meld" in load_manifest().datasets


def test_a_users_entry_is_added(tmp_path):
    loaded = load_manifest(write(tmp_path))
    mine = loaded.dataset("mine")
    assert (mine.task, mine.splits, mine.max_seconds) == (("classification",), {}, 30.0)
    assert mine.manifest.parent == tmp_path
    assert "manifest" not in mine.model_dump()
    assert "meld" in loaded.datasets


def test_a_users_prompt_replaces_only_its_own_task_and_language(tmp_path):
    path = write(tmp_path, "prompts: {en: {classification: ['Hear {signals}', 'Say {labels}']}}")
    mine = load_manifest(path).dataset("mine")
    assert mine.prompt("en", "classification") == ("Hear {signals}", "Say {labels}")
    assert mine.prompt("zh", "classification") == load_manifest().dataset("meld").prompt(
        "zh", "classification"
    )
    assert mine.prompt("en", "regression") == load_manifest().dataset("mosi").prompt(
        "en", "regression"
    )


def test_prompts_of_a_users_file_hold_for_its_entries_alone(tmp_path):
    prompts = "prompts: {en: {classification: ['Mine {signals} {labels}']}}\n"
    loaded = load_manifest(write(tmp_path, prompts=prompts))
    assert loaded.dataset("mine").prompt("en", "classification")[0].startswith("Mine")
    assert not loaded.dataset("meld").prompt("en", "classification")[0].startswith("Mine")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("splits: {train: many}", "field 'splits.train': expected an integer, got 'many'"),
        ("splits: {training: 3}", "field 'splits.training': expected 'train', 'valid', 'test' or"),
        (
            "splits: {train: -1}",
            "field 'splits.train': expected a value greater than or equal to 0, got -1",
        ),
        ("langauge: en", "field 'langauge': unknown field"),
        ("task: sorting", "expected 'classification' or 'regression', got 'sorting'"),
        ("task: regression", "task regression needs scores"),
        ("protocol: sims", "protocol must be mosi or sims for regression, emotion otherwise"),
        ("labels: [{name: calm, en: calm, zh: 平静}]", "needs at least two labels"),
        ("labels: [{name: calm, en: calm}]", "field 'labels.0.zh': is missing"),
        (
            "layout: {reader: tabel, table: a.csv}",
            "field 'layout': 'reader' must be one of 'table', 'meld'",
        ),
        ("layout: {table: a.csv}", "field 'layout': 'reader' is missing"),
        ("layout: {reader: table}", "field 'layout.table': is missing"),
        ("layout: {reader: meld, tables: x}", "field 'layout.tables': unknown field"),
        ("layout: {reader: table, table: a.csv, columns: {lable: x}}", "'layout.columns.lable'"),
        (
            "layout: {reader: table, table: a.csv, columns: {id: '{file!r}'}}",
            "only plain {name} fields",
        ),
        (
            "layout: {reader: mosi, media: ['{video.__class__}.mp4']}",
            "field 'layout.media.0': '{video.__class__}.mp4' holds {video.__class__}; known are",
        ),
        (
            "layout: {reader: table, table: a.csv, columns: {split: x}, "
            "split_by: {column: speaker, valid: [a], test: [b]}}",
            "give split_by or a split column, not both",
        ),
        (
            "layout: {reader: table, table: a.csv, split_by: {column: s, valid: [a], test: [a]}}",
            "'a' is in both valid and test",
        ),
        ("scores: {low: 1, high: -1, step: 0.1}", "low (1) must be below high (-1)"),
        ("max_seconds: 0", "field 'max_seconds': expected a value greater than 0, got 0"),
        ("prompts: {en: {classification: ['{labels}']}}", "{signals} exactly once"),
        ("prompts: {en: {classification: ['{signals} {word}']}}", "{word}"),
        ("prompts: {en: {classification: ['{signals} {low}']}}", "{low}, which has no value there"),
        ("prompts: {en: {classification: ['{signals']}}", "is no template"),
        ("prompts: [a]", "field 'prompts': expected a mapping, got ['a']"),
        ("generator: {seed: x}", "field 'generator.seed': expected an integer, got 'x'"),
        ("name: other", "field 'name': unknown field"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(tmp_path, changed, said):
    message = failure(write(tmp_path, changed))
    assert "dataset 'mine'" in message
    assert said in message


def test_labels_that_share_a_word_are_refused(tmp_path):
    changed = (
        "labels: [{name: joy, en: joy, zh: 喜}, {name: happy, en: happy, zh: 乐, aliases: [JOY]}]"
    )
    assert "'joy' and 'happy' share the word 'joy'" in failure(write(tmp_path, changed))


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        ("datasets: {meld: {}}", "dataset 'meld' is already in"),
        ("datasets: {../up: {title: x}}", "dataset '../up', field 'name'"),
        ("datasets: [a]", "datasets: expected a mapping, got ['a']"),
        ("datasets: {mine: 3}", "dataset 'mine': expected a mapping, got 3"),
        ("dataset: {}", "unknown field 'dataset'; a manifest holds 'datasets' and 'prompts'"),
        ("datasets: {a: 1\n  b: 2", "line 2: not valid YAML"),
        ("datasets: {a: {}, a: {}}", "key 'a' is given twice"),
        ("datasets: !!python/object/apply:os.system [true]", "not valid YAML"),
        ("- a", "the file: expected a mapping"),
    ],
)
def test_a_wrong_file_is_named_in_one_line(tmp_path, datasets, said):
    assert said in failure(write(tmp_path, datasets=datasets))


def test_a_missing_or_undecodable_file_is_one_line(tmp_path):
    path = tmp_path / "my.yaml"
    assert "does not exist" in failure(path)
    path.write_bytes(b"\xff\xfe")
    assert "cannot be read" in failure(path)


def test_yaml_merge_keys_are_allowed(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(
        f"datasets:\n  one: &one{ENTRY}  two: {{<<: *one, title: Two}}\n", encoding="utf-8"
    )
    loaded = load_manifest(path)
    assert loaded.dataset("two").title == "Two"
    assert loaded.dataset("two").labels == loaded.dataset("one").labels
