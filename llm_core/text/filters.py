"""Rules that clean a text or reject it: each one a pure function of the text and the recipe's clean section."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable

import ftfy

from llm_core.config import Clean
from llm_core.text.document import Rejection

# Chinese characters and Japanese syllables, which are written without spaces: each counts as a word.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
LETTER = re.compile(r"[^\W\d_]")
# Marks of markup and code rather than of prose, though Unicode files them under punctuation.
UNCOMMON_PUNCTUATION = frozenset("#@*\\_")
# Mends mojibake, ligatures, line ends and control characters; quotes, entities and full-width forms are the author's.
FTFY = ftfy.TextFixerConfig(
    unescape_html=False, uncurl_quotes=False, fix_character_width=False, normalization="NFC", explain=False
)
# Zero-width space, soft hyphen, word joiner and byte order mark, then what turns the writing direction. The zero-width
# joiners stay, since Persian, the Indic scripts and emoji are spelled with them.
INVISIBLE = dict.fromkeys(
    (0x200B, 0x00AD, 0x2060, 0xFEFF, 0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
)
LINE_BREAKS = {0x0B: "\n", 0x0C: "\n"}

Rule = Callable[[str, Clean], str | Rejection]


def clean_text(text: str, cfg: Clean) -> str | Rejection:
    """Put a text through every rule in order: the clean text, or why it is rejected."""
    for rule in RULES:
        result = rule(text, cfg)
        if isinstance(result, Rejection):
            return result
        text = result
    return text


def words(text: str) -> list[str]:
    """The words of a text: runs between white space, single characters of scripts without spaces."""
    return WORD.findall(text)


def normalise_unicode(text: str, cfg: Clean) -> str:
    """Mend mojibake, compose to NFC, unify line endings, and drop control and invisible characters."""
    return ftfy.fix_text(text.translate(LINE_BREAKS), FTFY).translate(INVISIBLE)


def strip_marks(text: str, cfg: Clean) -> str:
    """Cut out the stage marks of the recipe."""
    for pattern in cfg.strip_marks:
        text = re.sub(pattern, "", text)
    return text


def normalise_whitespace(text: str, cfg: Clean) -> str:
    """One kind of space, none at line ends, single ones inside lines, at most one blank line; indentation stays."""
    text = re.sub(r"[^\S\n\t]", " ", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=\S)[ \t]{2,}", " ", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def require_words(text: str, cfg: Clean) -> str | Rejection:
    """Reject a text with too few words."""
    count = len(words(text))
    if count < cfg.min_words:
        return Rejection("too_short", f"{count} words, {cfg.min_words} needed")
    return text


def limit_symbols(text: str, cfg: Clean) -> str | Rejection:
    """Reject a text with too many symbols among its characters."""
    symbols = sum(count for character, count in Counter(text).items() if _is_symbol(character))
    share = symbols / max(len(text), 1)
    if share > cfg.max_symbol_share:
        return Rejection("symbols", f"{share:.3f} of the characters are symbols, {cfg.max_symbol_share} allowed")
    return text


def require_prose(text: str, cfg: Clean) -> str | Rejection:
    """Reject a text in which too few words have a letter: tables, logs, columns of figures."""
    found = words(text)
    share = sum(1 for word in found if LETTER.search(word)) / max(len(found), 1)
    if found and share < cfg.min_alpha_word_share:
        return Rejection("not_prose", f"{share:.3f} of the words have letters, {cfg.min_alpha_word_share} needed")
    return text


def limit_repetition(text: str, cfg: Clean) -> str | Rejection:
    """Reject a text that says the same lines again and again (after Gopher's duplicate line rule, Rae et al. 2021)."""
    lines = Counter(line.strip() for line in text.split("\n"))
    repeated = sum(len(line) * (count - 1) for line, count in lines.items())
    share = repeated / max(len(text), 1)
    if share > cfg.max_repeated_line_share:
        return Rejection("repetition", f"{share:.3f} in repeated lines, {cfg.max_repeated_line_share} allowed")
    return text


RULES: tuple[Rule, ...] = (
    normalise_unicode,
    strip_marks,
    normalise_whitespace,
    require_words,
    limit_symbols,
    require_prose,
    limit_repetition,
)


def _is_symbol(character: str) -> bool:
    if character.isspace() or character in UNCOMMON_PUNCTUATION:
        return not character.isspace()
    return unicodedata.category(character)[0] in "SC"
