"""The inventory: every source file of a run with its size and sha256, taken before anything is read from it.

Collect depends on the inventory, so one changed byte of one source changes the digest of everything made from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from stat import S_ISREG

FORMAT = 1
PACKAGE_SCHEME = "pkg://"
MEMO_NAME = "inventory.json"
# A file touched this recently may change once more under the same timestamp, so its hash is not remembered.
SETTLED_SECONDS = 2.0


class SourceError(ValueError):
    """A source that cannot be read; the message names it and says what to do."""


@dataclass(frozen=True)
class SourceFile:
    """One file: `path` is its stable name, the same on every machine that writes the source in the same way."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Inventory:
    """All source files; `base` is where relative names start on this machine and is not written."""

    files: tuple[SourceFile, ...]
    base: Path = field(compare=False)

    @property
    def digest(self) -> str:
        """sha256 of the content."""
        return hashlib.sha256(_content(self.files)).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(file.bytes for file in self.files)

    def write(self, path: Path) -> None:
        """Write the content to `path`, whole or not at all."""
        _replace_content(path, _content(self.files))

    @classmethod
    def read(cls, path: Path, base: Path) -> Inventory:
        """Read what `write` wrote; raises SourceError when it is missing, damaged or of another format."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["format"]
            if version != FORMAT:
                raise SourceError(f"{path}: format {version!r}, this version reads {FORMAT}; take the inventory again")
            return cls(files=tuple(SourceFile(**entry) for entry in content["files"]), base=base)
        except FileNotFoundError:
            raise SourceError(f"{path}: no inventory here; take it before collecting") from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as problem:
            raise SourceError(f"{path}: not an inventory ({problem}); remove it and take it again") from None


def take_inventory(
    sources: tuple[str, ...], suffixes: tuple[str, ...], base: Path, memo: Path | None = None
) -> Inventory:
    """List every file of the sources with its sha256.

    Their order is that of the sources, by name within each; of two copies the earlier one is kept later on.
    A folder gives its files with one of the `suffixes`, recursively and without hidden ones; a file named directly is
    taken whatever its suffix. `memo` is a folder in which hashes of unchanged files are remembered.
    Raises SourceError for a missing or unreadable source, a package that is not installed, or when no file matches.
    """
    places = {name: path for source in sources for name, path in _files_of(source, suffixes, base)}
    if not places:
        raise SourceError(
            f"{', '.join(sources)}: no file ending in {' or '.join(suffixes)}; "
            "put texts there, or change collect.sources or collect.suffixes"
        )
    hashes = _Hashes(memo / MEMO_NAME if memo else None)
    files = tuple(hashes.describe(name, place) for name, place in places.items())
    hashes.save()
    return Inventory(files=files, base=base)


def resolve(name: str, base: Path) -> Path:
    """The place on this machine of a source, or of a file of the inventory, by its name."""
    if not name.startswith(PACKAGE_SCHEME):
        return base / (Path(name).expanduser() if name.startswith("~/") else name)
    package, _, inside = name.removeprefix(PACKAGE_SCHEME).partition("/")
    if not package.isidentifier() or ".." in PurePosixPath(inside).parts:
        raise SourceError(f"{name}: write it as pkg://PACKAGE/PATH, the path inside the package")
    # Only the finder looks for a top-level package: none of its code runs.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(f"{name}: package {package} is not installed here; pip install {package}")
    places = [Path(location) / inside for location in spec.submodule_search_locations]
    return next((place for place in places if place.exists()), places[0])


def _files_of(source: str, suffixes: tuple[str, ...], base: Path) -> Iterator[tuple[str, Path]]:
    place = resolve(source, base)
    name = _stable_name(source)
    if place.is_file():
        yield name, place
    elif place.is_dir():
        for path in _walk(source, place, tuple(suffix.lower() for suffix in suffixes)):
            yield _checked(f"{name}/{path.relative_to(place).as_posix()}".removeprefix("./")), path
    else:
        raise SourceError(f"{source}: no such file or folder ({place}); create it or change collect.sources")


def _stable_name(source: str) -> str:
    if source.startswith(PACKAGE_SCHEME):
        return source.rstrip("/")
    return PurePosixPath(Path(source).as_posix()).as_posix()


def _walk(source: str, folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    def refuse(problem: OSError) -> None:
        raise SourceError(f"{source}: cannot read {problem.filename} ({problem.strerror}); check its permissions")

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        wanted = (name for name in names if name.lower().endswith(suffixes) and not name.startswith("."))
        found.extend(Path(parent, name) for name in wanted)
    return sorted(found)


def _checked(name: str) -> str:
    if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
        raise SourceError(f"{name!r}: the file's name is not UTF-8; rename it")
    return name


class _Hashes:
    """sha256 of files, remembered by (path, size, times, inode) so that unchanged files are not read again."""

    def __init__(self, memo: Path | None) -> None:
        self.memo = memo
        self.known = _read_memo(memo) if memo and memo.is_file() else {}
        self.used: dict[str, list[int | str]] = {}

    def describe(self, name: str, path: Path) -> SourceFile:
        """Name, size and sha256 of one file."""
        try:
            stat = path.stat()
            if not S_ISREG(stat.st_mode):
                raise SourceError(f"{name}: is no regular file (a pipe, socket or folder); remove or rename it")
            # The change time catches an edit that put the modification time back.
            marks = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            remembered = self.known.get(str(path))
            if remembered is not None and remembered[:-1] == marks:
                digest = str(remembered[-1])
            else:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as problem:
            raise SourceError(f"{name}: cannot be read ({problem.strerror}); check its permissions") from None
        if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED_SECONDS:
            self.used[str(path)] = [*marks, digest]
        return SourceFile(path=name, bytes=stat.st_size, sha256=digest)

    def save(self) -> None:
        """Remember what was used; files of other recipes stay remembered too."""
        if self.memo and any(self.known.get(path) != entry for path, entry in self.used.items()):
            self.memo.parent.mkdir(parents=True, exist_ok=True)
            _replace_content(self.memo, json.dumps({"format": FORMAT, "files": self.known | self.used}).encode())


def _read_memo(memo: Path) -> dict[str, list[int | str]]:
    """Remembered hashes; a memo that is damaged or of another format is as good as none."""
    try:
        content = json.loads(memo.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return content.get("files", {}) if isinstance(content, dict) and content.get("format") == FORMAT else {}


def _content(files: tuple[SourceFile, ...]) -> bytes:
    content = {"format": FORMAT, "files": [asdict(file) for file in files]}
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _replace_content(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    os.replace(part, path)
