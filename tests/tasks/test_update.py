"""DVC as the record of pure stages: up to date, adopted, restored, made."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import yaml

from llm_core.artifact import Artifact, ArtifactError, Silent
from llm_core.config import Recipe, load_recipe
from tasks.stages import STAGES, run_stage, use_recipe
from tasks.update import Update, update
from tasks.versioning import BusyError, Versioning, only_run
from tasks.workspace import Workspace
from tests.conftest import in_project, project_environment

COLLECT, CLEAN = STAGES["collect"], STAGES["clean"]


@pytest.fixture
def recipe(project: Workspace) -> Recipe:
    return load_recipe("tiny", project.configs)


def bring_up_to_date(ws: Workspace, recipe: Recipe, *names: str) -> list[Update]:
    use_recipe(ws, recipe)
    return [update(STAGES[name], recipe, ws, Versioning(ws), Silent()) for name in names]


def states(updates: list[Update]) -> list[str]:
    return [result.state for result in updates]


def with_min_words(recipe: Recipe, words: int) -> Recipe:
    return recipe.model_copy(update={"clean": recipe.clean.model_copy(update={"min_words": words})})


def test_a_stage_is_made_once_and_then_up_to_date_with_the_reason(project: Workspace, recipe: Recipe) -> None:
    assert states(bring_up_to_date(project, recipe, "collect", "clean")) == ["made", "made"]
    again = bring_up_to_date(project, recipe, "collect", "clean")
    assert states(again) == ["up to date", "up to date"]
    assert "unchanged" in again[0].because
    assert Versioning(project).reasons(("collect", "clean")) == {}


def test_a_changed_value_remakes_its_stage_and_leaves_those_before(project: Workspace, recipe: Recipe) -> None:
    bring_up_to_date(project, recipe, "collect", "clean")
    changed = bring_up_to_date(project, with_min_words(recipe, 30), "collect", "clean")
    assert states(changed) == ["up to date", "made"]
    assert "clean" in changed[1].because


def test_going_back_restores_the_bytes_from_the_run_cache(project: Workspace, recipe: Recipe) -> None:
    first = bring_up_to_date(project, recipe, "collect", "clean")
    bring_up_to_date(project, with_min_words(recipe, 30), "collect", "clean")
    back = bring_up_to_date(project, recipe, "collect", "clean")
    assert states(back) == ["up to date", "restored"]
    assert back[1].artifact.digest == first[1].artifact.digest


def test_an_artifact_that_a_killed_run_left_uncommitted_is_adopted(project: Workspace, recipe: Recipe) -> None:
    bring_up_to_date(project, recipe, "collect")
    made = run_stage(CLEAN, recipe, project, Silent())  # published, and killed before DVC was told
    (adopted,) = bring_up_to_date(project, recipe, "clean")
    assert (adopted.state, adopted.artifact.digest) == ("adopted", made.digest)


def test_a_tampered_artifact_is_refused_by_name_and_mended_by_removing_it(project: Workspace, recipe: Recipe) -> None:
    first = bring_up_to_date(project, recipe, "collect", "clean")
    victim = project.out / "clean" / "splits.csv"
    content = victim.read_text()
    victim.unlink()
    victim.write_text(content + "tampered")
    with pytest.raises(ArtifactError, match=r"splits\.csv: sha256 is not the manifest's.*remove .*out/clean"):
        bring_up_to_date(project, recipe, "clean")
    shutil.rmtree(project.out / "clean")
    (mended,) = bring_up_to_date(project, recipe, "clean")
    assert mended.artifact.digest == first[1].artifact.digest


def test_an_edit_that_reached_the_cache_through_a_hard_link_is_not_restored(project: Workspace, recipe: Recipe) -> None:
    first = bring_up_to_date(project, recipe, "collect", "clean")
    victim = project.out / "clean" / "splits.csv"
    victim.chmod(0o644)
    with open(victim, "a") as file:  # in place: the cached copy is the same file
        file.write("tampered")
    victim.chmod(0o444)  # what is read-only, DVC takes for whole
    shutil.rmtree(project.out / "clean")
    (mended,) = bring_up_to_date(project, recipe, "clean")
    assert (mended.state, mended.artifact.digest) == ("made", first[1].artifact.digest)
    assert Artifact.open(project.out / "clean") == mended.artifact
    shutil.rmtree(project.out / "clean")
    (restored,) = bring_up_to_date(project, recipe, "clean")
    assert (restored.state, restored.artifact.digest) == ("restored", mended.artifact.digest), "the cache is mended too"


def test_one_changed_byte_of_input_changes_every_digest(project: Workspace, recipe: Recipe) -> None:
    first = bring_up_to_date(project, recipe, "collect", "clean")
    text = next((project.root / "texts").iterdir())
    text.write_text(text.read_text(encoding="utf-8") + "!", encoding="utf-8")
    second = bring_up_to_date(project, recipe, "collect", "clean")
    assert states(second) == ["made", "made"]
    assert all(a.artifact.digest != b.artifact.digest for a, b in zip(first, second, strict=True))


def test_the_recorded_md5_names_the_present_output(project: Workspace, recipe: Recipe) -> None:
    bring_up_to_date(project, recipe, "collect")
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())
    assert Versioning(project).md5("collect") == lock["stages"]["collect"]["outs"][0]["md5"]


def test_a_second_run_in_the_same_workspace_is_refused(project: Workspace) -> None:
    with only_run(project), pytest.raises(BusyError, match="another run .pid"), only_run(project):
        pass
    with only_run(project):
        pass


def test_a_parallel_dvc_command_is_told_that_we_are_busy_and_we_are_told_of_it(
    project: Workspace, recipe: Recipe
) -> None:
    bring_up_to_date(project, recipe, "collect")
    program = """
