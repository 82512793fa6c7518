"""Parts are made once, whole or not at all, by any worker, and are found again unless they were changed."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from llm_core import workers
from llm_core.closure import ROOT, closure_paths
from llm_core.config import Workers
from llm_core.parts import KEEP_UNUSED_SECONDS, LIBRARIES, Memo, key_of, link, make_parts, open_memo, versions
from llm_core.workers import ClusterError, open_pool

FOUR = [f"text {number}" for number in range(4)]


@dataclass(frozen=True)
class Upper:
    """A part that writes its text in capitals, and counts how often it was made."""

    text: str
    made: Path

    @property
    def key(self) -> str:
        return key_of("upper", {"text": self.text})

    def make(self, folder: Path) -> None:
        with open(self.made, "a") as file:
            file.write(self.text + "\n")
        (folder / "a.txt").write_text(self.text.upper())
        (folder / "b.txt").write_text(self.text[::-1])


class BreaksError(Exception):
    pass


@dataclass(frozen=True)
class Breaks(Upper):
    def make(self, folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise BreaksError(self.text)


def parts(folder: Path) -> list[Upper]:
    return [Upper(text, folder / "made.log") for text in FOUR]


def made(folder: Path) -> list[str]:
    return (folder / "made.log").read_text().splitlines()


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_any_kind_of_worker_makes_the_same_parts_in_their_order(kind: str, tmp_path: Path) -> None:
    with open_pool(Workers(kind=kind, count=2), len(FOUR)) as pool:
        folders = list(make_parts(parts(tmp_path), Memo(tmp_path / "memo"), pool))
    assert [(folder / "a.txt").read_text() for folder in folders] == [text.upper() for text in FOUR]
    assert sorted(made(tmp_path)) == FOUR


def test_a_real_dask_cluster_makes_the_same_parts(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        open_pool(Workers(kind="dask", address=cluster.scheduler_address), len(FOUR)) as pool,
    ):
        folders = list(make_parts(parts(tmp_path), Memo(tmp_path / "memo"), pool))
    assert [(folder / "a.txt").read_text() for folder in folders] == [text.upper() for text in FOUR]


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "CLUSTER_SECONDS", 1.0)
    with (
        pytest.raises(ClusterError, match=r"workers\.address tcp://127\.0\.0\.1:1: no Dask scheduler answers"),
        open_pool(Workers(kind="dask", address="tcp://127.0.0.1:1"), 2),
    ):
        pass


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memo")
    first = [memo.make(part) for part in parts(tmp_path)]
    assert [memo.make(part) for part in parts(tmp_path)] == first
    assert made(tmp_path) == FOUR


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "unsealed"])
def test_a_part_that_was_changed_is_made_again(damage: str, tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memo")
    folder = memo.make(parts(tmp_path)[0])
    if damage == "changed":
        (folder / "a.txt").write_text("TEXT 1")
    elif damage == "added":
        (folder / "c.txt").write_text("more")
    else:
        (folder / ("b.txt" if damage == "missing" else "seal.json")).unlink()
    again = memo.make(parts(tmp_path)[0])
    assert made(tmp_path) == [FOUR[0]] * 2
    assert sorted(path.name for path in again.iterdir()) == ["a.txt", "b.txt", "seal.json"]
    assert (again / "a.txt").read_text() == "TEXT 0"


@pytest.mark.parametrize("found", ["another version", ""])
def test_a_part_is_made_again_with_another_library(found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memo = Memo(tmp_path / "memo")
    memo.make(parts(tmp_path)[0])
    others = {name: version for name, version in versions().items() if name != "trafilatura"}
    monkeypatch.setattr("llm_core.parts.versions", lambda: others | ({"trafilatura": found} if found else {}))
    memo.make(parts(tmp_path)[0])
    assert made(tmp_path) == [FOUR[0]] * 2


def test_every_library_that_the_data_stages_import_is_known() -> None:
    # What lists, fetches and schedules, checks, learns the vocabulary or reads another's: no part follows from it.
    others = {"datasets", "distributed", "fsspec", "pandas", "pandera", "rustbpe"}
    others |= {"protobuf", "google-auth", "googleapis-common-protos"}  # all three are "google" to an import
    paths = {path for stage in ("collect", "clean", "tokenize") for path in closure_paths(f"tasks.{stage}")}
    names = {
        name.split(".")[0]
        for path in paths
        for node in ast.walk(ast.parse((ROOT / path).read_bytes()))
        for name in _imported(node)
    }
    installed = metadata.packages_distributions()
    libraries = {library for name in names for library in installed.get(name, [])}
    assert libraries - {"tidemill"} - others <= set(LIBRARIES)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_a_part_that_fails_leaves_nothing_and_its_error_comes_out(kind: str, tmp_path: Path) -> None:
    broken = [*parts(tmp_path)[:2], Breaks("bad", tmp_path / "made.log"), parts(tmp_path)[3]]
    with (
        pytest.raises(BreaksError, match="bad"),
        open_pool(Workers(kind=kind, count=2), 4) as pool,
    ):
        list(make_parts(broken, Memo(tmp_path / "memo"), pool))
    assert Memo(tmp_path / "memo").find(broken[2].key) is None
    assert not list((tmp_path / "memo").glob("*/.draft-*"))


def test_a_part_that_somebody_else_finished_first_is_taken(tmp_path: Path) -> None:
    memo, part = Memo(tmp_path / "memo"), parts(tmp_path)[0]

    def make(folder: Path) -> None:
        part.make(folder)
        memo.make(part)

    assert (memo.fill(part.key, make) / "a.txt").read_text() == "TEXT 0"
    assert not list((tmp_path / "memo").glob("*/.draft-*"))


def test_what_no_run_used_for_a_month_goes(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memo")
    old, used = (memo.make(part) for part in parts(tmp_path)[:2])
    left = old.parent / ".draft-killed"
    left.mkdir()
    now = time.time()
    for place in (old, used, left):
        os.utime(place, (now - KEEP_UNUSED_SECONDS - 10,) * 2)
    memo.make(parts(tmp_path)[1])
    memo.prune(now)
    assert not old.exists() and not left.exists() and used.exists()


def test_a_linked_file_is_no_copy(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("text")
    link(tmp_path / "one", tmp_path / "two")
    assert os.path.samefile(tmp_path / "one", tmp_path / "two")


def test_without_a_folder_the_memo_is_gone_afterwards(tmp_path: Path) -> None:
    with open_memo(None) as memo:
        assert memo.make(parts(tmp_path)[0]).exists()
    assert not memo.folder.exists()


def test_workers_end_when_their_parent_is_killed() -> None:
    code = """
import time
from llm_core import workers
from llm_core.config import Workers
from llm_core.workers import open_pool
from tests.llm_core.workers_work import pid

with open_pool(Workers(count=2), 2) as pool:
    print(next(iter(pool.map(pid, [0, 0]))), flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()
