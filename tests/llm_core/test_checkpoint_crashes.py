"""A save that is killed at any of its file-system calls leaves the former checkpoint or the new one, bit for bit.

A child process (a fork: it starts in milliseconds) saves and ends itself at call number k, for every k. With a torn
write half of the bytes of that call are written, and a file that was not flushed when the process ends loses half of
what it had, as in a power failure.
"""

from __future__ import annotations

import builtins
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_core import checkpoint as module
from llm_core import checkpoint_files as files
from llm_core.checkpoint import Checkpoints, Snapshot

AUDITED = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
KILLED = 9


def snapshot(step: int, course: float = 0.0) -> Snapshot:
    """A state that differs from step to step, and in each course that a run may have taken to the same step."""
    tensors = {"w": torch.arange(200.0) + step + course, "rng": torch.full((9,), step, dtype=torch.uint8)}
    return Snapshot(step, tensors, {"tokens": step, "course": course})


@dataclass(frozen=True)
class Scene:
    """What lies in the folder, and what is saved then."""

    there: tuple[Snapshot, ...]
    keep: int
    new: Snapshot

    def lay_out(self, folder: Path) -> None:
        with Checkpoints(folder, {}, self.keep) as checkpoints:
            for former in self.there:
                checkpoints.save(former)


SCENES = {
    "the first checkpoint": Scene((), 2, snapshot(2)),
    "one more, and the oldest goes": Scene((snapshot(2), snapshot(4)), 2, snapshot(6)),
    "the only one is replaced": Scene((snapshot(4),), 1, snapshot(4, course=0.5)),
}


class Calls:
    """Counts the file-system calls of this process in a folder, and ends the process at the one that is told."""

    def __init__(self, folder: Path, last: int, torn: bool) -> None:
        self.folder, self.last, self.torn = str(folder), last, torn
        self.count = 0
        self.unflushed: dict[int, int] = {}
        """Files with bytes that no fsync has followed: inode -> a descriptor of our own."""

    def watch(self) -> None:
        fsync, plain_open = os.fsync, builtins.open

        def flushed(descriptor: int) -> None:
            self.next()
            fsync(descriptor)
            self.unflushed.pop(os.fstat(descriptor).st_ino, None)

        def opened(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            real = plain_open(file, mode, *rest, **more)
            inside = str(file).startswith(self.folder) and not str(file).endswith(files.LOCK)
            return WatchedFile(real, self) if inside and mode[0] in "wxa" else real

        os.fsync, builtins.open = flushed, opened  # type: ignore[assignment]
        sys.addaudithook(self.audit)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in AUDITED and (event != "open" or str(arguments[0]).startswith(self.folder)):
            self.next()

    def write(self, file: Any, data: Any) -> None:
        inode = os.fstat(file.fileno()).st_ino
        if inode not in self.unflushed:
            self.unflushed[inode] = os.dup(file.fileno())
        if self.torn and self.count + 1 == self.last:
            file.write(data[: len(data) // 2])
            file.flush()
        self.next()
        file.write(data)
        file.flush()

    def next(self) -> None:
        self.count += 1
        if self.count == self.last:
            for descriptor in self.unflushed.values() if self.torn else ():
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os._exit(KILLED)


class WatchedFile:
    """A file that is being written, whose writes are calls."""

    def __init__(self, file: Any, calls: Calls) -> None:
        self._file, self._calls = file, calls

    def write(self, data: Any) -> None:
        self._calls.write(self._file, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> WatchedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def killed_at(call: int, scene: Scene, folder: Path, wait: bool, torn: bool) -> bool:
    """Save in a child process that ends at file-system call number `call`; False if it had done all before."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            calls = Calls(folder, call, torn)
            calls.watch()
            with Checkpoints(folder, {}, scene.keep) as checkpoints:
                checkpoints.save(scene.new, wait=wait)
            status = 0 if calls.count else 1
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), f"the saving process failed at call {call}"
    return status == KILLED


def problem_after(scene: Scene, folder: Path) -> str | None:
    """What is wrong with a folder after a kill; None if it holds the former or the new state and goes on working."""
    allowed = [*scene.there[-1:], scene.new]
    with Checkpoints(folder, {}, scene.keep) as checkpoints:
        found = checkpoints.load_latest()
        if found is None and scene.there:
            return "no checkpoint is left"
        if found is not None and not any(same(found, one) for one in allowed):
            return f"what is loaded as step {found.step} is neither the former state nor the new one"
        checkpoints.save(later := snapshot(8))
        again = checkpoints.load_latest()
        if again is None or not same(again, later):
            return "the next save does not work"
    strange = [path.name for path in folder.iterdir() if not path.name.startswith("step-") and path.name != files.LOCK]
    return f"{strange} is left over" if strange else None


def same(a: Snapshot, b: Snapshot) -> bool:
    equal = a.tensors.keys() == b.tensors.keys() and all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors)
    return equal and (a.step, a.values) == (b.step, b.values)


def crash_everywhere(scene: Scene, root: Path, wait: bool, torn: bool) -> Iterator[str | None]:
    """Kill a save at each of its calls in turn; the problem that each of them leaves, None where there is none."""
    scene.lay_out(root / "before")
    for call in count(1):
        folder = root / f"killed-{call}"
        shutil.copytree(root / "before", folder)
        if not killed_at(call, scene, folder, wait, torn):
            return
        yield problem_after(scene, folder)
        shutil.rmtree(folder)


@pytest.mark.parametrize("wait", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize("torn", [pytest.param(False, marks=pytest.mark.e2e), True], ids=["whole", "torn"])
@pytest.mark.parametrize("name", SCENES)
def test_a_save_killed_at_any_call_leaves_the_former_or_the_new_checkpoint(
    tmp_path: Path, name: str, wait: bool, torn: bool
) -> None:
    problems = list(crash_everywhere(SCENES[name], tmp_path, wait, torn))
    assert set(problems) == {None}
    assert len(problems) > 15  # lock, draft, shard, manifest, flushes, renames


def in_place(draft: Path, target: Path) -> None:
    """The defect: the former checkpoint is removed, and the new one written where it was."""
    files.remove(target)
    shutil.copytree(draft, target)
    files.remove(draft)


def sweep_without_putting_back(folder: Path) -> None:
    for left in (*folder.glob(".*.draft"), *folder.glob(".*.old")):
        files.remove(left)


def write_shard_unflushed(path: Path, tensors: Any) -> Any:
    fsync, os.fsync = os.fsync, lambda descriptor: None
    try:
        return write_shard(path, tensors)
    finally:
        os.fsync = fsync


write_shard = module.write_shard


@pytest.mark.parametrize(
    ("place", "defect", "problem"),
    [
        ("put_in_place", in_place, "no checkpoint is left"),
        ("sweep", sweep_without_putting_back, "no checkpoint is left"),
        ("sweep", lambda folder: None, "left over"),
        ("write_shard", write_shard_unflushed, "no checkpoint is left"),
    ],
)
def test_a_broken_build_is_found_by_the_same_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, defect: Callable[..., Any], problem: str
) -> None:
    monkeypatch.setattr(module, place, defect)
    problems = crash_everywhere(SCENES["the only one is replaced"], tmp_path, wait=True, torn=True)
    assert any(found and problem in found for found in problems)
