"""The inventory names every source file with its sha256, quickly and without surprises."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from llm_core import inventory as inventory_module
from llm_core.inventory import Inventory, SourceError, resolve, take_inventory

SUFFIXES = (".txt", ".md")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name, content in {"a.txt": "one", "sub/b.MD": "two", "sub/c.bin": "no", ".hidden/d.txt": "no"}.items():
        place = tmp_path / "texts" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
        os.utime(place, (1, 1))
    return tmp_path


def test_files_are_listed_by_stable_names_with_size_and_sha256(base: Path) -> None:
    taken = take_inventory(("./texts/",), SUFFIXES, base)
    assert [file.path for file in taken.files] == ["texts/a.txt", "texts/sub/b.MD"]
    assert [file.sha256 for file in taken.files] == [hashlib.sha256(text).hexdigest() for text in (b"one", b"two")]
    assert taken.bytes == 6


def test_the_digest_follows_the_content_and_not_the_place(base: Path, tmp_path: Path) -> None:
    first = take_inventory(("texts",), SUFFIXES, base)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (base / "texts").rename(moved / "texts")
    assert take_inventory(("texts",), SUFFIXES, moved).digest == first.digest
    (moved / "texts" / "a.txt").write_text("onE")
    assert take_inventory(("texts",), SUFFIXES, moved).digest != first.digest


def test_overlapping_sources_name_a_file_once(base: Path) -> None:
    taken = take_inventory(("texts", "texts/sub", "texts/a.txt"), SUFFIXES, base)
    assert [file.path for file in taken.files] == ["texts/a.txt", "texts/sub/b.MD"]


def test_files_keep_the_order_of_their_sources(base: Path) -> None:
    (base / "a-later").mkdir()
    (base / "a-later" / "z.txt").write_text("z")
    taken = take_inventory(("texts", "a-later"), SUFFIXES, base)
    assert [file.path for file in taken.files] == ["texts/a.txt", "texts/sub/b.MD", "a-later/z.txt"]


def test_the_order_is_not_the_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["b.txt", "a.txt", "c.txt"]
    for name in names:
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(inventory_module.os, "walk", lambda folder, **_: [(folder, [], names)])
    assert [file.path for file in take_inventory((".",), SUFFIXES, tmp_path).files] == ["a.txt", "b.txt", "c.txt"]


def test_a_file_named_directly_is_taken_whatever_its_suffix(base: Path) -> None:
    assert take_inventory(("texts/sub/c.bin",), SUFFIXES, base).files[0].path == "texts/sub/c.bin"


def test_what_is_written_is_read_back_and_is_the_same_bytes_every_time(base: Path) -> None:
    taken = take_inventory(("texts",), SUFFIXES, base)
    taken.write(base / "one.json")
    take_inventory(("texts",), SUFFIXES, base).write(base / "two.json")
    assert Inventory.read(base / "one.json", base) == taken
    assert (base / "one.json").read_bytes() == (base / "two.json").read_bytes()
    assert str(base) not in (base / "one.json").read_text()


def test_unchanged_files_are_not_read_again(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory_module, "SETTLED_SECONDS", -1.0)
    first = take_inventory(("texts",), SUFFIXES, base, base / "memo")

    def refuse(*_: object) -> None:
        raise AssertionError("a remembered file was read")

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", refuse)
        assert take_inventory(("texts",), SUFFIXES, base, base / "memo") == first


def test_an_edit_that_keeps_size_and_modification_time_is_noticed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory_module, "SETTLED_SECONDS", -1.0)
    first = take_inventory(("texts",), SUFFIXES, base, base / "memo")
    (base / "texts" / "a.txt").write_text("ONE")
    os.utime(base / "texts" / "a.txt", (1, 1))
    assert take_inventory(("texts",), SUFFIXES, base, base / "memo").digest != first.digest


def test_a_file_changed_a_moment_ago_is_not_remembered(base: Path) -> None:
    (base / "texts" / "a.txt").write_text("now")
    take_inventory(("texts",), SUFFIXES, base, base / "memo")
    assert (
        not (base / "memo" / "inventory.json").exists() or "a.txt" not in (base / "memo" / "inventory.json").read_text()
    )


def test_a_damaged_memo_costs_time_and_nothing_else(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory_module, "SETTLED_SECONDS", -1.0)
    (base / "memo").mkdir()
    (base / "memo" / "inventory.json").write_text("{broken")
    taken = take_inventory(("texts",), SUFFIXES, base, base / "memo")
    assert taken == take_inventory(("texts",), SUFFIXES, base)
    assert json.loads((base / "memo" / "inventory.json").read_text())["files"]


def test_package_data_is_found_without_running_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "loudpackage"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data" / "x.txt").write_text("text")
    monkeypatch.syspath_prepend(str(tmp_path))
    taken = take_inventory(("pkg://loudpackage/data",), SUFFIXES, tmp_path)
    assert [file.path for file in taken.files] == ["pkg://loudpackage/data/x.txt"]
    assert resolve(taken.files[0].path, Path("/nowhere")) == package / "data" / "x.txt"
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
        take_inventory((source,), SUFFIXES, base)


def test_an_empty_corpus_is_an_error_that_names_the_suffixes(base: Path) -> None:
    with pytest.raises(SourceError, match=r"texts: no file ending in \.csv"):
        take_inventory(("texts",), (".csv",), base)


def test_a_folder_that_cannot_be_read_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(SourceError, match=r"texts: cannot read .*Permission denied"):
        take_inventory(("texts",), SUFFIXES, base)


def test_a_broken_link_and_a_pipe_are_errors_and_no_hang(base: Path) -> None:
    (base / "texts" / "gone.txt").symlink_to(base / "nothing")
    with pytest.raises(SourceError, match=r"texts/gone\.txt: cannot be read"):
        take_inventory(("texts",), SUFFIXES, base)
    (base / "texts" / "gone.txt").unlink()
    os.mkfifo(base / "texts" / "pipe.txt")
    with pytest.raises(SourceError, match=r"texts/pipe\.txt: is no regular file"):
        take_inventory(("texts",), SUFFIXES, base)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not an inventory"),
        ('{"format": 1, "files": [{"path": "a"}]}', "not an inventory"),
        ('{"format": 2}', "format 2, this version reads 1"),
    ],
)
def test_a_damaged_inventory_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "inventory.json").write_text(content)
    with pytest.raises(SourceError, match=message):
        Inventory.read(tmp_path / "inventory.json", tmp_path)
