"""The page and the other formats: nothing runs, nothing is loaded, hostile text does no harm."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from pipeline.report.build import build_report
from pipeline.report.writers import latex_escape, markdown_escape
from tests.helpers_runs import emotion_run, sims_run, write_many, write_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Report of a demo with every modality subset, and of three benchmarks."""
    root = tmp_path_factory.mktemp("report")
    report = build_report(write_many(root / "runs"), root / "out")
    return root, report


# The page


class Page(HTMLParser):
    """Collects the page's tags, attributes and ids."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "action", "poster", "srcset", "data"}:
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on"), (tag, name)


def test_the_page_loads_nothing_and_runs_nothing(made):
    text = (made[0] / "out" / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "iframe", "link", "img", "object", "embed", "image"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert "default-src 'none'" in text
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert len(page.ids) == len(set(page.ids))
    targets = {link[1:] for link in page.links}
    assert targets <= set(page.ids)


def test_hostile_names_are_shown_harmlessly(made):
    root, _ = made
    text = (root / "out" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;" in text
    assert "<script" not in (root / "out" / "report.md").read_text(encoding="utf-8")
    latex = (root / "out" / "tables" / "meld-classification.tex").read_text(encoding="utf-8")
    assert r"\textless{}script\textgreater{}" in latex


def test_names_cannot_reorder_the_page(tmp_path):
    emotion_run(tmp_path / "runs", "e\u202d", title="a\u202eb\u2067", count_mismatch="x\u0007y")
    build_report(tmp_path / "runs", tmp_path / "out", ("html", "md"))
    for name in ("index.html", "report.md"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "a⟨U+202E⟩b⟨U+2067⟩" in text
        assert "x⟨U+0007⟩y" in text
        assert not set(text) & set("\u202d\u202e\u2067\u0007")


def test_hostile_text_inside_drawings_is_escaped(tmp_path):
    name = '"><script>$x$&'
    write_run(tmp_path / "runs", experiment=name, rows=60, labels=("</text><b>", "a$b$"))
    build_report(tmp_path / "runs", tmp_path / "out", ("html",))
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.tags.count("svg") == 12
    first = text[text.index("<svg") : text.index("</svg>")]
    assert "&lt;script&gt;$x$&amp;</text>" in first, "shown as it is, not set as a formula"


def test_drawings_follow_the_theme(made):
    text = (made[0] / "out" / "index.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    for stand_in in ("#010203", "#040506", "#070809"):
        assert stand_in not in text
    assert "var(--ink, #1c2126)" in text
    assert text.count("<svg") == text.count('role="img"') > 15


def test_random_weights_are_watermarked_everywhere(made):
    root, _ = made
    out = root / "out"
    words = "andom weights: figures show that the pipeline works, not what the method reaches"
    page = (out / "index.html").read_text(encoding="utf-8")
    assert words in page
    assert words in (out / "report.md").read_text(encoding="utf-8")
    for path in (out / "tables").glob("*.tex"):
        assert (words in path.read_text(encoding="utf-8")) == path.name.startswith("demo-"), path
    sections = page.split('class="dataset"')[1:]
    assert [words in section for section in sections] == [True, False, False, False]


def test_equal_runs_give_equal_files(tmp_path):
    sims_run(tmp_path / "runs")
    first = build_report(tmp_path / "runs", tmp_path / "first").files
    again = build_report(tmp_path / "runs", tmp_path / "again").files
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_formats_are_written_alone(tmp_path):
    emotion_run(tmp_path / "runs")
    build_report(tmp_path / "runs", tmp_path / "out", ("csv",))
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".csv"}


# Escaping


def test_latex_escapes():
    assert latex_escape(r"a_b & 50% $x$ {\y} #1 ^~") == (
        r"a\_b \& 50\% \$x\$ \{\textbackslash{}y\} \#1 \textasciicircum{}\textasciitilde{}"
    )
    assert latex_escape("run --json") == "run -{}-json", "no dash"
    assert latex_escape("R² ↑ 1 ± 2 – −3") == r"R$^2$ $\uparrow$ 1 $\pm$ 2 -- $-$3"


def test_markdown_escapes():
    assert markdown_escape("a|b *c* <i>&\nd") == r"a\|b \*c\* &lt;i&gt;&amp; d"


def test_latex_tables_have_as_many_cells_as_columns(made):
    for path in (made[0] / "out" / "tables").glob("*.tex"):
        text = path.read_text(encoding="utf-8")
        layout = re.search(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}", text)[1]
        columns = re.sub(
            r">\{.*?\}p\{3cm\}", "p", layout.replace(r"\raggedright\arraybackslash", "")
        )
        lines = [line for line in text.splitlines() if line.endswith(r" \\")]
        assert len(lines) > 1
        for line in lines:
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1, (path.name, line)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here")
def test_latex_tables_compile(made, tmp_path):
    tables = sorted((made[0] / "out" / "tables").glob("*.tex"))
    inputs = "".join(rf"\input{{{path}}}\clearpage" + "\n" for path in tables)
    packages = r"\usepackage[utf8]{inputenc}\usepackage{booktabs,array,graphicx}"
    source = rf"\documentclass{{article}}{packages}\begin{{document}}{inputs}\end{{document}}"
    (tmp_path / "all.tex").write_text(source, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert f"({len(tables)} pages" in done.stdout


# The command


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from pipeline.commands.report import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_and_says_what(tmp_path):
    emotion_run(tmp_path / "runs", collapsed=True)
    (tmp_path / "runs" / "meld" / "halt" / "seed-1").mkdir(parents=True)
    done = command("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["skipped"][0]["run"] == "meld/halt/seed-1"
    assert "COLLAPSED" in result["datasets"]["meld"]["alarms"][0]
    assert str(tmp_path / "out" / "index.html") in result["files"]
    assert "left out meld/halt/seed-1" in done.stderr
    assert "COLLAPSED" in done.stderr


def test_the_command_fails_in_plain_words(tmp_path):
    done = command("--runs", str(tmp_path / "none"))
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: .*none does not exist; train one with: egmf-train .*\n", done.stderr
    )
    done = command("--format", "md,pdf")
    assert done.returncode == 2
    assert "pdf: give any of md, csv, latex, html" in done.stderr


def test_the_command_compares_two_experiments(tmp_path):
    sims_run(tmp_path / "runs", "good", skill=0.9)
    sims_run(tmp_path / "runs", "poor", skill=0.1)
    folders = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    done = command(*folders, "--compare", "good", "poor")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^MAE ↓ .*−0\.\d{3} .* < 0\.001$", done.stdout, re.MULTILINE)
    done = command(*folders, "--compare", "good", "poor", "--json", "--format", "csv")
    (rows,) = json.loads(done.stdout)["tables"].values()
    assert {row["metric"].split()[0] for row in rows} >= {"MAE", "Corr", "R²"}
    files = sorted(path.name for path in (tmp_path / "out" / "tables").iterdir())
    assert files == ["simsv2-regression-good-against-poor.csv",
                     "simsv2-regression-good-against-poor.tex"]  # fmt: skip
    done = command(*folders, "--compare", "god", "poor")
    assert done.returncode == 1
    assert "error: no experiment 'god' (did you mean 'good'?)" in done.stderr


def test_a_cache_that_was_named_has_to_be_there(tmp_path):
    done = command("--runs", str(tmp_path), "--cache", str(tmp_path / "none"))
    assert done.returncode == 1
    assert re.fullmatch(r"error: --cache .*none: no such folder\n", done.stderr)
