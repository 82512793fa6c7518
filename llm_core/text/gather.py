"""Gathering: the files of a part become documents, with an exact account of every byte that does not.

A part is a run of files of one batch, in the inventory's order; its files are read one after another by one worker.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from llm_core.config import Collect
from llm_core.inventory import DOWNLOADS, Inventory, SourceFile, download
from llm_core.parts import key_of
from llm_core.sources import SourceError, is_remote, resolve
from llm_core.text.content import open_content
from llm_core.text.document import Document, Rejection, Tile
from llm_core.text.readers import read_tiles
from llm_core.text.shards import DOCUMENTS, REJECTED, STRUCTURE, Rejected, ShardWriter, Structure

PART_BYTES = 32_000_000
PART_FILES = 5000


@dataclass(frozen=True)
class Gathering:
    """The part of a collect stage: some files of one batch, or of one suite."""

    cfg: Collect
    code: str
    """Digest of the stage's code."""
    inventory: Inventory
    """Only the part's files."""

    @property
    def batch(self) -> int:
        return self.inventory.files[0].batch

    @property
    def suite(self) -> str:
        return self.inventory.files[0].suite

    @property
    def key(self) -> str:
        reading = self.cfg.model_dump(mode="json", exclude={"sources", "suites", "suffixes"})
        files = [[file.path, file.sha256, file.problem] for file in self.inventory.files]
        return key_of("gathering", {"cfg": reading, "code": self.code, "files": files})

    def make(self, folder: Path) -> None:
        """Write ``documents-*``, ``rejected-*`` and ``structure-*.parquet``."""
        with (
            ShardWriter(folder, Document, DOCUMENTS) as documents,
            ShardWriter(folder, Rejected, REJECTED) as rejected,
            ShardWriter(folder, Structure, STRUCTURE) as structure,
        ):
            for file in self.inventory.files:
                for tile in self._tiles(file):
                    if tile.found is None:
                        structure.add(Structure(file.path, tile.start, tile.end))
                        continue
                    origin = self._origin(file, tile)
                    if isinstance(tile.found, Rejection):
                        rejected.add(Rejected(**origin, reason=tile.found.reason, detail=tile.found.detail))
                    else:
                        document = Document(**origin, text=tile.found)
                        documents.add(document, len(tile.found))

    def _tiles(self, file: SourceFile) -> Iterator[Tile]:
        if file.problem:
            yield Tile(0, 0, file.sha256, Rejection("unreadable", file.problem), unit="file")
            return
        with (
            _reading(file, self.inventory) as stored,
            open_content(stored, file.path, self.cfg.max_expansion) as content,
        ):
            yield from _joined(read_tiles(content, self.cfg))

    def _origin(self, file: SourceFile, tile: Tile) -> dict[str, Any]:
        return {
            "source": file.path,
            "start": tile.start,
            "end": tile.end,
            "sha256": tile.sha256,
            "license": self.cfg.license,
            "unit": tile.unit,
        }


def cut(cfg: Collect, code: str, inventory: Inventory) -> list[Gathering]:
    """The parts of an inventory: its order and batches decide them, so that later batches leave earlier parts alone."""
    groups: list[list[SourceFile]] = []
    size = 0
    for file in inventory.files:
        last = groups[-1][-1] if groups else None
        is_full = size + file.bytes > PART_BYTES or (groups and len(groups[-1]) >= PART_FILES)
        if last is None or is_full or (file.batch, file.suite) != (last.batch, last.suite):
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.bytes
    return [Gathering(cfg, code, Inventory(tuple(group), inventory.base, inventory.home)) for group in groups]


def open_unchanged(file: SourceFile, inventory: Inventory) -> BinaryIO:
    """A source file's stored bytes, which are still those of the inventory.

    Raises SourceError when the file is gone or was changed since the inventory was taken.
    """
    stored = _open(file, inventory)
    try:
        _verify(stored, file)
    except SourceError:
        stored.close()
        raise
    return stored


@contextmanager
def _reading(file: SourceFile, inventory: Inventory) -> Iterator[BinaryIO]:
    """As `open_unchanged`; raises SourceError also when the file is changed before the end of the block."""
    with _open(file, inventory) as stored:
        state = _state(stored)
        _verify(stored, file)
        yield stored
        if _state(stored) != state:
            raise _changed(file)


def _open(file: SourceFile, inventory: Inventory) -> BufferedReader:
    try:
        return open(_place(file, inventory), "rb")
    except OSError as problem:
        raise SourceError(f"{file.path}: cannot be read any more ({problem.strerror or problem}); run again") from None


def _verify(stored: BufferedReader, file: SourceFile) -> None:
    if hashlib.file_digest(stored, "sha256").hexdigest() != file.sha256:
        if is_remote(file.path):
            Path(stored.name).unlink(missing_ok=True)  # the download is damaged: the next run fetches it again
        raise _changed(file)
    stored.seek(0)


def _state(stored: BinaryIO) -> tuple[int, int]:
    stat = os.fstat(stored.fileno())
    return stat.st_size, stat.st_mtime_ns


def _changed(file: SourceFile) -> SourceError:
    return SourceError(f"{file.path}: changed after the inventory was taken; run again")


def _place(file: SourceFile, inventory: Inventory) -> Path:
    if not is_remote(file.path):
        return resolve(file.path, inventory.base)
    assert inventory.home is not None, "remote sources need a home for their downloads"
    kept = inventory.home / DOWNLOADS / file.sha256
    if not kept.exists():
        download(file.path, inventory.home, expected=file.sha256)
    return kept


def _joined(tiles: Iterator[Tile]) -> Iterator[Tile]:
    """Neighbouring pieces of structure as one."""
    waiting: Tile | None = None
    for tile in tiles:
        if tile.found is None and waiting is not None and waiting.end == tile.start:
            waiting = Tile(waiting.start, tile.end, "", None)
            continue
        if waiting is not None:
            yield waiting
            waiting = None
        if tile.found is None:
            waiting = tile
        else:
            yield tile
    if waiting is not None:
        yield waiting
