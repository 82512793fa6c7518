"""Examples of suites: read from tables, chosen by their content, and left out where the training text has them.

Overlap is told as for GPT-3 (Brown et al. 2020): an example of which 13 words in a row stand in the training text is
contaminated, since a model may know it by heart. Case and punctuation do not matter.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_core.evals.suite import Example, example_id
from llm_core.sources import is_remote, remote_errors, resolve

OVERLAP_WORDS = 13
WORD = re.compile(r"\w+")
# Odd, so that no factor of 2**64 is lost; an arbitrary one.
FACTOR = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]


class ExamplesError(ValueError):
    """A table of examples that cannot be used; the message names it and says what to do."""


def read_bytes(place: str, base: Path) -> bytes:
    """Content of a local file, one inside a package, or one that fsspec reads."""
    try:
        if is_remote(place):
            import fsspec

            with remote_errors(), fsspec.open(place, "rb") as file:
                return bytes(file.read())
        return resolve(place, base).read_bytes()
    except (OSError, ImportError) as problem:
        raise ExamplesError(f"{place}: cannot be read ({problem}); check evaluate.suites") from None


def read_examples(place: str, base: Path, sha256: str = "") -> list[Example]:
    """The rows of a table, by its suffix: .jsonl, .csv (all text), .parquet.

    Raises ExamplesError for a table that is missing, broken, empty, or another than `sha256` names.
    """
    content = read_bytes(place, base)
    if sha256 and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ExamplesError(f"{place}: its sha256 is {found[:12]}, the run was begun with {sha256[:12]}; run it again")
    readers = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(Path(place).suffix)
    if reader is None:
        raise ExamplesError(f"{place}: is no table of examples; they end in {', '.join(readers)}")
    try:
        examples = list(reader(content))
    except (ValueError, OSError) as problem:
        raise ExamplesError(f"{place}: {problem}") from None
    if not examples:
        raise ExamplesError(f"{place}: has no examples")
    return examples


def chosen(examples: Iterable[Example], count: int) -> list[Example]:
    """Up to `count` different examples, the same whatever their order: those whose content has the lowest hash."""
    by_id = {example_id(example): example for example in examples}
    return [by_id[name] for name in sorted(by_id)[:count]]


def require_keys(examples: Sequence[Example], keys: Sequence[str], place: str) -> None:
    """Refuse a table whose rows lack what its suite asks for."""
    for number, example in enumerate(examples, start=1):
        missing = [key for key in keys if example.get(key) is None]
        if missing:
            raise ExamplesError(
                f"{place}, example {number}: has {', '.join(example) or 'nothing'}, not {', '.join(missing)}; "
                f"each needs {', '.join(keys)}"
            )


def uncontaminated(examples: Sequence[Example], texts: Iterable[str]) -> list[Example]:
    """The examples of which no 13 words in a row stand in the texts; one pass over those, in memory of one."""
    grams = [_grams(" ".join(_strings(example))) for example in examples]
    sought = np.unique(np.concatenate(grams)) if grams else np.empty(0, np.uint64)
    found: set[int] = set()
    for text in texts if len(sought) else ():
        found.update(np.intersect1d(sought, _grams(text)).tolist())
    return [example for example, own in zip(examples, grams, strict=True) if found.isdisjoint(own.tolist())]


def _grams(text: str) -> Hashes:
    """A hash of each run of 13 words; equal only within this process."""
    words = np.array([hash(word) for word in WORD.findall(text.casefold())], dtype=np.int64).view(np.uint64)
    count = len(words) - OVERLAP_WORDS + 1
    if count < 1:
        return np.empty(0, np.uint64)
    total = np.zeros(count, np.uint64)
    for first in range(OVERLAP_WORDS):
        total = total * FACTOR + words[first : first + count]
    return total


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _strings(item)


def _json_lines(content: bytes) -> Iterator[Example]:
    for number, line in enumerate(content.decode("utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            example = json.loads(line)
        except json.JSONDecodeError as problem:
            raise ExamplesError(f"line {number}: no JSON ({problem}); write an object a line") from None
        if not isinstance(example, dict):
            raise ExamplesError(f"line {number}: a {type(example).__name__}, not an object")
        yield example


def _csv(content: bytes) -> Iterator[Example]:
    import csv
    import io

    yield from csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))


def _parquet(content: bytes) -> Iterator[Example]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        yield from parquet.read_table(pa.BufferReader(content)).to_pylist()
    except pa.ArrowException as problem:
        raise ExamplesError(str(problem)) from None
