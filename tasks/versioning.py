"""DVC: what a pure stage took and made, whether it is up to date, and its bytes back from the run cache.

The only module that knows DVC. Stages run in-process; DVC is asked before and told after (`dvc repro` afterwards finds
everything up to date). The run-cache calls are DVC's internals: its minor version is pinned and tests cover them.
"""

from __future__ import annotations

import hashlib
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

from dvc.exceptions import DvcException  # noqa: E402
from dvc.repo import Repo  # noqa: E402
from dvc.rwlock import rwlock  # noqa: E402
from dvc.stage.cache import RunCacheNotFoundError  # noqa: E402
from dvc_data.hashfile.hash_info import HashInfo  # noqa: E402
from dvc_data.hashfile.tree import Tree  # noqa: E402

BUSY_SECONDS = 120


class BusyError(ValueError):
    """Another process works in this workspace; the message names what holds it."""


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
        self._root = ws.root
        self._lock = FileLock(Path(self._repo.tmp_dir) / "tidemill-dvc.lock", timeout=BUSY_SECONDS)
        Path(self._repo.tmp_dir).mkdir(parents=True, exist_ok=True)

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
        with rwlock(self._repo.tmp_dir, self._repo.fs, " ".join(sys.argv), reads, writes, hardlink=False):
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
        with self._lock, chdir(self._root):
            self._repo._reset()
            yield


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
