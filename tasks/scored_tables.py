"""Writing a table with new columns beside the old ones: CSV, TSV, JSON Lines or Parquet, whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.tables import DELIMITERS, LINES, Table, TableError

if TYPE_CHECKING:
    import pyarrow as pa

    from llm_core.pipeline.batch import Kind

WRITABLE = (*DELIMITERS, *LINES, ".parquet")
Results = Iterator[Mapping[str, Any]]


def check_name(output: Path) -> None:
    """Raise TableError for a name that says no format."""
    if output.suffix.lower() not in WRITABLE:
        raise TableError(f"{output}: the name must end with one of {', '.join(WRITABLE)}")


def check_output(output: Path, source: Path) -> None:
    """Raise TableError for an output that cannot be written, or that would destroy the input."""
    check_name(output)
    if output.is_dir():
        raise TableError(f"{output}: is a folder; give a file")
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(source)):
        raise TableError(f"{output}: would overwrite the input; give another output")


def write_scored(
    table: Table, columns: Sequence[str], output: Path, added: Mapping[str, Kind], results: Results
) -> None:
    """Write the table's rows, each with its result, under a temporary name and move the file into place.

    Equal rows and results give equal bytes. Raises TableError where there are not as many results as rows.
    """
    draft, suffix = output.with_name(f".{output.name}.draft"), output.suffix.lower()
    try:
        if suffix == ".parquet":
            _write_parquet(table, draft, added, results)
        elif suffix in LINES:
            _write_lines(table, draft, results)
        else:
            _write_delimited(table, draft, [*columns, *added], DELIMITERS[suffix], results)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, output)
    finally:
        draft.unlink(missing_ok=True)


def _write_delimited(table: Table, draft: Path, names: Sequence[str], delimiter: str, results: Results) -> None:
    # Half of a character pair, which JSON may hold, has no bytes in UTF-8.
    with open(draft, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(names)
        for row in _joined(table, results):
            writer.writerow([_cell(table, name, row.get(name)) for name in names])


def _write_lines(table: Table, draft: Path, results: Results) -> None:
    with open(draft, "wb") as file:
        for row in _joined(table, results):
            plain = {name: _plain(table, name, value) for name, value in row.items()}
            try:
                line = json.dumps(plain, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                line = json.dumps(plain).encode()
            file.write(line + b"\n")


def _write_parquet(table: Table, draft: Path, added: Mapping[str, Kind], results: Results) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = table.schema()
    new = pa.schema([(name, _arrow_type(kind)) for name, kind in added.items()])
    # `datasets` would take its own note of the columns for all of them.
    notes = {key: value for key, value in (schema.metadata or {}).items() if key != b"huggingface"}
    whole = pa.schema([*schema, *new], metadata=notes)
    with pq.ParquetWriter(draft, whole, compression="zstd") as writer:
        for part in table.arrow(schema):
            found = pa.Table.from_pylist([dict(row) for row in islice(results, part.num_rows)], schema=new)
            if found.num_rows < part.num_rows:
                raise _changed(table)
            writer.write_table(pa.Table.from_arrays([*part.columns, *found.columns], schema=whole))
    if next(results, None) is not None:
        raise _changed(table)


def _joined(table: Table, results: Results) -> Iterator[dict[str, Any]]:
    """The rows with their results."""
    try:
        for row, result in zip(table.rows(), results, strict=True):
            yield {**row, **result}
    except ValueError as problem:
        raise problem if isinstance(problem, TableError) else _changed(table) from None


def _changed(table: Table) -> TableError:
    return TableError(f"{table.path}: has other rows than when it was scored; score it again")


def _arrow_type(kind: Kind) -> pa.DataType:
    import pyarrow as pa

    entity = {"entity_group": pa.string(), "score": pa.float64(), "word": pa.string()}
    return {
        "text": pa.string(),
        "count": pa.int64(),
        "number": pa.float64(),
        "vector": pa.list_(pa.float32()),
        "entities": pa.list_(pa.struct({**entity, "start": pa.int64(), "end": pa.int64()})),
    }[kind]


def _cell(table: Table, name: str, value: Any) -> str:
    """A value as a field of a delimited file."""
    plain = _plain(table, name, value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(table: Table, name: str, value: Any) -> Any:
    """A value as JSON has it; times become texts, and numbers that are none become null."""
    if isinstance(value, bytes):
        raise TableError(f"{table.path}: the column {name!r} holds bytes, which only Parquet keeps; write .parquet")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(table, name, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(table, name, inner) for inner in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
