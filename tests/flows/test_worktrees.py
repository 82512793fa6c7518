from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows import worktrees
from tasks.workspace import Workspace, WorkspaceError
from tests.flows.small_project import git, make_project


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Path]:
    """A project and its worktree; asking DVC takes a second, so the tests share it."""
    ws = make_project(tmp_path_factory.mktemp("worktrees") / "project")
    return ws, worktrees.prepare(ws.home, ws.root, "worker")


def commit(ws: Workspace, name: str, text: str) -> None:
    (ws.root / name).write_text(text)
    git(ws.root, "commit", "--quiet", "--message", f"Change {name}", "--", name)


def test_a_worktree_holds_the_last_commit_and_not_the_edits(prepared: tuple[Workspace, Path]) -> None:
    ws, place = prepared
    (ws.root / "configs" / "nightly.yaml").write_text("name: edited\n")
    assert worktrees.prepare(ws.home, ws.root, "worker") == place == ws.home / "workspaces" / "worker"
    assert (place / "configs" / "nightly.yaml").read_text() == "inherit: demo\nname: nightly\n"
    assert (ws.root / "configs" / "nightly.yaml").read_text() == "name: edited\n"


def test_refreshing_follows_the_main_checkout_and_keeps_what_runs_made(prepared: tuple[Workspace, Path]) -> None:
    ws, place = prepared
    (place / "out").mkdir()
    (place / "out" / "made").write_text("by a run")
    (place / "dvc.yaml").write_text("stages: {changed: by a run}\n")
    commit(ws, "configs/demo.yaml", "name: next\n")
    worktrees.prepare(ws.home, ws.root, "worker")
    assert (place / "configs" / "demo.yaml").read_text() == "name: next\n"
    assert (place / "dvc.yaml").read_text() == "stages: {}\n"
    assert (place / "out" / "made").read_text() == "by a run"


def test_the_commands_of_the_pull_step_follow_the_main_checkout(prepared: tuple[Workspace, Path]) -> None:
    ws, place = prepared
    commit(ws, "dvc.yaml", "stages: {}\n# changed\n")
    subprocess.run(["git", "-C", str(place), *worktrees.checkout_arguments()], check=True)
    assert git(place, "rev-parse", "HEAD") == git(ws.root, "rev-parse", "HEAD")


def test_the_worktree_uses_the_main_checkouts_dvc_cache(prepared: tuple[Workspace, Path]) -> None:
    ws, place = prepared
    asked = [sys.executable, "-m", "dvc", "cache", "dir"]
    cache = subprocess.run(asked, cwd=place, check=True, capture_output=True, text=True).stdout.strip()
    assert Path(cache) == ws.root / ".dvc" / "cache"
    assert git(place, "status", "--porcelain") == ""


def test_a_worktree_made_from_a_worktree_follows_the_main_checkout(prepared: tuple[Workspace, Path]) -> None:
    ws, first = prepared
    second = worktrees.prepare(ws.home, first, "second")
    assert str(ws.root / ".dvc" / "cache") in (second / ".dvc" / "config.local").read_text()


def test_a_worktree_that_was_removed_by_hand_is_made_again(prepared: tuple[Workspace, Path]) -> None:
    ws, place = prepared
    shutil.rmtree(place)
    worktrees.prepare(ws.home, ws.root, "worker")
    assert (place / "dvc.yaml").is_file()


def test_a_folder_without_git_says_so(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"not a git repository.*git commit first"):
        worktrees.prepare(tmp_path / "home", tmp_path, "worker")


def test_a_repository_without_a_commit_says_so(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    with pytest.raises(WorkspaceError, match=r"no commit yet.*git commit first"):
        worktrees.prepare(tmp_path / "home", tmp_path, "worker")


def test_a_commit_without_dvc_says_so(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "Nothing")
    with pytest.raises(WorkspaceError, match=r"no \.dvc folder; dvc init"):
        worktrees.prepare(tmp_path / "home", tmp_path, "worker")


def test_a_missing_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkspaceError, match=r"git: not installed"):
        worktrees.prepare(tmp_path / "home", tmp_path, "worker")
