"""Bytes of a record become text: UTF-8 first, then what is declared or given, then what the bytes look like."""

from __future__ import annotations

import codecs
import re

from llm_core.text.document import Rejection

# Charsets whose text looks like ASCII until it is decoded: these are tried before UTF-8 when somebody names them.
_SEVEN_BIT = ("iso2022", "hz", "utf-7", "utf-16", "utf-32")
# Python's own codecs that are no charsets of files; decoding punycode takes quadratic time.
_NO_CHARSETS = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"}
# What files that are not UTF-8 are written in; without this list every code page of the 1980s is tried as well.
_WESTERN = "cp1252"
_CANDIDATES = [f"cp{page}" for page in (866, 874, 932, 949, *range(1250, 1259))]
_CANDIDATES += ["iso8859_2", "koi8_r", "koi8_u", "mac_roman", "gb18030", "big5", "euc_jp"]
MIN_FOREIGN_BYTES = 16
"""With fewer bytes that are not ASCII only Western text is recognised: statistics need something to count."""
SAMPLE_BYTES = 16_384
_FOREIGN_LINE = re.compile(rb"[^\n]*[\x80-\xff][^\n]*\n?")
_LETTERS = "àáâãäåæçèéêëìíîïñòóôõöøœùúûüßÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØŒÙÚÛÜ"
# Windows-1252 as people type it: accented letters, but not many in a row, and the marks that word processors make.
_UNLIKE_WESTERN = re.compile(
    rf"[^\x00-\x7f\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u2022\u20ac\u2122\xa0£©®°§«»·´¡¿½²³{_LETTERS}]"
    rf"|(?<![A-Za-z])[{_LETTERS}]{{2}}(?![A-Za-z])|[{_LETTERS}]{{3}}"
)


def decode(raw: bytes, encoding: str = "", declared: str = "", start: int = 0) -> str | Rejection:
    """Text of a record's bytes, without a byte order mark, or Rejection undecodable.

    `encoding` is what the recipe says, `declared` what the record says of itself; neither is believed where strict
    UTF-8 fits. A record that is UTF-8 but for some lines is decoded line by line, and lost only if a line fits
    nothing. The same bytes always give the same text. `start` is where the record begins in its file.
    """
    for name in (declared, encoding):
        charset = _text_codec(name) if name else ""
        if charset.startswith(_SEVEN_BIT) and (text := _strict(raw, charset)) is not None:
            return text
    raw_text = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw_text.decode()
    except UnicodeDecodeError as problem:
        position = problem.start + len(raw) - len(raw_text)
        text = _decode_otherwise(raw_text, encoding, declared)
        detail = f"byte {raw[position]:#04x} at {start + position}: {problem.reason}, and like no other encoding"
        return Rejection("undecodable", detail) if text is None else text


def _decode_otherwise(raw: bytes, encoding: str, declared: str) -> str | None:
    is_utf8 = _is_mostly_utf8(raw)
    for charset in (_text_codec(declared), _text_codec(encoding)):
        if charset and not is_utf8 and (text := _strict(raw, charset)) is not None:
            return text
    return _decode_lines(raw, encoding) if is_utf8 else _strict(raw, detect_charset(raw))


def _is_mostly_utf8(raw: bytes) -> bool:
    """Whether there are more whole UTF-8 sequences of several bytes than bytes that belong to none."""
    text = raw.decode("utf-8", errors="surrogateescape")
    foreign = re.sub(r"[\x00-\x7f]+", "", text)
    num_bad = sum("\udc80" <= character <= "\udcff" for character in foreign)
    return len(foreign) > 2 * num_bad


def _decode_lines(raw: bytes, encoding: str) -> str | None:
    """UTF-8 with lines of another encoding in it; a line that mixes both is beyond repair."""
    lines = raw.splitlines(keepends=True)
    texts = [_strict(line, "utf-8") for line in lines]
    bad = [line for line, text in zip(lines, texts, strict=True) if text is None]
    if any(_is_mostly_utf8(line) for line in bad):
        return None
    charset = _text_codec(encoding) or detect_charset(b"".join(bad))
    texts = [_strict(line, charset) if text is None else text for line, text in zip(lines, texts, strict=True)]
    return None if None in texts else "".join(text for text in texts if text is not None)


def detect_charset(raw: bytes) -> str:
    """The charset that bytes which are no UTF-8 are probably in, by Python's name; empty when nothing fits well."""
    sample = b"".join(_FOREIGN_LINE.findall(raw, 0, 64 * SAMPLE_BYTES))[:SAMPLE_BYTES]
    western = sample.decode(_WESTERN, errors="replace")
    is_western = not _UNLIKE_WESTERN.search(western)
    num_foreign = len(sample) - len(sample.decode("ascii", errors="ignore"))
    if num_foreign < MIN_FOREIGN_BYTES:
        return _WESTERN if is_western else ""
    from charset_normalizer import from_bytes

    matches = from_bytes(sample, cp_isolation=_CANDIDATES, threshold=0.2, enable_fallback=False)
    best = matches.best()
    if best is None:
        return _WESTERN if is_western else ""
    as_good = {match.encoding for match in matches if match.chaos <= best.chaos + 0.02}
    return _WESTERN if is_western and _WESTERN in as_good else best.encoding


def _strict(raw: bytes, charset: str) -> str | None:
    try:
        return raw.decode(charset) if charset else None
    except UnicodeError:
        return None


def _text_codec(name: str) -> str:
    """Python's name of a charset; empty if it is unknown, or a codec that is no charset of files."""
    try:
        codec = codecs.lookup(name.strip()) if name else None
    except (LookupError, ValueError):
        return ""
    is_charset = codec is not None and codec._is_text_encoding and codec.name.replace("-", "_") not in _NO_CHARSETS
    return codec.name if codec is not None and is_charset and codec.name != "ascii" else ""