import sys
from pathlib import Path
from tasks.versioning import Versioning
from tasks.workspace import Workspace
with Versioning(Workspace(Path.cwd(), Path.cwd() / ".tidemill")).working("collect"):
    print("holds", flush=True)
    sys.stdin.read()
"""
    command, env, pipe = [sys.executable, "-c", program], project_environment(project), subprocess.PIPE
    with subprocess.Popen(command, cwd=project.root, env=env, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None and other.stdout.readline() == b"holds\n"
        repro = in_project(project, "dvc", "repro", "--force", "--single-item", "collect")
        assert repro.returncode != 0 and f"(PID {other.pid})" in repro.stderr, repro.stderr
        told = pytest.raises(BusyError, match=f"(?s)wait for it .*PID {other.pid}")
        with told, Versioning(project).working("collect"):
            pass
        other.communicate()
    with Versioning(project).working("collect"):
        pass


@pytest.mark.parametrize("content", ["", '{"read": {"/some/file": [{"pi'])
def test_a_kill_while_dvc_notes_who_works_stops_no_later_run(project: Workspace, recipe: Recipe, content: str) -> None:
    first = bring_up_to_date(project, recipe, "collect")
    (project.root / ".dvc" / "tmp" / "rwlock").write_text(content)
    again = bring_up_to_date(project, recipe, "collect")
    assert states(again) == ["up to date"] and again[0].artifact == first[0].artifact


def test_a_kill_while_dvc_writes_its_lock_stops_no_later_run(project: Workspace, recipe: Recipe) -> None:
    first = bring_up_to_date(project, recipe, "collect", "clean")
    lock = project.root / "dvc.lock"
    whole = lock.read_text()
    for share in (0.0, 0.2, 0.5, 0.7, 0.9, 0.99):
        lock.write_text(whole[: int(share * len(whole))])
        again = bring_up_to_date(project, recipe, "collect", "clean")
        assert {update.state for update in again} <= {"up to date", "adopted"}, share
        assert [update.artifact.digest for update in again] == [update.artifact.digest for update in first], share
        assert yaml.safe_load(lock.read_text()) == yaml.safe_load(whole), share


def test_a_folder_without_dvc_is_a_clear_error(project: Workspace) -> None:
    shutil.rmtree(project.root / ".dvc")
    with pytest.raises(ArtifactError, match="not a DVC repository"):
        Versioning(project)
