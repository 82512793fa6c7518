"""The bytes of one source file, read forward once with bounded memory, decompressed on the way.

gzip, bzip2, xz and zstd are known by their first bytes; files of several members or frames are read as one.
Compression inside compression is not followed. A damaged archive or a decompression bomb ends the content where it
is noticed: readers see an ordinary end, and `Content.damage` says what happened.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import BinaryIO, Protocol

from llm_core.text.document import Rejection

PIECE_BYTES = 1 << 18
"""Bytes that are taken from a file, or out of a decompressor, at once."""
OVERLAP_BYTES = 1024
"""Longer than what is searched for in pieces, which may lie in two of them."""
BOMB_BYTES = 16 << 20
"""Compressed files of which less than this comes out are not called bombs, however well they compress."""
# xz -9 needs 65 MB and zstd --long 128 MB; files that want more are refused rather than trusted with the memory.
DECODER_MEMORY = 128 << 20
# A zstd frame can hold 128 KB in 4 bytes, and its decoder cannot be told when to stop: small bites bound the output.
BITE_BYTES = 512
_ZSTD_MAGIC = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # RFC 8878: data frames and skippable frames
_NEWLINE = re.compile(rb"\n")


class Content:
    """Forward-only access to the decompressed bytes of one open file."""

    def __init__(self, file: BinaryIO, name: str, max_expansion: int) -> None:
        self.name = name
        self.position = 0
        """Offset in the decompressed content of the next byte to be read."""
        self.damage: Rejection | None = None
        """Set once the content has ended early: reason damaged_archive or bomb."""
        self._buffer, self._offset = b"", 0
        self._stored = _Stored(file)
        head = file.read(PIECE_BYTES)
        codec = _codec_of(head) if max_expansion else None
        self._is_stored = codec is None
        if codec or not file.seekable():
            self._stored.note(head)
        self._pieces = _decompress(self._stored, head, codec, max_expansion) if codec else self._stored.pieces(head)

    @property
    def at_end(self) -> bool:
        """Whether every byte has been read."""
        return not self._fill(1)

    def peek(self, size: int) -> bytes:
        """The next bytes without reading them: `size`, or as many as there are."""
        self._fill(size)
        return self._buffer[self._offset : self._offset + size]

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or as many as there are."""
        return self._take(min(self._fill(size), size))

    def readline(self, limit: int) -> bytes:
        """The next line with its line feed, but at most `limit` bytes of it."""
        end = self._buffer.find(b"\n", self._offset, self._offset + limit) + 1
        if end:
            return self._take(end - self._offset)
        found = self.find(_NEWLINE, limit)
        return self._take(found.stop) if found else self.read(limit)

    def find(self, pattern: re.Pattern[bytes], limit: int) -> range | None:
        """Where `pattern` is among the next `limit` bytes, counted from the position; None when it is not there.

        A match that more bytes could change is looked at again with them. The pattern may look behind, at bytes that
        were read before, but should not rely on it.
        """
        available = self._fill(1)
        while True:
            match = pattern.search(self._buffer, self._offset, self._offset + limit)
            reached = min(available, limit)
            if match and match.end() - self._offset < reached:
                return range(match.start() - self._offset, match.end() - self._offset)
            grown = self._fill(min(limit, max(2 * available, PIECE_BYTES))) if available < limit else available
            if grown <= available:
                return range(match.start() - self._offset, match.end() - self._offset) if match else None
            available = grown

    def skim(self, pattern: re.Pattern[bytes] | None, digest: hashlib._Hash, through: bool = False) -> None:
        """Read and hash, in bounded memory, up to the next match of `pattern`, or through it, or else to the end.

        Patterns that begin with a fixed byte are found many times faster than others.
        """
        while size := self._fill(PIECE_BYTES + OVERLAP_BYTES):
            if pattern and (found := self.find(pattern, size)):
                digest.update(self._take(found.stop if through else found.start))
                return
            is_last = size < PIECE_BYTES + OVERLAP_BYTES
            digest.update(self._take(size if is_last else size - OVERLAP_BYTES))

    def stored_file(self) -> tuple[str, int]:
        """sha256 and size of the file as it is stored; reads what is left of it."""
        return self._stored.finish(by_seeking=self._is_stored and self._stored.file.seekable())

    @contextmanager
    def seekable(self) -> Iterator[BinaryIO]:
        """The whole content as a file to seek in: the file itself if that can be done, else a temporary copy."""
        if self._is_stored and self._stored.file.seekable():
            self._stored.file.seek(0)
            yield self._stored.file
            return
        with TemporaryFile() as copy:
            while piece := self.read(PIECE_BYTES):
                copy.write(piece)
            copy.seek(0)
            yield copy

    def _take(self, size: int) -> bytes:
        start = self._offset
        self._offset += size
        self.position += size
        return self._buffer[start : self._offset]

    def _fill(self, size: int) -> int:
        """Have `size` bytes ready if there are as many; returns how many are ready."""
        available = len(self._buffer) - self._offset
        if available >= size:
            return available
        parts = [self._buffer[self._offset :]]
        while available < size and (piece := self._next_piece()):
            parts.append(piece)
            available += len(piece)
        if len(parts) > 1:
            self._buffer, self._offset = b"".join(parts), 0
        return available

    def _next_piece(self) -> bytes:
        try:
            return next(self._pieces, b"")
        except _DamageError as problem:
            self.damage = problem.rejection
            return b""


