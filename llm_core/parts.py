"""Work in parts: each part is made once, by whichever worker, and found again by its key.

One mechanism makes the data stages resumable (a killed run finds its finished parts), incremental (a night finds the
parts of all earlier nights) and parallel. What a part holds follows from its key alone, so that the number of workers,
their order and what was found never change a byte. The memo is a cache: it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from llm_core.workers import Pool

SEAL = "seal.json"
# fmt: off
LIBRARIES = (
    "charset-normalizer", "ftfy", "jieba", "justext", "lxml", "mwparserfromhell", "numpy", "phonenumbers", "py3langid",
    "pyarrow", "python-stdnum", "tiktoken", "tokenizers", "trafilatura", "zstandard",
)
# fmt: on
"""What parts are made with: another version of one of these may make other parts."""
KEEP_UNUSED_SECONDS = 30 * 24 * 3600


class Part(Protocol):
    """A piece of a stage's work; picklable, so that a worker elsewhere can do it."""

    @property
    def key(self) -> str:
        """sha256 of everything that the content follows from."""

    def make(self, folder: Path) -> None:
        """Write the part's files into the empty `folder`."""


class Memo:
    """A folder of finished parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: str) -> Path | None:
        """The part's folder, its files verified; a damaged one is removed and made again."""
        place = self._place(key)
        if not place.is_dir():
            return None
        if _seal_of(place) == _read_seal(place):
            os.utime(place)
            return place
        shutil.rmtree(place)
        return None

    def make(self, part: Part) -> Path:
        """The part's folder, made now unless it is there."""
        return self.find(part.key) or self.fill(part.key, part.make)

    def fill(self, key: str, make: Callable[[Path], None]) -> Path:
        """Let `make` write the part called `key`; whole or not at all, also when two processes make it at once."""
        place = self._place(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=place.parent))
        try:
            make(draft)
            _write_seal(draft)
            if not place.exists():
                os.rename(draft, place)
        except OSError:
            if not place.is_dir():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return place

    def prune(self, now: float) -> None:
        """Remove what no run has used for a month, and what killed runs left."""
        for place in self.folder.glob("*/*"):
            if now - place.stat().st_mtime > KEEP_UNUSED_SECONDS:
                shutil.rmtree(place, ignore_errors=True)

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:40]


@contextmanager
def open_memo(folder: Path | None) -> Iterator[Memo]:
    """The memo in `folder`; without one, a memo that is gone afterwards."""
    if folder is not None:
        yield Memo(folder)
        return
    with tempfile.TemporaryDirectory(prefix="parts-") as passing:
        yield Memo(Path(passing))


def make_parts(
    parts: Sequence[Part], memo: Memo, pool: Pool, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Path]:
    """The parts' folders in their order, each as soon as it and those before it are there."""
    for done, place in enumerate(pool.map(memo.make, parts), start=1):
        progress(done, len(parts))
        yield place


def key_of(kind: str, facts: Mapping[str, Any]) -> str:
    """sha256 that names a part: its kind, all that its content follows from (plain JSON types), and the libraries."""
    content = json.dumps([kind, dict(facts), versions()], sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Versions of Python, whose Unicode tables are used, and of the libraries; none of one that is not installed."""
    installed = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def link(source: Path, target: Path) -> None:
    """Put a finished file into a draft without copying its bytes, where the file system allows it.

    Both names are one file then, so that neither is ever opened for writing again.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _seal_of(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(folder.iterdir()):
        if path.name != SEAL:
            with open(path, "rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _write_seal(folder: Path) -> None:
    content = json.dumps(_seal_of(folder))
    with open(folder / SEAL, "x", encoding="utf-8") as file:
        file.write(content)
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_seal(folder: Path) -> dict[str, str] | None:
    try:
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return seal if isinstance(seal, dict) else None
