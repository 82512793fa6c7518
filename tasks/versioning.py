"""DVC: what a pure stage took and made, whether it is up to date, and its bytes back from the run cache.

The only module that knows DVC. Stages run in-process; DVC is asked before and told after (`dvc repro` afterwards finds
everything up to date). The run-cache calls are DVC's internals: its minor version is pinned and tests cover them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llm_core.artifact import ArtifactError
from tasks.workspace import Workspace

os.environ.setdefault("DVC_NO_ANALYTICS", "1")

from dvc.dvcfile import LOCK_FILE, Lockfile  # noqa: E402
from dvc.exceptions import DvcException  # noqa: E402
from dvc.lock import LockError, make_lock  # noqa: E402
from dvc.repo import Repo  # noqa: E402
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, rwlock  # noqa: E402
from dvc.stage.cache import RunCacheNotFoundError  # noqa: E402
from dvc_data.hashfile.hash_info import HashInfo  # noqa: E402
from dvc_data.hashfile.tree import Tree  # noqa: E402

BUSY_SECONDS = 120

log = logging.getLogger(__name__)


class BusyError(ValueError):
    """Another process works in this workspace; the message names what holds it."""


class VersioningError(ValueError):
    """DVC cannot do its work; the message is DVC's own."""


class Versioning:
    """DVC's record of one workspace."""

    def __init__(self, ws: Workspace) -> None:
        logging.getLogger("dvc").setLevel(logging.ERROR)
        try:
            self._repo = Repo(str(ws.root))
        except DvcException as problem:
            raise ArtifactError(
                f"{ws.root}: not a DVC repository ({problem}); run dvc init, or git checkout .dvc"
            ) from None
        self._root, self._tmp = ws.root, Path(self._repo.tmp_dir)
        self._tmp.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._tmp / "tidemill-dvc.lock", timeout=BUSY_SECONDS)
        with self._locked():
            self._put_aside_what_a_kill_cut_off()

    def reasons(self, stages: tuple[str, ...]) -> dict[str, list[str]]:
        """Why each stage is out of date, in DVC's words; a stage without an entry is up to date."""
        with self._locked():
            found: Mapping[str, Any] = self._repo.status(targets=list(stages))
        return {name: _sentences(entries) for name, entries in found.items()}

    def restore(self, stage: str) -> bool:
        """Put back the outputs that the run cache holds for the stage's present inputs; False where it holds none.

        Dependencies are saved by the restore itself: saved before it, old outputs would be filed under new inputs.
        A cached copy that was edited (through a hard link, say) is dropped, and the answer is False.
        """
        with self._locked(), self._repo.lock:
            loaded = self._load(stage)
            try:
                self._repo.stage_cache.restore(loaded)
            except RunCacheNotFoundError:
                return False
            return self._cached_bytes_are_whole(loaded)

    def commit(self, stage: str) -> None:
        """Record the stage's present inputs and outputs in dvc.lock, the cache and the run cache."""
        with self._locked():
            self._repo.commit(stage, force=True)

    def md5(self, stage: str) -> str:
        """DVC's digest of the stage's recorded output: the version that MLflow's dataset entries carry."""
        with self._locked():
            return str(self._load(stage).outs[0].hash_info.value)

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Hold the stage's outputs, so that a parallel `dvc repro` says busy instead of working beside us."""
        with self._locked():
            loaded = self._load(stage)
        reads = [dep.fs_path for dep in loaded.deps]
        writes = [out.fs_path for out in loaded.outs]
        holding = rwlock(self._repo.tmp_dir, self._repo.fs, " ".join(sys.argv), reads, writes, hardlink=False)
        with _in_our_words(self._root), holding:
            yield

    def _load(self, stage: str) -> Any:
        return self._repo.stage.load_one(path="dvc.yaml", name=stage)

    def _cached_bytes_are_whole(self, loaded: Any) -> bool:
        entry = self._repo.stage_cache._load(loaded)
        expected = {out["path"]: out["md5"] for out in entry["outs"]} if entry else {}
        whole = True
        for out in loaded.outs:
            tree = Tree.load(out.cache, HashInfo("md5", expected.get(out.def_path, out.hash_info.value)))
            for _, _, content in tree:
                path = Path(out.cache.oid_to_path(content.value))
                with open(path, "rb") as file:
                    if hashlib.file_digest(file, "md5").hexdigest() != content.value:
                        path.unlink()
                        whole = False
        return whole

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """DVC gives up on its own lock after three seconds; wait for ours, then look at the files afresh.

        DVC's run cache takes paths from the current folder, so it has to be the workspace's.
        """
        with self._lock, chdir(self._root), _in_our_words(self._root):
            self._repo._reset()
            yield

    def _put_aside_what_a_kill_cut_off(self) -> None:
        """DVC writes two of its files in place; killed in the middle of that, it would refuse every later run.

        Nothing is lost: one lists processes, which are gone, and a stage that the other lacks is adopted.
        """
        processes, lock = self._tmp / RWLOCK_FILE, self._root / LOCK_FILE
        with make_lock(str(self._tmp / RWLOCK_LOCK), tmp_dir=str(self._tmp)):
            if processes.exists() and not _is_json(processes):
                processes.unlink()
        if self._reads(lock):
            return
        with self._repo.lock:  # who writes it holds this, so that it is cut off if it is so still
            if not self._reads(lock):
                aside = self._tmp / f"{LOCK_FILE}.damaged"
                os.replace(lock, aside)
                log.warning("%s: was damaged and lies in %s now; it is made again", lock, aside)

    def _reads(self, lock: Path) -> bool:
        try:
            Lockfile(self._repo, str(lock)).load()
        except DvcException:
            return False
        return True


@contextmanager
def only_run(ws: Workspace) -> Iterator[None]:
    """Runs in one workspace are serial: a second one is refused at once, with the first one's pid."""
    folder = ws.root / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "tidemill-run.pid"
    lock = FileLock(folder / "tidemill-run.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        holder = note.read_text() if note.exists() else "unknown"
        raise BusyError(f"{ws.root}: another run (pid {holder}) is at work here; wait for it or stop it") from None
    try:
        note.write_text(str(os.getpid()))
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def _in_our_words(root: Path) -> Iterator[None]:
    """DVC's errors as errors of ours, which a command shows without a traceback."""
    try:
        yield
    except LockError as problem:
        raise BusyError(f"{root}: DVC is at work here; wait for it and run again ({problem})") from None
    except DvcException as problem:
        raise VersioningError(f"{root}: DVC: {problem}") from problem


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _sentences(entries: list[Any]) -> list[str]:
    """DVC's nested status as short sentences, such as `clean.min_words modified`."""
    sentences: list[str] = []
    for entry in entries:
        for what, changes in entry.items() if isinstance(entry, dict) else [(entry, {})]:
            sentences.extend(_change(what, name, change) for name, change in changes.items())
            if not changes:
                sentences.append(str(what))
    return sentences


def _change(what: str, name: str, change: Any) -> str:
    if isinstance(change, dict):
        return ", ".join(f"{key} {state}" for key, state in change.items())
    return f"{name} {change}"