@contextmanager
def open_content(file: BinaryIO, name: str, max_expansion: int) -> Iterator[Content]:
    """The content of an open file, seekable or not; `file` stays the caller's to close.

    A compressed file is cut short as a bomb when, after 16 MB, it has grown by more than `max_expansion`; 0 reads a
    file as it is stored.
    Raises OSError when the file cannot be read.
    """
    content = Content(file, name, max_expansion)
    try:
        yield content
    finally:
        content._pieces = iter(())


def copy_range(content: Content, start: int, end: int, write: Callable[[bytes], object]) -> None:
    """Write the content's bytes from `start` to `end`, in pieces; ranges come in their order.

    Raises ValueError when the content is already past `start` or ends before `end`.
    """
    if start < content.position:
        raise ValueError(f"{content.name}[{start}:{end}]: already read up to {content.position}; ask in order")
    while content.position < start and content.read(min(PIECE_BYTES, start - content.position)):
        pass
    while content.position < end:
        piece = content.read(min(PIECE_BYTES, end - content.position))
        if not piece:
            raise ValueError(f"{content.name}[{start}:{end}]: the content has only {content.position} bytes")
        write(piece)


class _DamageError(ValueError):
    """The content cannot go on."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.detail)
        self.rejection = rejection


class _Stored:
    """The file as it is stored, with the number and the hash of the bytes that were read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.num_bytes = 0
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.note(data)
        return data

    def note(self, data: bytes) -> None:
        self.num_bytes += len(data)
        self.digest.update(data)

    def pieces(self, head: bytes) -> Iterator[bytes]:
        """What is not compressed; hashed only where the file could not be read again for that."""
        read = self.file.read if self.file.seekable() else self.read
        yield head
        while piece := read(PIECE_BYTES):
            yield piece

    def finish(self, by_seeking: bool) -> tuple[str, int]:
        """sha256 and size of the whole file."""
        if by_seeking:
            self.file.seek(0)
            self.num_bytes, self.digest = 0, hashlib.sha256()
        while self.read(PIECE_BYTES):
            pass
        return self.digest.hexdigest(), self.num_bytes


class _Decoder(Protocol):
    """What bz2 and lzma decompressors are, and gzip and zstd are made to be."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor keeps back what does not fit into max_length, and checks header, CRC and length."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    eof = property(lambda self: self._zlib.eof)
    needs_input = property(lambda self: not self._zlib.unconsumed_tail)
    unused_data = property(lambda self: self._zlib.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class _Zstd:
    """zstandard's decompressor gives all it has at once, which bites of its input bound."""

    def __init__(self) -> None:
        from zstandard import ZstdDecompressor

        self._zstd = ZstdDecompressor(max_window_size=DECODER_MEMORY).decompressobj()

    eof = property(lambda self: self._zstd.eof)
    needs_input = True
    unused_data = property(lambda self: self._zstd.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zstd.decompress(data)


def _codec_of(head: bytes) -> Callable[[], _Decoder] | None:
    if head.startswith(b"\x1f\x8b\x08"):
        return _Gzip
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return bz2.BZ2Decompressor
    if head.startswith(b"\xfd7zXZ\0"):
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=DECODER_MEMORY)
    return _Zstd if _ZSTD_MAGIC.match(head) else None


def _decompress(stored: _Stored, head: bytes, codec: Callable[[], _Decoder], max_expansion: int) -> Iterator[bytes]:
    """The content of one member after the other; zero bytes behind a member are padding."""
    num_bytes = 0
    source = _Bites(stored, head)
    while data := source.after_padding():
        decoder = codec()
        while not decoder.eof:
            if decoder.needs_input and not data and not (data := source.next()):
                raise _damaged(stored, num_bytes, "ends before its data do")
            piece = _decode(decoder, data if decoder.needs_input else b"", stored, num_bytes)
            data = b""
            num_bytes += len(piece)
            if num_bytes > max(BOMB_BYTES, max_expansion * stored.num_bytes):
                detail = f"{num_bytes} bytes out of the first {stored.num_bytes}, {max_expansion} times allowed"
                raise _DamageError(Rejection("bomb", detail))
            if piece:
                yield piece
        source.put_back(decoder.unused_data)


class _Bites:
    """Compressed bytes a few at a time: when a decoder fails, what it had of one bite is lost, and little of that."""

    def __init__(self, stored: _Stored, head: bytes) -> None:
        self.stored = stored
        self.piece, self.offset = head, 0

    def next(self) -> bytes:
        if self.offset >= len(self.piece):
            self.piece, self.offset = self.stored.read(PIECE_BYTES), 0
        bite = self.piece[self.offset : self.offset + BITE_BYTES]
        self.offset += len(bite)
        return bite

    def put_back(self, unused: bytes) -> None:
        """`unused` is the end of the last bite."""
        self.offset -= len(unused)

    def after_padding(self) -> bytes:
        """The next bite that is not all zeros, without the zeros before it."""
        while bite := self.next():
            if bite := bite.lstrip(b"\0"):
                return bite
        return b""


def _decode(decoder: _Decoder, data: bytes, stored: _Stored, num_bytes: int) -> bytes:
    from zstandard import ZstdError

    try:
        return decoder.decompress(data, PIECE_BYTES)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, ZstdError) as problem:
        raise _damaged(stored, num_bytes, str(problem)) from None


def _damaged(stored: _Stored, num_bytes: int, problem: str) -> _DamageError:
    detail = f"{num_bytes} bytes came out of the first {stored.num_bytes}: {problem}"
    return _DamageError(Rejection("damaged_archive", detail))
