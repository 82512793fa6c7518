"""Parquet and Arrow files: a record a row, read in small batches; the text column alone is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from llm_core.config import Collect
from llm_core.text.content import BOMB_BYTES, Content
from llm_core.text.document import Rejection, Tile
from llm_core.text.readers.decoding import decode
from llm_core.text.readers.json_record import text_of
from llm_core.text.readers.records import file_tile, record, size_rejection

if TYPE_CHECKING:
    import pyarrow as pa

Batches = Callable[[BinaryIO, Collect], Iterator[list[Any]]]
# A dictionary page can repeat one text of 10 MB in every row: the batch bounds what that becomes.
BATCH_ROWS = 16


class _BombError(ValueError):
    """A column that grows too much."""


def read_parquet(content: Content, cfg: Collect) -> Iterator[Tile]:
    """The rows of a Parquet file."""
    return _read_table(content, cfg, _parquet_batches)


def read_arrow(content: Content, cfg: Collect) -> Iterator[Tile]:
    """The rows of an Arrow IPC file or stream, which is what Hugging Face `datasets` saves."""
    return _read_table(content, cfg, _arrow_batches)


def _read_table(content: Content, cfg: Collect, batches: Batches) -> Iterator[Tile]:
    """A tile for each row; where the file is damaged, one for the file and the end."""
    import pyarrow as pa

    row = 0
    try:
        with content.seekable() as file:
            for values in batches(file, cfg):
                for value in values:
                    yield _row(row, value, cfg)
                    row += 1
    except (pa.ArrowException, ValueError, EOFError, _BombError) as problem:
        reason = "bomb" if isinstance(problem, _BombError) else "damaged_table"
        yield file_tile(content, content.damage or Rejection(reason, _first_line(problem)))
    except OSError as problem:
        if problem.errno is not None:
            raise
        # Arrow reports broken data by an OSError that no operating system made.
        yield file_tile(content, content.damage or Rejection("damaged_table", _first_line(problem)))


def _row(number: int, value: object, cfg: Collect) -> Tile:
    """`value` is the cell's text, bytes of a text that is no UTF-8, a list of lines, or None."""
    found = decode(value, cfg.encoding) if isinstance(value, bytes) else text_of({"": value}, ("",))
    raw = value if isinstance(value, bytes) else found.encode() if isinstance(found, str) else b""
    if len(raw) > cfg.max_document_bytes:
        found = size_rejection(len(raw), cfg)
    return replace(record(0, raw, found), start=number, end=number + 1, unit="row")


def _parquet_batches(file: BinaryIO, cfg: Collect) -> Iterator[list[Any]]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
    column = _text_column(table.schema_arrow, cfg)
    for group in range(table.metadata.num_row_groups if column else 0):
        _refuse_bomb(table.metadata.row_group(group), column, cfg)
    for batch in table.iter_batches(BATCH_ROWS, columns=[column] if column else [], use_threads=False):
        yield _values(batch)


def _arrow_batches(file: BinaryIO, cfg: Collect) -> Iterator[list[Any]]:
    import pyarrow as pa

    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
    column = _text_column(reader.schema, cfg)
    numbers = range(reader.num_record_batches) if is_file else None
    for batch in (reader.get_batch(number) for number in numbers) if numbers is not None else reader:
        chosen = batch.select([column] if column else [])
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield _values(chosen.slice(start, BATCH_ROWS))


def _text_column(schema: pa.Schema, cfg: Collect) -> str:
    return next((key for key in cfg.text_keys if schema.names.count(key) == 1), "")


def _values(batch: pa.RecordBatch) -> list[Any]:
    """The cells of the only column; None for each row of a batch without columns."""
    if not batch.num_columns:
        return [None] * batch.num_rows
    try:
        return batch.column(0).to_pylist()
    except UnicodeDecodeError:
        return [_raw_value(value) for value in batch.column(0)]


def _raw_value(value: Any) -> Any:
    """A cell, as bytes if it is no UTF-8; Arrow's writers do not check it."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes() if hasattr(value, "as_buffer") else None


def _refuse_bomb(group: Any, column: str, cfg: Collect) -> None:
    chunks = [group.column(index) for index in range(group.num_columns)]
    for chunk in chunks:
        size, stored = chunk.total_uncompressed_size, chunk.total_compressed_size
        if chunk.path_in_schema.split(".")[0] == column and size > max(BOMB_BYTES, cfg.max_expansion * stored):
            raise _BombError(f"{size} bytes out of {stored}, {cfg.max_expansion} times allowed")


def _first_line(problem: Exception) -> str:
    return str(problem).partition("\n")[0][:200]
