"""The basic rules that clean a text or reject it: each one a pure function of the document and the clean section."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

import numpy as np

from llm_core.config import Clean
from llm_core.text.characters import LETTER, SYMBOL
from llm_core.text.document import Document, Rejection

# Chinese characters and Japanese syllables, which are written without spaces: each counts as a word.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
OTHER_SPACE = re.compile(r"[^\S\n\t ]")
# Zero-width space, soft hyphen, word joiner and byte order mark, then what turns the writing direction. The zero-width
# joiners stay, since Persian, the Indic scripts and emoji are spelled with them.
INVISIBLE = dict.fromkeys(
    (0x200B, 0x00AD, 0x2060, 0xFEFF, 0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
)
LINE_START = re.compile(r"(?<=\n)")
PLAIN_ASCII = bytes(range(0x20, 0x7F)) + b"\t\n"
# What ftfy or the lines above change whatever stands around it: controls and other line ends, ligatures and digraphs,
# surrogates, invisible characters.
CHANGED = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06\ud800-\udfff"
    "\u2028\u2029\u206a-\u206f\ufff9-\ufffc" + "".join(map(chr, INVISIBLE))
)
CERTAIN = re.compile(f"[{CHANGED}]")
# Those, or what may be mojibake: characters beyond ASCII in a row, or one that a byte of UTF-8 becomes in Windows-1252.
SUSPECT = re.compile(f"[^\x00-\x7f]{{2,}}|[ŒœÃÂ{CHANGED}]")
# No pattern of ftfy's mojibake heuristic reaches further than this around such a place.
REACH = 6


def normalise_unicode(document: Document, cfg: Clean) -> Document:
    """Mend mojibake and line ends (ftfy, Speer 2019), compose to NFC, and drop control and invisible characters."""
    if not _may_change(document.text):
        return document
    import ftfy

    # Mends mojibake, ligatures, line ends and controls; quotes, entities and full-width forms are the author's.
    config = ftfy.TextFixerConfig(
        unescape_html=False, uncurl_quotes=False, fix_character_width=False, normalization="NFC", explain=False
    )
    # It works line by line, so the lines that it would not change need not be shown to it.
    lines = LINE_START.split(document.text.replace("\x0b", "\n").replace("\x0c", "\n"))
    mended = (ftfy.fix_text(line, config).translate(INVISIBLE) if _may_change(line) else line for line in lines)
    return _with_text(document, "".join(mended))


def strip_marks(document: Document, cfg: Clean) -> Document:
    """Cut out the stage marks of the recipe."""
    text = document.text
    for pattern in cfg.strip_marks:
        text = re.sub(pattern, "", text)
    return _with_text(document, text)


def normalise_whitespace(document: Document, cfg: Clean) -> Document:
    """One kind of space, none at line ends, single ones inside lines, at most one blank line; indentation stays."""
    text = OTHER_SPACE.sub(" ", document.text)
    # Looking for two characters in a row is far cheaper than a pattern, and most texts have none of these.
    if " \n" in text or "\t\n" in text:
        text = re.sub(r"(?<![ \t])[ \t]+\n", "\n", text)  # each run is tried once
    if any(pair in text for pair in ("  ", "\t\t", " \t", "\t ")):
        text = re.sub(r"(?<=\S)[ \t]{2,}", " ", text)
    if "\n\n\n" in text:
        text = re.sub(r"\n{3,}", "\n\n", text)
    return _with_text(document, text.strip())


def require_words(document: Document, cfg: Clean) -> Document | Rejection:
    """Reject a text with too few words (after Gopher's least number of words, Rae et al. 2021)."""
    count = len(document.measures.words)
    if count < cfg.min_words:
        return Rejection("too_short", f"{count} words, {cfg.min_words} needed")
    return document


def limit_symbols(document: Document, cfg: Clean) -> Document | Rejection:
    """Reject a text with too many symbols among its characters (after Gopher's ratio of symbols to words)."""
    share = document.measures.share_of(SYMBOL)
    if share > cfg.max_symbol_share:
        return Rejection("symbols", f"{share:.3f} of the characters are symbols, {cfg.max_symbol_share} allowed")
    return document


def require_prose(document: Document, cfg: Clean) -> Document | Rejection:
    """Reject a text in which too few words have a letter (after Gopher's rule): tables, logs, columns of figures."""
    kinds = document.measures.words.kinds
    share = int(np.count_nonzero(kinds & LETTER)) / max(len(kinds), 1)
    if len(kinds) and share < cfg.min_alpha_word_share:
        return Rejection("not_prose", f"{share:.3f} of the words have letters, {cfg.min_alpha_word_share} needed")
    return document


def limit_repetition(document: Document, cfg: Clean) -> Document | Rejection:
    """Reject a text that says the same lines again and again (after Gopher's duplicate line rule, Rae et al. 2021)."""
    lines = [line.strip() for line in document.text.split("\n")]
    repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
    share = repeated / max(len(document.text), 1)
    if share > cfg.max_repeated_line_share:
        return Rejection("repetition", f"{share:.3f} in repeated lines, {cfg.max_repeated_line_share} allowed")
    return document


def _with_text(document: Document, text: str) -> Document:
    return document if text == document.text else replace(document, text=text)


def _may_change(text: str) -> bool:
    """Whether a text is worth ftfy's time: all that it or the translations above could change is found here."""
    if text.isascii():
        return bool(text.encode().translate(None, PLAIN_ASCII))
    if not unicodedata.is_normalized("NFC", text):
        return True
    from ftfy.badness import is_bad

    for found in SUSPECT.finditer(text):
        around = text[max(found.start() - REACH, 0) : found.end() + REACH]
        if CERTAIN.search(found[0]) or any(map(is_bad, around.splitlines(keepends=True))):
            return True
    return False
