"""Tables for batch scoring: CSV, TSV, JSON, JSON Lines, Parquet and folders of `datasets`, a part at a time.

A first look (`Table.survey`) reads the file once and finds what is broken before the work begins. Rows are plain
dictionaries; a table that is Arrow's already goes to Parquet as it is, so that no type is lost.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.json_rows import array_rows, line_rows

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS = 1000
DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")
READABLE = (*DELIMITERS, ".json", *LINES, ".parquet")

Item = TypeVar("Item")


class TableError(ValueError):
    """A table that cannot be read or written; the message names the file and, where there is one, row and column."""


@dataclass(frozen=True)
class Survey:
    """What a first look at a table finds."""

    columns: tuple[str, ...]
    num_rows: int
    sha256: str


class Table:
    """A table in a file or folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def survey(self) -> Survey:
        """Read all of it; raises TableError for the first thing that is broken."""
        columns, num_rows = dict[str, None](), 0
        for row in self.rows():
            columns.update(dict.fromkeys(row))
            num_rows += 1
        return Survey(tuple(columns), num_rows, _sha256(self.path))

    def rows(self, start: int = 0, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The rows from number `start`, with these columns or all."""
        raise NotImplementedError

    def schema(self) -> pa.Schema:
        """The columns' Arrow types, for Parquet."""
        import pyarrow as pa

        schema = pa.schema([])
        for number, part in enumerate(parts(self.rows(), PART_ROWS)):
            try:
                names = dict.fromkeys(name for row in part for name in row)
                found = [(name, pa.array([row.get(name) for row in part]).type) for name in names]
                schema = pa.unify_schemas([schema, pa.schema(found)], promote_options="permissive")
            except (pa.ArrowException, UnicodeError) as problem:
                rows = f"rows {number * PART_ROWS} to {number * PART_ROWS + len(part) - 1}"
                raise TableError(
                    f"{self.path}: {rows} do not fit Parquet's typed columns ({problem}); write .jsonl instead"
                ) from None
        return schema

    def arrow(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows as Arrow tables of this schema."""
        import pyarrow as pa

        for part in parts(self.rows(), PART_ROWS):
            yield pa.Table.from_pylist(part, schema=schema)


class CsvTable(Table):
    """Delimited text by RFC 4180 with a header; all cells are texts."""

    def survey(self) -> Survey:
        with self._open() as (header, _):
            pass
        return Survey(header, sum(1 for _ in self.rows()), _sha256(self.path))

    def rows(self, start: int = 0, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        with self._open() as (header, reader):
            for cells in islice(self._sound(reader, header), start, None):
                row = dict(zip(header, cells, strict=True))
                yield row if columns is None else {name: row[name] for name in columns}

    def schema(self) -> pa.Schema:
        import pyarrow as pa

        with self._open() as (header, _):
            return pa.schema([(name, pa.string()) for name in header])

    def _sound(self, reader: Any, header: Sequence[str]) -> Iterator[list[str]]:
        for cells in self._cells(reader):
            if len(cells) != len(header):
                where = f"{self.path}: line {reader.line_num}"
                raise TableError(f"{where}: {len(cells)} fields, the header has {len(header)}; mend the row")
            yield cells

    @contextmanager
    def _open(self) -> Iterator[tuple[tuple[str, ...], Any]]:
        csv.field_size_limit(sys.maxsize)
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=DELIMITERS[self.path.suffix.lower()], strict=True)
            header = tuple(next(self._cells(reader), ()))
            if not header:
                raise TableError(f"{self.path}: empty; a table needs a header")
            if twice := [name for name in header if header.count(name) > 1]:
                raise TableError(f"{self.path}: the column {twice[0]!r} is there twice; rename one")
            yield header, reader

    def _cells(self, reader: Any) -> Iterator[list[str]]:
        """The rows that are not blank."""
        try:
            yield from filter(None, reader)
        except csv.Error as problem:
            raise TableError(f"{self.path}: line {reader.line_num}: {problem}; mend the row") from None
        except UnicodeDecodeError as problem:
            raise TableError(f"{self.path}: not UTF-8 ({problem}); convert it") from None


class JsonTable(Table):
    """An object a line, or an array of objects."""

    def rows(self, start: int = 0, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        try:
            for row in islice(self._all_rows(), start, None):
                yield row if columns is None else {name: row.get(name) for name in columns}
        except ValueError as problem:  # also of bytes that are no UTF-8
            raise TableError(f"{self.path}: {problem}") from None

    def _all_rows(self) -> Iterator[dict[str, Any]]:
        if self.path.suffix.lower() in LINES or _first_character(self.path) == "{":
            with open(self.path, "rb") as file:
                yield from line_rows(file)
        else:
            with open(self.path, encoding="utf-8-sig") as text:
                yield from array_rows(text)


class ArrowTable(Table):
    """What Arrow reads by parts: a Parquet file, or a folder that `datasets` saved."""

    def survey(self) -> Survey:
        schema = self.schema()
        return Survey(tuple(schema.names), self._num_rows(), _sha256(self.path))

    def rows(self, start: int = 0, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        for table in self._tables(start, columns):
            yield from table.to_pylist()

    def arrow(self, schema: pa.Schema) -> Iterator[pa.Table]:
        yield from self._tables(0, None)

    def _num_rows(self) -> int:
        raise NotImplementedError

    def _tables(self, start: int, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        raise NotImplementedError


class ParquetTable(ArrowTable):
    """A Parquet file."""

    def schema(self) -> pa.Schema:
        with self._open() as file:
            return file.schema_arrow

    def _num_rows(self) -> int:
        with self._open() as file:
            num_rows: int = file.metadata.num_rows
            return num_rows

    def _tables(self, start: int, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        import pyarrow as pa

        with self._open() as file:
            for batch in file.iter_batches(PART_ROWS, columns=None if columns is None else list(columns)):
                skipped = min(start, batch.num_rows)
                start -= skipped
                if skipped < batch.num_rows:
                    yield pa.Table.from_batches([batch.slice(skipped)])

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                yield file
        except pa.ArrowException as problem:
            raise TableError(f"{self.path}: not a sound Parquet file ({problem}); make it again") from None


class DatasetTable(ArrowTable):
    """A folder that ``datasets.Dataset.save_to_disk`` wrote."""

    def schema(self) -> pa.Schema:
        return self._dataset.features.arrow_schema

    def _num_rows(self) -> int:
        return len(self._dataset)

    def _tables(self, start: int, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        dataset = self._dataset if columns is None else self._dataset.select_columns(list(columns))
        view = dataset.with_format("arrow")
        for first in range(start, len(dataset), PART_ROWS):
            yield view[first : first + PART_ROWS]

    @property
    def _dataset(self) -> Any:
        from datasets import Dataset, load_from_disk

        try:
            found = load_from_disk(str(self.path))
        except (OSError, ValueError) as problem:
            raise TableError(f"{self.path}: not a folder that `datasets` saved ({problem})") from None
        if not isinstance(found, Dataset):
            raise TableError(
                f"{self.path}: has the splits {', '.join(found)}; give one, as {self.path / next(iter(found))}"
            )
        return found


def open_table(path: Path) -> Table:
    """The table at a path, by the path's name; raises TableError for what is none."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return DatasetTable(path)
    if not path.is_file():
        raise TableError(f"{path}: no such file or folder")
    if suffix in DELIMITERS:
        return CsvTable(path)
    if suffix == ".json" or suffix in LINES:
        return JsonTable(path)
    if suffix == ".parquet":
        return ParquetTable(path)
    raise TableError(f"{path}: not a table that is read here; give {', '.join(READABLE)} or a folder of `datasets`")


def parts(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    while part := list(islice(items, size)):
        yield part


def _first_character(path: Path) -> str:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        while piece := file.read(4096):
            if piece.strip():
                return piece.lstrip()[0]
    return ""


def _sha256(path: Path) -> str:
    """Of a file its content's; of a folder of its files' names and contents."""
    if path.is_dir():
        names = sorted(file for file in path.rglob("*") if file.is_file())
        listed = "".join(f"{_sha256(file)} {file.relative_to(path).as_posix()}\n" for file in names)
        return hashlib.sha256(listed.encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
