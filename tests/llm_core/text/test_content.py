"""Contents are read forward with bounded memory, whatever they are packed in and however they are damaged."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import random
import re
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from llm_core.text import content as module
from llm_core.text.content import Content, copy_range, open_content

ZSTD = zstandard.ZstdCompressor(write_checksum=True)
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": ZSTD.compress}
LINES = b"".join(b"%d %s\n" % (number, random.Random(number).randbytes(20).hex().encode()) for number in range(7000))


class Pipe(io.BytesIO):
    """A file that cannot be read twice."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise OSError("a pipe")


def _all(content: Content) -> bytes:
    return b"".join(iter(lambda: content.read(10_000), b""))


@pytest.mark.parametrize("pack", [*PACK.values(), bytes])
@pytest.mark.parametrize("kind", [io.BytesIO, Pipe])
def test_what_comes_out_is_what_was_packed(pack: type[bytes], kind: type[io.BytesIO]) -> None:
    with open_content(kind(pack(LINES)), "a", 200) as content:
        assert content.peek(3) == LINES[:3]
        assert _all(content) == LINES
        assert (content.position, content.at_end, content.damage) == (len(LINES), True, None)


@pytest.mark.parametrize("pack", PACK.values())
def test_members_are_read_as_one_and_padding_is_none(pack: type[bytes]) -> None:
    with open_content(
        io.BytesIO(pack(LINES) + b"\0" * 8 + pack(b"") + pack(b"end\n") + b"\0" * 512), "a", 200
    ) as content:
        assert _all(content) == LINES + b"end\n"
        assert content.damage is None


@pytest.mark.parametrize("pack", PACK.values())
@pytest.mark.parametrize("damage", ["short", "garbage behind", "garbage inside"])
def test_a_damaged_archive_ends_the_content_with_what_was_sound(pack: type[bytes], damage: str) -> None:
    # Two members: the first one is whole in each case.
    packed, rest = pack(LINES), pack(LINES[::-1])
    broken = {
        "short": rest[:-2],
        "garbage behind": rest + b"what",
        "garbage inside": rest[:99] + b"\xa5" * 99 + rest[198:],
    }
    with open_content(io.BytesIO(packed + broken[damage]), "a", 200) as content:
        out = _all(content)
        assert out.startswith(LINES)
        # zstd sees garbage only by the checksum at the end.
        assert (LINES + LINES[::-1]).startswith(out) or pack == ZSTD.compress
        assert content.damage is not None and content.damage.reason == "damaged_archive"
        stored = packed + broken[damage]
        assert content.stored_file() == (hashlib.sha256(stored).hexdigest(), len(stored))


@pytest.mark.parametrize("pack", PACK.values())
def test_a_bomb_is_stopped_early_in_little_memory(pack: type[bytes]) -> None:
    bomb = pack(bytes(30_000_000))
    tracemalloc.start()
    try:
        with open_content(io.BytesIO(bomb), "a", 200) as content:
            while content.read(1 << 20):
                pass
            peak = tracemalloc.get_traced_memory()[1]
            assert content.damage is not None and content.damage.reason == "bomb"
            assert content.position < 30_000_000
            assert content.stored_file() == (hashlib.sha256(bomb).hexdigest(), len(bomb))
    finally:
        tracemalloc.stop()
    assert peak < 80 << 20


def test_a_small_file_that_packs_well_is_no_bomb() -> None:
    with open_content(io.BytesIO(gzip.compress(bytes(16 << 20))), "a", 200) as content:
        while content.read(1 << 20):
            pass
        assert (content.position, content.damage) == (16 << 20, None)


def test_packing_inside_packing_is_left_alone() -> None:
    inner = bz2.compress(b"text")
    with open_content(io.BytesIO(gzip.compress(inner)), "a", 200) as content:
        assert _all(content) == inner


def test_without_an_expansion_the_file_is_read_as_it_is_stored() -> None:
    packed = gzip.compress(b"text")
    with open_content(io.BytesIO(packed), "a", 0) as content:
        assert _all(content) == packed


@given(
    raw=st.text(alphabet="\n\na\0", min_size=20, max_size=200).map(str.encode),
    piece=st.integers(1, 6),
    calls=st.lists(
        st.tuples(st.sampled_from(["read", "peek", "readline", "find", "skim"]), st.integers(1, 60)), max_size=30
    ),
)
def test_any_calls_on_pieces_of_any_size_do_what_slices_do(
    raw: bytes, piece: int, calls: list[tuple[str, int]]
) -> None:
    mark = re.compile(rb"\n[a-z\0]*")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_BYTES", piece)
        patch.setattr(module, "OVERLAP_BYTES", 1)
        with open_content(io.BytesIO(raw), "a", 0) as content:
            for call, size in calls:
                at, rest = content.position, raw[content.position :]
                if call == "read":
                    assert content.read(size) == rest[:size]
                elif call == "peek":
                    assert (content.peek(size), content.position) == (rest[:size], at)
                elif call == "readline":
                    assert content.readline(size) == _line(rest)[:size]
                elif call == "find":
                    match = mark.search(rest[:size])
                    found = content.find(mark, size)
                    assert (found and (found.start, found.stop)) == (match and match.span())
                else:
                    digest = hashlib.sha256()
                    content.skim(re.compile(rb"\n\n"), digest)
                    skipped = rest.split(b"\n\n")[0]
                    assert (content.position, digest.digest()) == (at + len(skipped), hashlib.sha256(skipped).digest())
            assert content.at_end == (content.position == len(raw))


@pytest.mark.parametrize("piece", [1, 2, 3, 5])
@pytest.mark.parametrize("place", range(20))
def test_a_mark_that_lies_in_two_pieces_is_found(piece: int, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", piece)
    monkeypatch.setattr(module, "OVERLAP_BYTES", 4)
    raw = b"a" * place + b"<end>" + b"b" * 9
    with open_content(io.BytesIO(raw), "a", 0) as content:
        content.skim(re.compile(rb"<end>"), hashlib.sha256())
        assert content.position == place
        assert content.find(re.compile(rb"<end>b*"), 99) == range(14)


def _line(raw: bytes) -> bytes:
    return raw[: raw.find(b"\n") + 1] or raw


def test_ranges_are_copied_in_one_pass() -> None:
    copies: list[bytes] = []
    with open_content(Pipe(gzip.compress(LINES)), "a", 200) as content:
        for start, end in [(0, 5), (5, 5), (100, 200_000), (300_000, len(LINES))]:
            piece = bytearray()
            copy_range(content, start, end, piece.extend)
            copies.append(bytes(piece))
        with pytest.raises(ValueError, match=r"a\[3:4\]: already read up to"):
            copy_range(content, 3, 4, copies.append)
        with pytest.raises(ValueError, match="has only"):
            copy_range(content, len(LINES), len(LINES) + 1, copies.append)
    assert copies == [LINES[:5], b"", LINES[100:200_000], LINES[300_000:]]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("kind", [io.BytesIO, Pipe])
def test_any_content_can_be_had_as_a_file_to_seek_in(pack: type[bytes], kind: type[io.BytesIO]) -> None:
    packed = pack(LINES)
    with open_content(kind(packed), "a", 200) as content:
        content.peek(10)
        with content.seekable() as file:
            file.seek(-4, io.SEEK_END)
            assert file.read() == LINES[-4:]
        assert content.stored_file() == (hashlib.sha256(packed).hexdigest(), len(packed))


def test_a_read_error_is_no_damage() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"), open_content(Broken(), "a", 200) as content:
        content.read(1)
