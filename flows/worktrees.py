"""Workspaces of workers: one git worktree of the last commit each, on the main checkout's DVC cache.

A run that was started in the UI works there, so that it never touches, and never runs, what a person is editing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from tasks.workspace import WorkspaceError

LAST_COMMIT = "main-worktree/HEAD"
"""git's name, in every worktree of a repository, for the commit that the main checkout stands on."""


def prepare(home: Path, root: Path, name: str) -> Path:
    """Make or refresh the worktree ``HOME/workspaces/NAME`` of the repository of `root`; returns its folder.

    What runs left there outside version control (``out/``) stays; changes to tracked files are dropped.
    Raises WorkspaceError where there is no git, no repository or no commit yet.
    """
    place = home / "workspaces" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.parent / f"{name}.lock"):
        _require_commit(root)
        if (place / ".git").exists() and _git(place, "rev-parse", "--git-dir", check=False).returncode == 0:
            _git(place, *checkout_arguments())
        else:
            _git(root, "worktree", "prune")  # forgets a worktree whose folder was removed by hand
            _git(root, "worktree", "add", "--force", "--detach", str(place), LAST_COMMIT)
        _share_cache(root, place)
    return place


def checkout_arguments() -> tuple[str, ...]:
    """Arguments of the git call that brings a worktree to the last commit of the main checkout."""
    return ("checkout", "--quiet", "--force", "--detach", LAST_COMMIT)


def _require_commit(root: Path) -> None:
    if _git(root, "rev-parse", "--git-dir", check=False).returncode:
        raise WorkspaceError(
            f"{root}: not a git repository, workers run the last commit; git init, then git commit first"
        )
    if _git(root, "rev-parse", "--verify", "--quiet", f"{LAST_COMMIT}^{{commit}}", check=False).returncode:
        raise WorkspaceError(f"{root}: has no commit yet and workers run the last commit; git commit first")


def _share_cache(root: Path, place: Path) -> None:
    """Point the worktree's DVC at the main checkout's cache, so that results are linked and not computed again."""
    if not (place / ".dvc").is_dir():
        raise WorkspaceError(f"{root}: the last commit has no .dvc folder; dvc init, then git commit first")
    settings = place / ".dvc" / "config.local"
    if settings.exists():
        return
    main = Path(_git(root, "rev-parse", "--path-format=absolute", "--git-common-dir").stdout.strip()).parent
    cache = _dvc(main, "cache", "dir").strip()  # asked, because users and machines have DVC settings, too
    draft = settings.with_suffix(".draft")
    draft.write_text(f"[cache]\n    dir = {cache}\n", encoding="utf-8")
    os.replace(draft, settings)


def _git(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise WorkspaceError("git: not installed, workers run the last commit of the project; install git") from None
    if check and done.returncode:
        raise WorkspaceError(f"{folder}: git {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done


def _dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise WorkspaceError(f"{folder}: dvc {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout
