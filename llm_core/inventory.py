"""The inventory: every source file of a run with its size and sha256, taken before anything is read from it.

Collect depends on the inventory, so one changed byte of one source changes the digest of everything made from it.
Files arrive in batches, one for each time that new ones were found; their order is (batch, sha256), which neither a
file's name nor the listing's order changes. Whatever comes later joins behind, so that earlier work stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar

from llm_core.config import Collect
from llm_core.sources import (
    DATASET_SCHEME,
    SourceError,
    is_remote,
    is_web,
    list_dataset,
    list_files,
    list_remote,
    remote_errors,
)

FORMAT = 2
HASHES = "inventory.json"
ARRIVALS = "arrivals.json"
DOWNLOADS = "downloads"
# A file touched this recently may change once more under the same timestamp, so its hash is not remembered.
SETTLED_SECONDS = 2.0
BLOCK_BYTES = 2**20
WEB_MARKS = ("ETag", "Last-Modified", "Content-MD5", "Digest")
"""Headers by which a web server tells versions of a file apart."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class SourceFile:
    """One file: `path` is its stable name, the same on every machine that writes the source in the same way."""

    path: str
    bytes: int
    sha256: str
    """sha256 of the stored bytes; empty where the file cannot be read."""
    batch: int = 0
    """The how manyth time it was that new files were found."""
    suite: str = ""
    """The evaluation suite that it belongs to; empty for data."""
    problem: str = ""
    """Why it cannot be read; such a file is one rejected record."""


@dataclass(frozen=True)
class Inventory:
    """All source files; `base` and `home` are where things lie on this machine and are not written."""

    files: tuple[SourceFile, ...]
    base: Path = field(compare=False)
    """Where relative names start."""
    home: Path | None = field(default=None, compare=False)
    """Where remote files are kept once they were downloaded."""

    @property
    def digest(self) -> str:
        """sha256 of the content."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(file.bytes for file in self.files)

    @property
    def content(self) -> str:
        """What `write` writes."""
        return _content(self.files)

    def write(self, path: Path) -> None:
        """Write the content to `path`, whole or not at all."""
        _replace_content(path, self.content.encode())

    @classmethod
    def read(cls, path: Path, base: Path, home: Path | None = None) -> Inventory:
        """Read what `write` wrote; raises SourceError when it is missing, damaged or of another format."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["format"]
            if version != FORMAT:
                raise SourceError(f"{path}: format {version!r}, this version reads {FORMAT}; take the inventory again")
            return cls(files=tuple(SourceFile(**entry) for entry in content["files"]), base=base, home=home)
        except FileNotFoundError:
            raise SourceError(f"{path}: no inventory here; take it before collecting") from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as problem:
            raise SourceError(f"{path}: not an inventory ({problem}); remove it and take it again") from None


def take_inventory(cfg: Collect, base: Path, home: Path | None = None, earlier: Path | None = None) -> Inventory:
    """List every file of the recipe's sources and suites with its sha256.

    `home` is a folder that remembers hashes of unchanged files and the batches in which files arrived, and keeps
    downloads; `earlier` an inventory whose files keep their batches. Nothing but `home` is written.
    Raises SourceError for a missing source, a package that is not installed, or when no file matches.
    """
    hashes = _Hashes(home)
    data = {name: file for source in cfg.sources for name, file in _describe(source, cfg, base, hashes)}
    if not data:
        ending = f" ending in {' or '.join(cfg.suffixes)}" if all(cfg.suffixes) else ""
        raise SourceError(
            f"{', '.join(cfg.sources)}: no file{ending}; put texts there, or change collect.sources or collect.suffixes"
        )
    suites = {
        name: replace(file, suite=source)
        for source in cfg.suites
        for name, file in _describe(source, cfg, base, hashes)
    }
    hashes.save()
    files = _in_batches([file for name, file in data.items() if name not in suites], home, earlier)
    ordered = sorted(suites.values(), key=lambda file: (file.suite, file.sha256, file.path))
    return Inventory(files=(*files, *ordered), base=base, home=home)


def _describe(source: str, cfg: Collect, base: Path, hashes: _Hashes) -> Iterator[tuple[str, SourceFile]]:
    if source.startswith(DATASET_SCHEME):
        for name in list_dataset(source, base):
            yield from _describe(name, cfg, base, hashes)
    elif is_remote(source):
        yield from ((url, hashes.of_remote(url)) for url in list_remote(source, cfg.suffixes))
    else:
        yield from ((name, hashes.of_file(name, path)) for name, path in list_files(source, cfg.suffixes, base))


def _in_batches(files: Iterable[SourceFile], home: Path | None, earlier: Path | None) -> list[SourceFile]:
    """Give every file its batch: an earlier one where it arrived then, else the next; batches count from 0."""
    known = _known_batches(_read_arrivals(home), _earlier_batches(earlier))
    newest = max(known.values(), default=-1) + 1
    arrived = {file: known.get(_identity(file), newest) for file in files}
    _remember_arrivals(home, {**known, **{_identity(file): batch for file, batch in arrived.items()}})
    batched = [replace(file, batch=rank) for file, rank in _ranked(arrived).items()]
    return sorted(batched, key=lambda file: (file.batch, file.sha256, file.path))


def _known_batches(arrivals: Mapping[str, int], earlier: Mapping[str, int]) -> Mapping[str, int]:
    """What is remembered; an earlier inventory counts only where it says more than that, or something else.

    Its batches are ranks among its own files: those of a recipe with fewer sources would reorder the others' files.
    """
    is_known = _ranked({file: arrivals[file] for file in earlier if file in arrivals}) == earlier
    return arrivals if is_known else {**arrivals, **earlier}


def _ranked(batches: Mapping[Key, int]) -> dict[Key, int]:
    """The same order of batches, counted from 0 without gaps."""
    ranks = {batch: rank for rank, batch in enumerate(sorted(set(batches.values())))}
    return {key: ranks[batch] for key, batch in batches.items()}


def _identity(file: SourceFile) -> str:
    return f"{file.sha256} {file.path}"


def _read_arrivals(home: Path | None) -> dict[str, int]:
    return _read_json(home / ARRIVALS).get("files", {}) if home else {}


def _remember_arrivals(home: Path | None, arrivals: Mapping[str, int]) -> None:
    if home and arrivals != _read_arrivals(home):
        _replace_content(home / ARRIVALS, _json({"format": FORMAT, "files": dict(arrivals)}))


def _earlier_batches(earlier: Path | None) -> dict[str, int]:
    if earlier is None or not earlier.exists():
        return {}
    try:
        files = Inventory.read(earlier, earlier.parent).files
    except SourceError:
        return {}  # it is replaced anyway
    return {_identity(file): file.batch for file in files if not file.suite}


class _Hashes:
    """sha256 of files, remembered by (path, size, times, inode) so that unchanged files are not read again."""

    def __init__(self, home: Path | None) -> None:
        self._home = home
        self._known: dict[str, list[Any]] = _read_json(home / HASHES).get("files", {}) if home else {}
        self._used: dict[str, list[Any]] = {}

    def of_file(self, name: str, path: Path) -> SourceFile:
        """Name, size and sha256 of a local file, or why it cannot be read."""
        if not _is_unicode(str(path)):
            return SourceFile(name, 0, "", problem="has a name that is not UTF-8")
        try:
            stat = path.stat()
            if not S_ISREG(stat.st_mode):
                return SourceFile(name, 0, "", problem="is no regular file (a pipe, socket or device)")
            # The change time catches an edit that put the modification time back.
            marks = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            digest = self._remembered(str(path), marks)
            if digest is None:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as problem:
            return SourceFile(name, 0, "", problem=f"cannot be read ({problem.strerror})")
        if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED_SECONDS:
            self._used[str(path)] = [*marks, digest]
        return SourceFile(path=name, bytes=stat.st_size, sha256=digest)

    def of_remote(self, url: str) -> SourceFile:
        """Name, size and sha256 of a file behind a URL, which is downloaded unless this version of it was before."""
        try:
            version = _remote_version(url)
            known = self._known.get(url)
            if version and known and known[0] == version:
                size, digest = known[1:]
            else:
                digest, size = download(url, self._home)
        except OSError as problem:
            return SourceFile(url, 0, "", problem=f"cannot be read ({problem})")
        self._used[url] = [version, size, digest]
        return SourceFile(path=url, bytes=size, sha256=digest)

    def save(self) -> None:
        """Remember what was used; files of other recipes stay remembered too."""
        if self._home and any(self._known.get(path) != entry for path, entry in self._used.items()):
            _replace_content(self._home / HASHES, _json({"format": FORMAT, "files": self._known | self._used}))

    def _remembered(self, name: str, marks: list[Any]) -> str | None:
        entry = self._known.get(name)
        return str(entry[-1]) if entry is not None and entry[:-1] == marks else None


def _remote_version(url: str) -> str:
    """What changes when the file behind a URL does; empty where a web server does not say."""
    import fsspec

    with remote_errors():
        fs, place = fsspec.core.url_to_fs(url)
        if not is_web(place):
            return str(fs.ukey(place))
        info = fs.info(place)
    marks = [info.get(name) for name in WEB_MARKS]
    return json.dumps([*marks, info["size"]]) if any(marks) else ""


def download(url: str, home: Path | None, expected: str = "") -> tuple[str, int]:
    """Fetch a remote file; its sha256 and size. It is kept in `home`, if there is one, under its sha256.

    Raises OSError when it cannot be fetched, SourceError when `expected` is another sha256: the file was changed.
    """
    import fsspec

    folder = home / DOWNLOADS if home else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    hashed, size = hashlib.sha256(), 0
    # A folder of its own, because other threads and machines may be fetching the same file.
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as own:
        part = Path(own, "part" if folder else os.devnull)
        with remote_errors(), fsspec.open(url, "rb") as remote, open(part, "wb") as local:
            while block := remote.read(BLOCK_BYTES):
                hashed.update(block)
                size += len(block)
                local.write(block)
        digest = hashed.hexdigest()
        if expected and digest != expected:
            raise SourceError(f"{url}: changed after the inventory was taken; run again")
        if folder:
            os.replace(part, folder / digest)
    return digest, size


def _is_unicode(name: str) -> bool:
    """Whether a file's name is text; other bytes in it come as lone surrogates, which nothing can store."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _read_json(path: Path) -> dict[str, Any]:
    """What is remembered in a file; one that is damaged or of another format is as good as none."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) and content.get("format") == FORMAT else {}


def _content(files: tuple[SourceFile, ...]) -> str:
    entries = [{name: value for name, value in asdict(file).items() if value != ""} for file in files]
    for file, entry in zip(files, entries, strict=True):
        entry["sha256"] = file.sha256
    return json.dumps({"format": FORMAT, "files": entries}, indent=1, ensure_ascii=False) + "\n"


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def _replace_content(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    os.replace(part, path)
