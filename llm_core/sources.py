"""Where sources lie: files, globs, folders, data in installed packages, data sets, and what fsspec reads (s3://, ...).

Every file has a stable name, the same on each machine that writes the source in the same way.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl

PACKAGE_SCHEME = "pkg://"
DATASET_SCHEME = "dataset://"
COMPRESSED = ("", ".gz", ".bz2", ".xz", ".zst")


class SourceError(ValueError):
    """A source that cannot be read; the message names it and says what to do."""


def is_remote(name: str) -> bool:
    """Whether a source or file is behind a URL that fsspec opens."""
    return "://" in name and not name.startswith(PACKAGE_SCHEME)


def list_files(source: str, suffixes: tuple[str, ...], base: Path) -> Iterator[tuple[str, Path]]:
    """Stable name and place of every file of a local source.

    A folder gives its files with one of the `suffixes` (and a compression's behind it), recursively, without hidden
    ones; a file named directly or by a glob is taken whatever its suffix. Links to folders are not followed.
    Raises SourceError for a source that is not there, or a folder that cannot be listed.
    """
    place = resolve(source, base)
    name = _stable_name(source)
    if place.is_dir():
        for path in _walk(source, place, _endings(suffixes)):
            yield _printable(f"{name}/{path.relative_to(place).as_posix()}".removeprefix("./")), path
    elif place.exists() or place.is_symlink():
        yield _printable(name), place
    elif glob.has_magic(source):
        yield from _glob(source, suffixes, base)
    else:
        raise SourceError(f"{source}: no such file or folder ({place}); create it or change collect.sources")


def list_dataset(source: str, base: Path) -> Iterator[str]:
    """Files of a Hugging Face data set, ``dataset://ID_OR_FOLDER?config=NAME&split=NAME`` (default: train).

    Those of the hub are URLs that name the revision, so that they stay the same; those of a folder are files.
    Raises SourceError when there is no such data set, configuration or split.
    """
    from datasets import load_dataset_builder

    name, _, query = source.removeprefix(DATASET_SCHEME).partition("?")
    wanted = dict(parse_qsl(query))
    split = wanted.get("split", "train")
    place = resolve(name, base)
    try:
        builder = load_dataset_builder(str(place) if place.is_dir() else name, wanted.get("config"))
    except (OSError, ValueError) as problem:
        raise SourceError(f"{source}: no such data set ({problem}); check its name, config and your access") from None
    found = builder.config.data_files or {}
    if split not in found:
        raise SourceError(f"{source}: no split {split!r}; it has {', '.join(found) or 'no files'}")
    for file in found[split]:
        local = Path(file)
        yield local.relative_to(base).as_posix() if local.is_relative_to(base) else file


def list_remote(source: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """URLs of the files of a remote source: a file, a glob, or a folder (read recursively).

    ``hf://datasets/USER/NAME@REVISION/...`` reads a data set of the Hugging Face hub; the revision keeps it the same.
    Raises SourceError when the library for its scheme is missing, nothing answers, or a glob matches nothing.
    """
    import fsspec

    try:
        with remote_errors():
            fs, place = fsspec.core.url_to_fs(source)
            fs.invalidate_cache()
            found = _remote_files(fs, place, _endings(suffixes))
    except ImportError as problem:
        raise SourceError(f"{source}: {problem}; install that library, or use another scheme") from None
    except OSError as problem:
        raise SourceError(f"{source}: cannot be listed ({problem}); check the address and your access") from None
    if not found and glob.has_magic(place):
        raise SourceError(f"{source}: matches no file; change collect.sources")
    yield from (fs.unstrip_protocol(path) for path in sorted(found))


@contextmanager
def remote_errors() -> Iterator[None]:
    """Make an OSError of whatever the library of a scheme raises: each has errors of its own."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as problem:
        raise OSError(f"{type(problem).__name__}: {problem}") from None


def is_web(place: str) -> bool:
    """Whether a URL is one of the web, whose pages fsspec takes for folders of their links, and for unchanging."""
    return place.startswith(("http://", "https://"))


def resolve(name: str, base: Path) -> Path:
    """The place on this machine of a local source, or of a file of the inventory, by its name."""
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


def _remote_files(fs: Any, place: str, endings: tuple[str, ...]) -> list[str]:
    def below(folder: str) -> list[str]:
        return [path for path in fs.find(folder) if path.lower().endswith(endings)]

    if glob.has_magic(place):
        matches = fs.glob(place, detail=True).items()
        return [file for path, info in matches for file in (below(path) if info["type"] == "directory" else [path])]
    if place.endswith("/") if is_web(place) else fs.isdir(place):
        return below(place)
    fs.info(place)
    return [place]


def _glob(source: str, suffixes: tuple[str, ...], base: Path) -> Iterator[tuple[str, Path]]:
    """Files and folders that match, by names that begin where the source's does."""
    scheme, start, pattern = "", base, str(Path(source).expanduser())
    if source.startswith(PACKAGE_SCHEME):
        package, _, pattern = source.removeprefix(PACKAGE_SCHEME).partition("/")
        scheme = f"{PACKAGE_SCHEME}{package}/"
        start = resolve(scheme, base)
    found = sorted(glob.glob(pattern, root_dir=start, recursive=True))
    if not found:
        raise SourceError(f"{source}: matches no file ({start / pattern}); change collect.sources")
    for path in found:
        name = Path(path).relative_to(base).as_posix() if Path(path).is_relative_to(base) else path
        yield from list_files(scheme + name, suffixes, base)


def _walk(source: str, folder: Path, endings: tuple[str, ...]) -> list[Path]:
    def refuse(problem: OSError) -> None:
        raise SourceError(f"{source}: cannot read {problem.filename} ({problem.strerror}); check its permissions")

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        wanted = (name for name in names if name.lower().endswith(endings) and not name.startswith("."))
        found.extend(Path(parent, name) for name in wanted)
    return sorted(found)


def _endings(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(suffix.lower() + packed for suffix in suffixes for packed in COMPRESSED)


def _stable_name(source: str) -> str:
    if source.startswith(PACKAGE_SCHEME):
        return source.rstrip("/")
    return PurePosixPath(Path(source).as_posix()).as_posix()


def _printable(name: str) -> str:
    """A name that JSON and Parquet can hold; bytes that are no UTF-8 are spelled out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
