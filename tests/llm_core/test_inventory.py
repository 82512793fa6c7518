"""The inventory names every source file with its sha256, quickly and without surprises."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest

from llm_core import inventory as inventory_module
from llm_core.config import Collect
from llm_core.inventory import Inventory
from llm_core.inventory import take_inventory as take
from llm_core.sources import SourceError, resolve


def take_inventory(sources: tuple[str, ...], base: Path, home: Path | None = None, **options: Any) -> Inventory:
    cfg = Collect(**({"sources": sources, "suffixes": (".txt", ".md")} | options))
    return take(cfg, base, home)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name, content in {"a.txt": "one", "sub/b.MD": "two", "sub/c.bin": "no", ".hidden/d.txt": "no"}.items():
        place = tmp_path / "texts" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
        os.utime(place, (1, 1))
    return tmp_path


def test_files_are_listed_by_stable_names_with_size_and_sha256(base: Path) -> None:
    taken = take_inventory(("./texts/",), base)
    expected = {"texts/a.txt": b"one", "texts/sub/b.MD": b"two"}
    assert {file.path: file.sha256 for file in taken.files} == {
        name: hashlib.sha256(content).hexdigest() for name, content in expected.items()
    }
    assert taken.bytes == 6


def test_the_digest_follows_the_content_and_not_the_place(base: Path, tmp_path: Path) -> None:
    first = take_inventory(("texts",), base)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (base / "texts").rename(moved / "texts")
    assert take_inventory(("texts",), moved).digest == first.digest
    (moved / "texts" / "a.txt").write_text("onE")
    assert take_inventory(("texts",), moved).digest != first.digest


def test_overlapping_sources_name_a_file_once(base: Path) -> None:
    taken = take_inventory(("texts", "texts/sub", "texts/a.txt"), base)
    assert sorted(file.path for file in taken.files) == ["texts/a.txt", "texts/sub/b.MD"]


def test_the_order_is_that_of_the_content_whatever_names_listing_and_sources_say(base: Path) -> None:
    (base / "later").mkdir()
    (base / "later" / "z.txt").write_text("z")
    taken = take_inventory(("texts", "later"), base)
    assert [file.sha256 for file in taken.files] == sorted(file.sha256 for file in taken.files)
    assert take_inventory(("later", "texts"), base) == taken


def test_new_files_are_a_batch_behind_the_earlier_ones_and_stay_there(base: Path) -> None:
    home = base / "home"
    first = take_inventory(("texts",), base, home)
    for number in range(20):
        (base / "texts" / f"new{number}.txt").write_text(f"new {number}")
    second = take_inventory(("texts",), base, home)
    assert second.files[:2] == first.files and [file.batch for file in second.files] == [0, 0, *[1] * 20]
    (base / "texts" / "newest.txt").write_text("newest")
    third = take_inventory(("texts",), base, home)
    assert third.files[:-1] == second.files and third.files[-1].batch == 2
    assert take_inventory(("texts",), base, home) == third


def test_a_changed_file_arrives_anew(base: Path) -> None:
    take_inventory(("texts",), base, base / "home")
    (base / "texts" / "a.txt").write_text("one more")
    assert [(file.path, file.batch) for file in take_inventory(("texts",), base, base / "home").files] == [
        ("texts/sub/b.MD", 0),
        ("texts/a.txt", 1),
    ]


def test_a_fresh_machine_keeps_the_batches_of_the_inventory_that_it_was_given(base: Path) -> None:
    take_inventory(("texts",), base, base / "home")
    (base / "texts" / "0.txt").write_text("new")
    taken = take_inventory(("texts",), base, base / "home")
    taken.write(base / "inventory.json")
    cfg = Collect(sources=("texts",), suffixes=(".txt", ".md"))
    assert take(cfg, base, base / "elsewhere", earlier=base / "inventory.json") == taken
    assert take(cfg, base, base / "nowhere") != taken


def test_batches_count_from_zero_when_the_oldest_are_gone(base: Path) -> None:
    take_inventory(("texts",), base, base / "home")
    (base / "texts" / "new.txt").write_text("new")
    take_inventory(("texts",), base, base / "home")
    only = take_inventory(("texts/new.txt",), base, base / "home")
    assert [(file.path, file.batch) for file in only.files] == [("texts/new.txt", 0)]


def test_a_recipe_with_fewer_sources_leaves_the_order_of_the_others_alone(base: Path) -> None:
    def taken(*sources: str) -> Inventory:
        cfg = Collect(sources=sources, suffixes=(".txt", ".md"))
        found = take(cfg, base, base / "home", earlier=base / "inventory.json")
        found.write(base / "inventory.json")
        return found

    taken("texts")
    (base / "texts" / "new.txt").write_text("new")
    everything = taken("texts")
    assert taken("texts/new.txt").files[0].batch == 0
    assert taken("texts") == everything


def test_suites_are_listed_apart_and_are_no_data(base: Path) -> None:
    taken = take_inventory(("texts",), base, suites=("texts/sub",))
    assert [(file.path, file.suite) for file in taken.files] == [("texts/a.txt", ""), ("texts/sub/b.MD", "texts/sub")]


def test_a_file_named_directly_is_taken_whatever_its_suffix(base: Path) -> None:
    assert take_inventory(("texts/sub/c.bin",), base).files[0].path == "texts/sub/c.bin"


def test_what_is_written_is_read_back_and_is_the_same_bytes_every_time(base: Path) -> None:
    taken = take_inventory(("texts",), base)
    taken.write(base / "one.json")
    take_inventory(("texts",), base).write(base / "two.json")
    assert Inventory.read(base / "one.json", base) == taken
    assert (base / "one.json").read_bytes() == (base / "two.json").read_bytes()
    assert str(base) not in (base / "one.json").read_text()


def test_unchanged_files_are_not_read_again(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory_module, "SETTLED_SECONDS", -1.0)
    first = take_inventory(("texts",), base, base / "memo")

    def refuse(*_: object) -> None:
        raise AssertionError("a remembered file was read")

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", refuse)
        assert take_inventory(("texts",), base, base / "memo") == first


def test_an_edit_that_keeps_size_and_modification_time_is_noticed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory_module, "SETTLED_SECONDS", -1.0)
    first = take_inventory(("texts",), base, base / "memo")
    (base / "texts" / "a.txt").write_text("ONE")
    os.utime(base / "texts" / "a.txt", (1, 1))
    assert take_inventory(("texts",), base, base / "memo").digest != first.digest


def test_a_file_changed_a_moment_ago_is_not_remembered(base: Path) -> None:
    (base / "texts" / "a.txt").write_text("now")
    take_inventory(("texts",), base, base / "memo")
    assert (
        not (base / "memo" / "inventory.json").exists() or "a.txt" not in (base / "memo" / "inventory.json").read_text()
    )


def test_a_damaged_memo_costs_time_and_nothing_else(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory_module, "SETTLED_SECONDS", -1.0)
    (base / "memo").mkdir()
    (base / "memo" / "inventory.json").write_text("{broken")
    taken = take_inventory(("texts",), base, base / "memo")
    assert taken == take_inventory(("texts",), base)
    assert json.loads((base / "memo" / "inventory.json").read_text())["files"]


def test_package_data_is_found_without_running_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "loudpackage"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data" / "x.txt").write_text("text")
    monkeypatch.syspath_prepend(str(tmp_path))
    taken = take_inventory(("pkg://loudpackage/data",), tmp_path)
    assert [file.path for file in taken.files] == ["pkg://loudpackage/data/x.txt"]
    assert resolve(taken.files[0].path, Path("/nowhere")) == package / "data" / "x.txt"
    assert take_inventory(("pkg://loudpackage/*/*.txt", "pkg://loudpackage/d*"), tmp_path) == taken
    assert "loudpackage" not in sys.modules


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent", r"absent: no such file or folder .* change collect\.sources"),
        ("pkg://notinstalledhere/data", r"pip install notinstalledhere"),
        ("pkg://json/../os.py", r"pkg://PACKAGE/PATH"),
        ("pkg://json/absent", r"pkg://json/absent: no such file or folder"),
        ("texts/.hidden/sub", r"no such file or folder"),
    ],
)
def test_a_source_that_cannot_be_found_is_named_with_what_to_do(base: Path, source: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        take_inventory((source,), base)


def test_an_empty_corpus_is_an_error_that_names_the_suffixes(base: Path) -> None:
    with pytest.raises(SourceError, match=r"texts: no file ending in \.csv"):
        take_inventory(("texts",), base, suffixes=(".csv",))


def test_a_folder_that_cannot_be_read_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(SourceError, match=r"texts: cannot read .*Permission denied"):
        take_inventory(("texts",), base)


def test_what_cannot_be_read_is_listed_with_the_reason_and_is_no_hang(base: Path) -> None:
    for name, target in {"gone.txt": "nothing", "loop1.txt": "loop2.txt", "loop2.txt": "loop1.txt"}.items():
        (base / "texts" / name).symlink_to(target)
    (base / "texts" / "around").symlink_to(base / "texts")
    os.mkfifo(base / "texts" / "pipe.txt")
    (base / "texts" / os.fsdecode(b"bad\xff.txt")).write_text("text")
    problems = {
        file.path: file.problem for file in take_inventory(("texts",), base, base / "home").files if file.problem
    }
    assert problems == {
        "texts/gone.txt": "cannot be read (No such file or directory)",
        "texts/loop1.txt": "cannot be read (Too many levels of symbolic links)",
        "texts/loop2.txt": "cannot be read (Too many levels of symbolic links)",
        "texts/pipe.txt": "is no regular file (a pipe, socket or device)",
        "texts/bad\\xff.txt": "has a name that is not UTF-8",
    }


def test_globs_and_compressed_files_are_found(base: Path) -> None:
    (base / "texts" / "c.txt.gz").write_text("c")
    (base / "texts" / "d.bin.gz").write_text("d")
    assert {file.path for file in take_inventory(("texts",), base).files} == {
        "texts/a.txt",
        "texts/c.txt.gz",
        "texts/sub/b.MD",
    }
    assert [file.path for file in take_inventory(("texts/**/c*",), base).files] == ["texts/c.txt.gz", "texts/sub/c.bin"]


def test_files_behind_a_url_are_kept_and_not_fetched_twice(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = fsspec.filesystem("memory")
    remote.pipe({"/corpus/a.txt": b"one", "/corpus/b.bin": b"no", "/corpus/deep/c.txt": b"three"})
    taken = take_inventory(("memory://corpus",), base, base / "home")
    assert {(file.path, file.bytes) for file in taken.files} == {
        ("memory:///corpus/a.txt", 3),
        ("memory:///corpus/deep/c.txt", 5),
    }
    kept = base / "home" / "downloads" / hashlib.sha256(b"one").hexdigest()
    assert kept.read_bytes() == b"one"
    with monkeypatch.context() as patch:
        patch.setattr(inventory_module, "download", lambda *_: pytest.fail("fetched again"))
        assert take_inventory(("memory://corpus",), base, base / "home") == taken
    remote.pipe("/corpus/a.txt", b"changed")
    assert take_inventory(("memory://corpus/*.txt",), base, base / "home").files[0].bytes == 7
    with pytest.raises(SourceError, match=r"memory:///corpus/a\.txt: changed after the inventory was taken"):
        inventory_module.download("memory:///corpus/a.txt", base / "home", expected="0" * 64)


def test_a_remote_glob_takes_folders_and_says_when_it_matches_nothing(base: Path) -> None:
    fsspec.filesystem("memory").pipe({"/glob/a.txt": b"one", "/glob/deep/c.txt": b"three", "/glob/deep/d.bin": b"no"})
    taken = take_inventory(("memory://glob/*",), base)
    assert {file.path for file in taken.files} == {"memory:///glob/a.txt", "memory:///glob/deep/c.txt"}
    with pytest.raises(SourceError, match=r"memory://glob/\*\.md: matches no file"):
        take_inventory(("memory://glob", "memory://glob/*.md"), base)


class Site(BaseHTTPRequestHandler):
    """A web site whose pages are in `pages`; its ETags are the hashes of what it sends."""

    pages: ClassVar[dict[str, bytes]] = {}
    has_etags: ClassVar[bool] = True

    def do_GET(self) -> None:
        content = self.pages.get(self.path.partition("?")[0])
        # A server may tell the size of what it does not give away.
        is_refused = self.path == "/refused.txt" and self.command == "GET"
        self.send_response(403 if is_refused else 404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("Content-Type", "text/html")
        if self.has_etags:
            self.send_header("ETag", hashlib.sha256(content or b"").hexdigest())
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_page_of_the_web_is_a_file_though_it_has_links(site: str, base: Path) -> None:
    page = b'<html><a href="other.txt">x</a><p>text</p></html>'
    Site.pages = {"/page.html": page, "/page.html/other.txt": b"another", "/refused.txt": b"no"}
    taken = take_inventory((f"{site}/page.html?full=1", f"{site}/page.html", f"{site}/refused.txt"), base)
    assert {(file.path, file.bytes) for file in taken.files if not file.problem} == {
        (f"{site}/page.html?full=1", len(page)),
        (f"{site}/page.html", len(page)),
    }
    [problem] = [file.problem for file in taken.files if file.problem]
    assert problem.startswith("cannot be read (ClientResponseError: 403")
    for absent in (f"{site}/absent.txt", f"{site}/absent.txt?full=1"):
        with pytest.raises(SourceError, match=r"absent\.txt.*: (cannot be listed|matches no file)"):
            take_inventory((absent, f"{site}/page.html"), base)


@pytest.mark.parametrize("has_etags", [True, False])
def test_a_page_that_changed_is_fetched_again_though_its_size_is_the_same(
    has_etags: bool, site: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Site, "has_etags", has_etags)
    for content in (b"one", b"two"):
        Site.pages = {"/a.txt": content}
        [file] = take_inventory((f"{site}/a.txt",), base, base / "home").files
        assert (base / "home" / "downloads" / file.sha256).read_bytes() == content
    assert sorted(path.name[0] != "." for path in (base / "home" / "downloads").iterdir()) == [True, True]


def test_the_files_of_a_data_sets_configuration_and_split_are_taken(base: Path) -> None:
    for name in ("train", "test"):
        (base / "set").mkdir(exist_ok=True)
        (base / "set" / f"{name}.csv").write_text(f"text\nfrom {name}\n")
    (base / "set" / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: train.csv}\n"
        "  - {split: held, path: test.csv}\n---\n"
    )
    assert [file.path for file in take_inventory(("dataset://set",), base).files] == ["set/train.csv"]
    held = take_inventory(("dataset://set?config=main&split=held",), base)
    assert [file.path for file in held.files] == ["set/test.csv"]
    wrong = {"?split=no": r"no split 'no'; it has train, held", "?config=no": "no such data set"}
    for source, message in wrong.items():
        with pytest.raises(SourceError, match=message):
            take_inventory((f"dataset://set{source}",), base)


def test_a_url_that_nothing_reads_is_named(base: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing://here: .*change|nothing://here: cannot be listed"):
        take_inventory(("nothing://here",), base)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not an inventory"),
        ('{"format": 2, "files": [{"path": "a"}]}', "not an inventory"),
        ('{"format": 1}', "format 1, this version reads 2"),
    ],
)
def test_a_damaged_inventory_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "inventory.json").write_text(content)
    with pytest.raises(SourceError, match=message):
        Inventory.read(tmp_path / "inventory.json", tmp_path)
