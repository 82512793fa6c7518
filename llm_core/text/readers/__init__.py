"""Readers turn the content of a source file into tiles: its records, each with its exact place, and what is between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from llm_core.config import Collect
from llm_core.config.data import SourceFormat
from llm_core.text.content import Content
from llm_core.text.document import Rejection, Tile
from llm_core.text.readers.csv_rows import read_csv
from llm_core.text.readers.formats import HEAD_BYTES, find_format
from llm_core.text.readers.html import read_html
from llm_core.text.readers.json_values import read_json
from llm_core.text.readers.lines import read_lines
from llm_core.text.readers.mail import read_mail, read_mbox
from llm_core.text.readers.mediawiki import read_mediawiki
from llm_core.text.readers.plain import read_markdown, read_plain
from llm_core.text.readers.records import file_tile, hash_rest, record
from llm_core.text.readers.tables import read_arrow, read_parquet
from llm_core.text.readers.wide import read_wide, wide_charset

Reader = Callable[[Content, Collect], Iterator[Tile]]
READERS: dict[SourceFormat, Reader] = {
    "text": read_plain,
    "markdown": read_markdown,
    "html": read_html,
    "mail": read_mail,
    "mbox": read_mbox,
    "json": read_json,
    "jsonl": read_lines,
    "csv": read_csv,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "mediawiki": read_mediawiki,
}


def read_tiles(content: Content, cfg: Collect) -> Iterator[Tile]:
    """The tiles of a content in their order; a content of any bytes gives tiles that cover it.

    The format is found by content unless `cfg.format` names it. Where an archive is damaged or a bomb, the last
    record is rejected, because its end was not seen, and a tile of unit "file" follows. Raises OSError when the file
    cannot be read, nothing else.
    """
    covered, last = 0, None
    for tile in _tiles(content, cfg):
        if last:
            yield last
        if tile.unit == "byte":
            if tile.start != covered or tile.end < covered:
                raise _not_covered(content, covered, tile.start)
            covered = tile.end
        last = tile
    if last and last.unit == "byte" and (covered != content.position or not content.at_end):
        raise _not_covered(content, covered, content.position)
    if last:
        is_cut = content.damage and last.unit == "byte" and last.found is not None
        yield replace(last, found=content.damage) if is_cut else last
    if content.damage and not (last and last.unit == "file"):
        yield file_tile(content, content.damage)


def _tiles(content: Content, cfg: Collect) -> Iterator[Tile]:
    head = content.peek(HEAD_BYTES)
    if not head:
        if not content.damage:
            yield record(0, b"", "")
        return
    charset = wide_charset(head)
    if charset:
        head = head.decode(charset, errors="ignore").encode()
    kind = find_format(head, content.name, cfg) if cfg.format == "auto" else cfg.format
    if kind is None:
        yield hash_rest(content, Rejection("binary", "neither text nor a table"))
    elif charset and kind not in ("parquet", "arrow"):
        is_whole_text = kind == "text" and cfg.text_unit == "file"
        yield from read_wide(content, cfg, charset, None if is_whole_text else READERS[kind])
    else:
        yield from READERS[kind](content, cfg)


def _not_covered(content: Content, covered: int, position: int) -> AssertionError:
    """Bytes without a tile: the reader is wrong, whatever the content is."""
    return AssertionError(f"{content.name}: covered up to byte {covered}, next is {position}")
