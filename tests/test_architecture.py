"""What holds the house together: imports go one way, and help answers at once."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "extract": {"extract"},
    "fuse": {"fuse"},
    "generate": {"generate"},
    "pipeline": {"extract", "fuse", "generate", "pipeline"},
}
HEAVY = {"torch", "transformers", "pandas", "matplotlib", "distributed", "av", "h5py", "numpy"}


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_arrows_go_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    ours = set(MAY_IMPORT)
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in files
        if (found := (imported_packages(path) & ours) - MAY_IMPORT[package])
    }
    assert wrong == {}


def commands() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {name: target.split(":")[0] for name, target in project["scripts"].items()}


@pytest.mark.parametrize("command", sorted(commands()))
def test_help_loads_nothing_heavy(command: str) -> None:
    """`--help` is fast because what is slow to import is not imported, whatever the machine."""
    script = (
        f"import sys, json, {commands()[command]} as module\n"
        f"sys.argv = ['{command}', '--help']\n"
        "try:\n    module.main()\n"
        "except SystemExit as end:\n"
        "    print(json.dumps([end.code or 0, sorted({m.split('.')[0] for m in sys.modules})]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    code, modules = json.loads(run.stdout.splitlines()[-1])
    assert code == 0
    assert "Usage" in run.stdout
    assert HEAVY & set(modules) == set()
