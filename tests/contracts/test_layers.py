"""The direction of imports: flows -> tasks -> llm_core, and who may know prefect, mlflow, dvc and fastapi."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_core.closure import ROOT
from tasks.stages import STAGES

PACKAGES = ("llm_core", "tasks", "flows")
BELOW = {"llm_core": {"llm_core"}, "tasks": {"llm_core", "tasks"}, "flows": {"llm_core", "tasks", "flows"}}
MAY_IMPORT = {
    "prefect": ("flows/", "tasks/orchestrate.py"),
    "mlflow": (
        "tasks/tracking.py",
        "tasks/logged_model.py",
        "tasks/pyfunc_model.py",
        "llm_core/serving/registry.py",
    ),
    "dvc": ("tasks/versioning.py",),
    "dvc_data": ("tasks/versioning.py",),
    "fastapi": ("llm_core/serving/",),
}
EFFECTS = ("register", "gate", "deploy")


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


SOURCES = [path.relative_to(ROOT).as_posix() for path in sources()]


@pytest.mark.parametrize("path", SOURCES)
def test_imports_go_down_only(path: str) -> None:
    allowed = BELOW[path.split("/")[0]]
    found = {name.split(".")[0] for name in imports(ROOT / path)} & set(PACKAGES)
    assert found <= allowed, f"{path} imports {sorted(found - allowed)}"


@pytest.mark.parametrize("library", MAY_IMPORT)
def test_a_library_is_known_only_where_it_belongs(library: str) -> None:
    users = [path for path in SOURCES if library in {name.split(".")[0] for name in imports(ROOT / path)}]
    assert users, f"nothing imports {library}: is the rule still needed?"
    assert [path for path in users if not path.startswith(MAY_IMPORT[library])] == []


@pytest.mark.parametrize("stage", [*STAGES, *EFFECTS])
def test_stages_never_import_each_other(stage: str) -> None:
    others = {f"tasks.{name}" for name in (*STAGES, *EFFECTS)} - {f"tasks.{stage}"}
    assert others & set(imports(ROOT / "tasks" / f"{stage}.py")) == set()


def test_there_are_no_import_cycles() -> None:
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in SOURCES}
    graph = {name: {found for found in imports(ROOT / path) if found in names} - {name} for name, path in names.items()}
    while leaves := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    assert sorted(graph) == []


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["recipes", "list"]])
def test_the_command_line_starts_without_torch_prefect_or_mlflow(command: list[str]) -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from flows.cli import app
assert CliRunner().invoke(app, {command!r}).exit_code == 0
heavy = {{"torch", "prefect", "mlflow", "dvc", "pandas", "datasets"}}
print(*sorted({{name.split(".")[0] for name in sys.modules}} & heavy))
"""
    assert run_python(code, ROOT).split() == []


def test_that_nothing_is_to_do_is_found_out_without_torch_prefect_or_mlflow() -> None:
    code = """
import sys
import flows.local, flows.report, tasks.settled, tasks.versioning
print(*sorted({name.split(".")[0] for name in sys.modules} & {"torch", "prefect", "mlflow", "pandas", "datasets"}))
"""
    assert run_python(code, ROOT).split() == []


def test_a_stage_run_by_dvc_starts_without_prefect_and_mlflow() -> None:
    code = """
import sys
import tasks.__main__
from tasks.stages import STAGES
for stage in STAGES.values():
    stage.function
print(*sorted({name.split(".")[0] for name in sys.modules} & {"prefect", "mlflow", "dvc"}))
"""
    assert run_python(code, ROOT).split() == []


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_writes_no_file_and_sets_no_log_handler(package: str, tmp_path: Path) -> None:
    modules = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in SOURCES
        if path.startswith(package) and not path.endswith(("__main__.py", "pyfunc_model.py"))
    ]
    code = f"""
import importlib, logging, sys
sys.path.insert(0, {str(ROOT)!r})
for name in {modules!r}:
    importlib.import_module(name)
ours = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in {PACKAGES!r}]
print(*(name for name in ours if logging.getLogger(name).handlers))
"""
    assert run_python(code, tmp_path).split() == []
    assert list(tmp_path.iterdir()) == []
