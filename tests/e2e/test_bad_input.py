"""What goes wrong says what and how to mend it, ends with a non-zero code, and leaves nothing half written."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from llm_core.config import load_recipe
from tasks.stages import use_recipe
from tasks.workspace import Workspace
from tests.conftest import in_project

pytestmark = pytest.mark.e2e


def refused(ws: Workspace, *arguments: str) -> str:
    """Run the command; it must fail with one message, no traceback, and without leaving an artifact or a draft."""
    done = in_project(ws, "flows.cli", *arguments)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert not ws.out.is_dir() or not [path for path in ws.out.iterdir() if path.name.startswith(".")]
    return done.stderr


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("train.stepz=3", ["train.stepz", "unknown key", "known keys: steps"]),
        ("train.steps=many", ["train.steps", "valid integer", "'many'"]),
        ('collect.sources=["nowhere/"]', ["nowhere", "no such file or folder"]),
        ('collect.sources=["empty/"]', ["empty", "put texts there"]),
        ('collect.sources=["pkg://not_installed_here/data"]', ["not_installed_here", "pip install"]),
    ],
)
def test_a_bad_value_or_corpus_stops_before_any_work(project: Workspace, setting: str, parts: list[str]) -> None:
    (project.root / "empty").mkdir()
    message = refused(project, "run", "tiny", "--set", setting)
    assert [part for part in parts if part not in message] == [], message
    assert not project.out.exists()


def test_an_unknown_recipe_names_the_known_ones(project: Workspace) -> None:
    assert "demo, nightly, small, tiny" in refused(project, "run", "nothing")


def test_a_taken_port_is_found_before_hours_of_work(project: Workspace) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused(project, "run", "tiny", "--set", f"deploy.port={port}")
    assert str(port) in message
    assert not project.out.exists()


def test_an_unwritable_place_is_named(project: Workspace) -> None:
    project.out.write_text("a file where the folder should be")
    assert str(project.out) in refused(project, "stage", "collect", "tiny")
    assert project.out.read_text() == "a file where the folder should be"


def test_a_tampered_artifact_is_named_with_the_way_to_mend_it(project: Workspace) -> None:
    assert in_project(project, "flows.cli", "stage", "collect", "tiny").returncode == 0
    victim = next((project.out / "collect").glob("*.parquet"))
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content[:-1] + b"x")
    message = refused(project, "stage", "clean", "tiny")
    assert str(victim) in message and "remove" in message
    shutil.rmtree(project.out / "collect")
    for stage in ("collect", "clean"):
        assert in_project(project, "flows.cli", "stage", stage, "tiny").returncode == 0


def test_a_stage_without_its_inputs_says_which_to_run(project: Workspace) -> None:
    assert "out/collect: no artifact here" in refused(project, "stage", "clean", "tiny")


def test_a_source_that_changes_under_a_run_is_named(project: Workspace) -> None:
    use_recipe(project, load_recipe("tiny", project.configs))
    text = sorted((project.root / "texts").iterdir())[0]
    text.write_text("something else", encoding="utf-8")
    done = in_project(project, "tasks", "collect")
    assert (done.returncode, text.name in done.stderr) == (1, True), done.stderr


def test_commands_outside_a_checkout_say_so(project: Workspace, tmp_path: Path) -> None:
    elsewhere = Workspace(tmp_path, project.home)
    done = in_project(elsewhere, "flows.cli", "status", env={"PYTHONPATH": str(project.root)})
    assert (done.returncode, "not inside a Tidemill checkout" in done.stderr) == (1, True)


@pytest.mark.parametrize("version", ["tiny", "tiny@one", "@1"])
def test_a_version_without_a_number_is_a_usage_error(project: Workspace, version: str) -> None:
    assert in_project(project, "flows.cli", "promote", version).returncode == 2


def test_an_own_corpus_needs_one_command_and_a_folder_of_texts(project: Workspace) -> None:
    done = in_project(project, "flows.cli", "init", "mine")
    assert done.returncode == 0, done.stderr
    assert "put texts there" in refused(project, "run", "mine")
    shutil.copytree(project.root / "texts", project.root / "texts" / "mine", dirs_exist_ok=True)
    assert in_project(project, "flows.cli", "stage", "collect", "mine").returncode == 0
    assert "exists already" in refused(project, "init", "mine")
